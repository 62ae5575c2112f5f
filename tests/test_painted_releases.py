"""image-to-prompt v2-painted to v5-painted: from prompts to pictures, with what holds in all other releases."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from fixtures import checkpoints, diffusiondb, gustavosta, image_to_prompt, painters, sentences

from hfds.annotator import passes
from hfds.errors import SourceMissing
from hfds.model import Model, Pipeline
from hfds.plan import plan
from hfds.release import Built, Release, build
from hfds.releases.image_to_prompt import PAINTED, V2, V2_PAINTED, V3_PAINTED, V4_PAINTED, V5_PAINTED
from hfds.run import Run
from processors.dedup import MarkDuplicates
from processors.embed import EmbedPrompt
from processors.keep import Keep
from processors.paint import Paint
from processors.quality import ScoreSimilarity
from processors.split import Split

torch.set_num_threads(1)
RELEASES = (V2_PAINTED, V3_PAINTED, V4_PAINTED, V5_PAINTED)


def test_the_releases_are_what_they_say() -> None:
    for number, release in enumerate(RELEASES):
        release.check()
        assert release.earlier() == RELEASES[:number]
        assert release.inputs[0] == RELEASES[0].inputs[0]
        assert release.steps[-3:] == PAINTED, "painted last, and only what is left"
        assert [len(group) for group in passes(PAINTED)] == [1, 1, 1]
        kinds = [type(step) for step in release.steps]
        assert kinds.index(Split) < kinds.index(Paint)
        assert kinds[:-3] == [type(step) for step in (V2 if number < 3 else V5_PAINTED).steps][: len(kinds) - 3]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts of two sources, some of them alike, and tiny models."""
    pytest.importorskip("langdetect")
    place = tmp_path_factory.mktemp("painted")
    said = [image_to_prompt.prompt(number) for number in range(10)]
    said.append(said[0])
    rows = [diffusiondb.row(f"{n:08d}.png", 1, diffusiondb.said(text)) for n, text in enumerate(said)]
    (place / "sources/diffusiondb").mkdir(parents=True)
    diffusiondb.table(place / "sources/diffusiondb/metadata.parquet", rows)
    for split, numbers in (("train", (20, 21)), ("eval", (30,))):
        texts = [{"Prompt": image_to_prompt.prompt(number)} for number in numbers]
        (place / "sources/gustavosta/data").mkdir(parents=True, exist_ok=True)
        gustavosta.table(place / f"sources/gustavosta/data/{split}.csv", texts)
    sentences.bag_of_words(place / "minilm", image_to_prompt.LISTED)
    painters.stable_diffusion(place / "sd")
    checkpoints.clip(place / "clip")
    return place


def tiny(release: Release, place: Path) -> Release:
    """`release` with tiny models, and a rule that the random one among them passes."""
    steps: list[Any] = []
    for step in release.steps:
        if isinstance(step, EmbedPrompt):
            step = replace(step, model=Model(str(place / "minilm")), width=512)
        elif isinstance(step, Paint):
            step = replace(step, model=Pipeline(str(place / "sd")), steps=2, scaled_to=(48, 48))
        elif isinstance(step, ScoreSimilarity):
            step = replace(step, model=Model(str(place / "clip")))
        elif isinstance(step, Keep):
            step = replace(step, rule="similarity > -2")
        steps.append(replace(step, validation=0.3) if isinstance(step, Split) else step)
    return release.but(release.name, steps=tuple(steps))


def rows(built: Built) -> dict[str, dict[str, Any]]:
    """The rows of a release by id, with their split."""
    files = built.folder.glob(f"data/{built.release.name}/*.parquet")
    return {row["id"]: {**row, "split": file.name.partition("-")[0]} for file in files
            for row in pq.read_table(file).to_pylist()}  # fmt: skip


def test_a_plan_that_reads_nothing_goes_without_the_hub(place: Path) -> None:
    where: dict[str, Any] = {"sources": place / "sources", "out": place / "dist"}
    nowhere = Pipeline("hfds/no-such-painter", dtype="float16")  # as any is, where there is no network
    steps = [replace(s, model=nowhere) if isinstance(s, Paint) else s for s in tiny(V2_PAINTED, place).steps]
    release = V2_PAINTED.but("v2-painted", steps=tuple(steps))
    (told,) = [s for s in plan(release, Run.here(place / "dry"), probe=False, **where)["steps"] if s["step"] == "Paint"]
    assert told["not_looked_up"] == ["hfds/no-such-painter"]
    assert told["parameters"]["model"] == "hfds/no-such-painter float16, commit not looked up"
    assert told["parameters"]["guidance"] == 9.0
    with pytest.raises(SourceMissing, match="cannot be had from the Hub"):
        plan(release, Run.here(place / "dry"), **where)


def test_from_prompts_to_pictures(place: Path) -> None:
    where: dict[str, Any] = {"sources": place / "sources", "out": place / "dist"}
    run = Run.here(place / "work", batch_size=4)
    told = {step["step"]: step for step in plan(tiny(V2_PAINTED, place), run, **where)["steps"]}
    assert told["Paint"]["rows"] == 10, "the prompt that is there twice is painted once"
    assert (told["Paint"]["known"], told["Paint"]["missing"]) == (0, 10), "as it was before the probe"
    assert told["Paint"]["hours"] > 0
    assert told["Paint"]["store_bytes"] > 2 * 1000

    first, second = (build(tiny(release, place), run, **where) for release in (V2_PAINTED, V3_PAINTED))
    one, two = rows(first), rows(second)
    assert len(one) == 10
    assert len(two) == 13
    for id_, row in two.items():
        assert (row["width"], row["height"]) == (48, 48)
        assert row["image"]["bytes"][:2] == b"\xff\xd8"
        assert row["generation"]["guidance"] == 9.0
        assert row["similarity"] is not None
        if id_ in one:
            assert row == one[id_], "painted once, and split once"
    assert two["gustavosta/eval/00000000"]["split"] == "validation"
    near = [step for step in second.release.steps if isinstance(step, MarkDuplicates)][-1]
    assert near.against == ("split:validation", (V2_PAINTED, "validation"))
