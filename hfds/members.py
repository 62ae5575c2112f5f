"""Members: the rows of a release as they go into a tar, one after the other: a picture, its caption, the rest as JSON.

Pictures go from Arrow's buffers to the file without a copy. docs/streaming.md has the format.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from hfds.archive import BLOCK
from hfds.errors import BadFile, BadRow
from hfds.picture import HEAD, Buffer, measure
from hfds.samples import INDEX
from hfds.sidecar import captions, told
from hfds.ustar import END, TarWriter, header, padded, padding

ROWS = 2048  # that are read, hashed and written together, of one row group
# The extensions of pictures, and which bytes say so, where.
PICTURES = {"jpg": (0, b"\xff\xd8"), "png": (0, b"\x89PNG\r\n\x1a\n"), "webp": (8, b"WEBP")}


class Piece(NamedTuple):
    """Rows `start` to `stop` of a row group of a Parquet file; the first of them is row `first` of its split."""

    file: Path
    group: int
    start: int
    stop: int
    first: int
    bytes: int  # that they take in a tar, at most


@dataclass(frozen=True)
class How:
    """What is asked of an export, beside the release: what every sample depends on."""

    columns: tuple[str, ...]
    caption: str
    index: tuple[str, ...]
    max_shard: int
    withdrawn: tuple[str, ...] = ()  # ids of rows that are left out

    @property
    def narrow(self) -> list[str]:
        """All columns but the pictures."""
        return [name for name in self.columns if name != "image"]


def measured(given: tuple[str, Path, int], how: How) -> list[Piece]:
    """The row groups of a file with the bytes that they take at most, or its rows where one tar is too small."""
    _, path, first = given
    found = []
    with _opened(path) as parquet:
        for group in range(parquet.num_row_groups):
            texts = [np.zeros(0, np.int64)]
            for batch in parquet.iter_batches(ROWS, [group], how.narrow, use_threads=False):
                text, _ = captions(batch, how.caption)
                texts.append(3 * BLOCK + padded(_lengths(text)) + padded(_lengths(told(batch))))
            sizes = np.concatenate(texts)
            most = int(sizes.sum()) + _picture_bytes(parquet, group)
            if most <= how.max_shard - END:
                found.append(Piece(path, group, 0, len(sizes), first, most))
            else:
                batches = parquet.iter_batches(ROWS, [group], ["image.bytes"], use_threads=False)
                sizes += padded(np.concatenate([_lengths(batch["image"].field("bytes")) for batch in batches]))
                found += [Piece(path, group, at, at + 1, first + at, int(size)) for at, size in enumerate(sizes)]
            first += len(sizes)
    return found


def _lengths(texts: pa.Array) -> np.ndarray:
    return np.asarray(pc.fill_null(pc.binary_length(texts), 0), np.int64)


def _picture_bytes(parquet: pq.ParquetFile, group: int) -> int:
    """What the pictures of a row group take in a tar at most, by the file's footer; more than any tar holds where that
    does not say it."""
    footer = parquet.metadata.row_group(group)
    columns = [footer.column(number) for number in range(footer.num_columns)]
    column = next(column for column in columns if column.path_in_schema == "image.bytes")
    if not {*column.encodings} <= {"PLAIN", "RLE", "BIT_PACKED"}:  # others store bytes that repeat once
        return 1 << 60
    return int(column.total_uncompressed_size) + (BLOCK - 1) * int(footer.num_rows)


class _Damaged(Exception):
    """The picture of a row is not what its hash says."""


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file of the release, of which nothing is read ahead."""
    try:
        with pq.ParquetFile(path, pre_buffer=False) as parquet:
            yield parquet
    except _Damaged as damaged:
        problem = f"the picture of {damaged} is not what its hash says"
        raise BadFile(str(path), problem, "build that release again") from None
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # not Arrow's of what it reads, but the disk's
            raise
        raise BadFile(str(path), f"it cannot be read ({error})", "build that release again") from None


@dataclass(frozen=True)
class Wrote:
    """What went into a tar: the rows of its index, what was left out and why, how many captions are prompts because
    there is no other, and the extensions of the pictures."""

    index: pa.Table
    left_out: Counter[str]
    by_prompt: int
    kinds: set[str]


def write(pieces: Sequence[Piece], how: How, tar: TarWriter) -> Wrote:
    """Writes the samples of pieces into a tar, one behind the other.

    Raises:
        BadFile: the release's file cannot be read, or a picture in it is not what its hash says.
    """
    tables, left_out, by_prompt, kinds = [], Counter[str](), 0, set[str]()
    for piece in pieces:
        with _opened(piece.file) as parquet:
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
                by_prompt += made.by_prompt
                kinds |= made.kinds
    return Wrote(pa.concat_tables(tables), left_out, by_prompt, kinds)


def _views(batch: pa.RecordBatch) -> list[memoryview | None]:
    """The pictures of a batch, where Arrow has them."""
    data = batch["image"].field("bytes").cast(pa.large_binary())
    ends = np.frombuffer(data.buffers()[1], np.int64)[data.offset : data.offset + len(data) + 1].tolist()
    content = memoryview(data.buffers()[2] or b"")
    valid = pc.and_(data.is_valid(), batch["image"].is_valid()).to_pylist()
    return [content[at:end] if there else None for (at, end), there in zip(pairwise(ends), valid, strict=True)]


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
    texts, others = (array.cast(pa.binary()).to_pylist() for array in (text, told(rows)))
    hashes = rows["image_hash"].to_pylist() if "image_hash" in rows.schema.names else [None] * len(rows)
    gone = pc.is_in(rows["id"], pa.array(how.withdrawn, pa.string())).to_pylist()
    size = _Sizes(rows)
    tar.flush()
    pa.default_memory_pool().release_unused()  # what the pictures before took would be kept, and add to what these do
    buffers, kept, lengths, kinds, left_out = list[Buffer](), list[int](), list[int](), set[str](), Counter[str]()
    for row, picture in enumerate(_views(next(pictures))):
        if row not in inside:
            continue
        if gone[row]:
            left_out["withdrawn"] += 1
            continue
        kind = "" if picture is None else _kind(picture)
        caption, other, key = texts[row], others[row], b"%010d." % (first + row)
        if picture is None or not kind or caption is None:
            left_out["no_picture" if picture is None else "no_caption" if kind else "other_format"] += 1
            continue
        if hashes[row] is not None and xxhash.xxh3_128_hexdigest(picture) != hashes[row]:
            raise _Damaged(rows["id"][row].as_py())
        kept.append(row)
        kinds.add(kind)
        lengths += (len(picture), len(caption), len(other))
        size.see(row, picture)
        behind = (
            padding(len(picture)),
            header(key + b"txt", len(caption)), caption, padding(len(caption)),
            header(key + b"json", len(other)), other, padding(len(other)),
        )  # fmt: skip
        buffers += (header(key + kind.encode(), len(picture)), picture, b"".join(behind))
    start = tar.size
    tar.add(buffers)
    places, members = pa.array(kept, pa.int64()), np.array(lengths, np.int64).reshape(-1, 3)
    sizes = 3 * BLOCK + padded(members).sum(axis=1)
    offset = start + np.cumsum(sizes) - sizes
    width, height = (column.take(places) for column in size.columns())
    own = [offset, sizes, offset + BLOCK, members[:, 0], rows["id"].take(places), width, height]
    arrays = [pa.array(values).cast(field.type) for values, field in zip(own, INDEX, strict=True)]
    arrays += [_plain(rows[name].take(places)) for name in how.index]
    index = pa.table(arrays, [*INDEX.names, *how.index])
    return Wrote(index, left_out, pc.sum(fell_back.take(places)).as_py() or 0, kinds)


def _kind(picture: memoryview) -> str:
    """The extension of a picture, by its first bytes; empty for one that is none of `PICTURES`."""
    head = bytes(picture[:12])
    return next((kind for kind, (at, magic) in PICTURES.items() if head.startswith(magic, at)), "")


class _Sizes:
    """Width and height of rows: what their columns say, else what the headers of their pictures do."""

    def __init__(self, rows: pa.RecordBatch):
        there = [rows[name] if name in rows.schema.names else pa.nulls(len(rows)) for name in ("width", "height")]
        self._said = [column.cast(pa.int32()) for column in there]
        known = pc.and_(*(pc.fill_null(pc.greater(column, 0), False) for column in self._said))
        self._unknown = pc.invert(known)
        self._wanted = {*np.flatnonzero(np.asarray(self._unknown)).tolist()}
        self._found: dict[int, tuple[int, int]] = {}

    def see(self, row: int, picture: memoryview) -> None:
        """The picture of a row, of which only the head is looked at and nothing is kept."""
        if row in self._wanted:
            with suppress(BadRow):
                width, height, _ = measure(picture[:HEAD], len(picture), lambda at, n: picture[at : at + n])
                self._found[row] = width, height

    def columns(self) -> list[pa.Array]:
        """Both columns."""
        found = [self._found.get(row, (None, None)) for row in range(len(self._unknown))]
        own = [pa.array([size[side] for size in found], pa.int32()) for side in (0, 1)]
        return [pc.if_else(self._unknown, seen, said) for seen, said in zip(own, self._said, strict=True)]


def _plain(array: pa.Array) -> pa.Array:
    return array.storage if isinstance(array, pa.ExtensionArray) else array
