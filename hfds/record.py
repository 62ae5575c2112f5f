"""The one schema: what every row of every source looks like, and how columns are put into it without a loop over rows.

Null means that the source does not say; nothing is ever invented.
"""

import datetime
import json
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from datasets import Features, Image, Json, List, Value

FEATURES = Features(
    {
        "id": Value("string"),
        "source": Value("string"),
        "source_revision": Value("string"),
        "license": Value("string"),
        "url": Value("string"),
        "image": Image(),
        "image_hash": Value("string"),
        "width": Value("int32"),
        "height": Value("int32"),
        "prompt": Value("string"),
        "captions": List({"style": Value("string"), "text": Value("string")}),
        "generation": {
            "model": Value("string"),
            "seed": Value("int64"),
            "steps": Value("int32"),
            "guidance": Value("float32"),
            "sampler": Value("string"),
            "negative_prompt": Value("string"),
        },
        "source_scores": {
            "nsfw": Value("float64"),
            "watermark": Value("float64"),
            "aesthetic": Value("float64"),
            "similarity": Value("float64"),
        },
        "extra": Json(),
        "dropped": {  # null while the row is kept
            "step": Value("string"),
            "reason": Value("string"),
            "value": Value("string"),
            "threshold": Value("string"),
            "partner": Value("string"),  # id of the row that stays
            "partner_in": Value("string"),  # its split, or "<dataset>/<release>:<split>"; null: decided later
        },
    }
)
MEANINGS = {  # of the columns that a release may have, and of fields of them, with their unit; as cards say it
    "id": '"<source>/<the source\'s own key>": unique, and the same for ever',
    "source": "the builder that read the row",
    "source_revision": "commit of the source on the Hub, or the model that wrote the prompt; null for local files",
    "license": 'SPDX identifier, or "unknown"',
    "url": "where the source found the picture",
    "image": "the picture as found, never re-encoded",
    "image_hash": "xxh3-128 of the picture's encoded bytes, 32 hex digits",
    "width": "pixels, as stored (before any EXIF rotation)",
    "height": "pixels, as stored (before any EXIF rotation)",
    "prompt": "the text a trainer reads",
    "captions": "every text that the source has, each with its style",
    "generation": "how the picture was made",
    "generation.model": "the model that made it, as the source names it",
    "generation.seed": "seed of the sampler",
    "generation.steps": "steps of the sampler",
    "generation.guidance": "scale of classifier-free guidance",
    "generation.sampler": "name of the sampler",
    "generation.negative_prompt": "what was asked not to be there",
    "source_scores": "what the source itself says, each on the source's own scale",
    "extra": "all else the source says, documented on its builder",
}
SCHEMA: pa.Schema = FEATURES.arrow_schema
DROPPED: pa.StructType = SCHEMA.field("dropped").type

Column: TypeAlias = pa.Array | pa.ChunkedArray | np.ndarray | list[Any] | str | int | float | None


def column(values: Column, type_: pa.DataType, rows: int) -> pa.Array:
    """`values` as one Arrow array of `type_` and length `rows`; a scalar is repeated, None gives nulls.

    Raises:
        ValueError: there are more or fewer of them.
    """
    if values is None or isinstance(values, (str, int, float)):
        return pa.repeat(pa.scalar(values, type_), rows)
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, list):
        values = pa.array(values, type_.storage_type if isinstance(type_, pa.BaseExtensionType) else type_)
    array = values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True)
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if len(array) != rows:
        raise ValueError(f"a column of {len(array)} values for {rows} rows")
    if array.type == type_:
        return array
    if isinstance(type_, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(type_, array.cast(type_.storage_type))
    return array.cast(type_)


def struct(type_: pa.StructType, rows: int, fields: Mapping[str, Column], valid: pa.Array | None = None) -> pa.Array:
    """A struct array of `type_`: fields not named are null, rows where `valid` is false are null.

    Raises:
        KeyError: a name is no field of `type_`.
    """
    if unknown := set(fields) - {field.name for field in type_}:
        raise KeyError(f"not fields of {type_}: {sorted(unknown)}")
    children = [column(fields.get(field.name), field.type, rows) for field in type_]
    mask = None if valid is None else pc.invert(valid)
    return pa.StructArray.from_arrays(children, fields=list(type_), mask=mask)


def records(rows: int, **columns: Any) -> pa.Table:
    """A table of `rows` rows in the common schema from whichever of its columns are given.

    `generation`, `source_scores` and `dropped` may be mappings from field to column, `captions` a mapping from style
    to column (see `captions`), `image` a mapping {"bytes": ..., "path": ...}; a scalar stands for the whole column.

    Raises:
        KeyError: a name, of a column or inside one, is not of the schema.
    """
    if unknown := set(columns) - set(SCHEMA.names):
        raise KeyError(f"not columns of the common schema: {sorted(unknown)}")
    arrays = []
    for field in SCHEMA:
        given = columns.get(field.name)
        if isinstance(given, Mapping):
            given = captions(rows, given) if field.name == "captions" else struct_of(field.type, rows, given)
        arrays.append(column(given, field.type, rows))
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def struct_of(type_: pa.StructType, rows: int, fields: Mapping[str, Column]) -> pa.Array:
    """Like `struct`, null wherever every field is null."""
    made = struct(type_, rows, fields)
    valid = pa.array(np.zeros(rows, bool))
    for child in made.flatten():
        valid = pc.or_(valid, child.is_valid())
    return struct(type_, rows, dict(zip([f.name for f in type_], made.flatten(), strict=True)), valid)


def captions(rows: int, styles: Mapping[str, Column]) -> pa.Array:
    """The `captions` column from one text column per style: per row its non-null texts, in the order of `styles`."""
    texts = [column(values, pa.string(), rows) for values in styles.values()]
    if not texts or not rows:
        return pa.array([[]] * rows, SCHEMA.field("captions").type)
    present = np.stack([np.asarray(text.is_valid()) for text in texts], axis=1)  # rows x styles
    row, style = np.nonzero(present)
    item_type = SCHEMA.field("captions").type.value_type
    items = pa.StructArray.from_arrays(
        [
            pa.DictionaryArray.from_arrays(pa.array(style.astype(np.int32)), pa.array(list(styles), pa.string())).cast(
                pa.string()
            ),
            texts[0].drop_null() if len(texts) == 1 else pa.concat_arrays(texts).take(pa.array(style * rows + row)),
        ],
        fields=list(item_type),
    )
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(present.sum(axis=1), out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), items, type=SCHEMA.field("captions").type)


def json_objects(columns: Mapping[str, pa.Array | pa.ChunkedArray], more: pa.Array | None = None) -> pa.Array:
    """One JSON object per row of what is not null, for `extra`; null where everything is.

    Integers are exact, not-a-number counts as null, times are ISO 8601, `pa.json_()` columns are taken verbatim, lists
    and structs as they are.

    Args:
        columns: the members, by name.
        more: further members, as the inside of an object.
    """
    values = {name: json_values(array) for name, array in columns.items()}
    members = [pc.binary_join_element_wise(f"{json.dumps(name)}: ", value, "") for name, value in values.items()]
    members += [] if more is None else [more]
    if not members:
        return pa.array([], pa.json_())
    # The first is never null, because pyarrow 26 leaves out rows in which all are.
    inside = pc.binary_join_element_wise("", *members, ", ", null_handling="skip")
    inside = pc.binary_replace_slice(pc.if_else(pc.equal(inside, ""), None, inside), 0, 2, "")
    text = pc.binary_join_element_wise("{", inside, "}", "")
    return column(text, pa.json_(), len(text))


def json_values(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Each value as JSON text; null stays null. Columns are turned as wholes, nested ones row by row.

    Raises:
        TypeError: bytes, durations and other values for which JSON has no form.
    """
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return array.storage.cast(pa.string())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _json_strings(array.cast(pa.string()))
    if pa.types.is_floating(kind):
        return pc.if_else(pc.is_finite(array), array, None).cast(pa.string())
    if pa.types.is_timestamp(kind):
        text = array.cast(pa.timestamp("ns" if kind.unit == "ns" else "us")).cast(pa.string())
        text = pc.replace_substring(text, " ", "T")
        return pc.binary_join_element_wise('"', text, 'Z"' if kind.tz else '"', "")
    if pa.types.is_date(kind) or pa.types.is_time(kind):
        return pc.binary_join_element_wise('"', array.cast(pa.string()), '"', "")
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return array.cast(pa.string())
    rows = [None if row is None else json.dumps(_plain(row), ensure_ascii=False) for row in array.to_pylist()]
    return pa.array(rows, pa.string())


def _plain(value: Any) -> Any:
    """A nested value as `json.dumps` takes it: not-a-number is null, times are ISO 8601."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json_strings(texts: pa.Array) -> pa.Array:
    data = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
    if not ((data < 0x20) | (data == ord('"')) | (data == ord("\\"))).any():  # a pass of 10 ns a row saves three of 200
        return pc.binary_join_element_wise('"', texts, '"', "")
    plain = pc.replace_substring(pc.replace_substring(texts, "\\", "\\\\"), '"', '\\"')
    quoted = pc.binary_join_element_wise('"', plain, '"', "")
    odd = pc.fill_null(pc.match_substring_regex(texts, "[\\x00-\\x1f]"), False)
    if not pc.any(odd).as_py():
        return quoted
    escaped = [json.dumps(text, ensure_ascii=False) for text in texts.filter(odd).to_pylist()]
    return pc.replace_with_mask(quoted, odd, pa.array(escaped, pa.string()))


def drops(
    step: str, rows: int, reason: Column, value: Column = None, threshold: Column = None, partner: Column = None
) -> pa.Array:
    """A `dropped` column: null wherever `reason` is null."""
    reasons = column(reason, pa.string(), rows)
    fields = {"step": step, "reason": reasons, "value": value, "threshold": threshold, "partner": partner}
    return struct(DROPPED, rows, fields, reasons.is_valid())


def dropped_row(id_: str, source: str, reason: str, value: str | None = None, **columns: Any) -> pa.Table:
    """One row that a builder could not read: kept in the account, with the reason."""
    return records(1, id=id_, source=source, dropped=drops(source, 1, reason, value), **columns)


HASHED = 4096  # texts at a time: as many as stay in a core's cache as objects


def hash_texts(texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """xxh3-128 of the UTF-8 bytes of each text (null as empty): an array of shape (rows, 2) and dtype uint64."""
    digest, values = xxhash.xxh3_128_digest, texts.cast(pa.binary())
    parts = (values[at : at + HASHED].to_pylist() for at in range(0, len(values), HASHED))
    digests = b"".join([b"".join([digest(text or b"") for text in part]) for part in parts])
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)


def begins(keys: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Where another of `keys`, shape (rows, 2), begins when they are taken in an `order` that sorts them: booleans."""
    new = np.ones(len(order), bool)
    new[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    return new


def canonical(table: pa.Table) -> pa.Array:
    """One text per row that says all its values: equal texts mean equal rows, whatever library wrote them.

    Numbers as their bits, texts and bytes with their length in front, nested values inside out; null is "~". The text
    is UTF-8 only where all bytes in the table are.
    """
    named = [[f"{name}=", _canonical(_flat(table[name])), ";"] for name in sorted(table.column_names)]
    return pc.binary_join_element_wise(*[part for parts in named for part in parts], "")


_BYTES = (
    pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
    pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary,
)  # fmt: skip


def _flat(values: pa.ChunkedArray | pa.Array) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _canonical(array: pa.Array) -> pa.Array:
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _canonical(array.storage)
    if pa.types.is_dictionary(kind):
        return _canonical(array.dictionary_decode())
    if pa.types.is_fixed_size_list(kind):
        return _canonical(array.cast(pa.list_(kind.value_type)))
    if pa.types.is_struct(kind):
        parts = [_canonical(child) for child in array.flatten()]
        text = pc.binary_join_element_wise("{", *parts, "}", "")
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = _canonical(array.flatten())
        offsets = np.zeros(len(array) + 1, np.int32)
        np.cumsum(np.asarray(pc.fill_null(pc.list_value_length(array), 0)), out=offsets[1:])
        text = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), inner), "")
        text = pc.binary_join_element_wise("[", text, "]", "")
    elif pa.types.is_floating(kind):
        bits = {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[kind.bit_width]
        text = pc.binary_join_element_wise("f", array.view(bits).cast(pa.string()), ",", "")
    elif any(is_kind(kind) for is_kind in _BYTES):
        data = array.cast(pa.binary())
        text = pc.binary_join_element_wise(pc.binary_length(data).cast(pa.string()), ":", data.view(pa.string()), "")
    else:
        text = pc.binary_join_element_wise(array.cast(pa.string()), ",", "")
    return pc.if_else(array.is_valid(), text, "~")


def printable(text: str) -> str:
    """`text` with control characters and lone surrogates escaped: what hostile data says may end on a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def text_or_none(value: object) -> str | None:
    """A JSON value as text where it is a text that Arrow can hold."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None
