"""Sidecar: what lies beside a picture in a sample, its caption and the row's other columns as JSON."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hfds.columns import File, read
from hfds.errors import ConfigError, nearest
from hfds.record import column, json_objects, json_values

PROMPT = "prompt"  # the column that a caption is taken from where no style is asked for, or a row does not have it
_SUFFIX = "_caption"  # of a style, which need not be said


def style_of(files: Iterable[File], asked: str, what: str) -> str:
    """The style of `captions` in Parquet files that is meant: "short" also finds "short_caption".

    Raises:
        ConfigError: no row of `what` has a caption of that style; names those there are.
        BadFile: a file cannot be read.
    """
    known: set[str] = set()
    for table in read([*files], ["captions.list.element.style"]):
        known |= styles(table)
    for style in (asked, f"{asked}{_SUFFIX}"):
        if style in known:
            return style
    choice = nearest(asked, sorted({style.removesuffix(_SUFFIX) for style in known} | {PROMPT}))
    raise ConfigError(f"no row of {what} has a caption of style {asked!r}: {choice}")


def captions(rows: pa.RecordBatch, style: str) -> tuple[pa.Array, pa.Array]:
    """The text of every row in a style of `captions`, else its `prompt`, else null; and whether it fell back so.

    The style "prompt" is the column of that name. Of several texts in one style the first is taken. Blank is none.
    """
    prompt = _said(rows[PROMPT]) if PROMPT in rows.schema.names else pa.nulls(len(rows), pa.string())
    if style == PROMPT:
        return prompt, pa.repeat(False, len(rows))
    listed = rows["captions"]
    texts = listed.flatten()
    chosen = np.flatnonzero(np.asarray(pc.fill_null(pc.equal(pc.struct_field(texts, "style"), style), False)))
    said = _said(pc.struct_field(texts, "text"))
    chosen = chosen[np.asarray(said.is_valid())[chosen]]
    at, first = np.unique(np.asarray(pc.list_parent_indices(listed))[chosen], return_index=True)
    places = np.full(len(rows), -1, np.int64)
    places[at] = chosen[first]
    own = said.take(pa.array(places, mask=places < 0))
    return pc.coalesce(own, prompt), pc.and_(own.is_null(), prompt.is_valid())


def _said(texts: pa.Array) -> pa.Array:
    """Texts, null where one is blank."""
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(texts), ""), None, texts)


def styles(rows: pa.Table) -> set[str]:
    """The styles of `captions` that occur."""
    return {*pc.struct_field(pc.list_flatten(rows["captions"]), "style").unique().drop_null().to_pylist()}


def told(rows: pa.RecordBatch) -> pa.Array:
    """A JSON object for every row, of its columns without the picture and others that hold bytes.

    Fields that are null or empty are left out, and numbers keep their kind (1.0 is not 1), so that readers who infer a
    type from a few rows read all others. For the same reason a JSON column, whose shape is each row's own, is a text.
    """
    names = [field.name for field in rows.schema if field.name != "image" and _has_form(field.type)]
    return json_objects({name: _value(rows[name]) for name in names}).storage


def _has_form(kind: pa.DataType) -> bool:
    """Whether JSON has a form for values of this type: not for bytes."""
    if isinstance(kind, pa.BaseExtensionType):
        return _has_form(kind.storage_type)
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(_has_form(field.type) for field in kind)
    if _is_list(kind):
        return _has_form(kind.value_type)
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_null)
    return not (pa.types.is_nested(kind) or any(is_kind(kind) for is_kind in binary))


def _is_list(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _value(array: pa.Array) -> pa.Array:
    """A column that `json_objects` takes as it should be."""
    kind, text = array.type, None
    if isinstance(kind, pa.BaseExtensionType) or pa.types.is_decimal(kind) or pa.types.is_duration(kind):
        return (array.storage if isinstance(array, pa.ExtensionArray) else array).cast(pa.string())
    if pa.types.is_floating(kind):
        text = pc.replace_substring_regex(json_values(array), "^(-?[0-9]+)$", "\\1.0")
    elif pa.types.is_struct(kind):
        children = zip(kind, array.flatten(), strict=True)
        return json_objects({field.name: _value(child) for field, child in children})
    elif _is_list(kind):
        text = _lists(array)
    return array if text is None else column(text, pa.json_(), len(array))


def _lists(array: pa.Array) -> pa.Array:
    """Lists as JSON; null where nothing is in one, or nothing but what is null."""
    if pa.types.is_fixed_size_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
    items = json_values(_value(array.flatten()))
    offsets = np.concatenate([[0], np.cumsum(np.asarray(pc.fill_null(pc.list_value_length(array), 0)), dtype=np.int64)])
    there = np.concatenate([[0], np.cumsum(np.asarray(items.is_valid()))])[offsets]
    listed = pa.LargeListArray.from_arrays(offsets, pc.fill_null(items, "null"))
    text = pc.binary_join_element_wise("[", pc.binary_join(listed, ", "), "]", "")
    return pc.if_else(pa.array(there[1:] > there[:-1]), text, None)
