"""Columns: narrow columns of all rows, read in batches, with the rows of earlier releases in front."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, concatenate_datasets

from hfds import record
from hfds.errors import ConfigError
from hfds.processor import BATCH, beside


def narrow(rows: Dataset, columns: Iterable[str]) -> Iterator[pa.Table]:
    """Batches of `columns`, those of them that are there, and of `dropped`."""
    names = [name for name in dict.fromkeys((*columns, "dropped")) if name in rows.column_names]
    batches: Iterator[pa.Table] = rows.select_columns(names).with_format("arrow").iter(BATCH)
    return batches


def stacked(earlier: Dataset | None, rows: Dataset, columns: Iterable[str]) -> Dataset:
    """`columns` and `dropped` of the rows of earlier releases, if any, and below them of `rows`; nothing is copied.

    Raises:
        ConfigError: the earlier rows lack a column, or it is of another type.
    """
    names = list(dict.fromkeys(columns))
    if lacking := [name for name in names if earlier is not None and name not in earlier.column_names]:
        raise ConfigError(f"the rows of earlier releases have no column {lacking[0]!r}, which they are compared by")
    both = [_marked(part, names) for part in (earlier, rows) if part is not None]
    for name in names:
        if both[0].features[name] != both[-1].features[name]:
            raise ConfigError(
                f"column {name!r} of an earlier release is {both[0].features[name]}, and here it is "
                f"{both[-1].features[name]}: they cannot be compared"
            )
    return concatenate_datasets(both) if len(both) > 1 and all(map(len, both)) else both[-1] if len(rows) else both[0]


def _marked(rows: Dataset, names: list[str]) -> Dataset:
    if "dropped" in rows.column_names:
        return rows.select_columns([*names, "dropped"])
    marks = Dataset(pa.table({"dropped": pa.nulls(len(rows), record.DROPPED)}))
    return beside(rows.select_columns(names), marks)


def codes(rows: Dataset, column: str) -> tuple[list[str], np.ndarray]:
    """The values of a text column as they come, and for every row which of them, -1 for null: shape (rows,), int16."""
    names: list[str] = []
    found, at = np.full(len(rows), -1, np.int16), 0
    for table in rows.select_columns([column]).with_format("arrow").iter(BATCH):
        values = table[column].combine_chunks().cast(pa.string())
        names += [name for name in values.unique().drop_null().to_pylist() if name not in names]
        which = pc.fill_null(pc.index_in(values, pa.array(names, pa.string())), -1)
        found[at : at + len(table)] = np.asarray(which)
        at += len(table)
    return names, found


def take(rows: Dataset, column: str, positions: np.ndarray) -> pa.Array:
    """The values of a text column at ascending `positions`, read in one pass and in batches."""
    found, at = [pa.array([], pa.large_string())], 0
    for table in rows.select_columns([column]).with_format("arrow").iter(BATCH):
        low, high = np.searchsorted(positions, [at, at + len(table)])
        if high > low:
            values = table[column].combine_chunks().take(pa.array(positions[low:high] - at))
            found.append(values.cast(pa.large_string()))
        at += len(table)
    return pa.concat_arrays(found)


def places(earlier: Dataset | None, positions: np.ndarray) -> pa.Array:
    """For each of these rows "<release>:<split>", or null where it is of no earlier release."""
    held = positions[: np.searchsorted(positions, len(earlier) if earlier is not None else 0)]
    none = pa.nulls(len(positions) - len(held), pa.large_string())
    if earlier is None:
        return none
    parts = [take(earlier, name, held).cast(pa.string()) for name in ("release", "split")]
    named = pc.binary_join_element_wise(*parts, ":").cast(pa.large_string())
    return pa.concat_arrays([named, none])
