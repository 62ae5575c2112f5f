"""Rules: tests over columns such as "nsfw < 0.0006 and width / height <= 2", read from text and run on whole columns.

The text is Python's expression grammar (`ast.parse`, which runs nothing); of its tree only what docs/rules.md shows is
taken, and turned into calls of pyarrow.compute. No name, call or attribute of a rule ever reaches Python.
"""

import ast
import math
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial, reduce
from itertools import pairwise
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from hfds.errors import ConfigError, nearest

LONGEST = 10_000  # characters of a rule
DEEPEST = 100  # levels: more than any rule needs, and far from Python's own limit
SHOWN = 200  # characters of a value or a threshold in the ledger
ALLOWED = (
    "comparisons (< <= > >= == !=), in ('a', 'b'), is None, and, or, not, + - * /, abs(a), len(a), max(a, b), "
    "min(a, b), columns, their fields, texts, numbers, True and False"
)
TESTS: dict[type[ast.cmpop], Callable[..., Any]] = {
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
}
SYMBOLS: dict[type[ast.cmpop], str] = {
    **dict(zip(TESTS, ("<", "<=", ">", ">=", "==", "!="), strict=True)),
    **{ast.In: "in", ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not"},
}
ARITHMETIC: dict[type[ast.operator], Callable[..., Any]] = {
    ast.Add: pc.add,
    ast.Sub: pc.subtract,
    ast.Mult: pc.multiply,
    ast.Div: pc.divide,
}
EXTREMES: dict[str, Callable[..., Any]] = {
    "max": partial(pc.max_element_wise, skip_nulls=False),
    "min": partial(pc.min_element_wise, skip_nulls=False),
}
NUMBER, TEXT, TRUTH, LIST, STRUCT, NULL = "a number", "text", "true or false", "a list", "a struct", "null"
Values: TypeAlias = pa.Array | pa.Scalar  # a scalar where no column is named


@dataclass(frozen=True)
class Part:
    """A piece of a rule: its text, the columns in it ("width", "source_scores.nsfw"), and what it is for a table."""

    text: str
    columns: tuple[str, ...]
    of: Callable[[pa.Table], Values]
    parts: tuple["Part", ...] = ()  # that it is made of


@dataclass(frozen=True)
class Clause:
    """One of the tests that a rule joins by `and`.

    `measured` is the only side of a comparison that names columns, None where that is not one; `threshold` is what it
    is compared with, as it was written.
    """

    test: Part
    measured: Part | None
    threshold: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a table that it reads."""
        return tuple(dict.fromkeys(path.partition(".")[0] for path in self.test.columns))

    @property
    def reason(self) -> str:
        """Its columns as one name: "width_height"."""
        return "_".join(self.test.columns).replace(".", "_")

    def evaluate(self, table: pa.Table) -> pa.Array:
        """Whether it is true, for every row: booleans, null where it cannot be said.

        Raises:
            ConfigError: the columns are of other types than it needs.
        """
        values = self.test.of(table)
        _check(self.test.text, "is", values, TRUTH)
        return values.cast(pa.bool_())

    def value(self, table: pa.Table) -> pa.Array:
        """What the ledger shows for every row: the value of `measured`, or "name=value" of each column."""
        if self.measured is not None:
            return _as_text(self.measured.of(table))
        texts = [pc.fill_null(_as_text(_column(path, table)), "None") for path in self.test.columns]
        named = zip(self.test.columns, texts, strict=True)
        joined = pc.binary_join_element_wise(*(pc.binary_join_element_wise(*pair, "=") for pair in named), ", ")
        return _shown(joined)


@dataclass(frozen=True)
class Rule:
    """All clauses must be true."""

    clauses: tuple[Clause, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a table that it reads, in the order of the rule."""
        return tuple(dict.fromkeys(name for clause in self.clauses for name in clause.columns))

    def misfits(self, schema: pa.Schema) -> list[str]:
        """What is wrong with the types of columns, a sentence for each clause whose columns are all there."""
        found = []
        for clause in self.clauses:
            if {*clause.columns} <= {*schema.names}:
                try:
                    clause.evaluate(schema.empty_table())
                except ConfigError as error:
                    found.append(str(error))
        return found


def parse(text: str) -> Rule:
    """The rule that `text` says.

    Raises:
        ConfigError: it says none, with one sentence.
    """
    text = text.strip().replace("\r\n", "\n").replace("\r", "\n")  # the ends of lines that the parser knows
    if not text or len(text) > LONGEST:
        raise ConfigError(f"a rule has from 1 to {LONGEST:,} characters, got {len(text):,}")
    tree = _tree(text)
    reader = _Reader(text)
    return Rule(tuple(map(reader.clause, _conjuncts(tree))))


def _tree(text: str) -> ast.expr:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # for "\d", which a later Python refuses
            return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        place = f" at line {error.lineno}, character {error.offset}" if error.offset else ""
        raise ConfigError(f"rule {_quoted(text)} cannot be read{place}: {error.msg}") from None
    except ValueError as error:  # lone surrogates
        raise ConfigError(f"rule {_quoted(text)} cannot be read: {error}") from None
    except (RecursionError, MemoryError):  # MemoryError is what the parser says of its own stack
        raise _too_deep(text) from None


def _conjuncts(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        for value in node.values:
            yield from _conjuncts(value)
    else:
        yield node


class _Reader:
    """Turns the nodes of one text into parts."""

    def __init__(self, text: str):
        self._bytes = text.encode()  # in which the parser counts columns
        self._lines = [0, *(match.end() for match in re.finditer(b"\n", self._bytes))]

    def clause(self, node: ast.expr) -> Clause:
        test = self.part(node)
        if not test.columns:
            raise ConfigError(f"{_quoted(test.text)} names no column, so that it is the same for all rows")
        sides = [side for side in test.parts if side.columns] if isinstance(node, ast.Compare) else []
        measured = sides[0] if len(sides) == 1 else None
        threshold = test.text
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and measured is test.parts[0]:
            threshold = f"{SYMBOLS[type(node.ops[0])]} {self.text(node.comparators[0])}"
        return Clause(test, measured, threshold[:SHOWN])

    def text(self, node: ast.expr) -> str:
        """A node as it was written."""
        start = self._lines[node.lineno - 1] + node.col_offset
        end = self._lines[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        return self._bytes[start:end].decode()

    def part(self, node: ast.expr, depth: int = 0) -> Part:
        text = self.text(node)
        if depth > DEEPEST:
            raise _too_deep(text)
        inner = partial(self.part, depth=depth + 1)
        match node:
            case ast.Constant(value):
                return _constant(text, value)
            case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as value)) if not isinstance(value, bool):
                return _constant(text, -value)
            case ast.Name() | ast.Attribute() if path := _path(node):
                return Part(text, (path,), partial(_column, path))
            case ast.Compare(left, ops, right) if all(type(op) in TESTS for op in ops):
                return _part(text, partial(_compared, ops), *map(inner, (left, *right)))
            case ast.Compare(left, [ast.In() | ast.NotIn() as op], [ast.Tuple([_, *_] as items) as right]):
                choices = _choices(self.text(right), [inner(item) for item in items])
                return _part(text, partial(_chosen, choices, isinstance(op, ast.NotIn)), inner(left))
            case ast.Compare(left, [ast.Is() | ast.IsNot() as op], [ast.Constant(None)]):
                test = pc.is_null if isinstance(op, ast.Is) else pc.is_valid
                return _part(text, lambda _, value: test(value), inner(left))
            case ast.BoolOp(op, values):
                join = pc.and_kleene if isinstance(op, ast.And) else pc.or_kleene
                return _part(text, partial(_joined, join), *map(inner, values))
            case ast.UnaryOp(ast.Not(), value):
                return _part(text, partial(_joined, pc.invert), inner(value))
            case ast.UnaryOp(ast.USub(), value):
                return _part(text, partial(_calculated, pc.negate), inner(value))
            case ast.BinOp(left, op, right) if type(op) in ARITHMETIC:
                return _part(text, partial(_calculated, ARITHMETIC[type(op)]), inner(left), inner(right))
            case ast.Call(ast.Name("abs"), [value], []):
                return _part(text, partial(_calculated, pc.abs), inner(value))
            case ast.Call(ast.Name("max" | "min" as name), [_, _, *_] as values, []):
                return _part(text, partial(_calculated, EXTREMES[name]), *map(inner, values))
            case ast.Call(ast.Name("len"), [value], []):
                return _part(text, _length, inner(value))
        raise ConfigError(f"{_quoted(text)} cannot be in a rule, which is made of {ALLOWED}")


def _path(node: ast.expr) -> str | None:
    """The name of a column or a field, "source_scores.nsfw"; None for an attribute of anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names, node = [node.attr, *names], node.value
    return ".".join([node.id, *names]) if isinstance(node, ast.Name) else None


def _part(text: str, work: Callable[..., Values], *parts: Part) -> Part:
    """What `work` makes of the values of `parts`; it is told the text for its errors."""
    columns = tuple(dict.fromkeys(column for part in parts for column in part.columns))
    return Part(text, columns, lambda table: work(text, *(part.of(table) for part in parts)), parts)


def _constant(text: str, value: object) -> Part:
    if isinstance(value, bool):
        scalar = pa.scalar(value)
    elif isinstance(value, int) and -(2**63) <= value < 2**63:
        scalar = pa.scalar(value, pa.int64())
    elif isinstance(value, float) and math.isfinite(value):
        scalar = pa.scalar(value)
    elif isinstance(value, str) and not re.search("[\ud800-\udfff]", value):
        scalar = pa.scalar(value, pa.large_string())
    else:
        wanted = "texts, whole numbers of 64 bits, finite numbers, True, False, and None behind 'is' and 'is not'"
        raise ConfigError(f"{_quoted(text)} cannot be in a rule, of which the constants are {wanted}")
    return Part(text, (), lambda table: scalar)


def _choices(text: str, parts: list[Part]) -> list[pa.Scalar]:
    """The constants behind `in`, all of one type."""
    if varying := [part.text for part in parts if part.columns]:
        raise ConfigError(f"{_quoted(text)} behind 'in' must hold constants only, got {_quoted(varying[0])}")
    found = [part.of(pa.table({})) for part in parts]
    if len(kinds := dict.fromkeys(map(_kind, found))) > 1:
        raise ConfigError(f"{_quoted(text)} mixes {' with '.join(kinds)}")
    return [*map(_double, found)] if any(pa.types.is_floating(value.type) for value in found) else found


def _column(path: str, table: pa.Table) -> pa.Array:
    """The values of a column, or of a field of one: null where the struct is."""
    parent, *names = path.split(".")
    values = table[parent].combine_chunks()
    for name in names:
        if not pa.types.is_struct(values.type):
            raise ConfigError(f"{_quoted(path)} asks for a field of {parent!r}, which is {_kind(values)}")
        fields = [field.name for field in values.type]
        if name not in fields:
            raise ConfigError(f"{parent!r} has no field {name!r}: {nearest(name, fields)}")
        values, parent = pc.struct_field(values, name), f"{parent}.{name}"
    return values


def _compared(ops: list[ast.cmpop], text: str, *values: Values) -> Values:
    """Each value with the next."""
    tests = []
    for op, (left, right) in zip(ops, pairwise(values), strict=True):
        _check_pair(text, left, right)
        if TRUTH in (_kind(left), _kind(right)) and not isinstance(op, ast.Eq | ast.NotEq):
            raise ConfigError(f"{_quoted(text)} asks which of true and false is more: write == or !=")
        tests.append(TESTS[type(op)](*_aligned(left, right)))
    return reduce(pc.and_kleene, tests)


def _chosen(choices: list[pa.Scalar], negated: bool, text: str, value: Values) -> Values:
    """Whether it is one of `choices`; null for null, of which `is_in` says False."""
    _check_pair(text, value, choices[0])
    pairs = [_aligned(value, choice) for choice in choices]
    values = pairs[0][0]
    found = pc.is_in(values, pa.array([choice.as_py() for _, choice in pairs], values.type))
    return pc.if_else(pc.is_valid(value), pc.xor(found, negated), None)


def _joined(join: Callable[..., Any], text: str, *values: Values) -> Values:
    """Tests by `and` or `or`, or one by `not`; null is what cannot be said (Kleene)."""
    for value in values:
        _check(text, "joins tests, and one is", value, TRUTH)
    first, *rest = (value.cast(pa.bool_()) for value in values)
    return reduce(join, rest, first) if rest else join(first)


def _calculated(function: Callable[..., Any], text: str, *values: Values) -> Values:
    """Numbers as float64, so that nothing overflows or is cut."""
    for value in values:
        _check(text, "calculates with", value, NUMBER)
    return function(*map(_double, values))


def _length(text: str, value: Values) -> Values:
    _check(text, "asks for the length of", value, TEXT, LIST)
    return pc.list_value_length(value) if _kind(value) == LIST else pc.utf8_length(value.cast(pa.large_string()))


def _check(text: str, does: str, value: Values, *wanted: str) -> None:
    if (kind := _kind(value)) not in (*wanted, NULL):
        raise ConfigError(f"{_quoted(text)} {does} {kind}, wanted {' or '.join(wanted)}")


def _check_pair(text: str, left: Values, right: Values) -> None:
    one, other = _kind(left), _kind(right)
    if one != other and NULL not in (one, other):
        raise ConfigError(f"{_quoted(text)} compares {one} with {other}")
    for value in (left, right):
        _check(text, "compares", value, NUMBER, TEXT, TRUTH)


def _aligned(left: Values, right: Values) -> tuple[Values, Values]:
    """Both as one type: whole numbers stay whole, other numbers are float64."""
    types, kinds = (left.type, right.type), {_kind(left), _kind(right)} - {NULL}
    if all(map(pa.types.is_integer, types)):
        wide = pa.decimal128(20) if pa.uint64() in types else pa.int64()
    elif kinds == {NUMBER}:
        return _double(_rounded(left, right.type)), _double(_rounded(right, left.type))
    else:
        wide = pa.large_string() if kinds == {TEXT} else pa.bool_()
    return left.cast(wide), right.cast(wide)


def _rounded(value: Values, beside: pa.DataType) -> Values:
    """A constant as a float32 or float16 column beside it would hold it: `x == 0.1` is true where 0.1 was stored.

    Not where it would become 0 or infinite.
    """
    if not isinstance(value, pa.Scalar) or beside not in (pa.float32(), pa.float16()):
        return value
    narrow = pc.cast(value, beside, safe=False).as_py()
    return pa.scalar(narrow) if math.isfinite(narrow) and (narrow or not value.as_py()) else value


def _double(value: Values) -> Values:
    return pc.cast(value, pa.float64(), safe=False)


KINDS: tuple[tuple[str, Callable[[pa.DataType], bool]], ...] = (
    (NUMBER, lambda t: pa.types.is_integer(t) or pa.types.is_floating(t) or pa.types.is_decimal(t)),
    (TEXT, lambda t: pa.types.is_string(t) or pa.types.is_large_string(t)),
    (TRUTH, pa.types.is_boolean),
    (LIST, lambda t: pa.types.is_list(t) or pa.types.is_large_list(t) or pa.types.is_fixed_size_list(t)),
    (STRUCT, pa.types.is_struct),
    ("JSON", lambda t: isinstance(t, pa.JsonType)),
    (NULL, pa.types.is_null),
)


def _kind(values: Values) -> str:
    """What values are, in the words of an error."""
    return next((kind for kind, belongs in KINDS if belongs(values.type)), str(values.type))


def _as_text(values: pa.Array) -> pa.Array:
    """Values for the ledger; "a list" and the like for what is no single value."""
    if _kind(values) in (NUMBER, TEXT, TRUTH, NULL):
        return _shown(values.cast(pa.string()))
    return pc.if_else(values.is_valid(), _kind(values), pa.scalar(None, pa.string()))


def _shown(texts: pa.Array) -> pa.Array:
    return pc.utf8_slice_codeunits(texts, 0, SHOWN)


def _too_deep(text: str) -> ConfigError:
    return ConfigError(f"{_quoted(text)} is nested too deeply: {DEEPEST} levels at most")


def _quoted(text: str) -> str:
    """A text for an error, however long or hostile."""
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
