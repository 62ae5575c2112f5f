"""Shards: every row once, in order and within the limits; the same bytes each time; never half of one."""

import json
import os
import pickle
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from datasets import Dataset, Features, Json, List, Value, load_dataset
from fixtures.make import picture, tar
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hfds.archive import Reader, sha256_of, tar_members
from hfds.errors import SourceChanged
from hfds.record import FEATURES, records
from hfds.shards import MAX_ROWS, ROW_GROUP, Shard, Written, plan, row_sizes, write
from hfds.slices import slice_path

FUZZ = settings(deadline=None, derandomize=True, database=None)
COLUMNS = ("id", "image", "prompt", "captions", "width", "generation", "extra")
SOME = Features({name: FEATURES[name] for name in COLUMNS})


# Plans


def greedy(weights: list[int], most: int) -> int:
    """The fewest runs whose sums are within `most`, but for single rows that are larger by themselves."""
    runs, held = 0, most + 1
    for weight in weights:
        runs, held = (runs, held + weight) if held + weight <= most else (runs + 1, weight)
    return max(runs, 1)


weights = st.lists(st.integers(0, 400) | st.sampled_from([0, 1, 99, 100, 101, 5000]), max_size=60)


@settings(FUZZ, max_examples=200)
@given(weights, weights, st.integers(1, 600), st.integers(0, 20))
@example([60, 60, 60], [], 100, 0)
@example([5000, *[1] * 50, 5000], [0] * 5, 100, 0)
@example([0] * 50, [100] * 50, 100, 3)
def test_every_row_is_in_one_shard_in_order_and_within_the_limit(
    first: list[int], second: list[int], most: int, gap: int
) -> None:
    row_bytes = np.array([7] * gap + first + [7] * gap + second, np.int64)
    positions = {
        "train": np.arange(gap, gap + len(first)),
        "validation": np.arange(2 * gap + len(first), len(row_bytes)),
    }
    shards = plan(positions, row_bytes, "data/v1", most)
    assert [shard.name for shard in shards] == sorted(shard.name for shard in shards)
    for split, rows in positions.items():
        own = [shard for shard in shards if shard.split == split]
        names = [f"data/v1/{split}-{number:05d}-of-{len(own):05d}.parquet" for number in range(len(own))]
        assert [shard.name for shard in own] == names
        assert np.array_equal(np.concatenate([np.concatenate(shard.groups) for shard in own]), rows)
        assert len(own) == greedy(row_bytes[rows].tolist(), most)
        for shard in own:
            held = np.concatenate(shard.groups)
            assert len(held) == 1 or row_bytes[held].sum() <= most
            assert len(held) or len(own) == 1
            assert len(shard.groups) == 1
    alone = plan({"validation": positions["validation"]}, row_bytes, "data/v1", most)
    again = plan(positions, row_bytes, "data/v1", most)
    assert repr(shards[-len(alone) :]) == repr(alone)
    assert repr(shards) == repr(again)


@settings(FUZZ, max_examples=30)
@given(st.lists(st.integers(0, 40 << 20), min_size=1, max_size=40), st.integers(1, 200 << 20))
def test_row_groups_are_small(weights: list[int], most: int) -> None:
    row_bytes = np.array(weights)
    for shard in plan({"train": np.arange(len(weights))}, row_bytes, "data/v1", most):
        own = np.concatenate(shard.groups)
        assert len(shard.groups) == greedy(row_bytes[own].tolist(), ROW_GROUP)
        for group in shard.groups:
            assert len(group) == 1 or row_bytes[group].sum() <= ROW_GROUP


@pytest.mark.parametrize(
    "row_bytes",
    [
        np.zeros(3 * MAX_ROWS + 1, np.int64),
        np.r_[np.zeros(3 * MAX_ROWS, np.int64), [ROW_GROUP] * 4],
        np.r_[np.full(MAX_ROWS, 100), np.zeros(2 * MAX_ROWS, np.int64), [1]],
    ],
)
def test_row_groups_have_no_more_rows_than_that(row_bytes: np.ndarray) -> None:
    (shard,) = plan({"train": np.arange(len(row_bytes))}, row_bytes, "data/v1")
    assert np.array_equal(np.concatenate(shard.groups), np.arange(len(row_bytes)))
    assert max(len(group) for group in shard.groups) <= MAX_ROWS


def test_shards_are_about_as_large_as_each_other() -> None:
    row_bytes = np.random.default_rng(0).integers(1_000, 2_000_000, 5_000)
    shards = plan({"train": np.arange(5_000)}, row_bytes, "data/v1", 100_000_000)
    held = [int(row_bytes[np.concatenate(shard.groups)].sum()) for shard in shards]
    assert max(held) <= 100_000_000
    assert min(held) > 0.8 * max(held)


def test_an_empty_split_is_an_empty_shard() -> None:
    (shard,) = plan({"train": np.zeros(0, np.int64)}, np.zeros(5, np.int64), "data/v1")
    assert (shard.name, [len(group) for group in shard.groups]) == ("data/v1/train-00000-of-00001.parquet", [0])


# Shards on disk


def source(folder: Path, rows: int = 12, fingerprint: str = "rows", **changes: Any) -> Dataset:
    """Rows with pictures in a tar, in files, in the row, or without; `changes` are columns."""
    folder.mkdir(exist_ok=True)
    data = [None if row % 6 == 5 else picture("PNG" if row % 2 else "JPEG", seed=row) for row in range(rows)]
    tar(folder / "a.tar", [(f"{row}", one) for row, one in enumerate(data) if one])
    with Reader(str(folder / "a.tar")) as reader:
        slices = {m.name: slice_path(m.offset, m.size, str(folder / "a.tar")) for m in tar_members(reader, "a.tar")}
    images: list[dict[str, Any] | None] = []
    for row, one in enumerate(data):
        (folder / f"{row}.bin").write_bytes(one or b"")
        ways = ({"bytes": None, "path": slices.get(str(row))}, {"bytes": None, "path": str(folder / f"{row}.bin")})
        images.append(None if one is None else {"bytes": one, "path": None} if row % 3 == 2 else ways[row % 3])
    columns: dict[str, Any] = {
        "id": [f"s/{row}" for row in range(rows)],
        "source": "s",
        "image": images,
        "image_hash": [one and xxhash.xxh3_128_hexdigest(one) for one in data],
        "width": [one and 64 for one in data],
        "prompt": [f"a prompt, number {row} ünïcode 猫" for row in range(rows)],
        "captions": {"short": [f"caption {row}" for row in range(rows)]},
        "generation": {"seed": [2**63 - 1 - row for row in range(rows)]},
        "extra": [json.dumps({"big": 2**53 + 1 + row, "nested": [None, {"a": "é"}]}) for row in range(rows)],
    }
    return Dataset(records(rows, **(columns | changes)), fingerprint=fingerprint)


def two_splits(rows: Dataset, most: int = 12_000) -> list[Shard]:
    """Every fourth row is for validation."""
    fourth = np.arange(len(rows)) % 4 == 3
    positions = {"train": np.flatnonzero(~fourth), "validation": np.flatnonzero(fourth)}
    return plan(positions, row_sizes(rows), "data/v1", most)


def written(rows: Dataset, home: Path, shards: list[Shard] | None = None, **options: Any) -> list[Written]:
    shards = two_splits(rows) if shards is None else shards
    where = {"folder": home / "new", "journal": home / "journal", "finished": home / "done", "threads": 1, **options}
    return write(rows, shards, where.pop("features", SOME), **where)


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(folder.glob("data/*/*"))}


def test_sizes_of_rows_are_those_of_their_pictures(tmp_path: Path) -> None:
    rows = source(tmp_path / "s")
    found = row_sizes(rows)
    pictures = [(tmp_path / f"s/{row}.bin").stat().st_size for row in range(len(rows))]
    assert len(set(found - pictures)) == 1
    assert 100 < found[5] < 2_000
    assert row_sizes(rows.select([3, 0])).tolist() == found[[3, 0]].tolist()
    assert row_sizes(rows.select([])).tolist() == []
    assert len(set(row_sizes(rows.select_columns(["id"])))) == 1


def test_what_is_written_is_what_was_there(tmp_path: Path) -> None:
    rows = source(tmp_path / "s")
    shards = written(rows, tmp_path)
    assert len(shards) > 4
    for shard in shards:
        path = tmp_path / "new" / shard.name
        assert (shard.bytes, shard.sha256) == (path.stat().st_size, sha256_of(path))
        assert shard.rows == pq.read_metadata(path).num_rows
        assert (shard.digests.shape, shard.digests.dtype) == ((shard.rows, 2), np.uint64)
    splits = ("train", "validation")
    files = {split: [str(tmp_path / "new" / s.name) for s in shards if s.split == split] for split in splits}
    loaded = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].features == SOME
    both = {row["id"]: row for split in splits for row in loaded[split]}
    assert [row["id"] for row in loaded["validation"]] == ["s/3", "s/7", "s/11"]
    assert len(both) == 12
    for number, row in enumerate(rows.select_columns(list(COLUMNS))):
        found = both[row["id"]]
        before, after = row.pop("image"), found.pop("image")
        assert found == row
        assert found["extra"] == {"big": 2**53 + 1 + number, "nested": [None, {"a": "é"}]}
        assert found["generation"]["seed"] == 2**63 - 1 - number
        assert (before is None) == (after is None) == (number % 6 == 5)
        assert before is None or np.array_equal(np.asarray(before), np.asarray(after))
    bytes_ = pa.concat_tables([pq.read_table(file) for file in files["train"]])["image"].to_pylist()
    kept = [number for number in range(12) if number % 4 != 3]
    assert [one and one["bytes"] for one in bytes_] == [(tmp_path / f"s/{n}.bin").read_bytes() or None for n in kept]
    assert [one and one["path"] for one in bytes_][:3] == ["0.jpg", "1.png", "2.jpg"]


def test_the_bytes_do_not_depend_on_the_threads(tmp_path: Path) -> None:
    rows = source(tmp_path / "s", 40)
    one = written(rows, tmp_path / "one", threads=1)
    four = written(rows, tmp_path / "four", threads=4)
    assert len(one) > 10
    assert [replace(shard, digests=None) for shard in one] == [replace(shard, digests=None) for shard in four]
    assert all(np.array_equal(a.digests, b.digests) for a, b in zip(one, four, strict=True))


def digests(rows: Dataset, home: Path, shards: list[Shard] | None = None, **options: Any) -> list[bytes]:
    found = written(rows, home, shards, **options)
    return [digest.tobytes() for shard in found for digest in shard.digests]


def test_digests_say_all_of_a_row_but_where_its_picture_lies(tmp_path: Path) -> None:
    rows = source(tmp_path / "s")
    shards = plan({"train": np.arange(12)}, row_sizes(rows), "data/v1")
    base = digests(rows, tmp_path / "base", shards)
    assert len(set(base)) == 12
    pictures = [(tmp_path / f"s/{row}.bin").read_bytes() for row in range(12)]
    carried = [{"bytes": data, "path": "x"} if data else None for data in pictures]
    assert digests(source(tmp_path / "s", image=carried), tmp_path / "carried", shards) == base
    assert digests(rows, tmp_path / "small", plan({"train": np.arange(12)}, row_sizes(rows), "data/v1", 9_000)) == base
    other = [f"a prompt, number {row} ünïcode 猫" + "!" * (row == 4) for row in range(12)]
    changed = digests(source(tmp_path / "s", prompt=other), tmp_path / "other", shards)
    assert [a == b for a, b in zip(base, changed, strict=True)] == [row != 4 for row in range(12)]
    apart = digests(rows, tmp_path / "apart", [replace(shard, split="test") for shard in shards])
    assert not set(apart) & set(base)
    narrow = Features({name: SOME[name] for name in ("id", "prompt")})
    without = digests(rows, tmp_path / "narrow", shards, features=narrow)
    assert not set(without) & set(base)


def test_the_files_are_as_the_hub_wants_them(tmp_path: Path) -> None:
    vectors = pa.array([[float(row), 0.5] for row in range(12)], pa.list_(pa.float32(), 2))
    rows = source(tmp_path / "s").add_column("embedding", vectors.to_pylist())
    rows = rows.cast_column("embedding", List(Value("float32"), length=2))
    features = Features({**SOME, "embedding": List(Value("float32"), length=2)})
    shards = [Shard("data/v1/train-00000-of-00001.parquet", "train", (np.arange(5), np.arange(5, 6), np.arange(6, 12)))]
    (shard,) = written(rows, tmp_path, shards, features=features)
    file = pq.ParquetFile(tmp_path / "new" / shard.name)
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [5, 1, 6]
    for group in range(file.num_row_groups):
        row_group = file.metadata.row_group(group)
        columns = {c.path_in_schema: c for c in (row_group.column(i) for i in range(row_group.num_columns))}
        picture_bytes = columns.pop("image.bytes")
        assert picture_bytes.compression == "UNCOMPRESSED"
        assert not picture_bytes.has_dictionary_page
        assert picture_bytes.statistics is None
        assert {"embedding.list.element", "captions.list.element.text", "generation.seed", "extra"} < set(columns)
        assert {c.compression for c in columns.values()} == {"ZSTD"}
        assert all(c.statistics is not None and c.has_column_index for c in columns.values())
    assert Features.from_arrow_schema(file.schema_arrow) == features
    assert isinstance(Features.from_arrow_schema(file.schema_arrow)["extra"], Json)


def test_an_empty_split_is_written_and_read(tmp_path: Path) -> None:
    rows = source(tmp_path / "s")
    shards = plan({"train": np.zeros(0, np.int64)}, row_sizes(rows), "data/v1")
    (shard,) = written(rows, tmp_path, shards)
    assert (shard.rows, shard.digests.shape) == (0, (0, 2))
    assert pq.read_table(tmp_path / "new" / shard.name).schema == SOME.arrow_schema


def test_rows_that_were_selected_are_those_that_are_written(tmp_path: Path) -> None:
    rows = source(tmp_path / "s").select([9, 2, 4])
    (shard,) = written(rows, tmp_path, plan({"train": np.arange(1, 3)}, row_sizes(rows), "data/v1"))
    table = pq.read_table(tmp_path / "new" / shard.name)
    assert table["id"].to_pylist() == ["s/2", "s/4"]
    assert table["image"].to_pylist()[0]["bytes"] == picture("JPEG", seed=2)


def test_rows_that_are_far_apart_do_not_bring_what_lies_between_them(tmp_path: Path) -> None:
    """Arrow's arrays of bytes end at 2 GiB."""
    data = bytes(1 << 20)
    chunk = records(
        64,
        id=[f"s/{row}" for row in range(64)],
        image={"bytes": pa.array([data] * 64), "path": "a"},
        image_hash=xxhash.xxh3_128_hexdigest(data),
    )
    rows = Dataset(pa.concat_tables([chunk] * 40), fingerprint="far")
    positions = np.array([0, 1_000, 64 * 40 - 1])
    assert row_sizes(rows).min() > len(data)
    (shard,) = written(rows, tmp_path, plan({"train": positions}, row_sizes(rows), "data/v1"))
    table = pq.read_table(tmp_path / "new" / shard.name)
    assert table["id"].to_pylist() == ["s/0", "s/40", "s/63"]
    assert [len(one["bytes"]) for one in table["image"].to_pylist()] == [len(data)] * 3


# Writing again


def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    rows = source(tmp_path / "s")
    first = written(rows, tmp_path)
    before = stamps(tmp_path / "new")
    again = written(rows, tmp_path)
    assert stamps(tmp_path / "new") == before
    assert [replace(shard, digests=None) for shard in again] == [replace(shard, digests=None) for shard in first]
    assert all(np.array_equal(a.digests, b.digests) for a, b in zip(first, again, strict=True))
    (tmp_path / "new").rename(tmp_path / "done")
    linked = written(rows, tmp_path, threads=3)
    assert stamps(tmp_path / "new") == stamps(tmp_path / "done") == before
    assert [replace(shard, digests=None) for shard in linked] == [replace(shard, digests=None) for shard in first]


@pytest.mark.parametrize("how", ["cut", "touched", "gone", "note gone", "digests gone"])
def test_what_is_not_as_it_was_left_is_written_again(tmp_path: Path, how: str) -> None:
    rows = source(tmp_path / "s")
    first = written(rows, tmp_path)
    before = stamps(tmp_path / "new")
    path = tmp_path / "new" / first[1].name
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif how == "touched":
        os.utime(path, ns=(0, 0))
    elif how == "gone":
        path.unlink()
    else:
        for note in (tmp_path / "journal").glob("*.json" if how == "note gone" else "*.npy"):
            note.unlink()
    again = written(rows, tmp_path)
    assert [shard.sha256 for shard in again] == [shard.sha256 for shard in first]
    assert sha256_of(path) == first[1].sha256
    same = [name for name, stamp in stamps(tmp_path / "new").items() if before[name] == stamp]
    assert len(same) == (0 if how.endswith("gone") and how != "gone" else len(first) - 1)


def test_other_rows_columns_or_groups_are_other_shards(tmp_path: Path) -> None:
    rows = source(tmp_path / "s")
    name = "data/v1/train-00000-of-00001.parquet"
    shards = [Shard(name, "train", (np.arange(6), np.arange(6, 12)))]
    found = [written(rows, tmp_path, shards)[0].sha256]
    found += [written(rows, tmp_path, [Shard(name, "train", (np.arange(5), np.arange(5, 12)))])[0].sha256]
    narrow = Features({key: SOME[key] for key in ("id", "prompt")})
    found += [written(rows, tmp_path, shards, features=narrow)[0].sha256]
    found += [written(source(tmp_path / "s", fingerprint="2", prompt="p"), tmp_path, shards)[0].sha256]
    assert len(set(found)) == 4
    assert written(rows, tmp_path, shards)[0].sha256 == found[0]


def test_shards_of_another_plan_do_not_stay(tmp_path: Path) -> None:
    rows = source(tmp_path / "s")
    written(rows, tmp_path)
    (tmp_path / "new/data/v1/train-00000-of-00099.parquet.part").write_bytes(b"half")
    one = plan({"train": np.arange(12)}, row_sizes(rows), "data/v1")
    written(rows, tmp_path, one)
    assert list(stamps(tmp_path / "new")) == ["train-00000-of-00001.parquet"]


def complete(folder: Path) -> list[str]:
    """The names of the shards that are there; each of them can be read to its end."""
    paths = sorted(folder.glob("data/*/*.parquet"))
    assert all(pq.read_table(path).num_rows for path in paths)
    return [path.name for path in paths]


def test_a_source_that_changed_leaves_no_half_shard(tmp_path: Path) -> None:
    rows = source(tmp_path / "s")
    shards = two_splits(rows)
    broken = tmp_path / "s/7.bin"  # in the second shard of validation
    data = broken.read_bytes()
    broken.write_bytes(data[:-1] + b"x")
    with pytest.raises(SourceChanged, match=r"s/7 in .*7\.bin"):
        written(rows, tmp_path, shards)
    there = complete(tmp_path / "new")
    assert 0 < len(there) < len(shards)
    before = stamps(tmp_path / "new")
    broken.write_bytes(data)
    again = written(rows, tmp_path, shards)
    assert all(stamps(tmp_path / "new")[name] == before[name] for name in there)
    assert complete(tmp_path / "new") == [Path(shard.name).name for shard in shards] == list(stamps(tmp_path / "new"))
    fresh = written(rows, tmp_path / "fresh", shards)
    assert [shard.sha256 for shard in again] == [shard.sha256 for shard in fresh]


KILLED = """
import pickle, sys
from pathlib import Path
from hfds.shards import write
rows, shards, features = pickle.loads(Path(sys.argv[1]).read_bytes())
home = Path(sys.argv[2])
write(rows, shards, features, home / "new", home / "journal", home / "done", 1)
"""


def test_a_killed_run_leaves_no_half_shard(tmp_path: Path) -> None:
    """A picture that never comes, since its file is a pipe, holds the run in the middle of a shard."""
    rows = source(tmp_path / "s")
    shards = two_splits(rows)
    (tmp_path / "run.pickle").write_bytes(pickle.dumps((rows, shards, SOME)))
    blocked = tmp_path / "s/7.bin"  # in the second shard of validation
    data = blocked.read_bytes()
    blocked.unlink()
    os.mkfifo(blocked)
    run = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "run.pickle"), str(tmp_path)])
    try:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "new").glob("data/v1/validation-00001-*.part")) and time.monotonic() < deadline:
            assert run.poll() is None, "it was to wait for the pipe"
            time.sleep(0.02)
    finally:
        run.kill()
        run.wait()
    before = stamps(tmp_path / "new")
    there = complete(tmp_path / "new")
    assert there == [Path(shard.name).name for shard in shards if "validation-00001" not in shard.name]
    blocked.unlink()
    blocked.write_bytes(data)
    again = written(rows, tmp_path, shards)
    assert all(stamps(tmp_path / "new")[name] == before[name] for name in there)
    assert complete(tmp_path / "new") == list(stamps(tmp_path / "new"))
    fresh = written(rows, tmp_path / "fresh", shards)
    assert [shard.sha256 for shard in again] == [shard.sha256 for shard in fresh]
