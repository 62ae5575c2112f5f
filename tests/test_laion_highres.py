"""laion-highres: one scoring, two releases, with tiny checkpoints in the place of the real ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from fixtures import checkpoints, laion
from fixtures.make import picture

from hfds.model import Model
from hfds.release import Release, build
from hfds.releases.laion_highres import AES5, AES6
from hfds.run import Run
from hfds.store import Store
from processors.keep import Keep

SIZES = [(1100, 1100)] * 12 + [(1024, 1024), (1023, 1500), (2100, 1024), (1024, 2060), (1024, 2048), (64, 48)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("highres")
    sizes = [*SIZES, (1100, 1100), SIZES[0]]
    rows = [laion.row(n, width=size[0], height=size[1]) for n, size in enumerate(sizes)]
    pictures: list[bytes | None] = [picture("JPEG", *size, seed=n) for n, size in enumerate(SIZES)]
    flat = picture("JPEG", 1100, 1100, seed=99, quality=30)
    pictures += [flat[: len(flat) // 2] + b"\xff\xd9", pictures[0]]
    laion.shard(folder / "sources/laion", 0, rows, pictures, "webdataset")
    for name in ("nsfw", "watermark", "aesthetic"):
        getattr(checkpoints, name)(folder / name)
    return folder


def tiny(release: Release, place: Path, **rules: str) -> Release:
    """`release` with tiny checkpoints, whose scores mean nothing, and rules that divide those."""
    steps: list[Any] = []
    for step in release.steps:
        if hasattr(step, "model"):
            step = replace(step, model=Model(str(place / step.column)))
        elif isinstance(step, Keep) and step.rule.partition(" ")[0] in rules:
            step = replace(step, rule=rules[step.rule.partition(" ")[0]])
        steps.append(step)
    return replace(release, steps=tuple(steps))


def test_one_scoring_and_two_releases(place: Path) -> None:
    run, where = Run.here(place / "work", 2), {"sources": place / "sources", "out": place / "dist"}
    loose = {"nsfw": "nsfw <= 1", "watermark": "watermark <= 1", "aesthetic": "aesthetic > -100"}
    five = build(tiny(AES5, place, **loose), run, **where)
    reasons = {(entry["step"], entry["reason"]): entry["rows"] for entry in five.funnel[0]["dropped"]}
    assert reasons == {("Keep", "too_small"): 2, ("Keep", "aspect"): 2}
    kept = load_dataset(str(five.folder), "aes5", split="train", cache_dir=str(place / "cache"))
    assert len(kept) == 16
    assert all(
        0 <= row["nsfw"] <= 1 and 0 <= row["watermark"] <= 1 for row in kept.select_columns(["nsfw", "watermark"])
    )
    assert kept["source_scores"][0]["similarity"] == 0.25
    store = Store(run.annotations, run.workdir / "mirror")
    counts = {one.folder.partition("-")[0]: one.describe()["rows"] for one in store.steps()}
    assert counts == {"MeasureImage": 19, "ScoreAesthetic": 15, "ScoreNsfw": 15, "ScoreWatermark": 15}, "of 20 rows"
    middle = sorted(kept["aesthetic"])[8]
    six = build(tiny(AES6, place, **{**loose, "aesthetic": f"aesthetic >= {middle}"}), run, **where)
    assert {one.folder.partition("-")[0]: one.describe()["rows"] for one in store.steps()} == counts, "not one more"
    ledger = pq.read_table(six.folder / "ledger/aes6.parquet").to_pylist()
    low = [row for row in ledger if row["reason"] == "aesthetic"]
    assert len(low) + sum(six.funnel[0]["kept"].values()) == 16
    assert all(float(row["value"]) < middle for row in low)


def test_the_releases_are_what_they_say() -> None:
    AES5.check()
    AES6.check()
    assert AES5.steps[:-1] == AES6.steps[:-1]
    assert [step.rule for step in AES6.steps if isinstance(step, Keep)] == [
        "width >= 1024 and height >= 1024", "0.5 <= aspect <= 2", "nsfw < 0.0006", "watermark < 0.8", "aesthetic >= 6",
    ]  # fmt: skip
