"""The schema's columns: what goes in comes out, whatever the slicing, and the text of a row says all of it."""

import datetime
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hfds import record
from hfds.record import DROPPED, FEATURES, SCHEMA, canonical, captions, column, json_objects, json_values, records

FUZZ = settings(deadline=None, derandomize=True, database=None)
CAPTIONS = SCHEMA.field("captions").type
GENERATION = SCHEMA.field("generation").type


def sliced(array: pa.Array) -> pa.Array:
    """The same values, from the middle of a longer array."""
    return pa.concat_arrays([array[:1], array, array[-1:]])[min(len(array), 1) :][: len(array)]


def chunked(array: pa.Array) -> pa.ChunkedArray:
    """The same values in three chunks, one of them empty, at odd offsets."""
    cut = len(array) // 2
    return pa.chunked_array([sliced(array)[:cut], array[:0], array[cut:]], array.type)


WAYS: list[Callable[[pa.Array], Any]] = [lambda array: array, sliced, chunked]
ways = pytest.mark.parametrize("way", WAYS, ids=["whole", "sliced", "chunked"])


# Columns


@pytest.mark.parametrize(
    "values, type_, expected",
    [
        (None, pa.string(), [None, None]),
        ("a", pa.string(), ["a", "a"]),
        ("", pa.string(), ["", ""]),
        (7, pa.int64(), [7, 7]),
        (0, pa.float32(), [0.0, 0.0]),
        (None, CAPTIONS, [None, None]),
        (None, DROPPED, [None, None]),
        (["a", None], pa.string(), ["a", None]),
        ([None, None], GENERATION, [None, None]),
        ([2**63 - 1, -(2**63)], pa.int64(), [2**63 - 1, -(2**63)]),
        (
            [{"bytes": b"\xff", "path": None}, None],
            SCHEMA.field("image").type,
            [{"bytes": b"\xff", "path": None}, None],
        ),
        (np.array([1.5, math.nan]), pa.float64(), [1.5, None]),
        (np.array([1, 2], np.uint8), pa.int64(), [1, 2]),
        (np.array(["a", None], object), pa.string(), ["a", None]),
        (pa.array(["a", None], pa.large_string()), pa.string(), ["a", None]),
        (pa.array(["a", "a"]).dictionary_encode(), pa.string(), ["a", "a"]),
        (pa.array(["1", None]), pa.int32(), [1, None]),
        (pa.nulls(2), CAPTIONS, [None, None]),
        (pa.chunked_array([], pa.string()), pa.string(), []),
        (pa.chunked_array([["a"], [], [None]]), pa.string(), ["a", None]),
        (np.array([], np.int64), pa.int32(), []),
    ],
)
def test_a_column_is_what_was_given_in_the_wanted_type(values: Any, type_: pa.DataType, expected: list[Any]) -> None:
    made = column(values, type_, len(expected))
    assert isinstance(made, pa.Array)
    assert made.type == type_
    assert made.to_pylist() == expected
    made.validate(full=True)


@ways
@pytest.mark.parametrize(
    "values",
    [
        pa.array(['{"a": 1}', None, "[]"]),
        pa.array(['{"a": 1}', None, "[]"], pa.large_string()),
        pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}', None, "[]"])),
    ],
    ids=["string", "large_string", "json"],
)
def test_a_json_column_keeps_its_texts(values: pa.Array, way: Callable[[pa.Array], Any]) -> None:
    made = column(way(values), pa.json_(), 3)
    assert made.type == pa.json_()
    assert made.storage.to_pylist() == ['{"a": 1}', None, "[]"]
    assert column("{}", pa.json_(), 2).to_pylist() == ["{}", "{}"]
    assert column(['{"a": 1}', None], pa.json_(), 2).to_pylist() == ['{"a": 1}', None]


@pytest.mark.parametrize(
    "values, type_",
    [("a", pa.int32()), ([2**31], pa.int32()), ([1.5], pa.int32()), ([b"\xff"], pa.string()), (["x"], pa.float64())],
)
def test_what_does_not_fit_its_type_is_an_error(values: Any, type_: pa.DataType) -> None:
    with pytest.raises((pa.ArrowException, TypeError)):
        column(values if isinstance(values, str) else pa.array(values), type_, 1)


@ways
def test_a_struct_is_null_where_it_is_not_valid_or_holds_nothing(way: Callable[[pa.Array], Any]) -> None:
    seed, steps = way(pa.array([1, None, 3])), way(pa.array([None, None, 50], pa.int64()))
    empty = dict.fromkeys(field.name for field in GENERATION)
    made = record.struct_of(GENERATION, 3, {"seed": seed, "steps": steps})
    assert made.to_pylist() == [{**empty, "seed": 1}, None, {**empty, "seed": 3, "steps": 50}]
    valid = sliced(pa.array([True, False, True]))
    made = record.struct(GENERATION, 3, {"seed": seed}, valid)
    assert made.to_pylist() == [{**empty, "seed": 1}, None, {**empty, "seed": 3}]
    assert record.struct(GENERATION, 3, {"seed": seed}).to_pylist()[1] == empty
    assert record.struct_of(GENERATION, 2, {}).to_pylist() == [None, None]
    assert record.struct_of(GENERATION, 2, {"model": "sd"}).to_pylist() == [{**empty, "model": "sd"}] * 2
    assert len(record.struct_of(GENERATION, 0, {"model": "sd"})) == 0


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_records_have_the_schema_and_null_for_what_is_not_said(rows: int) -> None:
    table = records(rows, source="s", generation={"seed": np.arange(rows)}, captions={"short": "a", "long": None})
    assert table.schema == SCHEMA == FEATURES.arrow_schema
    assert table.num_rows == rows
    table.validate(full=True)
    for row, said in enumerate(table.to_pylist()):
        assert said.pop("source") == "s"
        assert said.pop("generation") == {**dict.fromkeys(field.name for field in GENERATION), "seed": row}
        assert said.pop("captions") == [{"style": "short", "text": "a"}]
        assert set(said.values()) == {None}


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"promt": "a"}, r"not columns of the common schema: \['promt'\]"),
        ({"generation": {"sede": 1}}, "sede"),
        ({"dropped": {"why": "x"}}, "why"),
        ({"image": {"data": None}}, "data"),
    ],
)
def test_a_misspelled_column_or_field_is_an_error(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(KeyError, match=message):
        records(1, **columns)


def test_columns_of_another_length_are_an_error() -> None:
    for columns in ({"id": ["a"]}, {"generation": {"seed": [1, 2, 3]}}, {"captions": {"short": ["a"]}}):
        with pytest.raises(ValueError, match=r"a column of \d values for 2 rows"):
            records(2, **columns)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@settings(FUZZ, max_examples=60)
@given(st.lists(st.tuples(*[st.none() | texts] * 3), max_size=6), st.sampled_from(WAYS))
def test_captions_are_the_texts_in_the_order_of_the_styles(rows: list[tuple[str | None, ...]], way: Any) -> None:
    styles = {s: way(pa.array([row[i] for row in rows], pa.string())) for i, s in enumerate(("z", "a", "m"))}
    made = captions(len(rows), styles)
    made.validate(full=True)
    assert made.type == CAPTIONS
    wanted = [[{"style": s, "text": t} for s, t in zip(styles, row, strict=True) if t is not None] for row in rows]
    assert made.to_pylist() == wanted
    one = captions(len(rows), {"z": styles["z"]})
    assert one.to_pylist() == [[c for c in row if c["style"] == "z"] for row in wanted]
    assert captions(len(rows), {}).to_pylist() == [[]] * len(rows)


@ways
def test_drops_are_null_where_there_is_no_reason(way: Callable[[pa.Array], Any]) -> None:
    made = record.drops("clean", 3, way(pa.array(["short", None, "long"])), way(pa.array(["1", "2", None])), "4")
    assert made.type == DROPPED
    said = [("short", "1"), None, ("long", None)]
    assert [row and (row["reason"], row["value"]) for row in made.to_pylist()] == said
    assert made.field("step").drop_null().unique().to_pylist() == ["clean"]
    assert made.field("threshold").drop_null().unique().to_pylist() == ["4"]
    assert record.drops("clean", 2, None).null_count == 2
    assert record.drops("clean", 2, "all").field("reason").to_pylist() == ["all", "all"]
    assert len(record.drops("clean", 0, [])) == 0


def test_a_dropped_row_says_who_and_why() -> None:
    (row,) = record.dropped_row("s/1", "s", "no_picture", "x.jpg", license="MIT").to_pylist()
    assert (row["id"], row["source"], row["license"], row["prompt"]) == ("s/1", "s", "MIT", None)
    said = {"step": "s", "reason": "no_picture", "value": "x.jpg", "threshold": None, "partner": None}
    assert row["dropped"] == {**said, "partner_in": None}


# JSON


def strictly(text: str) -> Any:
    """As a parser reads it that knows no NaN."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.text(
    st.sampled_from('"\\/\b\f\n\r\t\0\x01\x1f\x7f\u2028é猫😀a'), max_size=12
)
plain = {
    "text": (pa.string(), any_text),
    "large": (pa.large_string(), any_text),
    "view": (pa.string_view(), any_text),
    "int": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "uint": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "float": (pa.float64(), st.floats()),
    "single": (pa.float32(), st.floats(width=32)),
    "half": (pa.float16(), st.floats(width=16)),
    "bool": (pa.bool_(), st.booleans()),
    "null": (pa.null(), st.none()),
    'a "key" \\ é\n': (pa.list_(pa.float64()), st.lists(st.none() | st.floats(), max_size=3)),
    "nested": (
        pa.struct([("a", pa.list_(pa.string())), ("b", pa.int64())]),
        st.fixed_dictionaries({"a": st.none() | st.lists(any_text, max_size=2), "b": st.none() | st.integers(-9, 9)}),
    ),
}


def finite(value: Any) -> Any:
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@settings(FUZZ, max_examples=150)
@given(st.lists(st.fixed_dictionaries({name: st.none() | s for name, (_, s) in plain.items()}), max_size=4), st.data())
def test_json_objects_say_what_the_columns_said(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    way = data.draw(st.sampled_from(WAYS))
    arrays = {name: pa.array([row[name] for row in rows], type_) for name, (type_, _) in plain.items()}
    made = json_objects({name: way(array) for name, array in arrays.items()})
    assert made.type == pa.json_()
    made.validate(full=True)
    said = [strictly(text) if text else {} for text in made.storage.to_pylist()]
    wanted = [{name: finite(array[row].as_py()) for name, array in arrays.items()} for row in range(len(rows))]
    kept = [[name for name in plain if row[name] is not None] for row in wanted]
    assert [list(row) for row in said] == kept, "what is null is left out"
    for row, (found, expected) in enumerate(zip(said, wanted, strict=True)):
        for name in kept[row]:
            type_ = plain[name][0]
            if pa.types.is_floating(type_) and expected[name] is not None:
                found[name] = pa.scalar(found[name], pa.float64()).cast(type_).as_py()  # 0.1 of 32 bits is "0.1"
            assert found[name] == expected[name], (row, name)
            assert type(found[name]) is type(expected[name]), (row, name)


@ways
def test_texts_are_escaped_where_they_stand(way: Callable[[pa.Array], Any]) -> None:
    values = [None, "plain", 'q"', "\\", "\n", "", None, "\0\x1f\x7f", '\\"\n', "é"]
    made = json_values(way(pa.array(values))).to_pylist()
    assert [text if text is None else strictly(text) for text in made] == values
    assert made == [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]


NEW_YEAR = datetime.datetime(2024, 12, 31, 23, 59, 59, 5)


@pytest.mark.parametrize(
    "values, expected",
    [
        (pa.array([NEW_YEAR, None]), ['"2024-12-31T23:59:59.000005"', None]),
        (pa.array([NEW_YEAR], pa.timestamp("us", "UTC")), ['"2024-12-31T23:59:59.000005Z"']),
        (pa.array([0], pa.timestamp("s", "America/New_York")), ['"1970-01-01T00:00:00.000000Z"']),
        (pa.array([1], pa.timestamp("ns")), ['"1970-01-01T00:00:00.000000001"']),
        (pa.array([1], pa.timestamp("ns", "UTC")), ['"1970-01-01T00:00:00.000000001Z"']),
        (pa.array([datetime.date(2024, 2, 29), None]), ['"2024-02-29"', None]),
        (pa.array([datetime.time(1, 2, 3), None]), ['"01:02:03.000000"', None]),
        (pa.array([[NEW_YEAR], [None], None]), ['["2024-12-31T23:59:59.000005"]', "[null]", None]),
        (pa.array([[math.nan, math.inf, 1.5]]), ["[null, null, 1.5]"]),
        (pa.array([{"a": [{"b": -math.inf}]}]), ['{"a": [{"b": null}]}']),
        (pa.array([math.nan, -math.inf, None, 1e300]), [None, None, None, "1e+300"]),
        (pa.array(["a", None, "a"]).dictionary_encode(), ['"a"', None, '"a"']),
        (pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"n": 1e999}', None])), ['{"n": 1e999}', None]),
        (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
        (pa.array([], pa.string()), []),
        (pa.chunked_array([], pa.float32()), []),
    ],
)
def test_json_values_of_other_kinds(values: pa.Array, expected: list[str | None]) -> None:
    assert json_values(values).to_pylist() == expected


@pytest.mark.parametrize("values", [[b"x"], [datetime.timedelta(1)], [{"a": b"x"}]])
def test_what_json_cannot_say_is_an_error(values: list[Any]) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        json_values(pa.array(values))


def test_json_objects_of_json_columns_keep_them_verbatim() -> None:
    inner = pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"seed": 18446744073709551616}', None]))
    assert json_objects({"said": inner, "n": pa.array([1, 2])}).storage.to_pylist() == [
        '{"said": {"seed": 18446744073709551616}, "n": 1}',
        '{"n": 2}',
    ]
    nothing = {"a": pa.nulls(2, pa.string()), "b": pa.array([None, 1])}
    assert json_objects(nothing).to_pylist() == [None, '{"b": 1}']
    assert json_objects(nothing, pa.array(['"c": 2', '"c": 3'])).to_pylist() == ['{"c": 2}', '{"b": 1, "c": 3}']


# Hashes and the text of a row


@ways
def test_hashes_of_texts_are_xxh3_of_their_utf8(way: Callable[[pa.Array], Any]) -> None:
    values = ["a", "", None, "é猫\0", "a" * 5000]
    made = record.hash_texts(way(pa.array(values)))
    assert (made.shape, made.dtype) == ((5, 2), np.uint64)
    assert [row.tobytes() for row in made] == [xxhash.xxh3_128_digest((value or "").encode()) for value in values]
    assert record.hash_texts(pa.array([], pa.string())).shape == (0, 2)


def both(first: Any, second: Any, type_: pa.DataType | None = None) -> pa.Table:
    return pa.table({"a": pa.array([first, second], type_)})


def rows_of(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), pa.schema([(name, pa.string()) for name in rows[0]]))


@pytest.mark.parametrize(
    "table",
    [
        both(None, "~"), both("", None), both("", "~"), both("1:a", "a"), both("a,", "a"), both("a;", "a"),
        both(b"", None), both(b"\xff", b"\xfe"), both(b"\xff,", b"\xff"), both(0, None), both(1, 11), both(True, False),
        both(0.0, -0.0), both(math.nan, None), both(1.0, math.nextafter(1.0, 2)), both(1.0, 2.0, pa.float16()),
        both([], None), both([None], []), both([None], None), both([None, None], [None]), both([""], []),
        both(["a", "b"], ["a,b"]), both(["a", "b"], ["ab"]), both(["ab", ""], ["a", "b"]), both(["1:b"], ["b"]),
        both([["a"], []], [[], ["a"]]), both([["a", "b"]], [["a"], ["b"]]), both([1, 2], [12]), both([None], ["~"]),
        both({"x": None}, None), both({"x": "a", "y": None}, {"x": None, "y": "a"}), both({"x": "~"}, {"x": None}),
        both([{"s": "a", "t": "b"}], [{"s": "a", "t": "c"}]), both({"x": []}, {"x": None}),
        both([1.0, 2.0], [1.0, 3.0], pa.list_(pa.float32(), 2)), both(None, [0.0, 0.0], pa.list_(pa.float32(), 2)),
        both([None, 0.0], [0.0, None], pa.list_(pa.float32(), 2)), both("a", "a~", pa.large_string()),
        both("a", "b", pa.dictionary(pa.int8(), pa.string())), both(NEW_YEAR.date(), datetime.date(2024, 1, 2)),
        both(NEW_YEAR, NEW_YEAR.replace(microsecond=6)), both("a", "a,", pa.string_view()),
        rows_of({"a": "xy", "b": "z"}, {"a": "x", "b": "yz"}), rows_of({"a": None, "b": "z"}, {"a": "z", "b": None}),
        rows_of({"a": "1", "b": ";b=1:1"}, {"a": "1;b=1:1", "b": ""}),
        rows_of({"a": "", "b": None}, {"a": None, "b": ""}),
        rows_of({"a": "x;b=~", "b": None}, {"a": "x", "b": None}),
    ],
)  # fmt: skip
def test_two_rows_that_differ_have_texts_that_differ(table: pa.Table) -> None:
    first, second = canonical(table).cast(pa.binary()).to_pylist()
    assert first != second
    assert canonical(pa.concat_tables([table[:1], table[:1]])).cast(pa.binary()).to_pylist() == [first, first]


tricky = st.text(st.sampled_from("~,:;=[]{}f01ab"), max_size=4)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def some(strategy: st.SearchStrategy[Any], most: int, fewest: int = 0) -> st.SearchStrategy[Any]:
    return st.none() | st.lists(maybe(strategy), min_size=fewest, max_size=most)


SHAPES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "text": (pa.string(), maybe(tricky)),
    "texts": (pa.list_(pa.string()), some(tricky, 3)),
    "lists": (pa.list_(pa.list_(pa.int8())), some(st.lists(st.integers(0, 3), max_size=2), 2)),
    "pair": (
        pa.struct([("x", pa.string()), ("y", pa.int32())]),
        maybe(st.fixed_dictionaries({"x": maybe(tricky), "y": maybe(st.integers(-2, 12))})),
    ),
    "pairs": (CAPTIONS, some(st.fixed_dictionaries({"style": maybe(tricky), "text": tricky}), 2)),
    "bytes": (pa.binary(), maybe(st.binary(max_size=2))),
    "embedding": (pa.list_(pa.float32(), 2), some(st.sampled_from([0.0, 1.5]), 2, 2)),
    "half": (pa.float16(), maybe(st.sampled_from([0.0, 0.5, 65504.0]))),
    "kind": (pa.dictionary(pa.int8(), pa.string()), maybe(tricky)),
    "json": (pa.json_(), maybe(tricky)),
    "flag": (pa.bool_(), maybe(st.booleans())),
}
ROWS = st.lists(st.fixed_dictionaries({name: shape[1] for name, shape in SHAPES.items()}), min_size=1, max_size=5)


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.table({name: column([row[name] for row in rows], SHAPES[name][0], len(rows)) for name in SHAPES})


@settings(FUZZ, max_examples=60)
@given(ROWS)
def test_the_text_of_a_row_does_not_depend_on_where_it_stands(rows: list[dict[str, Any]]) -> None:
    table = table_of(rows)
    wanted = canonical(table).cast(pa.binary()).to_pylist()
    for same in (
        pa.table({name: sliced(table[name].chunk(0)) for name in table.column_names}),
        pa.table({name: chunked(table[name].chunk(0)) for name in table.column_names}),
        pa.concat_tables([table[:1], table[1:]]),
        table.select(table.column_names[::-1]),
        pa.concat_tables([table, table]).slice(len(table)),
    ):
        assert canonical(same).cast(pa.binary()).to_pylist() == wanted
    for row in range(len(rows)):
        assert canonical(table[row : row + 1]).cast(pa.binary()).to_pylist() == [wanted[row]]


@settings(FUZZ, max_examples=200)
@given(st.sampled_from(sorted(SHAPES)), st.data())
@example("text", None)
def test_texts_are_equal_just_where_rows_are(name: str, data: st.DataObject | None) -> None:
    type_, strategy = SHAPES[name]
    values = [None, ""] if data is None else data.draw(st.lists(strategy, min_size=2, max_size=8))
    said = canonical(pa.table({"a": column(values, type_, len(values))})).cast(pa.binary()).to_pylist()
    for i, first in enumerate(values):
        for j, second in enumerate(values):
            assert (said[i] == said[j]) == (first == second), (first, second)


@settings(FUZZ, max_examples=100)
@given(ROWS, st.sampled_from(sorted(SHAPES)), st.data())
def test_the_text_of_a_row_says_each_value(rows: list[dict[str, Any]], name: str, data: st.DataObject) -> None:
    other = data.draw(SHAPES[name][1])
    changed = [{**rows[0], name: other}, *rows[1:]]
    before, after = (canonical(table_of(each)).cast(pa.binary()).to_pylist() for each in (rows, changed))
    assert (before[0] == after[0]) == (rows[0][name] == other)
    assert before[1:] == after[1:]


def test_the_text_of_a_row_is_the_same_whoever_wrote_it() -> None:
    strings = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()), pa.json_()]
    written = [canonical(pa.table({"a": column(["x", None], t, 2)})).to_pylist() for t in strings]
    assert written == [["a=1:x;", "a=~;"]] * len(strings)
    lists = [pa.list_(pa.float32()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 1)]
    assert len({str(canonical(pa.table({"a": pa.array([[0.5], None], t)})).to_pylist()) for t in lists}) == 1


@pytest.mark.parametrize("rows", [0, 2])
def test_the_text_of_records(rows: int) -> None:
    table = records(rows, id=[str(i) for i in range(rows)], captions={"short": "a"}, generation={"seed": 1})
    assert len(set(canonical(table).to_pylist())) == rows
    assert len(canonical(table)) == rows


@pytest.mark.parametrize(
    "text, expected",
    [("a é 猫", "a é 猫"), ("a\x1b[31m", "a\\x1b[31m"), ("\ud800", "\\ud800"), ("é\n", "é\\n"), ("", "")],
)
def test_printable(text: str, expected: str) -> None:
    assert record.printable(text) == expected
    assert record.printable(text).isprintable()


@pytest.mark.parametrize("value, expected", [("a", "a"), ("\ud83d", "?"), (1, None), (None, None), ([], None)])
def test_text_or_none(value: object, expected: str | None) -> None:
    assert record.text_or_none(value) == expected
    pa.array([record.text_or_none(value)], pa.string())
