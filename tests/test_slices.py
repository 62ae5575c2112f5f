"""Byte ranges as paths: opened by fsspec, decoded and embedded by `datasets`, and refused where they are none."""

import io
import pickle
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
from datasets import Dataset, Features, Image
from datasets.table import embed_table_storage
from fixtures.make import picture
from fsspec.core import url_to_fs
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hfds.slices import SliceFileSystem, parse_slices, slice_path

FUZZ = settings(deadline=None, derandomize=True, database=None)
# Not "a\\b.tar": fsspec takes the backslash for a slash.
ODD = ["a.tar", "a b.tar", "é猫.tar", "a#b.tar", "a?b.tar", "a%20b.tar", "a*[b]{c}.tar", "a:b.tar", "a&b=c.tar",
       "~a.tar", "a'b\"c.tar", "slice.tar", "5-7.tar"]  # fmt: skip


def archive(path: Path) -> Path:
    """Three pictures with junk around them."""
    path.write_bytes(b"junk!" + b"".join(picture(seed=seed) for seed in range(3)) + b"more")
    return path


def place(seed: int) -> tuple[int, int]:
    """Offset and size of one of them."""
    return 5 + sum(len(picture(seed=other)) for other in range(seed)), len(picture(seed=seed))


@pytest.mark.parametrize("name", ODD)
def test_a_slice_opens_whatever_its_archive_is_called(tmp_path: Path, name: str) -> None:
    (tmp_path / "fold er").mkdir()
    file = str(archive(tmp_path / "fold er" / name))
    for seed in range(3):
        path = slice_path(*place(seed), file)
        with fsspec.open(path) as opened:
            assert opened.read() == picture(seed=seed)
        fs, inner = url_to_fs(path)
        assert isinstance(fs, SliceFileSystem)
        assert fs.cat_file(inner) == fs.cat(inner) == picture(seed=seed)
        with PIL.Image.open(io.BytesIO(picture(seed=seed))) as expected:
            decoded = Image().decode_example({"bytes": None, "path": path})
            assert np.array_equal(np.asarray(decoded), np.asarray(expected))


@pytest.mark.parametrize("name", ODD)
def test_datasets_embeds_slices(tmp_path: Path, name: str) -> None:
    file = str(archive(tmp_path / name))
    rows = [{"bytes": None, "path": slice_path(*place(seed), file)} for seed in range(3)] + [None]
    features = Features({"image": Image()})
    table = pa.table({"image": pa.array(rows, Image().pa_type)}).cast(features.arrow_schema)
    embedded = embed_table_storage(table)["image"].to_pylist()
    assert [row and row["bytes"] for row in embedded] == [*(picture(seed=seed) for seed in range(3)), None]
    dataset = Dataset(table)
    assert [row["image"] and row["image"].size for row in dataset] == [(64, 48)] * 3 + [None]


def test_a_slice_is_a_file_that_can_be_read_in_parts(tmp_path: Path) -> None:
    file = str(archive(tmp_path / "a.tar"))
    offset, size = place(1)
    fs, inner = url_to_fs(slice_path(offset, size, file))
    data = picture(seed=1)
    assert fs.info(inner) == {"name": inner, "size": size, "type": "file"}
    assert (fs.size(inner), fs.isfile(inner), fs.isdir(inner), fs.exists(inner)) == (size, True, False, True)
    for start, end in [(None, None), (2, 5), (0, 0), (5, None), (-3, None), (None, -3), (size - 1, size + 9), (7, 3)]:
        assert fs.cat_file(inner, start, end) == data[start:end]
    with fs.open(inner) as opened:
        assert opened.seek(-2, 2) == size - 2
        assert opened.read() == data[-2:]
    assert fs.cat_file("0-5") == b"junk!"
    assert fs.cat_file("0-0") == b""
    with fs.open("slice://0-5", "r") as text:
        assert text.read() == "junk!"


def test_slices_of_remote_files(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe("/test_slices/a.tar", b"0123456789")
    with fsspec.open("slice://3-4::memory://test_slices/a.tar") as opened:
        assert opened.read() == b"3456"
    assert SliceFileSystem("memory://test_slices/a.tar").cat_file("3-4") == b"3456"
    fsspec.filesystem("memory").rm("/test_slices", recursive=True)


def test_slices_go_to_other_processes(tmp_path: Path) -> None:
    path = slice_path(*place(2), str(archive(tmp_path / "a.tar")))
    fs, inner = url_to_fs(path)
    again: Any = pickle.loads(pickle.dumps(fs))
    assert again.cat_file(inner) == picture(seed=2)
    with pickle.loads(pickle.dumps(fsspec.open(path))) as opened:
        assert opened.read() == picture(seed=2)


@pytest.mark.parametrize(
    "inner",
    ["", "5", "5-", "-5", "a-b", "5-6-7", "-1-5", "5--6", "5 -6", " 5-6", "+5-6", "5_0-6", "٣-٤", "5-6/x", "5-6\n",
     "file", "../etc/passwd", "9" * 19 + "-1", "0-" + "9" * 5000],
)  # fmt: skip
def test_what_is_no_range_is_no_file(tmp_path: Path, inner: str) -> None:
    fs = SliceFileSystem(str(archive(tmp_path / "a.tar")))
    for look in (fs.cat_file, fs.open, fs.info):
        with pytest.raises(FileNotFoundError):
            look(inner)
    assert not fs.exists(inner)


@pytest.mark.parametrize("offset, size", [(0, 1), (0, 0), (1, 10**17), (10**17, 1), (10**18 - 1, 10**18 - 1)])
def test_a_slice_past_the_end_says_that_the_file_changed(tmp_path: Path, offset: int, size: int) -> None:
    file = archive(tmp_path / "a.tar")
    end = file.stat().st_size
    fs = SliceFileSystem(str(file))
    with pytest.raises(OSError, match=r"a\.tar ended inside .* it changed since it was indexed; build again"):
        fs.cat_file(f"{end + offset if offset < 10**9 else offset}-{max(size, 1)}")
    assert fs.cat_file(f"{end}-0") == b""
    file.write_bytes(b"short")
    with pytest.raises(OSError, match="changed"):
        fs.cat_file("3-3")


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), fsspec.open(slice_path(0, 5, str(tmp_path / "gone.tar"))) as opened:
        opened.read()


@pytest.mark.parametrize("mode", ["wb", "ab", "r+b", "w", "xb"])
def test_slices_cannot_be_written(tmp_path: Path, mode: str) -> None:
    file = archive(tmp_path / "a.tar")
    before = file.read_bytes()
    with pytest.raises(NotImplementedError, match="read only"):
        SliceFileSystem(str(file)).open("0-5", mode)
    assert file.read_bytes() == before


# Columns of paths


def parsed(paths: list[str | None]) -> list[tuple[int, int, str] | None]:
    rows = parse_slices(pa.array(paths, pa.string())).to_pylist()
    return [row and (row["offset"], row["size"], row["file"]) for row in rows]


@settings(FUZZ, max_examples=150)
@given(
    st.lists(
        st.none()
        | st.tuples(
            st.integers(0, 10**18 - 1),
            st.integers(0, 10**18 - 1),
            st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
        )
    )
)
@example([(0, 0, name) for name in ODD])
@example([(0, 1, "/a\nb\r\n.tar"), (0, 1, "slice://1-2::x"), (0, 1, "::"), None])
def test_what_was_put_into_a_path_comes_out(slices: list[tuple[int, int, str] | None]) -> None:
    assert parsed([one and slice_path(*one) for one in slices]) == slices


@pytest.mark.parametrize(
    "path",
    ["", "/data/a.jpg", "slice://", "slice://1-2", "slice://1-2::", "slice://1::a", "slice://a-b::c", "slice://-1-2::a",
     " slice://1-2::a", "x slice://1-2::a", "/a\nslice://1-2::a", "SLICE://1-2::a", "slice://٣-٤::a", "1-2::a",
     "slice://" + "9" * 19 + "-1::a"],
)  # fmt: skip
def test_what_is_no_slice_is_null(path: str) -> None:
    assert parsed([path, None, "slice://1-2::a", path]) == [None, None, (1, 2, "a"), None]


def test_columns_that_are_parts_of_others() -> None:
    paths = pa.array(["x", "slice://1-2::a", None, "slice://3-4::b", "y"])
    whole = parse_slices(paths)
    assert whole.type == pa.struct([("offset", pa.int64()), ("size", pa.int64()), ("file", pa.string())])
    for start in range(5):
        for stop in range(start, 6):
            assert parse_slices(paths[start:stop]).to_pylist() == whole.to_pylist()[start:stop]
    assert len(parse_slices(pa.array([], pa.string()))) == 0
    assert parse_slices(pa.array([None, None], pa.string())).null_count == 2
