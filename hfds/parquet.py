"""Parquet read by columns: types checked before a row is read, in runs of rows that several processes share.

    schema = schema_of(path, file)                                            # BadFile: cut, empty, no parquet
    check_columns(schema, file, {"url": TEXT}, optional={"seed": NUMBER})
    for start, stop in row_runs(path, file, 1):                               # one piece each
        for batch in rows_between(path, file, ["url", "seed"], start, stop):  # pa.RecordBatch, bounded
            batch, not_utf8 = repaired(batch)
            seeds = numbers(batch["seed"], pa.int64())

`path` is where the file is (a local path or an fsspec URL), `file` its name in the source, for messages.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hfds.errors import BadFile

ROWS = 20_000  # of a batch
RUN = 200_000  # rows of a run, at least
# Bytes of a local column read at once. Without it a row group comes into memory whole, and with `pre_buffer` (which is
# the default) they all stay there until the file is closed: 300 MB of a table of 2 M rows instead of 27.
BUFFER = 1 << 20


class Kind(NamedTuple):
    """The types that a column may have, whatever their width; a column of nulls is of every kind."""

    name: str
    holds: Callable[[pa.DataType], bool]


def _text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


def _bytes(type_: pa.DataType) -> bool:
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(kind(type_) for kind in kinds)


def _number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_))


TEXT = Kind("text", _text)
BYTES = Kind("bytes", _bytes)
INTEGER = Kind("an integer", pa.types.is_integer)
NUMBER = Kind("a number", _number)
NUMBER_OR_TEXT = Kind("a number", lambda type_: _number(type_) or _text(type_))  # as a CSV leaves them
TIME = Kind("a time", pa.types.is_temporal)


@contextmanager
def _opened(path: str, file: str) -> Iterator[pq.ParquetFile]:
    try:
        if "://" in path:
            import fsspec

            with fsspec.open(path, "rb") as remote, pq.ParquetFile(remote, pre_buffer=True) as opened:
                yield opened
        else:
            with pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER) as opened:
                yield opened
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, EOFError) as error:
        raise BadFile(file, f"not a whole parquet file ({' '.join(str(error).split())[:200]})") from None


def schema_of(path: str, file: str) -> pa.Schema:
    """The columns of a parquet file, from its footer.

    Raises:
        BadFile: it is cut, empty or no parquet.
    """
    with _opened(path, file) as opened:
        return opened.schema_arrow.remove_metadata()


def check_columns(
    schema: pa.Schema, file: str, wanted: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None
) -> None:
    """Nothing, once every wanted column is there and every column named here is of its kind.

    Raises:
        BadFile: names the file, the column, what was found and what was wanted.
    """
    for name, kind in {**(optional or {}), **wanted}.items():
        found = schema.get_all_field_indices(name)
        if not found and name in wanted:
            raise BadFile(file, f"no column {name!r} ({kind.name}), only {', '.join(schema.names) or 'none'}")
        if len(found) > 1:
            raise BadFile(file, f"{len(found)} columns {name!r}, wanted one")
        type_ = schema.field(found[0]).type if found else pa.null()
        inner = type_.value_type if pa.types.is_dictionary(type_) else type_
        if not (kind.holds(inner) or pa.types.is_null(inner)):
            raise BadFile(file, f"column {name!r} is {type_}, wanted {kind.name}")


def batches(
    path: str,
    file: str,
    columns: Sequence[str] | None = None,
    start: int = 0,
    stop: int | None = None,
    rows: int = ROWS,
) -> Iterator[pa.RecordBatch]:
    """Batches of at most `rows` rows, in order, of the row groups from `start` to before `stop` (None: to the last).

    Dictionaries come decoded and every kind of string as `pa.string()`; other types as stored.

    Raises:
        BadFile: the file is cut or damaged.
    """
    with _opened(path, file) as opened:
        groups = range(start, opened.metadata.num_row_groups if stop is None else stop)
        for batch in opened.iter_batches(rows, row_groups=groups, columns=columns):
            yield pa.RecordBatch.from_arrays([_plain(array) for array in batch.columns], names=batch.schema.names)


def row_runs(path: str, file: str, published: int, pieces: int = 4) -> list[tuple[int, int | None]]:
    """(start, stop) of at most `pieces` runs of rows, together all of the file: several processes can share a file that
    is one giant row group. Few, since whoever reads a later run decodes what lies before it in its row group as well.

    Args:
        published: how many rows a remote file has, whose footer is not read; if they are others, the last run ends
            with the file all the same.
    """
    rows = published
    if "://" not in path:
        with _opened(path, file) as opened:
            rows = opened.metadata.num_rows
    step = max(RUN, -(-rows // pieces))
    starts = range(0, max(rows, 1), step)
    return [(start, start + step if start + step < rows else None) for start in starts]


def rows_between(
    path: str, file: str, columns: Sequence[str] | None, start: int, stop: int | None, rows: int = ROWS
) -> Iterator[pa.RecordBatch]:
    """As `batches`, for the rows from `start` to before `stop` (None: to the last)."""
    with _opened(path, file) as opened:
        groups = [opened.metadata.row_group(number).num_rows for number in range(opened.metadata.num_row_groups)]
    ends = np.cumsum([0, *groups])
    first = int(np.searchsorted(ends, start, "right")) - 1
    at = int(ends[first])
    for batch in batches(path, file, columns, first, None, rows):
        low, high = max(start - at, 0), len(batch) if stop is None else min(stop - at, len(batch))
        at += len(batch)
        if low < high:
            yield batch.slice(low, high - low)
        if stop is not None and at >= stop:
            return


def _plain(array: pa.Array) -> pa.Array:
    array = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
    return array.cast(pa.string()) if _text(array.type) and array.type != pa.string() else array


def repaired(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, np.ndarray]:
    """The batch with U+FFFD for every byte of its texts that is not UTF-8 (nothing checks that on reading), and which
    rows had such a text: a bool per row."""
    bad = np.zeros(len(batch), bool)
    columns = batch.columns
    for number, array in enumerate(columns):
        if _text(array.type) and not _whole(array):
            raw = array.cast(pa.binary()).to_pylist()
            texts = [data if data is None else data.decode("utf-8", "replace") for data in raw]
            bad |= [text is not None and text.encode() != data for text, data in zip(texts, raw, strict=True)]
            columns[number] = pa.array(texts, pa.string())
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names), bad


def _whole(texts: pa.Array) -> bool:
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def numbers(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """A column of numbers, or of texts that are numbers, as `type_`: what is not finite, other texts and what does not
    fit become null, and a fraction is cut off where `type_` has none."""
    array = _finite(array)
    try:
        return _finite(array.cast(type_))
    except pa.ArrowInvalid:
        return _finite(pa.array([_fitting(value, type_) for value in array.to_pylist()], type_))


def _finite(array: pa.Array) -> pa.Array:
    if not pa.types.is_floating(array.type) or pc.all(pc.is_finite(array)).as_py():
        return array
    return pc.if_else(pc.is_finite(array), array, None)


def _fitting(value: Any, type_: pa.DataType) -> Any:
    try:
        if not pa.types.is_integer(type_):
            number: float = float(value)
        elif isinstance(value, int) or (isinstance(value, str) and value.strip().lstrip("+-").isdigit()):
            number = int(value)  # exactly: a float has 53 bits
        else:
            number = int(float(value))
        return pa.scalar(number, type_).as_py()
    except (TypeError, ValueError, OverflowError, pa.ArrowException):
        return None
