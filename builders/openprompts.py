"""OpenPrompts: ten million prompts of the Stable Diffusion beta on Discord with their parameters, as one CSV.

https://github.com/krea-ai/open-prompts
"""

import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from hfds import record
from hfds.archive import Reader
from hfds.builder import Builder, Piece, SourceConfig
from hfds.errors import BadRow
from hfds.record import text_or_none
from hfds.text import blank_as_null, csv_batches, json_object, json_text

DISCORD = {
    **dict.fromkeys(("seed", "timestamp"), pa.int64()),
    **dict.fromkeys(("width", "height", "num_step", "num_generations", "is_grid"), pa.int32()),
    "cfg_scale": pa.float64(),
    **dict.fromkeys(("content", "content_type", "image_uri", "image_proxy_uri"), pa.string()),
}
OUTER = {"image_uri": pa.string(), "thumbnail_uri": pa.string(), "modifiers": pa.list_(pa.string())}
RAW = pa.schema(OUTER | {"raw_discord_data": pa.struct(DISCORD)})
# What stands where there is no text, or not yet.
NOTHING = pa.array(["", "PENDING"])
# Blocks that are parsed while the next one is read.
AHEAD = 2
# Rows that are read one by one when one of them is not of the published shapes.
FEW = 128

# Of people (<@1>, <@!1>) and of roles (<@&1>).
MENTION = r"<@[!&]?[0-9]+>|@[^\s@#<>]{2,32}#[0-9]{4}\b"  # the second as people see it
# Discord's ids have 17 digits and more; a shorter number in a URL may be anything.
SNOWFLAKE = re.compile(r"<@[!&]?([0-9]{15,})>")
# Dreamt in `6.22s` for <@1>'s `!dream "a prompt" -H 704 -n 9 -i -S 874920223` The seeds for each individual image are:
# A grid's message goes on with one command per picture; the first is the one that was given.
COMMAND = (
    r'(?s)!dream\s+"(?P<prompt>.*?)"(?P<flags>(?:\s+-[A-Za-z]\s*[\w.]*)*)\s*'
    r"(?:`|$|The (?:seeds|commands) for each individual image)"
)
# ..._Sydney_Opera_House_holding_a_sign_-C_15.0_-n_9_-i_-A_k_euler_-S_556046175_ts-1660001285_idx-4.png
SAMPLER_IN_URL = r"_-A_(?P<value>k_[a-z0-9_]+?|ddim|plms)_(?:-[A-Za-z]_|ts-)"
FLAGS = {
    "S": (pa.int64(), "[0-9]{1,18}"),
    "C": (pa.float64(), r"[0-9]{1,9}(?:\.[0-9]{0,9})?"),
    "A": (pa.string(), r"\w+"),
    **dict.fromkeys("sWHn", (pa.int32(), "[0-9]{1,9}")),
}


class Said(NamedTuple):
    """What `raw_data` says: its published fields, what else stood there (the inside of a JSON object), and per row the
    reason why it says nothing and what was found."""

    raw: pa.Table
    rest: pa.Array
    reason: pa.Array
    value: pa.Array


class OpenPrompts(Builder):
    """Prompts of the Stability AI Discord, August 2022, with their parameters; text only, the pictures' links are dead.

    `prompt` is the column of that name, null when blank. Where the message holds another prompt (so in each row of the
    excerpt that has none), `captions` has it as well, as "message". `generation` and the size come from the fields of
    `raw_discord_data`; those that are missing from the flags of the command in `content`, and the sampler, which has no
    field, else from the file name in `url`. What was left at its default there is null. `seed` is the command's: the
    other pictures of that command had seeds of their own (listed at the end of `content`). No model is named: upstream
    calls the whole "the beta testing of Stable Diffusion v1.3", which no row confirms.

    Mentions of people and roles (`<@1>`) are removed from every text, and a URL that spells the id of someone whom its
    row mentions is null. Otherwise texts are unchanged.

    `id` is a hash of the row as published, so that it is the same in every excerpt of the file; a row that stands there
    twice has it twice, and the build drops the second. A row whose `raw_data` is no JSON object is dropped with its
    prompt in it.

    `extra`: modifiers, image_uri and thumbnail_uri (krea's copies, unless "PENDING"), discord_image_uri (if it is no
    URL), image_proxy_uri, content_type, timestamp (seconds), num_generations, is_grid (the last two also from the
    command), content, and any further key or value of another type under its own name, those of `raw_discord_data` in
    an object of that name. What is null or empty is left out.
    """

    NAME = "openprompts"
    HOMEPAGE = "https://github.com/krea-ai/open-prompts"
    LICENSE = "unknown"  # upstream's section on it is commented out
    OBTAIN = "openprompts.csv is linked from https://github.com/krea-ai/open-prompts; an excerpt is its data/1k.csv"
    BUILDER_CONFIGS = [  # noqa: RUF012
        SourceConfig(name="default", files={"train": ("openprompts.csv", "data/1k.csv", "*.csv")})
    ]

    def rows_expected(self, piece: Piece) -> int | None:
        """As many as lines of the length that the first ones have."""
        with Reader(piece.path) as reader:
            head = reader.read(0, 1 << 20)
        return reader.size * head.count(b"\n") // max(1, len(head))

    def read(self, piece: Piece) -> Iterator[pa.Table]:
        """One pass over the CSV, a block of whole rows at a time; what they say is parsed while the next is read."""
        blocks = csv_batches(piece.path, piece.name, ("prompt", "raw_data"))
        with ThreadPoolExecutor(AHEAD) as pool:
            waiting: deque[Future[pa.Table]] = deque()
            for block in blocks:
                waiting.append(pool.submit(self._table, block))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _table(self, block: pa.Table) -> pa.Table:
        published, raw_data = (pc.fill_null(block[name].combine_chunks(), "") for name in ("prompt", "raw_data"))
        said = parse(raw_data)
        raw = {name: _told(said.raw[name].combine_chunks()) for name in RAW.names}
        discord = {name: _told(pc.struct_field(raw["raw_discord_data"], name)) for name in DISCORD}
        content = without_mentions(discord["content"])
        told, flags = command(content)
        prompt = blank_as_null(without_mentions(published))
        is_url = pc.match_substring_regex(discord["image_uri"], "^https?://")
        uris = {
            "url": pc.if_else(is_url, discord["image_uri"], None),
            "image_uri": raw["image_uri"],
            "thumbnail_uri": raw["thumbnail_uri"],
            "discord_image_uri": pc.if_else(is_url, None, discord["image_uri"]),
            "image_proxy_uri": discord["image_proxy_uri"],
        }
        uris = _without_ids(uris, pc.binary_join_element_wise(published, pc.fill_null(discord["content"], ""), " "))
        url = without_mentions(uris.pop("url"))
        extra = {
            "modifiers": _json_lists(raw["modifiers"]),
            **uris,
            "content_type": discord["content_type"],
            "timestamp": discord["timestamp"],
            "num_generations": pc.coalesce(discord["num_generations"], flags["n"]),
            "is_grid": pc.coalesce(discord["is_grid"], flags["is_grid"]),
            "content": content,
        }
        sampler = pc.struct_field(pc.extract_regex(url, SAMPLER_IN_URL), "value")
        guidance = pc.coalesce(discord["cfg_scale"], flags["C"]).cast(pa.float32(), safe=False)
        rows = len(published)
        return record.records(
            rows,
            id=_ids(self.NAME, pc.binary_join_element_wise(published, raw_data, "\0")),
            source=self.NAME,
            source_revision=self.revision,
            license=self.LICENSE,
            url=url,
            width=pc.coalesce(discord["width"], flags["W"]),
            height=pc.coalesce(discord["height"], flags["H"]),
            prompt=prompt,
            captions={"prompt": prompt, "message": _other(told, prompt)},
            generation={
                "seed": pc.coalesce(discord["seed"], flags["S"]),
                "steps": pc.coalesce(discord["num_step"], flags["s"]),
                "guidance": pc.if_else(pc.is_finite(guidance), guidance, None),
                "sampler": pc.coalesce(flags["A"], sampler),
            },
            extra=without_mentions(record.json_objects(extra, said.rest).storage),
            dropped=record.drops(self.NAME, rows, said.reason, said.value),
        )


def parse(texts: pa.Array) -> Said:
    """What each `raw_data` says, none null: as columns where all rows have the published fields and types, and row by
    row around one that has not."""
    if (raw := _parse_columns(texts)) is not None:
        nothing = pa.nulls(len(texts), pa.string())
        return Said(raw, nothing, nothing, nothing)
    if len(texts) <= FEW:
        rows, *others = zip(*map(_parse_row, texts.to_pylist()), strict=True)
        return Said(pa.Table.from_pylist(rows, RAW), *(pa.array(other, pa.string()) for other in others))
    raws, *others = zip(*(parse(texts[at : at + FEW]) for at in range(0, len(texts), FEW)), strict=True)
    return Said(pa.concat_tables(raws), *map(pa.concat_arrays, others))


def _parse_columns(texts: pa.Array) -> pa.Table | None:
    """The texts as one JSON file, or None when a row is not one object of the published fields and types.

    As each text begins with "{" and ends with "}", and no object goes on with "{" behind "}", there are as many objects
    as texts only if each text is one.
    """
    if not len(texts):
        return RAW.empty_table()
    if not pc.all(pc.and_(pc.starts_with(texts, "{"), pc.ends_with(texts, "}"))).as_py():
        return None
    joined = pc.binary_join(pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts), "\n")[0].as_buffer()
    try:
        table = pa.json.read_json(
            pa.BufferReader(joined),
            pa.json.ReadOptions(use_threads=False, block_size=len(joined) + 1),
            pa.json.ParseOptions(explicit_schema=RAW, unexpected_field_behavior="error"),
        )
    except pa.ArrowInvalid:
        return None
    return table if len(table) == len(texts) else None


def _parse_row(text: str) -> tuple[dict[str, Any], str | None, str | None, str | None]:
    """The fields of `Said` for one row."""
    found = json_object(text)
    if isinstance(found, BadRow):
        return ({}, None, None, None) if found.reason == "blank" else ({}, None, found.reason, found.value)
    discord = found.pop("raw_discord_data", None)
    if not isinstance(discord, dict | None):
        return {}, None, "wrong_type", f"raw_discord_data is a {type(discord).__name__}"
    raw, rest = _sorted(OUTER, found)
    raw["raw_discord_data"], more = _sorted(DISCORD, discord or {})
    if more:
        rest["raw_discord_data"] = more
    return raw, json_text(rest)[1:-1] or None, None, None


def _sorted(types: dict[str, pa.DataType], found: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of known keys as their types, and all others that say something."""
    known = {name: _fitted(found.get(name), type_) for name, type_ in types.items()}
    return known, {k: v for k, v in found.items() if v is not None and known.get(k) is None}


def _fitted(value: Any, type_: pa.DataType) -> Any:
    """`value` as `type_`; None when that would change what it says."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,9})?", value) and type_ != pa.string():
        value = float(value) if "." in value else int(value)
    if isinstance(value, float) and value.is_integer() and pa.types.is_integer(type_):
        value = int(value)
    if pa.types.is_integer(type_):
        limit = 1 << (type_.bit_width - 1)
        return value if type(value) is int and -limit <= value < limit else None
    if pa.types.is_floating(type_):
        return float(value) if type(value) is float or (type(value) is int and abs(value) < 1 << 53) else None
    if pa.types.is_list(type_):
        texts = [text_or_none(item) for item in value] if isinstance(value, list) else [None]
        return None if None in texts else texts
    return text_or_none(value)


def command(content: pa.Array) -> tuple[pa.Array, dict[str, pa.Array]]:
    """From each message of the bot the prompt of its command, and per flag its value; null where there is none."""
    found = pc.extract_regex(content, COMMAND)
    text = pc.struct_field(found, "flags")
    flags = {name: _flag(text, name, pattern).cast(type_) for name, (type_, pattern) in FLAGS.items()}
    grid, single = (pc.match_substring_regex(text, rf"\s-{name}(?:\s|$)") for name in "gi")
    flags["is_grid"] = pc.if_else(pc.or_(grid, single), grid.cast(pa.int32()), None)
    return pc.struct_field(found, "prompt"), flags


def without_mentions(texts: pa.Array) -> pa.Array:
    """The texts without mentions of people and roles, nor those that appear when one is taken out of another."""
    while pc.any(pc.match_substring_regex(texts, MENTION)).as_py():
        texts = pc.replace_substring_regex(texts, MENTION, "")
    return texts


def _flag(flags: pa.Array, name: str, pattern: str) -> pa.Array:
    return pc.struct_field(pc.extract_regex(flags, rf"\s-{name}\s*(?P<value>{pattern})(?:\s|$)"), "value")


def _without_ids(uris: dict[str, pa.Array], texts: pa.Array) -> dict[str, pa.Array]:
    """The URIs, null where one spells the id of someone whom the row's text mentions."""
    rows = np.flatnonzero(pc.fill_null(pc.match_substring(texts, "<@"), False))
    people = [SNOWFLAKE.findall(text) for text in texts.take(pa.array(rows)).to_pylist()]
    clean = {}
    for name, column in uris.items():
        spelled = np.zeros(len(column), bool)
        for row, ids in zip(rows, people, strict=True):
            spelled[row] = any(id_ in (column[row].as_py() or "") for id_ in ids)
        clean[name] = pc.if_else(pa.array(spelled), None, column) if spelled.any() else column
    return clean


def _ids(source: str, texts: pa.Array) -> pa.Array:
    digits = record.hash_texts(texts).tobytes().hex().encode()
    keys = pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(texts), [None, pa.py_buffer(digits)])
    return pc.binary_join_element_wise(source, keys.cast(pa.binary()).cast(pa.string()), "/")


def _json_lists(lists: pa.Array) -> pa.Array:
    """Lists of strings as JSON; null where empty."""
    items = pc.fill_null(record.json_values(lists.values), "null")
    inside = pc.binary_join(pa.ListArray.from_arrays(lists.offsets, items), ", ")
    filled = pc.greater(pc.list_value_length(lists), 0)
    return record.column(
        pc.if_else(filled, pc.binary_join_element_wise("[", inside, "]", ""), None), pa.json_(), len(lists)
    )


def _other(told: pa.Array, prompt: pa.Array) -> pa.Array:
    """The message's prompt where it is not the row's."""
    differs = pc.not_equal(pc.utf8_trim_whitespace(told), pc.utf8_trim_whitespace(prompt))
    return pc.if_else(pc.fill_null(differs, True), blank_as_null(told), None)


def _told(values: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_in(values, NOTHING), None, values) if values.type == pa.string() else values
