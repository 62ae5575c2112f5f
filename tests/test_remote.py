"""Files that lie elsewhere: what is read of them, in how many parts, and never twice."""

import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hfds.columns import find, gather, read, take
from hfds.errors import BadFile, HubError
from hfds.remote import BLOCK, MEMORY, MOST, Kept, Remote


class Counted(Remote):
    """A local file as if it lay elsewhere; `parts` are the ranges that were asked for."""

    def __init__(self, path: Path):
        self.parts: list[tuple[int, int]] = []

        def fetch(start: int, stop: int) -> bytes:
            self.parts.append((start, stop))
            with path.open("rb") as file:
                file.seek(start)
                return file.read(stop - start)

        super().__init__(path.name, path.stat().st_size, fetch, Kept())

    @property
    def bytes(self) -> int:
        return sum(stop - start for start, stop in self.parts)


@pytest.fixture
def noise(tmp_path: Path) -> tuple[bytes, Counted]:
    data = os.urandom(4 * BLOCK + 17)
    (tmp_path / "noise").write_bytes(data)
    return data, Counted(tmp_path / "noise")


def test_it_reads_as_a_file_does(noise: tuple[bytes, Counted]) -> None:
    data, remote = noise
    assert remote.read(3) == data[:3]
    assert remote.seek(-5, io.SEEK_END) == len(data) - 5
    assert remote.read(100) == data[-5:]
    assert remote.read(1) == b""
    remote.seek(BLOCK - 1)
    remote.seek(1, io.SEEK_CUR)
    assert (remote.tell(), remote.read(BLOCK + 2)) == (BLOCK, data[BLOCK : 2 * BLOCK + 2])
    assert remote.parts == [(0, BLOCK), (4 * BLOCK, len(data)), (BLOCK, 3 * BLOCK)]
    remote.seek(0)
    assert remote.read() == data
    assert remote.parts[3:] == [(3 * BLOCK, 4 * BLOCK)], "each block once"


def test_what_is_kept_is_fetched_in_large_parts(noise: tuple[bytes, Counted]) -> None:
    data, remote = noise
    remote.keep([(3 * BLOCK, 3 * BLOCK + 1), (5, 6), (BLOCK - 1, BLOCK + 1), (7, 7)])
    assert remote.parts == [(0, 2 * BLOCK), (3 * BLOCK, 4 * BLOCK)]
    many = Remote(
        "many", MOST * BLOCK + 1, lambda start, stop: parts.append((start, stop)) or bytes(stop - start), Kept()
    )
    parts: list[tuple[int, int]] = []
    many.keep([(0, many.size)])
    assert parts == [(0, MOST * BLOCK), (MOST * BLOCK, MOST * BLOCK + 1)]
    assert remote.read() == data


def test_more_than_is_kept_in_memory_and_several_files(tmp_path: Path) -> None:
    kept = Kept()
    files = [Remote(letter, MEMORY, lambda at, stop, one=letter: one.encode() * (stop - at), kept) for letter in "ab"]
    for file in files:
        file.keep([(0, MEMORY)])
    for file, at in ((files[0], MEMORY - 3), (files[1], BLOCK - 1), (files[0], 0)):
        file.seek(at)
        assert file.read(BLOCK) == file.file.encode() * min(BLOCK, MEMORY - at)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Four row groups of ten large pictures each."""
    rows = [{"bytes": os.urandom(BLOCK // 3), "path": f"{n}.png"} for n in range(40)]
    columns = {"id": [f"b/{n:02d}" for n in range(40)], "image": rows, "key": [f"{n}" for n in range(40)]}
    pq.write_table(pa.table(columns), tmp_path / "shard.parquet", row_group_size=10, compression="none")
    return tmp_path / "shard.parquet"


def test_columns_without_the_pictures_between_them(shard: Path) -> None:
    remote = Counted(shard)
    gather([remote, shard], ["id", "key"])
    asked = len(remote.parts)
    assert asked <= 1 + 4
    for columns in (["id"], ["key"], ["id", "key", "none"]):
        assert pa.concat_tables(read([remote], columns)) == pa.concat_tables(read([shard], columns))
    assert len(remote.parts) == asked, "nothing more is asked for"
    assert remote.bytes < remote.size / 2
    at = np.array([39, -1, 3, 39])
    assert take([remote], ["id", "image"], at) == take([shard], ["id", "image"], at)


def test_a_row_is_found_where_the_bounds_say_that_it_may_be(shard: Path) -> None:
    remote = Counted(shard)
    assert find([shard, remote], "id", "b/17") == 17
    assert remote.parts == []
    assert find([remote], "id", "a/17") is None
    assert len(remote.parts) == 1, "the footer"
    assert find([remote, remote], "id", "b/370") is None
    assert find([remote], "key", "31") == 31
    assert remote.bytes < remote.size


def test_what_goes_wrong_elsewhere_is_told_as_it_is(shard: Path) -> None:
    def refuse(start: int, stop: int) -> bytes:
        raise HubError("org/name is gated")

    with pytest.raises(HubError, match="org/name is gated"):
        list(read([Remote("x", 1000, refuse, Kept())], ["id"]))
    with pytest.raises(BadFile, match=r"org/name@v1/x: it cannot be read .*; look at that release with hfds verify"):
        list(read([Remote("org/name@v1/x", 1000, lambda start, stop: bytes(stop - start), Kept())], ["id"]))
