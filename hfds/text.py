"""Text files read in bounded memory: lines, JSON lines, and CSV as Arrow tables; a row never vanishes unnoticed.

CSV follows RFC 4180, strictly where leniency would merge rows: with a quote that is never closed most readers swallow
rows until the next quote. JSON lines follow https://jsonlines.org. Both are UTF-8, with or without a byte order mark.
"""

import csv
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from hfds.archive import Reader
from hfds.errors import BadFile, BadRow

CHUNK = 1 << 20
BLOCK = 8 << 20  # of a CSV, parsed at once
DEEPEST = 500  # of a JSON text
LARGEST = 256 << 20  # bytes of one line, or of one CSV row with newlines in it
LF, CR, QUOTE = b'\n\r"'
BETWEEN = np.frombuffer(b',\n\r"', np.uint8)  # what may stand on the outer side of a quote

Positions = np.ndarray[Any, np.dtype[np.int64]]


def _finite(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


def _exact(digits: str) -> int | str:
    return number if len(digits) < 21 and -(2**63) <= (number := int(digits)) < 2**64 else digits


DECODER = json.JSONDecoder(parse_constant=lambda _: None, parse_float=_finite, parse_int=_exact)


def lines(path: str, file: str) -> Iterator[tuple[int, str | BadRow]]:
    """(number from 1, text) of every line, blank ones included, without its end (LF or CRLF).

    A line that is not UTF-8 comes as BadRow("not_utf8").

    Args:
        path: a local path or any fsspec URL.
        file: its name, for messages.

    Raises:
        BadFile: it is empty, is UTF-16, or has a line of more than 256 MiB.
    """
    with Reader(path) as reader:
        number, rest = 0, b""
        for chunk in _chunks(reader, file, CHUNK):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                number += 1
                yield number, _decoded(line)
            if len(rest) > LARGEST:
                raise BadFile(file, f"line {number + 1:,} is longer than {LARGEST:,} bytes")
        if rest:
            yield number + 1, _decoded(rest)


def json_lines(path: str, file: str) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """(line number from 1, object) of every line of a JSONL file; raises as `lines`.

    A line that is no object comes as BadRow("not_utf8"), ("blank"), ("broken_json") or ("wrong_type"); what numbers
    become is said at `json_value`.
    """
    for number, line in lines(path, file):
        yield number, line if isinstance(line, BadRow) else json_object(line)


def json_value(text: str) -> Any:
    """What a JSON text says, as far as `datasets` can read it back (its parser is pandas' ujson).

    NaN and numbers beyond a double are null, integers beyond 64 bits are texts.

    Raises:
        ValueError, RecursionError: it is no JSON, or is nested more than 500 deep.
    """
    value = DECODER.decode(text)
    if text.count("[") + text.count("{") > DEEPEST and _depth(value) > DEEPEST:
        raise ValueError(f"nested more than {DEEPEST} deep")
    return value


def json_object(text: str) -> dict[str, Any] | BadRow:
    """The JSON object that `text` is, or why it is none."""
    if not text.strip():
        return BadRow("blank")
    try:
        value = json_value(text)
    except (ValueError, RecursionError) as error:
        return BadRow("broken_json", str(error)[:200])
    return value if isinstance(value, dict) else BadRow("wrong_type", f"{type(value).__name__} instead of an object")


def json_text(value: object) -> str:
    """`value` as JSON that Arrow can hold: half a surrogate pair, which UTF-8 has no bytes for, becomes "?"."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode()


def blank_as_null(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """`texts` unchanged, null wherever one holds nothing but blanks."""
    array = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(array), ""), None, array)


def csv_batches(path: str, file: str, columns: Sequence[str], block: int = BLOCK) -> Iterator[pa.Table]:
    """The rows of a CSV with a header, in order, as tables of all its columns as strings, each of about `block` bytes.

    An unquoted empty field is null, a quoted one is "", and everything else is text: nothing becomes a number, and
    `null`, `NA` and `nan` stay words. As in pandas and Python's csv, an empty line is no row. At least one table comes.

    Args:
        path: a local path or any fsspec URL.
        file: its name, for messages.
        columns: those that must be there; others may be.

    Raises:
        BadFile: with the line, when the file is empty or not UTF-8, a column is missing or there twice, a row has
            another number of fields, a quote is never closed or stands where none may, or a carriage return stands
            alone.
    """
    names: list[str] = []
    for line, data in _whole_rows(path, file, block):
        if not names:
            names, size = _header(data, file, columns)
            line, data = line + data[:size].count(b"\n"), data[size:]
        yield _parse(data, names, file, line)


def _chunks(reader: Reader, file: str, size: int) -> Iterator[bytes]:
    """The file in chunks of at most `size` bytes, without its byte order mark."""
    at, chunk = 0, reader.read(0, size)
    if not chunk:
        raise BadFile(file, "the file is empty")
    if chunk[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise BadFile(file, "it is UTF-16, not UTF-8", "convert it to UTF-8")
    at = len(chunk)
    yield chunk.removeprefix(b"\xef\xbb\xbf")
    while chunk := reader.read(at, size):
        at += len(chunk)
        yield chunk


def _decoded(line: bytes) -> str | BadRow:
    try:
        return line.removesuffix(b"\r").decode()
    except UnicodeDecodeError as error:
        return BadRow("not_utf8", f"byte 0x{line[error.start]:02x} at {error.start}")


def _depth(value: object) -> int:
    """How many lists and objects lie in one another."""
    depth, level = 0, [value]
    while inside := [one for one in level if isinstance(one, dict | list)]:
        depth += 1
        level = [inner for one in inside for inner in (one.values() if isinstance(one, dict) else one)]
    return depth


def _whole_rows(path: str, file: str, block: int) -> Iterator[tuple[int, bytes]]:
    """(number of its first line, bytes) of runs of whole rows; a run grows beyond `block` only for a longer row."""
    with Reader(path) as reader:
        line, rest = 1, b""
        for chunk in _chunks(reader, file, block):
            rest += chunk
            ends = _row_ends(rest, file, line)
            if len(ends):
                data, rest = rest[: ends[-1] + 1], rest[ends[-1] + 1 :]
                yield line, data
                line += data.count(b"\n")
            elif len(rest) > LARGEST:
                raise BadFile(file, f"line {line:,}: a row of more than {LARGEST:,} bytes")
        if rest:
            _row_ends(rest, file, line, last=True)
            yield line, rest


def _row_ends(data: bytes, file: str, line: int, last: bool = False) -> Positions:
    """The positions of the newlines that end a row of `data`, which begins at a row; `last` when the file ends here.

    Of the quotes, in order, every second one closes: what opens stands behind a comma, a line's end or a quote that
    closed (an escaped one), what closes before one of these.
    """
    codes = np.frombuffer(data, np.uint8)
    quotes = np.flatnonzero(codes == QUOTE)
    opening, closing = quotes[::2], quotes[1::2]
    opening = opening[opening > 0]
    closing = closing[closing < len(codes) - 1]
    returns = np.flatnonzero(codes[:-1] == CR)
    returns = returns[np.searchsorted(quotes, returns) % 2 == 0]
    problems = {
        "a quote inside a field that is not quoted": opening[~np.isin(codes[opening - 1], BETWEEN)],
        "text behind a closing quote": closing[~np.isin(codes[closing + 1], BETWEEN)],
        "a carriage return without a line feed": returns[codes[returns + 1] != LF],
        "a quote is opened and never closed": quotes[-1:] if last and len(quotes) % 2 else quotes[:0],
    }
    if found := [(int(at[0]), problem) for problem, at in problems.items() if len(at)]:
        at, problem = min(found)
        if problem == "text behind a closing quote":
            opened = data.count(b"\n", 0, int(quotes[np.searchsorted(quotes, at) - 1]))
            problem += f" (it was opened in line {line + opened:,}: is one missing there?)"
        lines_before = data.count(b"\n", 0, at)
        problem = f"line {line + lines_before:,}: {problem}"
        raise BadFile(file, problem, "write it with quotes around every field and its own quotes doubled (RFC 4180)")
    newlines = np.flatnonzero(codes == LF)
    ends: Positions = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
    return ends


def _header(data: bytes, file: str, columns: Sequence[str]) -> tuple[list[str], int]:
    """The names of the columns, and how many bytes of `data` they take."""
    start = len(data) - len(data.lstrip(b"\r\n"))
    ends = _row_ends(data[start:], file, 1)
    size = start + int(ends[0]) + 1 if len(ends) else len(data)
    try:
        names = next(csv.reader([data[start:size].decode().rstrip("\r\n")]), [])
    except UnicodeDecodeError:
        raise BadFile(file, "line 1 is not UTF-8", "convert it to UTF-8") from None
    if missing := [name for name in columns if name not in names]:
        raise BadFile(file, f"no column {missing[0]!r}, only {', '.join(map(repr, names)) or 'empty lines'}")
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadFile(file, f"two columns are named {twice[0]!r}")
    return names, size


def _parse(data: bytes, names: list[str], file: str, line: int) -> pa.Table:
    """`data`, which begins at `line` and is whole rows without the header, as a table."""
    wrong: list[Any] = []

    def stop(row: Any) -> str:
        wrong.append(row)
        return "error"

    if not data.strip(b"\r\n"):
        return pa.table({name: pa.array([], pa.string()) for name in names})
    try:
        return pa.csv.read_csv(
            pa.BufferReader(data),
            pa.csv.ReadOptions(column_names=names, block_size=len(data) + 1, use_threads=False),
            pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=stop),
            pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:
        if wrong:
            number = line + _lines_before(data, wrong[0].number, file)
            problem = f"line {number:,}: {wrong[0].actual_columns} fields instead of {wrong[0].expected_columns}"
            raise BadFile(file, problem) from None
        try:
            data.decode()
        except UnicodeDecodeError as error:
            number = line + data.count(b"\n", 0, error.start)
            problem = f"line {number:,} is not UTF-8 (byte 0x{data[error.start]:02x})"
            raise BadFile(file, problem, "convert it to UTF-8") from None
        raise


def _lines_before(data: bytes, row: int, file: str) -> int:
    """How many lines of `data` lie before its row of that number, from 1; empty lines are no rows."""
    ends = _row_ends(data, file, 1)
    starts = [0, *(int(end) + 1 for end in ends)]
    rows = [start for start in starts if data[start : start + 2].lstrip(b"\r")[:1] not in (b"\n", b"")]
    return data.count(b"\n", 0, rows[row - 1])
