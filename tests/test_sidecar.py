"""What lies beside a picture: the caption that is asked for, and JSON that every reader infers the same types from."""

import datetime
import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hfds.errors import ConfigError
from hfds.record import records
from hfds.sidecar import captions, style_of, styles, told


def rows() -> pa.RecordBatch:
    listed = [
        [{"style": "short", "text": None}, {"style": "short", "text": "b"}, {"style": "short", "text": "c"}],
        [{"style": "long", "text": "d"}],
        [],
        None,
        [{"style": None, "text": "e"}, {"style": "short", "text": "f"}],
    ]
    return records(5, id=list("01234"), prompt=["p", "q", None, "s", None], captions=listed).to_batches()[0]


@pytest.mark.parametrize("start", [0, 1])
def test_a_caption_falls_back_to_the_prompt(start: int) -> None:
    text, by_prompt = captions(rows().slice(start), "short")
    assert text.to_pylist() == ["b", "q", None, "s", "f"][start:]
    assert by_prompt.to_pylist() == [False, True, False, True, False][start:]
    text, by_prompt = captions(rows().slice(start), "prompt")
    assert text.to_pylist() == ["p", "q", None, "s", None][start:]
    assert not any(by_prompt.to_pylist())
    assert styles(rows().slice(start)) == {"short", "long"}
    assert captions(rows().drop_columns(["prompt"]), "long")[0].to_pylist() == [None, "d", None, None, None]


def test_blank_is_no_caption() -> None:
    listed = [[{"style": "short", "text": " \n"}, {"style": "short", "text": "b"}], [{"style": "short", "text": ""}]]
    blank = records(3, id=list("012"), prompt=["p", "q", "\t"], captions=[*listed, None]).to_batches()[0]
    text, by_prompt = captions(blank, "short")
    assert text.to_pylist() == ["b", "q", None]
    assert by_prompt.to_pylist() == [False, True, False]
    assert captions(blank, "prompt")[0].to_pylist() == ["p", "q", None]


def test_a_style_is_found_by_its_name_or_its_first_word(tmp_path: Path) -> None:
    for number, style in enumerate(("long_caption", "short_caption", "short")):
        pq.write_table(records(1, id=["0"], captions=[[{"style": style, "text": "a"}]]), tmp_path / f"{number}.parquet")
    files = [*sorted(tmp_path.iterdir())]
    assert style_of(files, "long", "x/v1") == style_of(files, "long_caption", "x/v1") == "long_caption"
    assert style_of(files[:2], "short", "x/v1") == "short_caption"
    assert style_of(files, "short", "x/v1") == "short", "what is called just so comes first"
    with pytest.raises(ConfigError, match="no row of x/v1 has a caption of style 'shrot': did you mean 'short'"):
        style_of(files[:2], "shrot", "x/v1")


def test_what_is_null_or_empty_is_left_out_and_numbers_keep_their_kind() -> None:
    nested = pa.struct({"a": pa.list_(pa.float32()), "b": pa.struct({"c": pa.int64()}), "when": pa.date32()})
    table = pa.RecordBatch.from_pydict(
        {
            "id": pa.array(["x/1", 'x/"2"\n', "x/3"]),
            "real": pa.array([1.0, float("nan"), -2.5]),
            "small": pa.array([0.1, 1e30, None], pa.float32()),
            "whole": pa.array([2**53 + 1, None, -1], pa.int64()),
            "yes": pa.array([True, False, None]),
            "nested": pa.array(
                [{"a": [1.0, None], "b": {"c": 1}}, {"a": [], "b": {"c": None}},
                 {"a": [float("inf")], "when": datetime.date(2026, 1, 2)}], nested
            ),
            "image": pa.array([{"bytes": b"x", "path": None}] * 3),
            "mask": pa.array([[b"x"], None, []]),
            "nothing": pa.nulls(3),
            "extra": pa.array(['{"a": 1}', "[]", None], pa.json_()),
            "boxes": pa.array([[[0, 0.5], [1, 1]], [], None], pa.large_list(pa.list_(pa.float64(), 2))),
            "bare": pa.array([{}] * 3, pa.struct([])),
            "price": pa.array([Decimal("1.50"), None, Decimal("2.00")]),
            "at": pa.array([datetime.datetime(2026, 1, 2, 3), None, None], pa.timestamp("s")),
        }
    )  # fmt: skip
    first, second, third = (json.loads(text) for text in told(table).to_pylist())
    assert first == {
        "id": "x/1", "real": 1.0, "small": 0.1, "whole": 2**53 + 1, "yes": True,
        "nested": {"a": [1.0, None], "b": {"c": 1}}, "extra": '{"a": 1}', "price": "1.50",
        "at": "2026-01-02T03:00:00.000000", "boxes": [[0.0, 0.5], [1.0, 1.0]],
    }  # fmt: skip
    assert isinstance(first["real"], float)
    assert second == {"id": 'x/"2"\n', "small": 1e30, "yes": False, "extra": "[]"}
    assert [json.loads(text) for text in told(table.slice(1)).to_pylist()] == [second, third]
    assert third == {"id": "x/3", "real": -2.5, "whole": -1, "nested": {"when": "2026-01-02"}, "price": "2.00"}
