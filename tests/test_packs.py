"""Packs: pictures that models made lie in the store once, whatever happens to the parts that speak of them."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, Features, Image, Value

from hfds.annotator import ModelAnnotator, passes
from hfds.batch import Batch
from hfds.packs import Packs
from hfds.run import Run
from hfds.store import STALE, Answers, Store

SCHEMA = Features({"image": Image(), "size": Value("int32")}).arrow_schema


def keys(*numbers: int) -> np.ndarray:
    return np.array([[n, n * 7] for n in numbers], np.uint64)


def pictures(*data: bytes | None) -> pa.Table:
    images = [one and {"bytes": one, "path": None} for one in data]
    return pa.table([pa.array(images, SCHEMA.field("image").type), [len(one or b"") for one in data]], schema=SCHEMA)


@pytest.fixture(params=["local", "memory"])
def answers(request: pytest.FixtureRequest, tmp_path: Path) -> Answers:
    """One step's, in a local folder or on another file system."""
    url = str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}/store"
    return Store(url, tmp_path / "mirror").answers("Draw", "Draw v1 {}")


def read(answers: Answers, *numbers: int) -> list[bytes | None]:
    """The bytes of pictures; KeyError where nothing is known."""
    known = answers.known(answers.parts(), SCHEMA)
    places = known.find(keys(*numbers))
    if (places < 0).any():
        raise KeyError(numbers)
    images = answers.packs.placed(known.take(places)).column("image").to_pylist()
    assert all(image is None or image["bytes"] is None for image in images)
    with Batch(pa.table({"image": pa.array(images, SCHEMA.field("image").type)})) as batch:
        return [image and picture.data for image, picture in zip(images, batch.pictures, strict=True)]


def packs(answers: Answers) -> dict[str, int]:
    return answers.packs._there()


def test_pictures_come_back(answers: Answers) -> None:
    answers.write(keys(1, 2, 3), pictures(b"one", None, b"three"))
    answers.write(keys(4), pictures(None))
    answers.write(keys(5, 1), pictures(b"five", b"another one"))
    assert read(answers, 3, 5, 2, 1, 4) == [b"three", b"five", None, b"one", None], "of two answers the first holds"
    assert sorted(packs(answers).values()) == [8, 15], "nothing but the pictures"
    assert answers.describe()["bytes"] > 23


def test_parts_are_merged_and_packs_are_not(answers: Answers) -> None:
    for number in range(1, 6):
        answers.write(keys(number), pictures(b"picture %d" % number))
    before = packs(answers)
    answers.tidy()
    assert len(answers.parts()) == 1
    assert packs(answers) == before
    assert read(answers, 5, 1) == [b"picture 5", b"picture 1"]


def test_what_is_gone_or_cut_is_not_known(answers: Answers) -> None:
    answers.write(keys(1, 2), pictures(b"one", b"two"))
    answers.write(keys(3), pictures(b"three"))
    stays = answers.whereabouts()
    (lost,) = [name for name, size in packs(answers).items() if size == 6]
    answers._fs.rm_file(f"{answers._root}/pictures/{lost}")
    assert answers.packs.lost([answers._read("answers", name) for name in answers.parts()]) == [lost]
    assert answers.whereabouts() != stays
    with pytest.raises(KeyError):
        read(answers, 1)
    assert read(answers, 3) == [b"three"]
    answers.write(keys(1, 2), pictures(b"one again", b"two"))
    assert read(answers, 1, 3) == [b"one again", b"three"]


def test_a_damaged_part_stops_no_step_with_pictures(answers: Answers, tmp_path: Path) -> None:
    answers.write(keys(1), pictures(b"one"))
    answers.write(keys(2), pictures(b"two"))
    first = answers.parts()[0]
    answers._fs.pipe_file(f"{answers._root}/answers/{first}", b"no Arrow file")
    url = answers._fs.unstrip_protocol(answers._root.rpartition("/")[0])
    fresh = Store(url, tmp_path / "new").answers("Draw", "Draw v1 {}")
    assert fresh.whereabouts().endswith("\0[]")
    assert read(fresh, 2) == [b"two"]
    with pytest.raises(KeyError):
        read(fresh, 1)


def test_a_damaged_pack_is_found_by_verify(answers: Answers, caplog: pytest.LogCaptureFixture) -> None:
    answers.write(keys(1), pictures(b"one"))
    answers.write(keys(2), pictures(b"two!"))
    assert answers.damaged() == []
    (name,) = [name for name, size in packs(answers).items() if size == 3]
    answers._fs.pipe_file(f"{answers._root}/pictures/{name}", b"One")
    if not answers._local:  # its copy is as it was; one that is bad is copied again
        answers._here("pictures", name).unlink()
        other = next(one for one in packs(answers) if one != name)
        answers._here("pictures", other).write_bytes(b"bad")
    assert [path.rpartition("/")[2] for path in answers.damaged()] == [f"{name}.damaged"]
    assert "is damaged: it is set aside, and its pictures are made again" in caplog.text
    assert read(answers, 2) == [b"two!"]
    with pytest.raises(KeyError):
        read(answers, 1)
    answers.tidy()
    assert answers.damaged() == []


def test_packs_of_which_no_answer_speaks_are_removed(tmp_path: Path) -> None:
    answers = Store(tmp_path / "store", tmp_path / "mirror").answers("Draw", "Draw v1 {}")
    answers.packs.stored(pictures(b"of a run that was killed before it wrote the answer"))
    answers.write(keys(1), pictures(b"one"))
    answers.tidy()
    assert len(packs(answers)) == 2, "it may be that of a run that goes on"
    old = time.time() - STALE - 1
    for path in (tmp_path / "store").rglob("*.pack"):
        os.utime(path, (old, old))
    answers.tidy()
    assert [*packs(answers).values()] == [3]
    assert read(answers, 1) == [b"one"]


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "slice://0-4::/etc/passwd", "slice://0-4::../../secret", "slice://0-4"]
)
def test_no_path_of_an_answer_is_opened(tmp_path: Path, path: str) -> None:
    answers = Store(tmp_path / "store", tmp_path / "mirror").answers("Draw", "Draw v1 {}")
    hostile = pa.table([pa.array([{"bytes": None, "path": path}], SCHEMA.field("image").type), [4]], schema=SCHEMA)
    placed = answers.packs.placed(hostile)
    assert placed["image"].to_pylist() == [None]
    assert isinstance(answers.packs, Packs)


@dataclass(frozen=True)
class Draw(ModelAnnotator):
    """A picture for each prompt that has none: its letters."""

    needs = ("prompt",)
    fills = ("image",)
    adds = Features({"image": Image(), "size": Value("int32")})

    def prepare(self, batch: Batch) -> list[Any]:
        return batch.texts("prompt")

    def annotate(self, model: None, items: list[str]) -> pa.Table:
        return pictures(*(item.encode() for item in items))


def test_rows_that_have_a_picture_are_not_shown(tmp_path: Path) -> None:
    images = [None, {"bytes": b"mine", "path": None}, None]
    rows = Dataset.from_dict({"prompt": ["a", "b", None], "image": images}).cast_column("image", Image(decode=False))
    for run in (None, Run.here(tmp_path)):
        made = Draw()(rows, run).with_format("arrow")[:]
        first, second, third = made["image"].to_pylist()
        assert second["bytes"] == b"mine"
        assert third is None
        assert made["size"].to_pylist() == [1, None, None]
        assert first["bytes"] == b"a" if run is None else first["path"].startswith("slice://0-1::")


def test_steps_that_fill_the_same_column_are_two_passes() -> None:
    steps = (Draw(), Draw())
    assert [len(group) for group in passes(steps)] == [1, 1]
