"""Pieces: the rows of a release as they are cut into tars, by sizes that are known before anything is written."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hfds import entities
from hfds.archive import BLOCK
from hfds.errors import BadFile
from hfds.masks import mask_of
from hfds.sidecar import captions, told
from hfds.ustar import END, padded

ROWS = 2048  # that are read, hashed and written together, of one row group


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
    masks: bool = False  # whether rows have masks

    @property
    def narrow(self) -> list[str]:
        """All columns but the pictures."""
        return [name for name in self.columns if name != "image"]


def measured(given: tuple[str, Path, int], how: How) -> list[Piece]:
    """The row groups of a file with the bytes that they take at most, or its rows where one tar is too small."""
    _, path, first = given
    found = []
    with opened(path) as parquet:
        for group in range(parquet.num_row_groups):
            sizes = _texts(parquet, group, how)
            most = int(sizes.sum()) + _picture_bytes(parquet, group)
            if how.masks or most > how.max_shard - END:
                sizes += _pictures(parquet, group, how)
                most = int(sizes.sum())
            if most <= how.max_shard - END:
                found.append(Piece(path, group, 0, len(sizes), first, most))
            else:
                found += [Piece(path, group, at, at + 1, first + at, int(size)) for at, size in enumerate(sizes)]
            first += len(sizes)
    return found


def _texts(parquet: pq.ParquetFile, group: int, how: How) -> np.ndarray:
    """What the rows of a row group take in a tar without pictures and masks, but with the headers of pictures."""
    found = [np.zeros(0, np.int64)]
    for batch in parquet.iter_batches(ROWS, [group], how.narrow, use_threads=False):
        text, _ = captions(batch, how.caption)
        found.append(3 * BLOCK + padded(_lengths(text)) + padded(_lengths(told(batch))))
    return np.concatenate(found)


def _pictures(parquet: pq.ParquetFile, group: int, how: How) -> np.ndarray:
    """What the pictures of the rows of a row group take, and their masks, which are made for it."""
    found = [np.zeros(0, np.int64)]
    columns = ["image.bytes", *([entities.COLUMN] if how.masks else [])]
    for batch in parquet.iter_batches(ROWS, [group], columns, use_threads=False):
        sizes = padded(_lengths(batch["image"].field("bytes")))
        if how.masks:
            made = zip(batch[entities.COLUMN].to_pylist(), views(batch), strict=True)
            sizes += BLOCK + padded(
                np.array([len(mask_of(row, picture, Counter())) for row, picture in made], np.int64)
            )
        found.append(sizes)
    return np.concatenate(found)


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


class Damaged(Exception):
    """The picture of a row is not what its hash says."""


@contextmanager
def opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file of the release, of which nothing is read ahead."""
    try:
        with pq.ParquetFile(path, pre_buffer=False, memory_map=True) as parquet:
            yield parquet
    except Damaged as damaged:
        problem = f"the picture of {damaged} is not what its hash says"
        raise BadFile(str(path), problem, "build that release again") from None
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # not Arrow's of what it reads, but the disk's
            raise
        raise BadFile(str(path), f"it cannot be read ({error})", "build that release again") from None


def views(batch: pa.RecordBatch) -> list[memoryview | None]:
    """The pictures of a batch, where Arrow has them."""
    data = batch["image"].field("bytes").cast(pa.large_binary())
    ends = np.frombuffer(data.buffers()[1], np.int64)[data.offset : data.offset + len(data) + 1].tolist()
    content = memoryview(data.buffers()[2] or b"")
    valid = pc.and_(data.is_valid(), batch["image"].is_valid()).to_pylist()
    return [content[at:end] if there else None for (at, end), there in zip(pairwise(ends), valid, strict=True)]
