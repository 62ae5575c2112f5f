"""Paint: a picture hangs on its row alone, is painted once, and lies on disk once until it is written out."""

import io
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, load_dataset
from fixtures import checkpoints, painted, painters, toy
from fixtures.launched import ended, launch
from fixtures.painted import Logged
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file

from hfds.annotator import passes
from hfds.errors import ConfigError, HfdsError, SourceChanged
from hfds.model import Lora, Model, Pipeline
from hfds.release import Built, build
from hfds.run import Run
from hfds.store import Store
from processors.keep import Keep
from processors.models import Painted
from processors.paint import Paint, Wish, seed_of
from processors.quality import CLIP_H, ScoreNsfw, ScoreSimilarity

torch.set_num_threads(1)
GREYS = 1  # of 255, by which a picture of another batch size may differ


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return painters.stable_diffusion(tmp_path_factory.mktemp("models") / "sd", checker=True)


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    """A checkpoint to break."""
    return Path(shutil.copytree(model, tmp_path / "copy"))


def step(model: Path, **how: Any) -> Paint:
    return Paint(Pipeline(str(model)), **{"steps": 2, **how})


def prompts(count: int = 5, start: int = 0) -> Dataset:
    numbers = range(start, start + count)
    return Dataset.from_dict({"id": [f"a/{n}" for n in numbers], "prompt": [f"Prompt {n}" for n in numbers]})


def pixels(made: Dataset) -> np.ndarray:
    return np.stack([np.asarray(picture.convert("RGB"), np.int16) for picture in made["image"][:]])


def apart(one: Dataset, other: Dataset) -> int:
    """The largest difference of two sets of pictures, in grey levels."""
    return int(np.abs(pixels(one) - pixels(other)).max())


# --- what a picture is


def test_everything_is_said_of_a_picture(model: Path) -> None:
    made = step(model, guidance=3.5, negative_prompt="blurry", seed=7)(prompts(3))
    assert [picture.size for picture in made["image"][:]] == [(32, 32)] * 3
    row = made[1]
    assert row["generation"] == {
        "model": Pipeline(str(model)).identity.split()[0],
        "seed": seed_of(7, "a/1"),
        "steps": 2,
        "guidance": 3.5,
        "sampler": "DDIMScheduler",
        "negative_prompt": "blurry",
    }
    assert (row["width"], row["height"], row["tokens_cut"]) == (32, 32, 0)
    assert apart(made.select([0]), made.select([1])) > 50, "another prompt, another seed"
    assert len(set(made["image_hash"][:])) == 3


def test_what_changes_a_picture_and_what_does_not(model: Path, tmp_path: Path) -> None:
    rows, run = prompts(2), Run.here(tmp_path, batch_size=2)
    plain = step(model)(rows, run)
    ways: list[dict[str, Any]] = [
        {"seed": 1}, {"steps": 3}, {"guidance": 1.0}, {"negative_prompt": "A prompt"}, {"size": (32, 64)},
        {"scheduler": "DDPMScheduler"},
    ]  # fmt: skip
    hashes = {tuple(step(model, **how)(rows, run)["image_hash"][:]) for how in ways}
    assert len({tuple(plain["image_hash"][:]), *hashes}) == 1 + len(ways)
    renamed = rows.map(lambda row: {"id": row["id"] + "~2"})
    assert apart(plain, step(model)(renamed, run)) > 50, "a row of another id has another picture"
    moved = Path(shutil.copytree(model, tmp_path / "moved"))
    assert step(moved).key() == step(model).key(), "wherever the checkpoint lies"


def test_whole_numbers_are_the_same_as_their_floats(model: Path) -> None:
    whole, same = step(model, guidance=9, lora_scale=1), step(model, guidance=9.0, lora_scale=1.0)
    assert whole == same
    assert (whole.key(), whole.entry()) == (same.key(), same.entry())
    assert repr(whole.parameters()) == repr(same.parameters())
    assert step(model, guidance=9.5).key() != same.key()


def test_what_gives_equal_pictures_has_one_key(model: Path, tmp_path: Path) -> None:
    assert step(model, quality=50).key() == step(model, lora_scale=0.5).key() == step(model).key()
    assert step(model, format="webp", quality=50).key() != step(model, format="webp").key()
    adapter = Lora(str(painters.lora(tmp_path / "lora", model)))
    assert step(model, lora=adapter, lora_scale=0.5).key() != step(model, lora=adapter).key()


@pytest.mark.parametrize("format, quality", [("png", 95), ("jpeg", 95), ("webp", 80)])
def test_pictures_are_encoded_and_scaled_as_asked(model: Path, format: str, quality: int) -> None:
    made = step(model, format=format, quality=quality, scaled_to=(40, 48))(prompts(2)).with_format("arrow")[:]
    for row in made.to_pylist():
        picture = PIL.Image.open(io.BytesIO(row["image"]["bytes"]))
        assert (picture.format, picture.size) == (format.upper(), (40, 48))
        assert (row["width"], row["height"]) == (40, 48)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_picture_does_not_hang_on_its_neighbours(model: Path, tmp_path: Path, batch_size: int) -> None:
    rows = prompts(7)
    whole = step(model)(rows, Run.here(tmp_path / "whole"))
    alone = step(model)(rows.select([6, 2]), Run.here(tmp_path / "alone"))
    assert alone["image_hash"][:] == [whole["image_hash"][6], whole["image_hash"][2]], "bit by bit at one batch size"
    other = step(model)(rows, Run.here(tmp_path / "other", batch_size=batch_size))
    assert apart(whole, other) <= GREYS


def test_batches_that_are_painted_at_once_do_not_mix(model: Path) -> None:
    painter = step(model, scheduler="PNDMScheduler", steps=4)  # which remembers what it did the step before
    studio = painter.load("cpu")
    batches = [[Wish(f"Prompt {n}", n), Wish(f"Prompt {n + 1}", n + 1)] for n in range(0, 8, 2)]
    alone = [painter.annotate(studio, batch)["image_hash"].to_pylist() for batch in batches]
    with ThreadPoolExecutor(2) as threads:  # as on a GPU, where one batch is encoded while the next is painted
        together = threads.map(lambda batch: painter.annotate(studio, batch)["image_hash"].to_pylist(), batches)
        assert [*together] == alone


def test_prompts_longer_than_the_encoder_are_painted_and_told(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = ["x" * n for n in (1, 75, 76, 400)]  # a token for each letter, and two around them
    made = step(model)(Dataset.from_dict({"id": ["a", "b", "c", "d"], "prompt": texts}))
    assert made["tokens_cut"][:] == [0, 0, 1, 325]
    assert made["dropped"][:] == [None] * 4
    assert not caplog.records, "a column says it, and no log"


def test_what_the_safety_checker_says_is_recorded_and_the_picture_stays(copy: Path, tmp_path: Path) -> None:
    rows, made = prompts(3), {}
    for name, threshold in (("safe", 2.0), ("unsafe", -2.0)):
        file = copy / "safety_checker" / "model.safetensors"
        weights = load_file(file)
        weights["concept_embeds_weights"][:] = threshold
        weights["special_care_embeds_weights"][:] = threshold
        save_file(weights, file, {"format": "pt"})
        made[name] = step(copy)(rows, Run.here(tmp_path / "work", batch_size=3))
    assert (made["safe"]["unsafe"][:], made["unsafe"]["unsafe"][:]) == ([False] * 3, [True] * 3)
    assert made["safe"]["image_hash"][:] == made["unsafe"]["image_hash"][:], "not blacked out"
    without = step(painters.stable_diffusion(tmp_path / "without"))(rows, Run.here(tmp_path / "work", batch_size=3))
    assert without["unsafe"][:] == [None] * 3
    kept = Keep("not unsafe", reason="unsafe")(made["unsafe"])
    assert [row["reason"] for row in kept["dropped"][:]] == ["unsafe"] * 3


def test_an_adapter_changes_pictures_by_its_scale(model: Path, tmp_path: Path) -> None:
    adapter = Lora(str(painters.lora(tmp_path / "lora", model)))
    plain, none, full = (
        step(model, **how)(prompts(2), Run.here(tmp_path / "work", batch_size=2))
        for how in ({}, {"lora": adapter, "lora_scale": 0.0}, {"lora": adapter})
    )
    assert apart(plain, none) <= GREYS
    assert apart(plain, full) > 20
    assert full["generation"][0]["model"] == f"{plain['generation'][0]['model']} + 1 {adapter.identity.split()[0]}"


# --- what is painted, and how often


def test_rows_that_are_not_painted(model: Path, tmp_path: Path) -> None:
    gone = {"step": "x", "reason": "y", "value": None, "threshold": None, "partner": None, "partner_in": None}
    data = painted_bytes(9)
    rows = prompts(4).add_column("image", [None, None, {"bytes": data, "path": None}, None])
    rows = rows.add_column("width", [None, None, 9, None]).add_column("dropped", [None, gone, None, None])
    rows = rows.map(lambda row: {"prompt": None if row["id"] == "a/3" else row["prompt"]})
    log = tmp_path / "log"
    made = Logged(Pipeline(str(model)), steps=2, log=str(log))(rows, Run.here(tmp_path / "work")).with_format("arrow")[
        :
    ]
    assert painted.painted(log) == [seed_of(0, "a/0")]
    assert [row and bool(row["path"] or row["bytes"]) for row in made["image"].to_pylist()] == [True, None, True, None]
    assert made["image"][2].as_py()["bytes"] == data
    assert made["width"].to_pylist() == [32, None, 9, None]


def test_a_blank_prompt_is_dropped_and_not_painted(model: Path, tmp_path: Path) -> None:
    rows = Dataset.from_dict({"id": ["a", "b", "c", "d"], "prompt": ["a fox", "", " \n\u3000", None]})
    log = tmp_path / "log"
    made = Logged(Pipeline(str(model)), steps=2, log=str(log))(rows, Run.here(tmp_path / "work"))
    assert painted.painted(log) == [seed_of(0, "a")]
    assert [row and (row["step"], row["reason"]) for row in made["dropped"][:]] == [
        None, ("Paint", "blank_prompt"), ("Paint", "blank_prompt"), None,
    ]  # fmt: skip
    assert [picture is not None for picture in made["image"][:]] == [True, False, False, False]


def painted_bytes(side: int) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (side, side)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    return toy.write(tmp_path / "sources", a=toy.many(30))


def built_here(model: Path, sources: Path, tmp_path: Path, times: int = 2, **options: Any) -> Built:
    run = Run.here(tmp_path / "work", **{"batch_size": 4, **options})
    log = str(tmp_path / "log")
    return build(painted.release(model, log, times), run, sources=sources, out=tmp_path / "dist")


def test_a_release_from_prompts_to_pictures(model: Path, sources: Path, tmp_path: Path) -> None:
    built = built_here(model, sources, tmp_path)
    assert sorted(painted.painted(tmp_path / "log")) == sorted(
        seed_of(0, f"toy/{n:06d}{mark}") for n in range(0, 30, 3) for mark in ("", "~2")
    ), "each of the ten prompts that are no duplicates twice, and no other"
    (entry,) = built.funnel
    assert (entry["rows"], entry["made"], sum(entry["kept"].values())) == (30, {"Repeat": 10}, 20)
    rows = [row for part in load_dataset(str(built.folder), "v1").values() for row in part]
    assert {row["image"].size for row in rows} == {(32, 32)}
    assert len({row["image_hash"] for row in rows}) == 20
    assert {row["generation"]["seed"] for row in rows} == {*painted.painted(tmp_path / "log")}

    more = built_here(model, sources, tmp_path, times=3)
    assert len(painted.painted(tmp_path / "log")) == 30, "of three pictures of each prompt two were there"
    assert sum(more.funnel[0]["kept"].values()) == 30
    assert passes((step(model), ScoreSimilarity(), Keep("similarity > 0.3"))) != passes((step(model), ScoreNsfw()))


def test_a_picture_lies_on_disk_once_and_in_the_release_once(model: Path, sources: Path, tmp_path: Path) -> None:
    built = built_here(model, sources, tmp_path, commit_seconds=0)
    rows = [row for part in load_dataset(str(built.folder), "v1").with_format("arrow").values() for row in part.iter(1)]
    pictures = sum(len(row["image"].to_pylist()[0]["bytes"]) for row in rows)
    packs = [*(tmp_path / "work/store").glob("Paint-*/pictures/*.pack")]
    assert sum(path.stat().st_size for path in packs) == pictures
    others = [path for path in (tmp_path / "work").rglob("*") if path.is_file() and path not in packs]
    steps = [path for path in others if path.parent.name == "steps" and path.name.startswith("Paint")]
    assert len(steps) == 1
    assert b"\x89PNG" not in b"".join(path.read_bytes() for path in others), "no picture is anywhere else"


def answers(tmp_path: Path, model: Path) -> Any:
    paint = painted.release(model).steps[-1]
    return Store(tmp_path / "work/store", tmp_path / "mirror").answers(paint.name, paint.key())


def test_merged_parts_moved_stores_and_lost_packs(model: Path, sources: Path, tmp_path: Path) -> None:
    built = built_here(model, sources, tmp_path, commit_seconds=0)
    found, log = answers(tmp_path, model), tmp_path / "log"
    assert len(found.parts()) > 2
    found.tidy()
    assert len(found.parts()) == 1
    shutil.rmtree(tmp_path / "work/steps")
    assert built_here(model, sources, tmp_path).digest == built.digest, "what was merged points where it did"

    shutil.move(tmp_path / "work/store", tmp_path / "elsewhere")
    again = built_here(model, sources, tmp_path, store=str(tmp_path / "elsewhere"))
    assert again.digest == built.digest
    shutil.move(tmp_path / "elsewhere", tmp_path / "work/store")
    assert len(painted.painted(log)) == 20, "all the time nothing was painted again"

    pack, other = sorted((tmp_path / "work/store").glob("Paint-*/pictures/*.pack"))[:2]
    pack.unlink()
    count = len(painted.painted(log))
    assert built_here(model, sources, tmp_path).digest == built.digest, "with the same batch size: bit by bit"
    repainted = len(painted.painted(log)) - count
    assert 0 < repainted < 20, "what was in the pack, and nothing else"

    other.write_bytes(other.read_bytes()[:-1] + b"?")
    shutil.rmtree(tmp_path / "work/journal")
    with pytest.raises(SourceChanged, match=r"in slice://.*\.pack is not what was indexed: .*hfds store verify"):
        built_here(model, sources, tmp_path)
    assert [Path(path).name for path in found.damaged()] == [f"{other.name}.damaged"]
    assert built_here(model, sources, tmp_path).digest == built.digest
    found.tidy()
    assert found.damaged() == []
    assert found.describe()["bytes"] > sum(path.stat().st_size for path in other.parent.glob("*.pack"))


def kill_and_go_on(model: Path, tmp_path: Path, kills: tuple[int, ...], last: int) -> None:
    """Kills runs of so many ranks, lets one of `last` ranks finish (0: this process), and looks at what was painted."""
    sources = toy.write(tmp_path / "sources", a=toy.many(36))
    work, out, script = tmp_path / "work", tmp_path / "dist", Path(painted.__file__)
    for ranks in kills:
        before, processes = len(answers_of(work)), launch(ranks, script, model, sources, work, out, 2)
        while len(answers_of(work)) < before + 4 and processes[0].poll() is None:
            time.sleep(0.02)
        for process in processes:
            process.send_signal(signal.SIGKILL)
        ended(processes)
    assert 0 < len(answers_of(work)) < 24

    def finish(work: Path, out: Path) -> str:
        log = str(work / "painted-9")
        return build(painted.release(model, log), Run.here(work, batch_size=2), sources=sources, out=out).digest

    if last:
        done = ended(launch(last, script, model, sources, work, out, 2))
        assert [code for code, _, _ in done] == [0] * last, done
        digest = done[0][1].strip()
    else:
        digest = finish(work, out)
    assert len(answers_of(work)) == 24, "no picture that was kept was painted again"
    seeds = [seed for log in work.glob("painted-?") for seed in painted.painted(log)]
    assert len(set(seeds)) == 24
    assert len(seeds) <= 24 + 2 * 2 * sum(kills), "and of what was not kept at most what was in the air"
    assert finish(tmp_path / "alone", tmp_path / "once") == digest, "the same rows with the same pictures"


def test_killed_and_finished_by_another_number_of_ranks(model: Path, tmp_path: Path) -> None:
    kill_and_go_on(model, tmp_path, (2,), 0)


@pytest.mark.slow
def test_killed_several_times(model: Path, tmp_path: Path) -> None:
    kill_and_go_on(model, tmp_path, (2, 1, 3, 2), 3)


def answers_of(work: Path) -> list[bytes]:
    """The keys of all answers that were ever written."""
    parts = work.glob("store/Paint-*/answers/*.arrow")
    return [key for part in parts for key in pa.ipc.open_file(part.read_bytes()).read_all()["key"].to_pylist()]


class Small:
    """A painter with room for two pictures, which breaks on some."""

    sampler = "none"

    def paint(self, texts: Any, seeds: Any) -> list[Painted]:
        if len(texts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if "Prompt 3" in texts:
            raise FloatingPointError("it gave no number")
        return [Painted(np.full((8, 8, 3), seed % 255, np.uint8), None, 0) for seed in seeds]


class Cramped(Paint):
    """Paints with it."""

    def load(self, device: str) -> Any:
        return super().load(device)._replace(painter=Small())


def test_short_memory_and_a_row_that_fails(model: Path, tmp_path: Path) -> None:
    made = Cramped(Pipeline(str(model)))(prompts(6), Run.here(tmp_path))
    assert [row and row["reason"] for row in made["dropped"][:]] == [None] * 3 + ["FloatingPointError"] + [None] * 2
    assert made["width"][:] == [8, 8, 8, None, 8, 8]
    assert '": 2' in (tmp_path / "batches.json").read_text()


def test_what_is_fetched_of_a_repository() -> None:
    """Of the layout of Stable Diffusion 2's repository, as the Hub's own client chooses."""
    wanted = {
        "model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt",
        "text_encoder/config.json", "text_encoder/model.safetensors", "unet/config.json",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.json",
    }  # fmt: skip
    others = {
        "README.md", "768-v-ema.ckpt", "768-v-ema.safetensors", "text_encoder/pytorch_model.bin",
        "text_encoder/model.fp16.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
    }  # fmt: skip
    chosen = filter_repo_objects(
        sorted(wanted | others), allow_patterns=[*Pipeline.files], ignore_patterns=[*Pipeline.ignored]
    )
    assert {*chosen} == wanted
    clip = ["config.json", "model.safetensors", "open_clip_pytorch_model.bin", "vocab.json"]
    left = filter_repo_objects(clip, allow_patterns=[*Model.files], ignore_patterns=[*Model.ignored])
    assert {*clip} - {*left} == {"open_clip_pytorch_model.bin"}


# --- what cannot be


@pytest.mark.parametrize(
    "how, problem",
    [
        ({"steps": 0}, "Paint: steps must be a whole number from 1 to 1,000, got 0"),
        ({"guidance": "7"}, "Paint: guidance must be a number from 0 to 100, got '7'"),
        ({"size": (100, 64)}, "Paint: size must be width and height from 8 to 8,192 in steps of 8, got (100, 64)"),
        ({"scaled_to": 512}, "Paint: scaled_to must be width and height from 8 to 8,192, got 512"),
        ({"format": "gif"}, "Paint: format must be one of png, jpeg, webp, got 'gif'"),
        ({"quality": 101}, "Paint: quality must be a whole number from 1 to 100, got 101"),
        ({"seed": -1}, "Paint: seed must be a whole number from 0 to 4,294,967,295, got -1"),
        ({"negative_prompt": 3}, "Paint: negative_prompt must be a text, got 3"),
        ({"model": Model("a/b")}, "Paint: model must be a hfds.model.Pipeline, got Model("),
        ({"lora": Model("a/b")}, "Paint: lora must be a hfds.model.Lora, got Model("),
        (
            {"lora": Lora("a/b", weights="adapter.bin")},
            "Paint: the weights of an adapter must be the name of a file in safetensors, got 'adapter.bin'",
        ),
        (
            {"lora": Lora("a/b", weights="../c.safetensors")},
            "Paint: the weights of an adapter must lie in its folder or repository, got '../c.safetensors'",
        ),
        (
            {"lora": Lora(str(Path(__file__).parent), weights="fixtures/c.safetensors")},
            "Paint: the weights of an adapter must lie in its folder or repository, got 'fixtures/c.safetensors'",
        ),
        ({"model": Pipeline("no such thing")}, "Paint: there is no folder 'no such thing' with a model"),
    ],
)
def test_parameters_that_cannot_be(how: dict[str, Any], problem: str) -> None:
    (found,) = replace(Paint(), **how).problems()
    assert found.startswith(problem)


def lose(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).unlink()


def drop_weights(name: str) -> Callable[[Path], Any]:
    def harm(folder: Path) -> None:
        save_file(dict([*load_file(folder / name).items()][1:]), folder / name, {"format": "pt"})

    return harm


def pickled(part: str) -> Callable[[Path], Any]:
    """A part whose weights are no longer in safetensors: no key would know of them."""

    def harm(folder: Path) -> None:
        file = folder / part / "model.safetensors"
        torch.save(load_file(file), file.with_name("pytorch_model.bin"))
        file.unlink()

    return harm


def cut(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize(
    "harm, problem",
    [
        (
            lose("model_index.json"),
            "holds no model: there is no model_index.json in it, but feature_extractor",
        ),
        (
            lambda f: shutil.rmtree(f / "vae"),
            "is not whole: its model_index.json names the part vae, and there is",
        ),
        (
            lose("unet/diffusion_pytorch_model.safetensors"),
            "cannot be loaded: Error no file named diffusion",
        ),
        (lose("tokenizer/tokenizer.json"), "is not whole: its part tokenizer has no tokenizer.json or vocab.json or"),
        (lose("text_encoder/config.json"), "is not whole: its part text_encoder has no config.json: fetch"),
        (
            drop_weights("text_encoder/model.safetensors"),
            "(text_encoder) cannot be used: 1 of its weights are missing or of another shape",
        ),
        (
            drop_weights("unet/diffusion_pytorch_model.safetensors"),
            "(unet) cannot be used: 1 of its weights are missing, such as 'conv_in.bias': fetch",
        ),
        (
            drop_weights("vae/diffusion_pytorch_model.safetensors"),
            "(vae) cannot be used: 1 of its weights are missing, such as 'decoder.conv_in.bias': fetch",
        ),
        (pickled("text_encoder"), "(text_encoder) cannot be loaded: Error no file named model.safetensors"),
        (pickled("safety_checker"), "(safety_checker) cannot be loaded: Error no file named model.safetensors"),
        (cut, "cannot be loaded: "),
        (
            lambda f: checkpoints.config_of(f, "model_index.json", vae=["os", "system"]),
            "cannot be loaded: its model_index.json wants vae to be os.system, and only parts of diffusers and",
        ),
        (
            lambda f: checkpoints.config_of(f, "model_index.json", vae=["diffusers", "DiffusionPipeline"]),
            "cannot be loaded: its model_index.json wants vae to be diffusers.DiffusionPipeline, and only parts of",
        ),
        (
            lambda f: checkpoints.config_of(f, "model_index.json", **{"../vae": ["diffusers", "AutoencoderKL"]}),
            "cannot be loaded: its model_index.json names a part '../vae'",
        ),
        (lambda f: checkpoints.config_of(f, "model_index.json", _class_name="Nothing"), "cannot be loaded: "),
    ],
)
def test_a_checkpoint_that_is_not_whole(copy: Path, harm: Callable[[Path], Any], problem: str) -> None:
    harm(copy)
    with pytest.raises(ConfigError) as refused:
        step(copy)(prompts(1))
    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_does_not_fit_the_checkpoint(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'EulerDiscrete' is no sampler that goes with .*: did you mean 'EulerDisc"):
        step(model, scheduler="EulerDiscrete")(prompts(1))
    other = painters.lora(tmp_path / "lora", model)
    with pytest.raises(ConfigError, match=r"holds no model: there is no mine\.safetensors in it, but pytorch_lora_w"):
        step(model, lora=Lora(str(other), weights="mine.safetensors"))(prompts(1))
    file = other / "pytorch_lora_weights.safetensors"
    half = {name: weight for name, weight in load_file(file).items() if "lora_A" in name}
    save_file(half, painters.lora(tmp_path / "half", model) / file.name)
    with pytest.raises(ConfigError, match=r"the LoRA .* does not fit"):
        step(model, lora=Lora(str(tmp_path / "half")))(prompts(1))
    others = {name.replace("down_blocks", "side_blocks"): weight for name, weight in load_file(file).items()}
    save_file(others, painters.lora(tmp_path / "part", model) / file.name)
    with pytest.raises(ConfigError, match=r"the LoRA .* does not fit .*unexpected keys .*side_blocks"):
        step(model, lora=Lora(str(tmp_path / "part")))(prompts(1))
    save_file({name: weight[:, :3].contiguous() for name, weight in load_file(file).items()}, file)
    with pytest.raises(ConfigError, match=r"the LoRA .* does not fit"):
        step(model, lora=Lora(str(other)))(prompts(1))


def test_a_checkpoint_of_another_family(tmp_path: Path) -> None:
    folder = painters.flux(tmp_path / "flux")
    rows = prompts(3)
    whole = step(folder, size=(32, 32))(rows, Run.here(tmp_path / "whole"))
    alone = step(folder, size=(32, 32))(rows.select([2]), Run.here(tmp_path / "alone"))
    assert alone["image_hash"][:] == whole["image_hash"][2:]
    assert len(set(whole["image_hash"][:])) == 3
    with pytest.raises(ConfigError, match=r"heeds no negative_prompt: FluxPipeline looks at one only with a true_cfg"):
        step(folder, size=(32, 32), negative_prompt="blurry")(rows)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of numpy, in diffusers
def test_a_sampler_with_noise_of_its_own_is_refused(copy: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"'DPMSolverSDEScheduler' is a sampler that draws noise of its own"
    ) as refused:
        step(copy, scheduler="DPMSolverSDEScheduler")(prompts(1))
    offered = str(refused.value).split("give one of ")[1].split(", ")
    assert "DPMSolverSDEScheduler" not in offered
    assert {"DDIMScheduler", "DPMSolverMultistepScheduler"} <= {*offered}
    checkpoints.config_of(copy, "scheduler/scheduler_config.json", _class_name="DPMSolverSDEScheduler")
    checkpoints.config_of(copy, "model_index.json", scheduler=["diffusers", "DPMSolverSDEScheduler"])
    with pytest.raises(
        ConfigError, match=r"requires the torchsde library|has the sampler DPMSolverSDEScheduler"
    ) as own:
        step(copy)(prompts(1))
    assert "\n" not in str(own.value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of numpy, in diffusers
def test_every_sampler_that_is_offered_gives_the_same_picture_again(model: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        step(model, scheduler="DPMSolverSDEScheduler")(prompts(1))
    for name in str(refused.value).split("give one of ")[1].split(", "):
        first, again = (step(model, scheduler=name, steps=4)(prompts(2)) for _ in range(2))
        assert apart(first, again) == 0, name


def test_a_model_that_gives_no_number_paints_nothing(copy: Path, tmp_path: Path) -> None:
    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: weight * float("nan") for name, weight in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(HfdsError, match=r"Paint failed on each of 2 rows .* FloatingPointError: .* gave no number"):
        step(copy)(prompts(2), Run.here(tmp_path / "work", batch_size=2))


def test_the_check_of_picture_and_prompt_comes_behind(model: Path, tmp_path: Path) -> None:
    clip = Model(str(checkpoints.clip(tmp_path / "clip")))
    steps = (step(model), ScoreSimilarity(clip), Keep("similarity > 0", reason="unlike_prompt"))
    assert [len(group) for group in passes(steps)] == [1, 1, 1]
    made = prompts(6)
    for each in steps:
        made = each(made, Run.here(tmp_path / "work"))
    scores = made["similarity"][:]
    assert all(score is not None for score in scores)
    assert [row and row["reason"] for row in made["dropped"][:]] == [
        None if score > 0 else "unlike_prompt" for score in scores
    ]
    assert ScoreSimilarity(CLIP_H).problems() == []


@pytest.mark.slow
def test_the_example(tmp_path: Path) -> None:
    script = Path(__file__).parent.parent / "examples/generate.py"
    command = [sys.executable, str(script), "--out", str(tmp_path / "dist"), "--workdir", str(tmp_path / "work")]
    first = subprocess.run([*command, "--prompts", "8"], capture_output=True, text=True, check=True).stdout
    packs = {path: path.stat().st_mtime_ns for path in tmp_path.glob("work/store/Paint-*/pictures/*.pack")}
    again = subprocess.run([*command, "--prompts", "8"], capture_output=True, text=True, check=True).stdout
    assert packs == {path: path.stat().st_mtime_ns for path in tmp_path.glob("work/store/Paint-*/pictures/*.pack")}
    assert first == again
    assert "+ Repeat" in first
