"""Rules: what they say, what they refuse, and the fate of every row, checked against plain Python row by row."""

import ast
import math
import pickle
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Value
from fixtures import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from hfds import record
from hfds.errors import ConfigError
from hfds.release import Input, Release, build
from hfds.run import Run
from processors.keep import Keep
from processors.rules import parse

DOCS = (Path(__file__).parents[1] / "docs/rules.md").read_text("utf-8")
SCORES = dict.fromkeys(("nsfw", "watermark", "aesthetic", "similarity"), Value("float32"))


def fates(step: Keep, **columns: Any) -> list[tuple[str | None, ...] | None]:
    """Reason, value and threshold of every row, None for rows that are kept."""
    dropped = step(Dataset(pa.table(columns)))["dropped"][:]
    return [d and (d["reason"], d["value"], d["threshold"]) for d in dropped]


def kept(rule: str, **columns: Any) -> list[bool]:
    return [fate is None for fate in fates(Keep(rule), **columns)]


def floats(*values: float | None) -> pa.Array:
    return pa.array(values, pa.float32())


# --- reasons, values, thresholds


def test_the_first_clause_that_is_not_true_is_the_reason() -> None:
    scores = pa.array([{"aesthetic": 6.0}, {"aesthetic": 4.0}, {"aesthetic": 4.0}, {"aesthetic": None}, None])
    made = Keep("nsfw < 0.0006 and source_scores.aesthetic >= 5")(
        Dataset(pa.table({"nsfw": floats(0, 0, 0.25, 0, 0), "source_scores": scores}))
    )

    step = {"step": "Keep", "partner": None, "partner_in": None}
    assert made["dropped"][:] == [
        None,
        {**step, "reason": "source_scores_aesthetic", "value": "4", "threshold": ">= 5"},
        {**step, "reason": "nsfw", "value": "0.25", "threshold": "< 0.0006"},
        {**step, "reason": "source_scores_aesthetic_missing", "value": None, "threshold": ">= 5"},
        {**step, "reason": "source_scores_aesthetic_missing", "value": None, "threshold": ">= 5"},
    ]


@pytest.mark.parametrize(
    "rule, reason, value, threshold",
    [
        ("0.5>x", "x", "0.5", "0.5>x"),
        ("(x) < (0.1 + 0.2)", "x", "0.5", "< 0.1 + 0.2"),
        ("x  <  1e-1", "x", "0.5", "< 1e-1"),
        ("((x < 0.1) and y > 0)", "x", "0.5", "< 0.1"),
        ("y > 0 and (y > 0 and\n x + y < 2)", "x_y", "3.5", "< 2"),
        ("-x > 0", "x", "-0.5", "> 0"),
        ("x < 0.1 < y", "x_y", "x=0.5, y=3", "x < 0.1 < y"),
        ("not flag", "flag", "flag=true", "not flag"),
        ("flag == False", "flag", "true", "== False"),
        ("not (x > 0 or s.t == 'b')", "x_s_t", "x=0.5, s.t=é", "not (x > 0 or s.t == 'b')"),
        ("s.t not in ('é', 'b')", "s_t", "é", "not in ('é', 'b')"),
        ("s is None", "s", "a struct", "is None"),
        ("items is None", "items", "a list", "is None"),
        ("items is None or none is not None", "items_none", "items=a list, none=None", None),
        ("x / (y - 3) < 1", "x_y", "inf", "< 1"),
        ("0 * x / 0 < 1", "x", "nan", "< 1"),
        ("x != x or x > y", "x_y", "x=0.5, y=3", "x != x or x > y"),
        ("long == ''", "long", "ä" * 200, "== ''"),
        (f"y in ({'1, ' * 100}1)", "y", "3", f"in ({'1, ' * 100}"[:200]),
    ],
)
def test_what_the_ledger_says(rule: str, reason: str, value: str, threshold: str | None) -> None:
    columns = {"x": floats(0.5), "y": [3], "flag": [True], "s": [{"t": "é"}], "items": [["a"]], "long": ["ä" * 999]}
    assert fates(Keep(rule), **columns, none=[None]) == [(reason, value, threshold or rule)]


def test_a_reason_of_ones_own() -> None:
    assert fates(Keep("x < 1 and y < 1", reason="odd"), x=[1, 0, None], y=[0, 1, 0]) == [
        ("odd", "1", "< 1"),
        ("odd", "1", "< 1"),
        ("odd_missing", None, "< 1"),
    ]


def test_dropped_rows_keep_their_reason() -> None:
    given = Dataset(pa.table({"x": [1, 5, 1], "dropped": record.drops("Earlier", 3, ["bad", None, None])}))
    assert [d and (d["step"], d["reason"]) for d in Keep("x < 3")(given)["dropped"]] == [
        ("Earlier", "bad"),
        ("Keep", "x"),
        None,
    ]


# --- null


def test_missing_values_drop_or_keep() -> None:
    columns = {"x": [None, 1, None], "y": [1, None, 9]}
    rule = Keep("x < 5 and y < 5")
    assert fates(rule, **columns) == [
        ("x_missing", None, "< 5"),
        ("y_missing", None, "< 5"),
        ("x_missing", None, "< 5"),
    ]
    assert fates(replace(rule, missing="keep"), **columns) == [None, None, ("y", "9", "< 5")]


@pytest.mark.parametrize(
    "rule, rows",
    [
        ("x is None", [True, False]),
        ("not x is not None", [True, False]),
        ("x is None or x > 1", [True, True]),
        ("x > 1 or y == 1", [True, True]),
        ("not (x > 1 and y != 1)", [True, True]),
        ("x > 1 or y != 1", [False, True]),
        ("x in (2, 3)", [False, True]),
        ("x not in (3, 4)", [False, True]),
        ("min(x, y) < 9", [False, True]),
        ("x > 1 or True", [True, True]),
    ],
)
def test_null_is_neither_true_nor_false(rule: str, rows: list[bool]) -> None:
    assert kept(rule, x=[None, 2], y=[1, 1]) == rows


@pytest.mark.parametrize(
    "rule", ["x < 1", "x == 'a'", "x in (1, 2)", "x in ('a',)", "len(x) > 1", "x + 1 > 1", "not x"]
)
def test_a_column_of_nulls_fits_everywhere(rule: str) -> None:
    assert [fate and fate[0] for fate in fates(Keep(rule), x=[None, None])] == ["x_missing"] * 2


def test_null_in_columns_of_every_kind() -> None:
    table = record.records(2, id=["a", "b"], extra=['{"a": 1}', None], image={"path": ["x.png", None]})
    table = table.append_column("day", pa.array([1, None], pa.timestamp("s")))
    for name in ("extra", "image", "day"):
        verdicts = Keep(f"{name} is not None").verdicts(table.set_column(0, "id", table["id"]))
        assert [v and v["reason"] for v in verdicts.to_pylist()] == [None, name], name


# --- numbers and texts


def test_constants_have_the_precision_of_the_column() -> None:
    for type_ in (pa.float16(), pa.float32(), pa.float64()):
        x = pa.array(np.array([0.1, 0.5], type_.to_pandas_dtype()))
        assert kept("x == 0.1", x=x) == [True, False]
        assert kept("x < 0.1", x=x) == [False, False]
        assert kept("0.1 <= x <= 0.2", x=x) == [True, False]
        assert kept("x in (0.1, 7)", x=x) == [True, False]
    assert kept("x * 1 == 0.1", x=floats(0.1)) == [False], "what is calculated is float64"
    assert kept("x == y", x=floats(0.1), y=[0.1]) == [False], "and so is another column"


def test_constants_that_float32_does_not_have_are_not_rounded() -> None:
    assert kept("x >= 1e-60", x=floats(0, 1e-30)) == [False, True]
    assert kept("x <= 1e300", x=floats(3e38, math.inf)) == [True, False]
    assert kept("x == 0 or x == 0.0", x=floats(0, 1)) == [True, False]


def test_whole_numbers_are_exact() -> None:
    seed = pa.array([2**62, 2**62 + 1, -(2**63)])
    assert kept(f"seed == {2**62 + 1}", seed=seed) == [False, True, False]
    assert kept(f"seed in ({2**62 + 1}, 5)", seed=seed) == [False, True, False]
    assert kept(f"seed == {-(2**63)}", seed=seed) == [False, False, True]
    unsigned = pa.array([2**64 - 1, 2**63 - 1, 0], pa.uint64())
    assert kept(f"seed > {2**63 - 1}", seed=unsigned) == [True, False, False]
    assert kept("seed < -1", seed=unsigned) == [False, False, False]
    assert kept(f"seed in ({2**63 - 1}, -1)", seed=unsigned) == [False, True, False]
    assert kept("seed < 0.5", seed=unsigned) == [False, False, True]


def test_calculations_neither_wrap_nor_cut() -> None:
    big = pa.array([2**62, -(2**63)])
    assert fates(Keep("abs(x) * 4 < 0"), x=big) == [
        ("x", "1.8446744073709552e+19", "< 0"),
        ("x", "3.6893488147419103e+19", "< 0"),
    ]
    assert kept("7 / x == 3.5", x=pa.array([2], pa.int8())) == [True]
    assert kept("x + 100 == 200", x=pa.array([100], pa.int8())) == [True]


def test_texts_and_lists() -> None:
    texts = ["é猫🐱", "", "z", "it's"]
    for type_ in (pa.string(), pa.large_string()):
        t = pa.array(texts, type_)
        assert kept("len(t) >= 3", t=t) == [True, False, False, True]
        assert kept("'a' <= t < 'é'", t=t) == [False, False, True, True]
        assert kept('t in ("é猫🐱", "it\'s")', t=t) == [True, False, False, True]
        assert kept("t == u and t != ''", t=t, u=texts) == [True, False, True, True]
    assert kept("len(x) == 2", x=[[1, 2], []]) == [True, False]
    assert kept("größe > 1", größe=[2, 1]) == [True, False]


# --- what is refused


@pytest.mark.parametrize(
    "rule",
    [
        "__import__('os').system('true')",
        "eval('1') < x",
        "(1).__class__ == x",
        "'{0.__class__}'.format(x) == x",
        "x[0] < 1",
        "[y for y in x] == 1",
        "(lambda: 1)() < x",
        "(y := x) < 1",
        "x if x else x",
        "f'{x}' == 'a'",
        "9**9**9 < x",
        "x % 2 == 0",
        "x // 2 == 0",
        "(x < 1) & (x < 2)",
        "~x < 1",
        "+x < 1",
        "x << 2 < 1",
        "x < 1j",
        "x == b'a'",
        "x == ...",
        "x == None",
        "x < 1e999",
        f"x < {2**63}",
        f"x < -{2**63 + 1}",
        "x is True",
        "x is 5",
        "x in ()",
        "x in ('a')",
        "x in [1]",
        "x in {1}",
        "x in y",
        "x in (1, y)",
        "x in (1, 'a')",
        "x in (1, True)",
        "x in (1, None)",
        "1 < x in (1, 2)",
        "x is None is None",
        "abs()",
        "abs(x, x) < 1",
        "min(x) < 1",
        "min(*x) < 1",
        "max(x, x, key=x) < 1",
        "len(x, x) < 1",
        "sum(x) < 1",
        "x.lower() == 'a'",
        "(x + x).real < 1",
        "(x, x) == 1",
        "await x",
        "x < 1; x < 2",
        "x = 1",
        "x <",
        "x\n< 1",
        "import os",
        "# x < 1",
        "x == '\\d'",
        "x == '\\ud800'",
        "x == '\ud800'",
        "x == '\0'",
        "1 < 2",
        "x < 1 and True",
        "x < 1 and 1 in (1, 2)",
        "",
        "  \n",
    ],
)
@pytest.mark.filterwarnings("ignore")  # whoever ignores those of Python's parser gets the same problems
def test_nothing_but_the_language_is_a_rule(rule: str) -> None:
    (problem,) = Keep(rule).problems()
    assert problem.startswith("Keep: ")
    assert "\n" not in problem
    with pytest.raises(ConfigError, match=re.escape(problem)):
        Keep(rule)(Dataset(pa.table({"x": [1]})))


@pytest.mark.parametrize(
    "rule, problem",
    [
        ("x < 2 and y ** 2 < 1", "'y ** 2' cannot be in a rule, which is made of comparisons (< <= > >= == !=), "),
        ("x < 2\t and (y <= 1", "rule 'x < 2\\t and (y <= 1' cannot be read at line 1, character 12: '(' was never"),
        ("x in (1, y + 1)", "'(1, y + 1)' behind 'in' must hold constants only, got 'y + 1'"),
        ("x in (1, 'a')", "\"(1, 'a')\" mixes a number with text"),
        (f"x < {2**63}", f"'{2**63}' cannot be in a rule, of which the constants are texts, whole numbers of 64 bits"),
        ("x < 1 and (y < 1) == None", "'None' cannot be in a rule, of which the constants are texts, "),
        ("é < 1 and 1 < 2", "'1 < 2' names no column, so that it is the same for all rows"),
        ("", "a rule has from 1 to 10,000 characters, got 0"),
    ],
)
def test_a_problem_quotes_what_was_received(rule: str, problem: str) -> None:
    assert Keep(rule).problems()[0].startswith(f"Keep: {problem}")


@pytest.mark.parametrize(
    "rule",
    [
        "-" * 9_990 + "x",
        "not " * 2_490 + "x",
        "(" * 5_000,
        "[" * 5_000,
        "(" * 150 + "-" * 9_000 + "x" + ")" * 150,
        "x" + "+x" * 4_990,
        "x" + "[x]" * 3_300,
        "abs(" * 190 + "x" + ")" * 190,
        "lambda:" * 1_400 + "x",
        "x if y else " * 800 + "x",
        "f'{" * 1_000,
        "9" * 9_999,
        "x" * 100_001,
        "(" * 100_000,
        "-" * 100_000 + "x",
    ],
)
def test_no_length_and_no_depth_breaks_the_reader(rule: str) -> None:
    (problem,) = Keep(rule).problems()
    assert len(problem) < 500
    assert parse("x < 1").columns == ("x",), "nor is it broken afterwards"


def test_wide_rules_are_no_deep_rules() -> None:
    for rule in ("x < 9" + " and x < 9" * 300, "x < 9" + " or x < 9" * 300, "x" + " < 9 > x" * 300):
        assert kept(rule, x=[1, 10]) == [True, False]
    assert kept("(" * 190 + "x < 1" + ")" * 190, x=[0]) == [True]


@pytest.mark.parametrize(
    "step, problem",
    [
        (Keep(5), "rule must be a text such as 'nsfw < 0.0006', got 5"),  # type: ignore[arg-type]
        (Keep("x < 1", reason="Not so!"), "reason must be None or a name such as 'unsafe_image', got 'Not so!'"),
        (Keep("x < 1", reason=""), "reason must be None or a name"),
        (Keep("x < 1", reason=7), "reason must be None or a name"),  # type: ignore[arg-type]
        (Keep("x < 1", missing="maybe"), "missing must be 'drop' or 'keep', got 'maybe'"),
        (Keep("x < 1", missing=[]), "missing must be 'drop' or 'keep', got []"),  # type: ignore[arg-type]
    ],
)
def test_parameters_that_cannot_be(step: Keep, problem: str) -> None:
    (found,) = step.problems()
    assert found.startswith(f"Keep: {problem}")


@pytest.mark.parametrize(
    "rule, problem",
    [
        ("prompt < 5", "'prompt < 5' compares text with a number"),
        ("nsfw == 'x'", "\"nsfw == 'x'\" compares a number with text"),
        ("nsfw in ('a', 'b')", "\"nsfw in ('a', 'b')\" compares a number with text"),
        ("0 < nsfw < prompt", "'0 < nsfw < prompt' compares a number with text"),
        ("nsfw", "'nsfw' is a number, wanted true or false"),
        ("not nsfw", "'not nsfw' joins tests, and one is a number, wanted true or false"),
        ("nsfw < 1 or prompt", "'nsfw < 1 or prompt' joins tests, and one is text, wanted true or false"),
        ("prompt + 1 < 2", "'prompt + 1' calculates with text, wanted a number"),
        ("-flag < 2", "'-flag' calculates with true or false, wanted a number"),
        ("nsfw < -True", "'-True' calculates with true or false, wanted a number"),
        ("max(nsfw, prompt) < 2", "'max(nsfw, prompt)' calculates with text, wanted a number"),
        ("len(nsfw) < 2", "'len(nsfw)' asks for the length of a number, wanted text or a list"),
        ("captions == captions", "'captions == captions' compares a list, wanted a number or text or true or false"),
        ("generation == 5", "'generation == 5' compares a struct with a number"),
        ("extra == 'a'", "\"extra == 'a'\" compares JSON with text"),
        ("flag < True", "'flag < True' asks which of true and false is more: write == or !="),
        ("flag == 1", "'flag == 1' compares true or false with a number"),
        ("source_scores.aestetic > 5", "'source_scores' has no field 'aestetic': did you mean 'aesthetic'?"),
        ("image.q == 'a'", "'image' has no field 'q': it is one of: bytes, path"),
        ("generation.seed.x > 5", "'generation.seed.x' asks for a field of 'generation.seed', which is a number"),
        ("captions.text == 'a'", "'captions.text' asks for a field of 'captions', which is a list"),
        ("prompt.__class__ == 'a'", "'prompt.__class__' asks for a field of 'prompt', which is text"),
    ],
)
def test_types_that_do_not_fit_are_found_before_and_by_hand(rule: str, problem: str) -> None:
    features = Features({**record.FEATURES, **SCORES, "flag": Value("bool")})
    assert Keep(rule).misfits(features) == [f"Keep: {problem}"]
    given = Dataset(features.arrow_schema.empty_table())
    row = pa.table([pa.nulls(1, field.type) for field in given.data.schema], schema=features.arrow_schema)
    with pytest.raises(ConfigError, match=f"^{re.escape(f'Keep: {problem}')}$"):
        Keep(rule)(Dataset(row))


def test_all_misfits_at_once_but_for_columns_that_are_not_there() -> None:
    step = Keep("nowhere.x < 1 and prompt < 5 and nowhere < 'a' and width == 'a' and height > 5")
    assert len(step.misfits(record.FEATURES)) == 2
    assert step.needs == ("nowhere", "prompt", "width", "height")
    with pytest.raises(KeyError, match="Keep needs the column 'nowhere'; there are: width"):
        step(Dataset(pa.table({"width": [1]})))


# --- against plain Python, row by row


@dataclass(frozen=True)
class Piece:
    """A part of a rule, and what it is for a row; `kind` is "constant", "float32" (a column of it) or "other"."""

    text: str
    of: Callable[[dict[str, Any]], Any]
    kind: str = "other"


FLOATS = [float(np.float32(value)) for value in (0.1, 0.3, 1, -2.5, math.nan, math.inf)]
COLUMNS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "i": (pa.int32(), [*range(-3, 4)]),
    "big": (pa.int64(), [2**62, 2**62 + 1, -(2**63), 0, 1]),
    "f": (pa.float32(), FLOATS),
    "d": (pa.float64(), [0.1, 0.3, 1.0, -2.5, 0.0]),
    "flag": (pa.bool_(), [True, False]),
    "t": (pa.string(), ["", "a", "é", "ab"]),
    "items": (pa.list_(pa.int8()), [[], [1], [1, 2]]),
    "s": (
        pa.struct({"d": pa.float64(), "t": pa.string()}),
        [{"d": d, "t": t} for d in (None, 0.1, 1.0) for t in (None, "a")],
    ),
}


def column(path: str, kind: str = "other") -> Piece:
    def of(row: Any) -> Any:
        for name in path.split("."):
            row = None if row is None else row[name]
        return row

    return Piece(path, of, kind)


def constant(value: Any) -> Piece:
    return Piece(repr(value), lambda row: value, "constant")


def work(text: str, function: Callable[..., Any], *pieces: Piece) -> Piece:
    """Null where one of `pieces` is null."""

    def of(row: dict[str, Any]) -> Any:
        values = [piece.of(row) for piece in pieces]
        return None if None in values else function(*values)

    same = all(piece.kind == "constant" for piece in pieces)
    return Piece(text.format(*(piece.text for piece in pieces)), of, "constant" if same else "other")


def divided(a: float, b: float) -> float:
    with np.errstate(all="ignore"):
        return float(np.float64(a) / np.float64(b))


def extreme(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *values: function([float(v) for v in values if not math.isnan(v)], default=math.nan)


def pair(sign: str, left: Piece, right: Piece) -> Callable[[dict[str, Any]], Any]:
    def near(value: Any, other: Piece, own: Piece) -> Any:
        rounded = own.kind == "constant" and other.kind == "float32"
        return float(np.float32(value)) if rounded else value

    def of(row: dict[str, Any]) -> Any:
        a, b = left.of(row), right.of(row)
        if a is None or b is None:
            return None
        a, b = near(a, right, left), near(b, left, right)
        if isinstance(a, float) != isinstance(b, float):
            a, b = float(a), float(b)
        return {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b, "==": a == b, "!=": a != b}[sign]

    return of


def all_of(values: list[Any]) -> Any:
    return False if False in values else None if None in values else True


def any_of(values: list[Any]) -> Any:
    return True if True in values else None if None in values else False


def chain(draw: Any, signs: tuple[str, ...], side: st.SearchStrategy[Piece], most: int) -> Piece:
    sides = draw(st.lists(side, min_size=2, max_size=most))
    between = [draw(st.sampled_from(signs)) for _ in sides[1:]]
    tests = [pair(sign, *two) for sign, two in zip(between, pairwise(sides), strict=True)]
    text = sides[0].text + "".join(f" {sign} {side.text}" for sign, side in zip(between, sides[1:], strict=True))
    return Piece(f"({text})", lambda row: all_of([test(row) for test in tests]))


leaves = st.sampled_from(
    [column(path) for path in ("i", "big", "d", "s.d")]
    + [column("f", "float32")] * 2
    + [constant(value) for value in (0.1, 0.3, 1, 0, -2, 2**62 + 1)]
    + [work("len({})", len, column(path)) for path in ("t", "items", "s.t")]
)
numbers = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda a, b: work("({} + {})", lambda x, y: float(x) + float(y), a, b), inner, inner),
        st.builds(lambda a, b: work("({} - {})", lambda x, y: float(x) - float(y), a, b), inner, inner),
        st.builds(lambda a, b: work("({} * {})", lambda x, y: float(x) * float(y), a, b), inner, inner),
        st.builds(lambda a, b: work("({} / {})", divided, a, b), inner, inner),
        st.builds(lambda a: work("(-{})", lambda x: -float(x), a), leaves),
        st.builds(lambda a: work("abs({})", lambda x: abs(float(x)), a), inner),
        st.builds(lambda a, b: work("min({}, {})", extreme(min), a, b), inner, inner),
        st.builds(lambda a, b, c: work("max({}, {}, {})", extreme(max), a, b, c), inner, inner, inner),
    ),
    max_leaves=4,
)
texts = st.sampled_from([column("t"), column("s.t"), constant("a"), constant("é")])
ORDERS = ("<", "<=", ">", ">=", "==", "!=")


@st.composite
def comparisons(draw: Any) -> Piece:
    kind = draw(st.integers(0, 5))
    if kind < 3:
        return chain(draw, ORDERS, numbers, 3)
    if kind == 3:
        return chain(draw, ORDERS, texts, 3)
    if kind == 4:
        name = draw(st.sampled_from([*COLUMNS, "s.d"]))
        word, null = draw(st.sampled_from([("is", True), ("is not", False)]))
        return Piece(f"({name} {word} None)", lambda row: (column(name).of(row) is None) == null)
    left = draw(leaves)
    choices = draw(st.lists(st.sampled_from([0, 1, 0.1, 0.3, 2**62 + 1]), min_size=1, max_size=3))
    tests = [pair("==", left, constant(choice)) for choice in choices]
    text = f"({left.text} in ({', '.join(map(repr, choices))},))"
    whole = all(isinstance(choice, int) for choice in choices)
    if not whole:  # then all choices are float64
        tests = [pair("==", left, constant(float(choice))) for choice in choices]
    return Piece(text, lambda row: any_of([test(row) for test in tests]))


tests = st.recursive(
    st.one_of(comparisons(), st.just(column("flag"))),
    lambda inner: st.one_of(
        st.builds(lambda a: Piece(f"(not {a.text})", lambda row: None if a.of(row) is None else not a.of(row)), inner),
        st.builds(lambda a, b: Piece(f"({a.text} or {b.text})", lambda r: any_of([a.of(r), b.of(r)])), inner, inner),
        st.builds(
            lambda a, b: Piece(f"(not ({a.text} and {b.text}))", lambda r: {True: False, False: True, None: None}[
                all_of([a.of(r), b.of(r)])
            ]),
            inner,
            inner,
        ),
    ),
    max_leaves=3,
)  # fmt: skip


def fate(clauses: list[Piece], row: dict[str, Any], missing: str) -> str | None:
    for clause in clauses:
        value = clause.of(row)
        if value is False or (value is None and missing == "drop"):
            return "bad" if value is False else "bad_missing"
    return None


@settings(derandomize=True, deadline=None, max_examples=120)
@given(st.lists(tests, min_size=1, max_size=3), st.sampled_from(["drop", "keep"]), st.integers(0, 9))
def test_rules_are_what_plain_python_makes_of_each_row(clauses: list[Piece], missing: str, seed: int) -> None:
    choice = random.Random(seed).choice
    rows = [{name: choice([None, *values]) for name, (_, values) in COLUMNS.items()} for _ in range(40)]
    clauses = [replace(c, text=f"({c.text} or i is None)", of=either(c)) for c in clauses]
    table = pa.table({name: pa.array([r[name] for r in rows], type_) for name, (type_, _) in COLUMNS.items()})
    step = Keep(" and ".join(clause.text for clause in clauses), "bad", missing)

    assert step.problems() == step.misfits(Dataset(table).features) == []
    reasons = [verdict and verdict["reason"] for verdict in step.verdicts(table).to_pylist()]
    assert reasons == [fate(clauses, row, missing) for row in rows]


def either(clause: Piece) -> Callable[[dict[str, Any]], Any]:
    """The clause, or `i is None`: so that every clause names a column."""
    return lambda row: any_of([clause.of(row), row["i"] is None])


WORDS = (
    *"xy01.'\"()[]{}<>=!+-*/%:,\\ \n#é\ud800\0",
    "and ",
    "or ",
    "not ",
    "in ",
    "is ",
    "None",
    "x < 1 ",
    "x.y",
    "abs(",
)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(WORDS), max_size=12))
def test_any_text_is_a_rule_or_a_problem(words: list[str]) -> None:
    assert len(Keep("".join(words)).problems()) <= 1


# --- in a release, on several processes, on the page


def test_what_a_rule_reads() -> None:
    rule = parse("s.a < s.b and 1 < min(x, s.c, x)")
    assert rule.columns == ("s", "x")
    assert [clause.columns for clause in rule.clauses] == [("s",), ("x", "s")]
    assert [clause.reason for clause in rule.clauses] == ["s_a_s_b", "x_s_c"]


def test_a_rule_is_a_value() -> None:
    step = Keep("x < 1 and y.z > 2", reason="odd")
    assert pickle.loads(pickle.dumps(step)) == step
    assert hash(step) == hash(replace(step))
    assert step.parameters() == {"rule": "x < 1 and y.z > 2", "reason": "odd", "missing": "drop"}
    assert step.key() != replace(step, rule="x<1 and y.z > 2").key()


def test_on_two_processes_it_is_the_same(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    made = pa.table({"nsfw": numbers.random(20_001, np.float32), "width": numbers.integers(1, 99, 20_001)})
    Dataset(made).save_to_disk(tmp_path / "rows")
    given = Dataset.load_from_disk(tmp_path / "rows")
    step = Keep("nsfw < 0.5 and (nsfw < 0.1 or width / 9 > 3)")
    shared = step(given, Run.here(tmp_path / "run", num_proc=2))
    assert shared["dropped"][:] == step(given)["dropped"][:]


def test_a_release_keeps_by_rules(tmp_path: Path) -> None:
    sources = toy.write(tmp_path / "s", a=[("1", "a cat"), ("2", "a very long prompt"), ("3", "a dog"), ("4", "me")])
    steps = (Keep("3 <= len(prompt) <= 9 and license == 'CC0-1.0'"), Keep("prompt != 'a dog'", reason="no_dogs"))
    release = Release("toys", "v1", (Input(toy.Toy),), steps, columns=("prompt",))
    built = build(release, Run.here(tmp_path / "w"), sources=sources, out=tmp_path / "d")

    ledger = pq.read_table(built.folder / "ledger/v1.parquet").to_pylist()
    assert {row["id"]: (row["step"], row["reason"], row["value"], row["threshold"]) for row in ledger} == {
        "toy/1": (None, None, None, None),
        "toy/2": ("Keep", "prompt", "18", "3 <= len(prompt) <= 9"),
        "toy/3": ("Keep", "no_dogs", "a dog", "!= 'a dog'"),
        "toy/4": ("Keep", "prompt", "2", "3 <= len(prompt) <= 9"),
    }
    assert built.lock["steps"][1]["parameters"] == {
        "rule": "prompt != 'a dog'",
        "reason": "no_dogs",
        "missing": "drop",
    }


def test_a_release_is_checked_before_it_is_built() -> None:
    steps = (Keep("widht > 5 and source_scores.nsfv < 1 and prompt < 5"), Keep("width >"))
    release = Release("toys", "v1", (Input(toy.Toy),), steps, columns=("prompt",))
    with pytest.raises(ConfigError) as error:
        release.check()
    assert error.value.problems == (
        "toys/v1: Keep needs the column 'widht' that no step before it adds: did you mean 'width'?",
        "toys/v1: Keep: 'source_scores' has no field 'nsfv': did you mean 'nsfw'?",
        "toys/v1: Keep: 'prompt < 5' compares text with a number",
        "toys/v1: Keep: rule 'width >' cannot be read: invalid syntax",
    )


def test_the_steps_of_the_page_fit_the_common_schema() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    features = {**record.FEATURES, **SCORES}
    assert len(names["steps"]) > 5
    for step in names["steps"]:
        assert step.problems() + step.misfits(features) == [], step
        assert {*step.needs} <= {*features}


def test_every_example_in_the_tables_of_the_page() -> None:
    cells = [[c.strip().strip("`") for c in line.split("|")[1:-1]] for line in DOCS.split("\n") if line[:3] == "| `"]
    assert len(cells) > 8
    schema = Features({**record.FEATURES, **SCORES}).arrow_schema
    for rule, row, *expected in cells:
        table = pa.Table.from_pylist([ast.literal_eval(row)], schema)
        (verdict,) = Keep(rule).verdicts(table).to_pylist()
        assert [verdict["reason"], verdict["value"] or "", verdict["threshold"]] == expected, rule


def test_what_the_page_says_can_be_said() -> None:
    said = re.search(r"## What a rule can say\n(.*?)\n\nThe words", DOCS, re.DOTALL)
    assert said
    tests = [text for text in re.findall(r"`([^`]+)`", said[1]) if re.search(r"[=<]|\bi[ns]\b", text)]
    assert len(tests) == 7
    for text in tests:
        assert Keep(text).problems() == []
