"""Manifests and indexes of exported samples: read as they were written, believed in nothing, opened when needed."""

import contextlib
import hashlib
import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from hfds.archive import sha256_of
from hfds.errors import BadFile, SourceMissing
from hfds.manifest import MANIFEST, Manifest, Shard, Split
from hfds.samples import INDEX, Samples, exported, write_index

SIZE = 2048  # of a sample
Entry = dict[str, Any]


def index(rows: int, **columns: Any) -> pa.Table:
    """Of samples of `SIZE` bytes, one behind the other."""
    offset = np.arange(rows, dtype=np.uint64) * np.uint64(SIZE)
    own = {
        "offset": offset, "size": np.full(rows, SIZE, np.uint64), "picture_offset": offset + np.uint64(512),
        "picture_size": np.full(rows, 100, np.uint64), "id": [f"toy/{n}" for n in range(rows)],
        "width": [None] * rows, "height": [7] * rows,
    }  # fmt: skip
    made = {name: pa.array(columns.get(name, own[name]), INDEX.field(name).type) for name in own}
    return pa.table({**columns, **made}).select([*INDEX.names, *(name for name in columns if name not in own)])


def export(folder: Path, *shards: pa.Table, more: tuple[str, ...] = ("aesthetic",)) -> Manifest:
    """A folder with such indexes beside tars of zeros, and its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number, table in enumerate(shards):
        tar, own = folder / f"train-{number:05d}.tar", folder / f"train-{number:05d}.arrow"
        tar.write_bytes(bytes(SIZE * len(table) + 1024))
        write_index(table, own)
        sums = (sha256_of(tar), own.name, own.stat().st_size, sha256_of(own))
        made.append(Shard(tar.name, tar.stat().st_size, len(table), *sums))
    split = Split(sum(map(len, shards)), {"no picture": 2}, tuple(made))
    manifest = Manifest("toys", "v1", "ab" * 32, "prompt", ("jpg", "txt", "json"), more, {"train": split})
    manifest.write(folder)
    return manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    scores = pa.array([0.5, None, 2.5], pa.float32())
    export(tmp_path / "wds/v1", index(3, aesthetic=scores), index(2, aesthetic=scores[:2]))
    return tmp_path / "wds/v1"


def test_what_is_written_is_read(folder: Path) -> None:
    samples = Samples(folder)
    assert samples.manifest == export(folder, *(samples.index_of(s) for s in samples.manifest.splits["train"].shards))
    first = samples.manifest.splits["train"].shards[0]
    table = samples.index_of(first)
    assert table.to_pylist()[2] == {
        "offset": 4096, "size": 2048, "picture_offset": 4608, "picture_size": 100,
        "id": "toy/2", "width": None, "height": 7, "aesthetic": 2.5,
    }  # fmt: skip
    assert table.schema.field("aesthetic").type == pa.float32()
    assert samples.index_of(first) is table
    assert pickle.loads(pickle.dumps(samples)).index_of(first).equals(table)
    assert not list(folder.glob("*.part"))


def test_a_url_serves_as_well(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/org/wds/v1", recursive=True)
    asked: list[str] = []
    cat = MemoryFileSystem.cat_file
    monkeypatch.setattr(
        MemoryFileSystem, "cat_file", lambda fs, path, **how: asked.append(path) or cat(fs, path, **how)
    )
    samples = Samples("memory://org/wds/v1/")
    assert asked == ["/org/wds/v1/manifest.json"]
    shard = samples.manifest.splits["train"].shards[1]
    local = Samples(folder).index_of(shard)
    assert samples.index_of(shard).equals(local)
    assert samples.index_of(shard).equals(local)  # kept
    assert asked[1:] == ["/org/wds/v1/train-00001.arrow"]
    with pytest.raises(SourceMissing, match=r"memory://org/wds/v2/manifest\.json is not there"):
        Samples("memory://org/wds/v2")


def test_rows_are_found_in_shards(folder: Path) -> None:
    split = Samples(folder).manifest.splits["train"]
    assert split.starts.tolist() == [0, 3, 5]
    assert [tuple(map(int, split.locate(row))) for row in range(5)] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    shards, rows = split.locate(np.array([4, 0, 3]))
    assert (shards.tolist(), rows.tolist()) == ([1, 0, 1], [1, 0, 0])
    for row in (-1, 5):
        with pytest.raises(IndexError):
            split.locate(row)


def test_three_thousand_shards_open_at_once(tmp_path: Path) -> None:
    shards = tuple(
        Shard(f"train-{n:05d}.tar", 1 << 30, 3334, f"{n:064x}", f"train-{n:05d}.arrow", 1 << 18, f"{n:064x}")
        for n in range(3000)
    )
    split = Split(3334 * 3000, {}, shards)
    Manifest("toys", "v1", "ab" * 32, "prompt", ("jpg",), (), {"train": split}).write(tmp_path)
    start = time.perf_counter()
    found = Samples(tmp_path).manifest.splits["train"]
    assert tuple(map(int, found.locate(10_001_999))) == (2999, 3333)
    assert time.perf_counter() - start < 0.5


def broken(change: Callable[[Entry, Entry, Entry], object]) -> Callable[[Entry], object]:
    return lambda said: change(said, said["splits"]["train"], said["splits"]["train"]["shards"][0])


@pytest.mark.parametrize(
    "change, problem",
    [
        (broken(lambda said, split, shard: said.update(format=2)), "format 2, and this hfds reads format 1"),
        (broken(lambda said, split, shard: said.update(format=True)), "format is True"),
        (broken(lambda said, split, shard: said.pop("digest")), "digest is None"),
        (broken(lambda said, split, shard: said.update(index="id")), "index is 'id'"),
        (broken(lambda said, split, shard: said.update(index=["a", "a"])), "index is ['a', 'a']"),
        (broken(lambda said, split, shard: said.update(splits=[])), "splits is []"),
        (broken(lambda said, split, shard: said["splits"].update({"../x": split})), "'../x' is no plain name"),
        (broken(lambda said, split, shard: said["splits"].update(test=split)), "a file is named twice"),
        (broken(lambda said, split, shard: split.update(rows=6)), "6 rows in a split, and 5 in its shards"),
        (broken(lambda said, split, shard: split.update(left_out={"no picture": -1})), "no picture is -1"),
        (broken(lambda said, split, shard: split.update(shards=["train.tar"])), "a shard is 'train.tar'"),
        (broken(lambda said, split, shard: shard.update(path="../../etc/passwd")), "is no plain name"),
        (broken(lambda said, split, shard: shard.update(path="a/b.tar")), "'a/b.tar' is no plain name"),
        (broken(lambda said, split, shard: shard.update(path="a..b.tar")), "'a..b.tar' is no plain name"),
        (broken(lambda said, split, shard: shard.update(index="a?b\x00")), "'a?b\\x00' is no plain name"),
        (broken(lambda said, split, shard: shard.update(index=shard["path"])), "a file is named twice"),
        (broken(lambda said, split, shard: shard.update(bytes=-1)), "bytes is -1"),
        (broken(lambda said, split, shard: shard.update(bytes=1e3)), "bytes is 1000.0"),
        (broken(lambda said, split, shard: shard.update(rows=1 << 70)), "rows is 1180591620717411303424"),
        (broken(lambda said, split, shard: shard.update(sha256="AB" * 32)), "sha256 is 'ABAB"),
        (broken(lambda said, split, shard: shard.update(index_sha256=None)), "index_sha256 is None"),
    ],
)
def test_a_hostile_manifest_is_named(folder: Path, change: Callable[[Entry], object], problem: str) -> None:
    said = json.loads((folder / MANIFEST).read_text())
    change(said)
    (folder / MANIFEST).write_text(json.dumps(said))
    with pytest.raises(BadFile) as caught:
        Samples(folder)
    assert str(folder / MANIFEST) in str(caught.value)
    assert problem in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff\xfe", b'{"format": 1', b"[" * 100_000, b'{"format": 1}'])
def test_what_is_no_manifest_is_named(folder: Path, data: bytes) -> None:
    (folder / MANIFEST).write_bytes(data)
    with pytest.raises(BadFile, match="it is no manifest of samples"):
        Samples(folder)


BEHIND = "a sample that ends behind the tar"
OUTSIDE = "a picture outside of its sample"


@pytest.mark.parametrize(
    "columns, problem",
    [
        ({"size": [SIZE, SIZE, 2**64 - 1]}, BEHIND),
        ({"offset": [0, SIZE, 2**64 - SIZE]}, BEHIND),
        ({"offset": [0, SIZE - 512, 2 * SIZE]}, "samples that overlap"),
        ({"offset": [SIZE, 0, 2 * SIZE], "picture_offset": [SIZE, 0, 2 * SIZE]}, "samples that overlap"),
        ({"picture_offset": [0, 0, 2 * SIZE]}, OUTSIDE),
        ({"picture_offset": [0, SIZE, 4 * SIZE]}, OUTSIDE),
        ({"picture_size": [100, 100, 2**64 - 1]}, OUTSIDE),
        ({"id": ["a", None, "c"]}, "a row without a place or an id"),
        ({"offset": [0, None, 2 * SIZE]}, "a row without a place or an id"),
        ({"width": [1, -1, 1]}, "a picture without an area"),
        ({"height": [0, None, 1]}, "a picture without an area"),
    ],
)
def test_a_hostile_index_is_named(tmp_path: Path, columns: Entry, problem: str) -> None:
    export(tmp_path, index(3, **columns), more=())
    samples = Samples(tmp_path)
    with pytest.raises(BadFile) as caught:
        samples.index_of(samples.manifest.splits["train"].shards[0])
    assert str(caught.value).startswith(
        f"{tmp_path}/train-00000.arrow: it is not the index of train-00000.tar ({problem})"
    )


def test_an_index_with_other_columns_or_rows_is_named(tmp_path: Path) -> None:
    for table in (index(3).drop_columns(["id"]), index(3).rename_columns([*"abcdefg"])):
        export(tmp_path, table, more=())
        samples = Samples(tmp_path)
        with pytest.raises(BadFile, match="it has other columns"):
            samples.index_of(samples.manifest.splits["train"].shards[0])
    export(tmp_path, index(3), more=())
    said = json.loads((tmp_path / MANIFEST).read_text())
    said["splits"]["train"]["rows"] = said["splits"]["train"]["shards"][0]["rows"] = 4
    (tmp_path / MANIFEST).write_text(json.dumps(said))
    samples = Samples(tmp_path)
    with pytest.raises(BadFile, match="3 rows, and the tar has 4"):
        samples.index_of(samples.manifest.splits["train"].shards[0])


def test_an_index_that_is_damaged_is_named(folder: Path) -> None:
    samples, file = Samples(folder), folder / "train-00000.arrow"
    shard = samples.manifest.splits["train"].shards[0]
    data = file.read_bytes()
    for other in (b"", data[:-9], data[:200] + b"\xff" + data[201:], data + b"\0"):
        file.write_bytes(other)
        with pytest.raises(BadFile, match=r"train-00000.arrow: it (is not the index|cannot be read)"):
            samples.index_of(shard)
    file.unlink()
    with pytest.raises(SourceMissing, match=r"train-00000\.arrow is not there"):
        samples.index_of(shard)


def test_an_index_of_any_bytes_is_refused_or_read(tmp_path: Path) -> None:
    """Also where the manifest vouches for them: Arrow's offsets and lengths are checked before they are followed."""
    export(tmp_path, index(3), more=())
    file, said = tmp_path / "train-00000.arrow", json.loads((tmp_path / MANIFEST).read_text())
    data, shard = file.read_bytes(), said["splits"]["train"]["shards"][0]
    random = np.random.default_rng(0)
    for _ in range(300):
        other = bytearray(data)
        for at in random.integers(0, len(data), 3):
            other[at] = random.integers(0, 256)
        file.write_bytes(other)
        shard["index_sha256"] = hashlib.sha256(other).hexdigest()
        (tmp_path / MANIFEST).write_text(json.dumps(said))
        samples = Samples(tmp_path)
        with contextlib.suppress(BadFile):
            assert len(samples.index_of(samples.manifest.splits["train"].shards[0]).to_pylist()) == 3


def test_a_finished_export_gives_its_files(folder: Path) -> None:
    home = folder.parent.parent
    files = exported(home, "v1")
    names = [f"train-0000{n}.{end}" for end in ("tar", "arrow") for n in (0, 1)] + [MANIFEST]
    assert files == {f"wds/v1/{name}": folder / name for name in names}
    (folder / "train-00001.tar").write_bytes(b"cut")
    with pytest.raises(BadFile, match=r"train-00001\.tar: it has 3 bytes, and its manifest says 5,120"):
        exported(home, "v1")
    (folder / "train-00001.tar").unlink()
    with pytest.raises(BadFile, match=r"train-00001\.tar: it is gone"):
        exported(home, "v1")
    (folder / MANIFEST).unlink()
    with pytest.raises(SourceMissing, match=r"manifest\.json is not there"):
        exported(home, "v1")


def test_no_heavy_library_is_loaded() -> None:
    code = "import sys, hfds.samples; print({'torch', 'webdataset', 'datasets'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
