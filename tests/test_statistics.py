"""What is measured of a release: the same from any files of the same rows, whatever numbers there are."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Features, Image, Json, List, Value
from fixtures import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from hfds import Input, Release, build
from hfds.columns import null_share, read
from hfds.drift import drift
from hfds.errors import BadFile
from hfds.place import Place
from hfds.run import Run
from hfds.statistics import measured


def of(folder: Path, features: dict[str, Any], rows: dict[str, list[Any]], group: int = 1000) -> dict[str, Any]:
    """What is measured of these rows, which lie in two files in row groups of this size."""
    schema = Features({"id": Value("string"), **features}).arrow_schema
    count = len(next(iter(rows.values())))
    table = pa.table({"id": [str(n) for n in range(count)], **rows}, schema=schema)
    files = [folder / f"{name}.parquet" for name in "ab"]
    for file, part in zip(files, (table[: count // 2], table[count // 2 :]), strict=True):
        pq.write_table(part, file, row_group_size=group)
    found = measured(files, Features({"id": Value("string"), **features}))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


def test_numbers_lengths_and_categories(tmp_path: Path) -> None:
    features = {"score": Value("float32"), "license": Value("string"), "prompt": Value("string"), "ok": Value("bool")}
    rows = {
        "score": [*(n / 10 for n in range(97)), None, math.nan, math.inf],
        "license": ["a"] * 60 + ["b"] * 40,
        "prompt": ["x" * n for n in range(100)],
        "ok": [True] * 25 + [False] * 75,
    }
    found = of(tmp_path, features, rows)["columns"]
    assert [*found] == ["score", "license", "prompt", "ok"], "not the id"
    score = found["score"]
    assert (score["of"], score["nulls"], score["min"], score["50%"], score["max"]) == ("value", 0.01, 0, 4.8, 9.6)
    assert score["mean"] == pytest.approx(4.8)
    assert (score["histogram"]["start"], score["histogram"]["step"]) == (0, 0.5)
    assert score["histogram"]["rows"] == [5] * 19 + [2]
    assert found["license"]["counts"] == {"a": 60, "b": 40}
    assert found["prompt"]["of"] == "length"
    assert found["prompt"]["histogram"]["rows"] == [5] * 20
    assert "counts" not in found["prompt"], "a hundred values"
    assert found["ok"]["mean"] == 0.25
    assert of(tmp_path, features, rows, group=7)["columns"] == found


def test_one_number_far_away_leaves_something_to_see(tmp_path: Path) -> None:
    lengths = [n % 100 for n in range(1000)] + [10**6]
    histogram = of(tmp_path, {"n": Value("int64")}, {"n": lengths})["columns"]["n"]["histogram"]
    assert (histogram["start"], histogram["step"], histogram["below"], histogram["above"]) == (0, 5, 0, 1)
    assert sum(histogram["rows"]) == 1000


def test_a_tenth_is_where_it_belongs(tmp_path: Path) -> None:
    tenths = [n / 10 for n in range(31)]
    histogram = of(tmp_path, {"x": Value("float64")}, {"x": tenths})["columns"]["x"]["histogram"]
    assert (histogram["step"], histogram["rows"]) == (0.1, [1] * 31)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.floats(width=64) | st.sampled_from([5e-324, 1e308, -1e308, 1e18, 1e18 + 256, 1.0, 1 + 2e-16])))
def test_any_numbers_give_a_histogram_of_all(tmp_path_factory: pytest.TempPathFactory, numbers: list[float]) -> None:
    folder = tmp_path_factory.mktemp("numbers")
    found = of(folder, {"x": Value("float64")}, {"x": [0.0, *numbers]})["columns"]["x"]
    histogram = found["histogram"]
    assert len(histogram["rows"]) < 80
    counted = sum(histogram["rows"]) + histogram["below"] + histogram["above"]
    assert counted == sum(abs(number) < 1e300 for number in [0.0, *numbers])


def test_pictures_structs_and_what_cannot_be_measured(tmp_path: Path) -> None:
    features = {
        "image": Image(),
        "width": Value("int32"),
        "height": Value("int32"),
        "made": {"seed": Value("int64"), "by": {"name": Value("string")}},
        "near": List(Value("float32"), length=2),
        "extra": Json(),
    }
    rows: dict[str, list[Any]] = {
        "image": [None] * 4,
        "width": [2000, 1000, None, 0],
        "height": [1000, 1000, 5, 7],
        "made": [{"seed": 1, "by": {"name": "x"}}, {"seed": None, "by": None}, None, {"seed": 3, "by": {"name": "x"}}],
        "near": [[1, 2]] * 4,
        "extra": [None] * 4,
    }
    found = of(tmp_path, features, rows)
    assert [*found["columns"]] == ["width", "height", "made.seed", "made.by.name"]
    assert found["nulls"] == {"id": 0, "image": 1, "made": 0.25, "near": 0, "extra": 1}
    assert (found["columns"]["made.seed"]["nulls"], found["columns"]["made.by.name"]["nulls"]) == (0.5, 0.5)
    megapixels, aspect = found["pictures"]["megapixels"], found["pictures"]["aspect"]
    assert (megapixels["min"], megapixels["max"], aspect["min"], aspect["max"]) == (1, 2, 1, 2)
    assert sum(aspect["histogram"]["rows"]) == 2
    assert of(tmp_path, {"width": Value("int32")}, {"width": [1, 2]})["pictures"] == {}
    none = of(
        tmp_path, {"width": Value("int32"), "height": Value("int32")}, {"width": [None] * 2, "height": [None] * 2}
    )
    assert none["columns"]["width"] == {"of": "value", "nulls": 1}
    assert none["pictures"] == {"megapixels": {}, "aspect": {}}


def test_nulls_of_what_is_not_measured_otherwise(tmp_path: Path) -> None:
    features = {
        "image": Image(),
        "near": List(Value("float32"), length=2),
        "near.by": List(Value("int8")),
        "captions": List({"style": Value("string"), "text": Value("string")}),
        "made": {"seed": Value("int64")},
    }
    rows: dict[str, list[Any]] = {
        "image": [None, {"bytes": b"x", "path": None}, {"bytes": None, "path": "p"}, {"bytes": b"x", "path": "p"}],
        "near": [None, None, [1, 2], [None, 2]],
        "near.by": [[], None, [None], [1]],
        "captions": [[], [{"style": None, "text": None}], [None], None],
        "made": [None, None, None, {"seed": None}],
    }
    wanted = {"id": 0, "image": 0.25, "near": 0.5, "near.by": 0.25, "captions": 0.25, "made": 0.75}
    for group in (1, 1000):
        assert of(tmp_path, features, rows, group)["nulls"] == wanted
    files = [tmp_path / f"{name}.parquet" for name in "ab"]
    assert null_share(files, "gone") == 1


def test_no_picture_is_read_to_count_nulls(tmp_path: Path) -> None:
    file, schema = tmp_path / "a.parquet", Features({"image": Image()}).arrow_schema
    pq.write_table(pa.table({"image": [{"bytes": b"x" * 1000, "path": "p"}, None] * 5}, schema=schema), file)
    about = pq.read_metadata(file).row_group(0).column(0)
    assert about.path_in_schema == "image.bytes"
    with file.open("r+b") as parquet:
        parquet.seek(about.dictionary_page_offset)
        parquet.write(b"?" * about.total_compressed_size)
    with pytest.raises(BadFile):
        [*read([file], ["image"])]
    assert null_share([file], "image") == 0.5


def test_long_texts_are_no_categories(tmp_path: Path) -> None:
    features = {"short": Value("string"), "long": Value("string")}
    found = of(tmp_path, features, {"short": ["a", "b"] * 50, "long": ["a", "b" * 201] * 50})["columns"]
    assert found["short"]["counts"] == {"a": 50, "b": 50}
    assert "counts" not in found["long"]


def test_a_build_measures_what_it_wrote_and_drift_takes_it(tmp_path: Path) -> None:
    sources = toy.write(tmp_path / "s", a=toy.many(200))
    release = Release("toys", "v1", (Input(toy.Toy),), columns=("prompt", "license"))
    built = build(release, Run.here(tmp_path / "w"), sources=sources, out=tmp_path / "d")
    home, lock = built.folder, built.lock
    place = Place(lock, home.joinpath)
    assert lock["statistics"] == measured(place.shards, place.features)
    assert json.loads((home / "releases/v1.lock.json").read_text())["statistics"] == lock["statistics"]
    before = Place({name: value for name, value in lock.items() if name != "statistics"}, home.joinpath)
    told = drift(place, before)
    assert [one["old"] for one in told] == [one["new"] for one in told]
    gone = (tmp_path / "gone").joinpath
    told = drift(Place(lock, gone), Place(lock, gone))
    assert {one["column"]: one["of"] for one in told} == {"prompt": "length", "license": "counts"}
    with pytest.raises(BadFile):
        drift(place, Place(before.lock, gone))
    assert np.isclose(told[0]["new"]["mean"], lock["statistics"]["columns"]["prompt"]["mean"])
