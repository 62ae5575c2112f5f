"""Pictures into a column: from wherever they lie, checked against their hash, and named by their row."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from datasets import Image
from fixtures.make import picture

from hfds.archive import Reader
from hfds.embed import OPEN, embedded, sizes
from hfds.errors import SourceChanged
from hfds.slices import slice_path

IMAGE = Image().pa_type
PNG = picture("PNG", seed=1)


def image(*rows: dict[str, Any] | None) -> pa.StructArray:
    return pa.array(rows, IMAGE)


def hash_(data: bytes | None) -> str | None:
    return None if data is None else xxhash.xxh3_128_hexdigest(data)


def embed(column: pa.StructArray, hashes: list[str | None], ids: list[str] | None = None) -> list[Any]:
    readers: dict[str, Reader] = {}
    try:
        made = embedded(column, ids or [f"s/{row}" for row in range(len(column))], hashes, readers)
    finally:
        for reader in readers.values():
            reader.close()
    made.validate(full=True)
    assert made.type == IMAGE
    rows: list[Any] = made.to_pylist()
    return rows


def mixed(folder: Path) -> tuple[pa.StructArray, list[bytes | None]]:
    """Every way for a picture to be there, or not; and its bytes."""
    (folder / "a#b c.tar").write_bytes(b"junk" + picture(seed=2) + picture(seed=3) + b"more")
    (folder / "é.jpg").write_bytes(picture(seed=4))
    (folder / "empty").write_bytes(b"")
    archive, first, second = str(folder / "a#b c.tar"), len(picture(seed=2)), len(picture(seed=3))
    column = image(
        {"bytes": PNG, "path": None},
        {"bytes": picture(seed=5), "path": "1.jpg"},
        None,
        {"bytes": None, "path": slice_path(4 + first, second, archive)},
        {"bytes": None, "path": str(folder / "é.jpg")},
        {"bytes": None, "path": None},
        {"bytes": None, "path": slice_path(4, first, archive)},
        {"bytes": PNG, "path": slice_path(0, 10**12, str(folder / "not there, nor asked for.tar"))},
        {"bytes": b"", "path": None},
        {"bytes": None, "path": str(folder / "empty")},
        {"bytes": None, "path": slice_path(3, 0, archive)},
    )
    data = [PNG, picture(seed=5), None, picture(seed=3), picture(seed=4), None, picture(seed=2), PNG, b"", b"", b""]
    return column, data


def test_every_picture_comes_from_where_it_lies(tmp_path: Path) -> None:
    column, data = mixed(tmp_path)
    assert sizes(column).tolist() == [len(one or b"") for one in data]
    rows = embed(column, [hash_(one) for one in data])
    assert [row and row["bytes"] for row in rows] == data
    assert [row and row["path"] for row in rows] == [
        "0.png", "1.jpg", None, "3.jpg", "4.jpg", None, "6.jpg", "7.png", "8", "9", "10",
    ]  # fmt: skip
    assert [row and Image().decode_example(row).size for row in rows[:8]] == [one and (64, 48) for one in data[:8]]


def test_parts_of_a_column(tmp_path: Path) -> None:
    column, data = mixed(tmp_path)
    whole = embed(column, [hash_(one) for one in data], list("abcdefghijk"))
    for start in range(len(column)):
        for stop in (start, start + 1, len(column)):
            part = column[start:stop]
            assert sizes(part).tolist() == [len(one or b"") for one in data[start:stop]]
            ids = list("abcdefghijk")[start:stop]
            assert embed(part, [hash_(one) for one in data[start:stop]], ids) == whole[start:stop]


def test_columns_without_pictures() -> None:
    assert embed(image(), []) == []
    assert embed(image(None, None), [None, None]) == [None, None]
    assert sizes(image()).tolist() == []


@pytest.mark.parametrize(
    "id_, data, name",
    [
        ("s/1.png", PNG, "1.png"),
        ("s/part-1/1.png", PNG, "part-1_1.png"),
        ("s/1.PNG", PNG, "1.PNG"),
        ("s/1.jpg", PNG, "1.jpg.png"),
        ("s/1.jpeg", picture(), "1.jpeg"),
        ("s/1", picture(), "1.jpg"),
        ("s/1.png", picture(), "1.png.jpg"),
        ("s/1", picture("WEBP"), "1.webp"),
        ("s/1", picture("GIF"), "1.gif"),
        ("s/1", picture("BMP"), "1.bmp"),
        ("s/1", picture("TIFF"), "1"),
        ("s/1.tiff", picture("TIFF"), "1.tiff"),
        ("s/../../etc/é", picture(), ".._.._etc_é.jpg"),
    ],
)
def test_names_are_the_key_and_what_the_bytes_are(id_: str, data: bytes, name: str) -> None:
    (row,) = embed(image({"bytes": data, "path": "other.xyz"}), [hash_(data)], [id_])
    assert row == {"bytes": data, "path": name}


def place(way: str, folder: Path, data: bytes) -> tuple[dict[str, Any], str]:
    """A picture that lies in a file, or in the row; and what a message calls the place."""
    file = folder / "a.tar"
    file.write_bytes(b"junk" + data if way == "slice" else data)
    if way == "bytes":
        return {"bytes": data, "path": None}, "its source"
    return {"bytes": None, "path": slice_path(4, len(data), str(file)) if way == "slice" else str(file)}, "a.tar"


@pytest.mark.parametrize("way", ["bytes", "slice", "plain"])
@pytest.mark.parametrize("wrong", ["0" * 32, None, ""])
def test_a_picture_that_is_another_one(tmp_path: Path, way: str, wrong: str | None) -> None:
    good, _ = place("bytes", tmp_path, PNG)
    row, where = place(way, tmp_path, picture(seed=7))
    with pytest.raises(SourceChanged, match=rf"the picture of s/7\.jpg in .*{where} is not what was indexed") as raised:
        embed(image(good, row), [hash_(PNG), wrong], ["s/1", "s/7.jpg"])
    assert raised.value.exit_code == 3


@pytest.mark.parametrize("way", ["slice", "plain"])
def test_a_file_that_changed(tmp_path: Path, way: str) -> None:
    row, where = place(way, tmp_path, picture(seed=7))
    file = tmp_path / "a.tar"
    data = file.read_bytes()
    hashes = [hash_(picture(seed=7))]
    other = b"x" + data[1:] if way == "plain" else data.replace(b"JFIF", b"jfif")
    for now in (data[:-1], b"", data[:-1] + b"x", other):
        file.write_bytes(now)
        with pytest.raises(SourceChanged, match=where) as raised:
            embed(image(row), hashes, ["s/7.jpg"])
        assert "s/7.jpg" in str(raised.value)
    file.write_bytes(data)
    assert embed(image(row), hashes, ["s/7.jpg"]) == [{"bytes": picture(seed=7), "path": "7.jpg"}]


@pytest.mark.parametrize("instead", ["nothing", "folder", "file above"])
@pytest.mark.parametrize("way", ["slice", "plain"])
def test_a_file_that_is_gone(tmp_path: Path, way: str, instead: str) -> None:
    (tmp_path / "in").mkdir()
    row, _ = place(way, tmp_path / "in", picture(seed=7))
    (tmp_path / "in/a.tar").unlink()
    if instead == "folder":
        (tmp_path / "in/a.tar").mkdir()
    elif instead == "file above":
        (tmp_path / "in").rmdir()
        (tmp_path / "in").write_bytes(b"")
    with pytest.raises(SourceChanged, match=r"in/a\.tar .*is gone") as raised:
        embed(image(row), [hash_(picture(seed=7))], ["s/7.jpg"])
    if way == "slice":
        assert "s/7.jpg" in str(raised.value)
        assert sizes(image(row)).tolist() == [len(picture(seed=7))]
    elif instead != "folder":
        with pytest.raises(SourceChanged, match=r"in/a\.tar is gone"):
            sizes(image(row))


def test_no_more_files_are_open_than_that(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.jpg" for number in range(2 * OPEN)]
    for file in files:
        file.write_bytes(picture(seed=1))
    column = image(*({"bytes": None, "path": str(file)} for file in files))
    readers: dict[str, Reader] = {}
    hashes = [hash_(picture(seed=1))] * len(files)
    ids = [f"s/{file.name}" for file in files]
    embedded(column[:1], ids[:1], hashes[:1], readers)
    first = readers[str(files[0])]
    assert not first.file.closed
    made = embedded(column, ids, hashes, readers)
    assert first.file.closed
    assert len(readers) == OPEN
    assert made.field("path").to_pylist() == [file.name for file in files]
    again = embedded(column.take(pa.array(np.arange(len(files))[::-1])), ids[::-1], hashes, readers)
    assert again.field("path").to_pylist() == [file.name for file in files][::-1]
    for reader in readers.values():
        reader.close()
