"""Columns of Parquet files, read a row group at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hfds.errors import BadFile


def take(files: Sequence[Path], columns: Sequence[str], places: np.ndarray) -> list[dict[str, Any]]:
    """The rows at some places, without anything at -1."""
    wanted, back = np.unique(places, return_inverse=True)
    tables = read(files, columns, wanted[wanted >= 0])
    rows = [{}] * int((wanted < 0).sum()) + [row for table in tables for row in table.to_pylist()]
    return [rows[number] for number in back.tolist()]


def read(files: Sequence[Path], columns: Sequence[str], places: np.ndarray | None = None) -> Iterator[pa.Table]:
    """Columns, or fields of them ("image.bytes"), of all rows or of those at ascending places, a row group at a time.

    A column that a file does not have is null.
    """
    start = 0
    for file in files:
        try:
            with pq.ParquetFile(file) as parquet:
                there = [name for name in columns if name.partition(".")[0] in parquet.schema_arrow.names]
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
        except (pa.ArrowInvalid, OSError) as error:
            raise BadFile(str(file), f"it cannot be read ({error})", "build that release again") from None
