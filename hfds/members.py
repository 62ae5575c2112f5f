"""Members: the rows of a release as they go into a tar: a picture, its caption, the rest as JSON, its masks.

Pictures go from Arrow's buffers to the file without a copy. docs/streaming.md has the format.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from hfds import entities
from hfds.archive import BLOCK
from hfds.masks import EXTENSION as MASK
from hfds.masks import mask_of, shown
from hfds.picture import Buffer
from hfds.pieces import ROWS, Damaged, How, Piece, opened, views
from hfds.samples import INDEX
from hfds.sidecar import captions, told
from hfds.ustar import TarWriter, header, padded, padding

# The extensions of pictures, and which bytes say so, where.
PICTURES = {"jpg": (0, b"\xff\xd8"), "png": (0, b"\x89PNG\r\n\x1a\n"), "webp": (8, b"WEBP")}


@dataclass(frozen=True)
class Wrote:
    """What went into a tar: the rows of its index, what was left out and why, what is wanting in those that are there,
    and the extensions of the pictures."""

    index: pa.Table
    left_out: Counter[str]
    noted: Counter[str]
    kinds: set[str]


def write(pieces: Sequence[Piece], how: How, tar: TarWriter) -> Wrote:
    """Writes the samples of pieces into a tar, one behind the other.

    Raises:
        BadFile: the release's file cannot be read, or a picture in it is not what its hash says.
    """
    tables, left_out, noted, kinds = [], Counter[str](), Counter[str](), set[str]()
    for piece in pieces:
        with opened(piece.file) as parquet:
            narrow = parquet.iter_batches(ROWS, [piece.group], how.narrow, use_threads=False)
            pictures = parquet.iter_batches(ROWS, [piece.group], ["image.bytes"], use_threads=False)
            for number, rows in enumerate(narrow):
                at = number * ROWS
                if at >= piece.stop:
                    break
                inside = range(max(0, piece.start - at), min(len(rows), piece.stop - at))
                made = _samples(rows, pictures, inside, piece.first - piece.start + at, how, tar)
                tables.append(made.index)
                left_out += made.left_out
                noted += made.noted
                kinds |= made.kinds
    return Wrote(pa.concat_tables(tables), left_out, noted, kinds)


def _samples(
    rows: pa.RecordBatch,
    pictures: Iterator[pa.RecordBatch],
    inside: range,
    first: int,
    how: How,
    tar: TarWriter,
) -> Wrote:
    """Writes the samples of the rows `inside`, of which row 0 is row `first` of its split.

    The next pictures are read when those before them are hashed and let go, and all else while they are hashed.
    """
    text, fell_back = captions(rows, how.caption)
    drawn = rows[entities.COLUMN].to_pylist() if how.masks else ()
    texts, others = (array.cast(pa.binary()).to_pylist() for array in (text, told(rows)))
    hashes = rows["image_hash"].to_pylist() if "image_hash" in rows.schema.names else [None] * len(rows)
    gone = pc.is_in(rows["id"], pa.array(how.withdrawn, pa.string())).to_pylist()
    tar.flush()
    pa.default_memory_pool().release_unused()  # what the pictures before took would be kept, and add to what these do
    buffers, kept, lengths, kinds = list[Buffer](), list[int](), list[tuple[int, ...]](), set[str]()
    seen, left_out, noted = list[tuple[int | None, int | None]](), Counter[str](), Counter[str]()
    for row, picture in enumerate(views(next(pictures))):
        if row not in inside:
            continue
        if gone[row]:
            left_out["withdrawn"] += 1
            continue
        kind = "" if picture is None else _kind(picture)
        caption, other, key = texts[row], others[row], b"%010d." % (first + row)
        if picture is None or not kind or caption is None:
            left_out["no_picture" if not picture else "no_caption" if kind else "other_format"] += 1
            continue
        if hashes[row] is not None and xxhash.xxh3_128_hexdigest(picture) != hashes[row]:
            raise Damaged(rows["id"][row].as_py())
        kept.append(row)
        kinds.add(kind)
        seen.append(shown(picture) or (None, None))
        behind = [(b"txt", caption), (b"json", other)]
        if how.masks:
            behind.append((MASK.encode(), mask_of(drawn[row], picture, noted)))
        lengths.append((len(picture), *(len(data) for _, data in behind)))
        rest = (header(key + end, len(data)) + data + padding(len(data)) for end, data in behind)
        buffers += (header(key + kind.encode(), len(picture)), picture, padding(len(picture)) + b"".join(rest))
    start = tar.size
    tar.add(buffers)
    places, members = pa.array(kept, pa.int64()), np.array(lengths, np.int64).reshape(len(kept), 3 + how.masks)
    sizes = (BLOCK + padded(members)).sum(axis=1)
    offset = start + np.cumsum(sizes) - sizes
    width, height = (pa.array([size[side] for size in seen], pa.int32()) for side in (0, 1))
    own = [offset, sizes, offset + BLOCK, members[:, 0], rows["id"].take(places), width, height]
    arrays = [pa.array(values).cast(field.type) for values, field in zip(own, INDEX, strict=True)]
    arrays += [_plain(rows[name].take(places)) for name in how.index]
    index = pa.table(arrays, [*INDEX.names, *how.index])
    noted["by_prompt"] = pc.sum(fell_back.take(places)).as_py() or 0
    return Wrote(index, left_out, noted, kinds)


def _kind(picture: memoryview) -> str:
    """The extension of a picture, by its first bytes; empty for one that is none of `PICTURES`."""
    head = bytes(picture[:12])
    return next((kind for kind, (at, magic) in PICTURES.items() if head.startswith(magic, at)), "")


def _plain(array: pa.Array) -> pa.Array:
    return array.storage if isinstance(array, pa.ExtensionArray) else array
