"""Text files: lines, JSON lines, and CSV as tables, with every way in which a row could vanish or merge."""

import csv
import io
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from hfds.errors import BadFile, BadRow
from hfds.text import csv_batches, json_lines, json_object, lines


def table(tmp_path: Path, data: bytes, columns: tuple[str, ...] = ("a",), **options: Any) -> list[dict[str, Any]]:
    path = tmp_path / "x.csv"
    path.write_bytes(data)
    return list(pa.concat_tables(csv_batches(str(path), "x.csv", columns, **options)).to_pylist())


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("final", [True, False])
def test_rows_of_a_csv(tmp_path: Path, mark: bytes, end: bytes, final: bool) -> None:
    data = mark + end.join([b"a,b", b'"one, ""two""",null', b'"",', b"007,NaN", b'"three' + end + b'lines",x'])
    assert table(tmp_path, data + end * final) == [
        {"a": 'one, "two"', "b": "null"},
        {"a": "", "b": None},
        {"a": "007", "b": "NaN"},
        {"a": f"three{end.decode()}lines", "b": "x"},
    ]


def test_an_empty_line_is_no_row_and_blanks_are(tmp_path: Path) -> None:
    assert table(tmp_path, b'\na\n\n""\n \n\r\nx\n\n') == [{"a": ""}, {"a": " "}, {"a": "x"}]


def test_a_csv_of_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    assert table(tmp_path, b"a,b\n") == []


@pytest.mark.parametrize("seed", range(200))
def test_what_python_writes_comes_back_whatever_the_block(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    texts = ["".join(rng.choices('ab ,"\n\r\u2028é\0', k=rng.randrange(8))) for _ in range(40)]
    rows = list(zip(texts[::2], texts[1::2], strict=True))[: rng.randrange(21)]
    buffer = io.StringIO(newline="")
    end = rng.choice(["\n", "\r\n"])
    csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator=end).writerows([("a", "b"), *rows])
    found = table(tmp_path, buffer.getvalue().encode(), ("a", "b"), block=rng.randint(1, 40))
    assert [(row["a"], row["b"]) for row in found] == rows


@pytest.mark.parametrize("block", [4, 1 << 20])
@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "x.csv: the file is empty"),
        ("a,b\n".encode("utf-16"), "it is UTF-16"),
        (b"\n\n", "no column 'a', only empty lines"),
        (b"A,b\n1,2\n", "no column 'a', only 'A', 'b'"),
        (b"a,a\n1,2\n", "two columns are named 'a'"),
        (b"a,b\n1,2\n\n3\n", "line 4: 1 fields instead of 2"),
        (b'a,b\n"1\n1",2\n3,4,5\n', "line 4: 3 fields instead of 2"),
        (b'a,b\n1,2\n"3,4\n5,6\n', "line 3: a quote is opened and never closed"),
        (b'a,b\n1,2\n"3,4\n5,"6"\n', r"line 4: text behind a closing quote \(it was opened in line 3"),
        (b'a\n7" vinyl\n', "line 2: a quote inside a field that is not quoted"),
        (b"a\n1\r2\n", "line 2: a carriage return without a line feed"),
        (b"a\r1\r2\r", "line 1: a carriage return without a line feed"),
        (b"a,b\n1,2\n3,caf\xe9\n", r"line 3 is not UTF-8 \(byte 0xe9\)"),
        (b"caf\xe9\n1\n", "line 1 is not UTF-8"),
    ],
)
def test_a_csv_that_cannot_be_read_whole_is_named_with_the_line(
    tmp_path: Path, data: bytes, message: str, block: int
) -> None:
    with pytest.raises(BadFile, match=message):
        table(tmp_path, data, block=block)


def test_lines_keep_all_but_their_end(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes("\ufeffone \r\n\n\u2028two\rthree\n".encode() + b"caf\xe9\nlast")
    found = [(n, line if isinstance(line, str) else line.reason) for n, line in lines(str(tmp_path / "x"), "x")]
    assert found == [(1, "one "), (2, ""), (3, "\u2028two\rthree"), (4, "not_utf8"), (5, "last")]


def test_a_line_that_is_no_object_does_not_stop_the_rest(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbf{"a": 1}\n\n{"a"\n[1]\n{"a": 1}{"a": 2}\n{"a": "\xe9"}\n' + b"[" * 100_000 + b"\n"
    deep = b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}\n"
    numbers = b'{"a": NaN, "b": 1e999, "c": 18446744073709551615, "d": -9223372036854775809}'
    (tmp_path / "x").write_bytes(data + deep + numbers)
    found = [(n, o.reason if isinstance(o, BadRow) else o) for n, o in json_lines(str(tmp_path / "x"), "x")]
    assert found == [
        (1, {"a": 1}),
        (2, "blank"),
        (3, "broken_json"),
        (4, "wrong_type"),
        (5, "broken_json"),
        (6, "not_utf8"),
        (7, "broken_json"),
        (8, "broken_json"),
        (9, {"a": None, "b": None, "c": 2**64 - 1, "d": "-9223372036854775809"}),
    ]


def test_many_brackets_are_not_deep_and_digits_without_end_are_text() -> None:
    assert json_object('{"a": [' + ",".join(["[]"] * 1000) + "]}") == {"a": [[]] * 1000}
    assert json_object('{"a": ' + "9" * 5000 + "}") == {"a": "9" * 5000}


def test_an_empty_file_has_no_lines_to_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(BadFile, match=r"x\.jsonl: the file is empty"):
        list(json_lines(str(tmp_path / "x"), "x.jsonl"))
