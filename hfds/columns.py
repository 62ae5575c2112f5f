"""Columns of our own Parquet files, read a row group at a time, on this disk or by parts from elsewhere."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets.utils import tqdm

from hfds.errors import BadFile
from hfds.remote import Remote

File: TypeAlias = Path | Remote
AT_ONCE = 8  # files that are fetched from


def take(files: Sequence[File], columns: Sequence[str], places: np.ndarray) -> list[dict[str, Any]]:
    """The rows at some places, without anything at -1."""
    wanted, back = np.unique(places, return_inverse=True)
    tables = read(files, columns, wanted[wanted >= 0])
    rows = [{}] * int((wanted < 0).sum()) + [row for table in tables for row in table.to_pylist()]
    return [rows[number] for number in back.tolist()]


def read(files: Sequence[File], columns: Sequence[str], places: np.ndarray | None = None) -> Iterator[pa.Table]:
    """Columns, or fields of them ("image.bytes"), of all rows or of those at ascending places, a row group at a time.

    A column that a file does not have is null.
    """
    start = 0
    for file in files:
        with _opened(file) as parquet:
            names = parquet.schema_arrow.names  # in which dots may be
            there = [name for name in columns if name in names or name.partition(".")[0] in names]
            for group in range(parquet.num_row_groups):
                rows = parquet.metadata.row_group(group).num_rows
                inside = None if places is None else places[(places >= start) & (places < start + rows)] - start
                start += rows
                if inside is not None and not len(inside):
                    continue
                table = parquet.read_row_group(group, there)
                for name in [name for name in columns if name not in there]:
                    table = table.append_column(name, pa.nulls(len(table), pa.string()))
                yield table if inside is None else table.take(pa.array(inside))


def schemas(files: Sequence[File]) -> Iterator[pa.Schema]:
    """What columns each file has."""
    for file in files:
        with _opened(file) as parquet:
            yield parquet.schema_arrow


def find(files: Sequence[File], column: str, value: str) -> int | None:
    """The place of the first row that has this text in a column; None where no row has.

    Of row groups whose bounds say that it is not in them, nothing is read.
    """
    start = 0
    for file in files:
        with _opened(file) as parquet:
            leaf = [parquet.schema.column(number).path for number in range(len(parquet.schema))].index(column)
            for group in range(parquet.num_row_groups):
                about = parquet.metadata.row_group(group)
                bounds = about.column(leaf).statistics
                if not (bounds and bounds.has_min_max and not bounds.min <= value <= bounds.max):
                    at = pc.index(parquet.read_row_group(group, [column])[column], value).as_py()
                    if at >= 0:
                        return start + int(at)
                start += about.num_rows
    return None


def null_share(files: Sequence[File], column: str) -> float:
    """In what share of all rows a column is null.

    Of the parts that it is made of only the smallest is read, and none where a row group says that it has no nulls.
    """
    rows = nulls = 0
    for file in files:
        with _opened(file) as parquet:
            paths = [parquet.schema.column(number).path for number in range(len(parquet.schema))]
            leaves = [n for n, path in enumerate(paths) if path == column or path.startswith(f"{column}.")]
            for group in range(parquet.num_row_groups):
                about = parquet.metadata.row_group(group)
                rows += about.num_rows
                if not leaves:
                    nulls += about.num_rows
                    continue
                least = min(leaves, key=lambda leaf: int(about.column(leaf).total_compressed_size))
                known = about.column(least).statistics
                if not (known and known.has_null_count and known.null_count == 0):
                    nulls += parquet.read_row_group(group, [paths[least]]).column(0).null_count
    return nulls / rows


def gather(files: Sequence[File], columns: Sequence[str]) -> None:
    """Fetches columns of files that lie elsewhere, in few large parts: reading them asks for nothing more then."""

    def one(file: Remote) -> None:
        with _opened(file) as parquet:
            about = parquet.metadata
            groups = (about.row_group(number) for number in range(about.num_row_groups))
            chunks = [group.column(leaf) for group in groups for leaf in range(about.num_columns)]
        file.keep([_range(chunk) for chunk in chunks if chunk.path_in_schema.partition(".")[0] in columns])

    far = [file for file in files if isinstance(file, Remote)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in tqdm(pool.map(one, far), total=len(far), desc="Fetching columns", unit=" files", disable=not far):
            pass


def broken(file: File, problem: str) -> BadFile:
    """The error to raise of a file that is not what it should be."""
    here = isinstance(file, Path)
    return BadFile(str(file), problem, "build that release again" if here else "look at that release with hfds verify")


def _range(chunk: Any) -> tuple[int, int]:
    """Where the pages of a column begin and end in a file."""
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    return start, start + chunk.total_compressed_size


@contextmanager
def _opened(file: File) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(file) as parquet:
            yield parquet
    except (pa.ArrowInvalid, OSError) as error:
        raise broken(file, f"it cannot be read ({error})") from None
