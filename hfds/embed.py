"""Pictures into a column: read from where they lie, checked against their hash, named by their row.

Own code instead of `datasets.table.embed_table_storage`, which copies each picture through a Python object: here the
pictures of a batch are read into one buffer, and that buffer is the Arrow column.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from hfds.archive import Reader
from hfds.errors import SourceChanged
from hfds.picture import ReadAt
from hfds.slices import parse_slices

OPEN = 64  # files that are open at a time: pictures that lie in a folder are a file each
_MAGIC = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp", b"GI": ".gif", b"BM": ".bmp"}


def sizes(image: pa.StructArray) -> np.ndarray:
    """Bytes of every picture in a column {bytes, path}, 0 where there is none: shape (rows,), int64.

    Raises:
        SourceChanged: a picture's file is gone.
    """
    data, path = image.flatten()
    known = pc.coalesce(pc.binary_length(data).cast(pa.int64()), pc.struct_field(parse_slices(path), "size"))
    found = np.array(pc.fill_null(known, 0))
    for row in np.flatnonzero(np.asarray(pc.and_(path.is_valid(), known.is_null()))):
        file = path[int(row)].as_py()
        try:
            found[row] = Path(file).stat().st_size
        except OSError:
            raise SourceChanged(f"{file} is gone; put it back, or build again without it") from None
    return found


def embedded(
    image: pa.StructArray, ids: list[str], hashes: list[str | None], readers: dict[str, Reader]
) -> pa.StructArray:
    """The column with every picture's bytes in it, named by its id.

    Args:
        image: {bytes, path}, as builders make it.
        ids, hashes: of the same rows; a hash is xxh3-128 of the picture's bytes.
        readers: open files by path, at most `OPEN`, kept between calls; the caller closes them.

    Raises:
        SourceChanged: bytes that are gone, or are not those that were hashed.
    """
    offsets = np.zeros(len(image) + 1, np.int64)
    np.cumsum(sizes(image), out=offsets[1:])
    # From Arrow's pool, which hands the same memory out again: a fresh numpy array costs a page fault every 4 kB.
    buffer = np.frombuffer(pa.allocate_buffer(int(offsets[-1])), np.uint8)
    data, path = image.flatten()
    slices = parse_slices(path).to_pylist()
    valid = np.asarray(pc.or_(data.is_valid(), path.is_valid()))
    names: list[str | None] = [None] * len(image)
    for row in np.flatnonzero(valid):
        view = buffer[offsets[row] : offsets[row + 1]]
        if data[row].is_valid:
            view[:] = np.frombuffer(data[row].as_buffer(), np.uint8)
        else:
            part = slices[row] or {"file": path[row].as_py(), "offset": 0}
            _read(view, part["file"], part["offset"], readers, ids[row])
        if xxhash.xxh3_128_hexdigest(view.data) != hashes[row]:
            where = "its source" if data[row].is_valid else path[row].as_py()
            advice = "fetch the file again or, if it is as it should be, touch it, and build again"
            if where.endswith(".pack"):
                advice = "look at the store with hfds store verify, and build again"
            raise SourceChanged(f"the picture of {ids[row]} in {where} is not what was indexed: {advice}")
        names[row] = _name(ids[row], bytes(view[:2]))
    bits = pa.py_buffer(np.packbits(valid, bitorder="little"))
    buffers = [bits, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(buffer)]
    array = pa.Array.from_buffers(pa.binary(), len(image), buffers)
    children = [array, pa.array(names, pa.string())]
    return pa.StructArray.from_arrays(children, fields=list(image.type), mask=pa.array(~valid))


def _read(view: np.ndarray, file: str, offset: int, readers: dict[str, Reader], id_: str) -> None:
    if _reader(file, readers, id_).into(view.data, offset, len(view)) != len(view):
        raise SourceChanged(f"{file} became shorter since the picture of {id_} was indexed; build again")


def _reader(file: str, readers: dict[str, Reader], id_: str) -> Reader:
    """The open file at `file`, one of `OPEN` in `readers`."""
    try:
        if file not in readers:
            while len(readers) >= OPEN:
                readers.pop(next(iter(readers))).close()
            readers[file] = Reader(file)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise SourceChanged(f"{file} with the picture of {id_} is gone; put it back, or build without it") from None
    return readers[file]


def source_of(file: str, start: int, size: int, readers: dict[str, Reader]) -> ReadAt:
    """`read_at(offset, n)` of the picture of `size` bytes that begins at `start` in `file`; raises as `embedded`."""

    def read_at(offset: int, n: int) -> bytes:
        n = max(0, min(n, size - offset))
        data = _reader(file, readers, "a row").read(start + offset, n)
        if len(data) != n:
            raise SourceChanged(f"{file} became shorter since its pictures were indexed; build again")
        return data

    return read_at


def _name(id_: str, head: bytes) -> str:
    """A file name for an embedded picture: the key in its id, with the extension of what its bytes are."""
    key, extension = id_.partition("/")[2].replace("/", "_"), _MAGIC.get(head, "")
    known = (".jpg", ".jpeg") if extension == ".jpg" else extension
    return key if key.lower().endswith(known) else key + extension
