"""Quality: columns from headers and checkpoints, a reason for each picture that cannot be read, no torch read ahead."""

import io
import pickle
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from fixtures import checkpoints
from fixtures.make import picture

from hfds.annotator import ModelAnnotator
from hfds.batch import Batch
from hfds.errors import BadRow, ConfigError
from hfds.model import Model
from hfds.run import Run
from processors.quality import MeasureImage, ScoreAesthetic, ScoreNsfw, ScoreSimilarity, ScoreWatermark

torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
SCORES: dict[str, type[Any]] = {
    "nsfw": ScoreNsfw,
    "watermark": ScoreWatermark,
    "aesthetic": ScoreAesthetic,
    "clip": ScoreSimilarity,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in SCORES:
        getattr(checkpoints, name)(folder / name)
    return folder


def step(name: str, folders: Path, **changed: Any) -> Any:
    return SCORES[name](Model(str(folders / name)), **changed)


def table(pictures: list[bytes | None], prompts: list[str | None] | None = None) -> pa.Table:
    prompts = prompts or ["a picture"] * len(pictures)
    image = pa.array([{"bytes": data, "path": None} if data is not None else None for data in pictures], IMAGE)
    return pa.table({"image": image, "prompt": pa.array(prompts, pa.string())})


IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def rows(*pictures: bytes | None, prompts: list[str | None] | None = None) -> Dataset:
    return Dataset(table([*pictures], prompts))


def frames(kind: str, count: int) -> bytes:
    buffer = io.BytesIO()
    first, *more = (PIL.Image.new("RGB", (9, 5), (n * 20, 0, 0)) for n in range(count))
    first.save(buffer, kind, save_all=True, append_images=more)
    return buffer.getvalue()


def lying(width: int, height: int) -> bytes:
    buffer, exif = io.BytesIO(), PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", (width, height)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


# --- headers


def test_what_headers_say() -> None:
    made = MeasureImage()(rows(picture("JPEG", 64, 48), lying(64, 48), picture("PNG", 30, 60), frames("GIF", 3)))
    assert made.select_columns([*MeasureImage().adds]).to_list() == [
        {"width": 64, "height": 48, "aspect": pytest.approx(4 / 3), "format": "jpeg", "mode": "RGB", "animated": False},
        {"width": 64, "height": 48, "aspect": 0.75, "format": "jpeg", "mode": "RGB", "animated": False},
        {"width": 30, "height": 60, "aspect": 0.5, "format": "png", "mode": "RGB", "animated": False},
        {"width": 9, "height": 5, "aspect": pytest.approx(1.8), "format": "gif", "mode": "P", "animated": True},
    ]
    assert {str(feature.dtype) for feature in MeasureImage().adds.values()} == {"int32", "float32", "string", "bool"}


def test_sizes_replace_those_of_the_source() -> None:
    given = rows(picture("PNG", 7, 5)).add_column("width", [640]).add_column("height", [480])
    assert [MeasureImage()(given)[name][0] for name in ("width", "height")] == [7, 5]


# --- scores


@pytest.mark.parametrize("name", SCORES)
def test_scores_are_kept_for_the_rows_that_have_a_picture(tmp_path: Path, folders: Path, name: str) -> None:
    good = [picture("JPEG", 40 + n, 50, seed=n) for n in range(3)]
    made = step(name, folders)(rows(good[0], None, b"nothing", good[1], good[0][:300], good[2]), Run.here(tmp_path))
    (column,) = step(name, folders).adds
    scores = made[column][:]

    assert [score is not None for score in scores] == [True, False, False, True, False, True]
    assert [row and (row["step"], row["reason"]) for row in made["dropped"][:]] == [
        None,
        None,
        (SCORES[name].__name__, "not_an_image"),
        None,
        (SCORES[name].__name__, "truncated_image"),
        None,
    ]
    assert made.features[column].dtype == "float32"
    again = step(name, folders)(rows(good[2], good[1]), Run.here(tmp_path))
    assert again[column][:] == [scores[5], scores[3]]


def test_a_probability_and_its_opposite(folders: Path) -> None:
    given = table([picture("PNG", 40, 40, seed=n) for n in range(4)])
    labels = (step("nsfw", folders, label=label).columns(given)["nsfw"].to_numpy() for label in ("nsfw", "Normal"))
    np.testing.assert_allclose(sum(labels), 1, atol=1e-6)


def test_a_similarity_needs_both(folders: Path) -> None:
    same = picture("PNG", 40, 40)
    made = step("clip", folders)(rows(same, same, same, None, prompts=["a cat", "a dog", None, "a cat"]))
    cat, dog, *nothing = made["similarity"][:]
    assert nothing == [None, None]
    assert cat != dog
    assert -1 <= min(cat, dog) <= max(cat, dog) <= 1


def test_a_long_prompt_is_read_to_the_end_of_the_room(folders: Path) -> None:
    same = picture("PNG", 40, 40)
    made = step("clip", folders)(rows(same, same, prompts=["abc " * 25, "abc " * 1000]))
    assert len({*made["similarity"][:]}) == 1, "75 tokens, whatever comes after them"


def test_decoding_is_part_of_the_key(folders: Path) -> None:
    fast, exact = step("nsfw", folders), step("nsfw", folders, decode="exact")
    assert fast.key() != exact.key()
    coarse = np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(coarse).resize((640, 512)).save(buffer, "JPEG")
    first, second = (one.columns(table([buffer.getvalue()]))["nsfw"][0].as_py() for one in (fast, exact))
    assert first != second
    assert first == pytest.approx(second, abs=0.01)


def test_no_number_is_no_score(folders: Path) -> None:
    class Silent:
        def scores(self, shown: list[Any]) -> np.ndarray:
            return np.array([0.5, np.nan], np.float32)

    with pytest.raises(FloatingPointError, match="in float32 gave no number"):
        step("nsfw", folders).annotate(Silent(), [None, None])


def test_what_is_read_ahead_is_not_part_of_the_step(folders: Path) -> None:
    one = step("clip", folders)
    with Batch(table([picture("PNG", 40, 40), b""], ["a cat", "a dog"])) as batch:
        (shown, prompt), bad = one.prepare(batch)
    assert (shown.shape, shown.dtype, prompt) == ((32, 32, 3), np.uint8, "a cat")
    assert isinstance(bad, BadRow)
    assert one == step("clip", folders)
    assert pickle.loads(pickle.dumps(one)) == one
    assert len(pickle.dumps(one)) < 500


def test_nothing_heavy_is_loaded_to_read_ahead(folders: Path) -> None:
    code = f"""
import sys, pyarrow as pa
from hfds.batch import Batch
from hfds.model import Model
from processors.quality import MeasureImage, ScoreSimilarity
image = pa.array([({picture("PNG", 9, 9)!r}, None)], pa.struct({{"bytes": pa.binary(), "path": pa.string()}}))
with Batch(pa.table({{"image": image, "prompt": ["a cat"]}})) as batch:
    print(len(ScoreSimilarity(Model({str(folders / "clip")!r})).prepare(batch) + MeasureImage().prepare(batch)))
print(sorted({{"torch", "transformers", "tokenizers", "safetensors"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.stdout, done.stderr) == ("2\n[]\n", "")


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_what_is_not_installed_is_named_with_its_extra(package: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from processors.quality import ScoreAesthetic\n"
        "ScoreAesthetic().load('cpu')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stderr.strip().endswith(f"ScoreAesthetic needs {package}: pip install 'hfds[models]'")


# --- parameters


def test_defaults_have_no_problems_and_name_a_commit_where_one_is_known() -> None:
    steps: list[ModelAnnotator] = [MeasureImage(), *(kind() for kind in SCORES.values())]
    for one in steps:
        assert one.problems() == []
        assert one == replace(one)
        assert hash(one) == hash(replace(one))
        assert one.needs == (("image", "prompt") if isinstance(one, ScoreSimilarity) else ("image",))
    commits = {kind.__name__: kind().model.revision for kind in SCORES.values()}
    assert [name for name, commit in commits.items() if commit is None] == ["ScoreWatermark"]


@pytest.mark.parametrize(
    "wrong, problem",
    [
        (ScoreNsfw(Model("no such\nfolder")), "ScoreNsfw: there is no folder"),
        (ScoreNsfw("Falconsai/nsfw"), "ScoreNsfw: model must be a hfds.model.Model, got 'Falconsai/nsfw'"),
        (ScoreWatermark(label=" "), "ScoreWatermark: label must be the name of a class, got ' '"),
        (ScoreWatermark(label=1), "ScoreWatermark: label must be the name of a class, got 1"),
        (ScoreAesthetic(decode="half"), "ScoreAesthetic: decode must be one of fast, exact, got 'half'"),
        (ScoreSimilarity(Model("a/b", dtype="int8")), "ScoreSimilarity: the dtype of a model must be one of float32"),
    ],
)
def test_problems_are_named(wrong: Any, problem: str) -> None:
    (found,) = wrong.problems()
    assert found.startswith(problem)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no model: there is no config.json in it, but nothing"):
        ScoreNsfw(Model(str(tmp_path)))(rows(picture()))


def test_the_step_of_the_documentation(tmp_path: Path) -> None:
    page = (ROOT / "docs/models.md").read_text()
    code = page.rpartition("```python\n")[2].partition("```")[0]
    there: dict[str, Any] = {"__name__": "docs_models"}
    sys.modules["docs_models"] = types.ModuleType("docs_models")
    exec(compile(code, "docs/models.md", "exec"), there)
    step = there["CountTokens"](Model(str(checkpoints.clip(tmp_path / "clip"))))
    made = step(Dataset.from_dict({"prompt": ["a cat", None, "a cat and a dog"]}), Run.here(tmp_path / "work"))
    tokens = made["tokens"][:]
    assert tokens[1] is None
    assert 2 < tokens[0] < tokens[2]
