"""Masks of a release beside its pictures: in tars, read by others, and streamed."""

import gc
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
import webdataset
from fixtures import scenes, streamed
from fixtures.make import picture

import hfds
from hfds.errors import BadFile, ConfigError
from hfds.masks import mask_of
from hfds.samples import Samples
from hfds.tars import Export, export

ROWS = 40


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Export:
    folder = tmp_path_factory.mktemp("scenes")
    scenes.built(folder, ROWS)
    return export("scenes", "v1", out=folder / "dist", max_shard=60_000, num_proc=2)


def wanted(number: int) -> np.ndarray:
    """The mask of scene `number`: its first entity is the only one that has a good one."""
    width, height = (48, 64) if number % 10 == 3 else (64, 48)
    return scenes.blob(width, height, number) if number % 4 else np.zeros((height, width), bool)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves closing to the collector
def test_every_sample_has_one(made: Export) -> None:
    seen = Counter[str]()
    for split in made.manifest.splits.values():
        paths = [str(made.folder / shard.path) for shard in split.shards]
        assert len(paths) > 1
        assert all(shard.bytes <= 60_000 for shard in split.shards)
        for sample in webdataset.WebDataset(paths, shardshuffle=False, empty_check=False):
            assert [name for name in sample if name[0] != "_"][1:] == ["txt", "json", "mask.png"]
            number = scenes.number_of(json.loads(sample["json"])["id"])
            mask = PIL.Image.open(io.BytesIO(sample["mask.png"]))
            assert mask.mode == "L"
            assert (np.asarray(mask) == wanted(number)).all()
            image = next(sample[kind] for kind in ("jpg", "png", "webp") if kind in sample)
            assert mask.size == PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(image))).size
            seen["masks"] += bool(wanted(number).any())
        seen.update(split.noted)
    gc.collect()
    assert made.manifest.extensions == ("jpg", "png", "webp", "txt", "json", "mask.png")
    assert seen["masks"] > 10
    there = [n for n in range(ROWS) if n % 10 not in (5, 7)]  # the others have no picture or no caption
    assert seen["bad_mask"] == sum(2 for n in there if n % 4 and n % 5 == 1)


def test_the_index_has_sizes_as_they_are_shown(made: Export) -> None:
    samples = Samples(made.folder)
    turned = 0
    for split in samples.manifest.splits.values():
        for shard in split.shards:
            for row in samples.index_of(shard).to_pylist():
                assert (row["height"], row["width"]) == wanted(scenes.number_of(row["id"])).shape
                turned += row["width"] < row["height"]
    assert turned


def test_they_are_streamed_with_their_pictures(made: Export) -> None:
    def samples(**how: Any) -> list[dict[str, Any]]:
        return [*hfds.stream(made.folder, "train", columns=["id", "image", "mask"], **how)]

    for sample in samples(size=None):
        assert sample["mask"].dtype == torch.int32
        assert (sample["mask"].numpy() == wanted(scenes.number_of(sample["id"]))).all()
        assert sample["image"].shape == (3, *sample["mask"].shape)
    for sample in samples(size=(16, 24)):
        assert (sample["image"].shape, sample["mask"].shape) == ((3, 24, 16), (24, 16))
        assert {*sample["mask"].unique().tolist()} <= {0, 1}
    for sample in samples(transform=lambda image, mask: (image.size, mask.size), size=24):
        assert sample["image"] == sample["mask"]
    for sample in samples(decode=None):
        assert sample["mask"].startswith(b"\x89PNG")
    batch = next(iter(hfds.stream(made.folder, "train", columns=["mask"], size=16).loader(4)))
    assert batch["mask"].shape == (4, 16, 16)


def test_it_says_where_there_are_none(tmp_path: Path) -> None:
    place = streamed.toys(tmp_path / "v1", 4)
    with pytest.raises(ConfigError, match="has no masks: leave 'mask' out"):
        hfds.stream(place, "train", columns=["image", "mask"])


def test_a_damaged_one_is_named(tmp_path: Path) -> None:
    rows = []
    for number in range(4):
        members, row = streamed.sample(number)
        rows.append(({**members, "mask.png": b"no PNG" if number == 2 else picture("PNG", 32, 24)}, row))
    place = streamed.write(tmp_path / "v1", rows, shards=1)
    manifest = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").write_text(json.dumps({**manifest, "extensions": [*manifest["extensions"], "mask.png"]}))
    with pytest.raises(BadFile, match=r"'toy/2' cannot be handed out \(undecodable_mask"):
        [*hfds.stream(place, "train", columns=["mask"], shuffle=None)]


def test_many_entities_and_those_that_overlap() -> None:
    data = memoryview(picture("PNG", 8, 6))
    whole = {"mask": {"size": [6, 8], "counts": [0, 48]}}
    corner = {"mask": {"size": [6, 8], "counts": [47, 1]}}
    few = np.asarray(PIL.Image.open(io.BytesIO(mask_of([whole, {"mask": None}, corner], data, Counter()))))
    assert few.dtype == np.uint8
    assert few[-1, -1] == 3
    assert few[:-1].max() == few[0, 0] == 1
    many = np.asarray(PIL.Image.open(io.BytesIO(mask_of([whole] * 299 + [corner], data, Counter()))))
    assert (many[-1, -1], many[0, 0]) == (300, 299)


def test_a_picture_that_says_no_size_has_one_pixel() -> None:
    noted = Counter[str]()
    row = [{"mask": {"size": [6, 8], "counts": [0, 48]}}]
    assert PIL.Image.open(io.BytesIO(mask_of(row, memoryview(b"\xff\xd8nothing"), noted))).size == (1, 1)
    assert noted == {"bad_mask": 1}
