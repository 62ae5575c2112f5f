"""Wanted: the rows of a built release that have one of some ids, URLs, pictures or prompts."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hfds.columns import read
from hfds.errors import ConfigError
from hfds.record import printable

WAYS = {"id": "id", "url": "url", "sha256": "image.bytes", "prompt-regex": "prompt"}  # to find a row, and where


@dataclass(frozen=True)
class Wanted:
    """Rows that have any of these.

    Args:
        ids: their ids.
        urls: what their column `url` says, to the letter.
        sha256s: of the encoded bytes of their picture, 64 hex digits.
        prompts: RE2 expressions, each of which is found anywhere in the prompt.
    """

    ids: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    sha256s: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()

    @property
    def by(self) -> dict[str, tuple[str, ...]]:
        """What was asked for, by way; ways that were not taken are left out."""
        asked = zip(WAYS, (self.ids, self.urls, self.sha256s, self.prompts), strict=True)
        return {way: values for way, values in asked if values}

    def check(self) -> None:
        """Raises ConfigError with everything that is wrong with it."""
        found = [] if self.by else ["which rows? give at least one --id, --url, --sha256 or --prompt-regex"]
        found += [f"--{way} is empty" for way, values in self.by.items() if "" in values]
        for one in self.sha256s:
            if not re.fullmatch("[0-9A-Fa-f]{64}", one):
                found.append(f"--sha256 takes the 64 hex digits of a picture's bytes, got {one!r}")
        for pattern in self.prompts:
            try:
                pc.match_substring_regex(pa.array([""]), pattern)
            except pa.ArrowInvalid as error:
                found.append(f"--prompt-regex {pattern!r} is no RE2 expression: {printable(str(error))}")
        if found:
            raise ConfigError(*found)

    def unseen(self, lock: Mapping[str, Any]) -> list[str]:
        """The ways by which no row of a release can be found, as it lacks the column."""
        return [way for way in self.by if WAYS[way].partition(".")[0] not in lock["columns"]]


def find(wanted: Wanted, home: Path, lock: Mapping[str, Any], seen: dict[str, dict[str, str]]) -> dict[str, str]:
    """The ids of the rows of a release that are wanted, each with the way it was found first.

    Args:
        home: the folder of its dataset.
        seen: what was found in shards, by their sha256; filled, as releases share shards.

    Raises:
        BadFile: a shard cannot be read.
    """
    ways = [way for way in wanted.by if way not in wanted.unseen(lock)]
    found: dict[str, str] = {}
    for shard in (shard for split in lock["splits"].values() for shard in split["shards"]) if ways else ():
        if shard["sha256"] not in seen:
            columns = dict.fromkeys(("id", *(WAYS[way] for way in ways)))
            seen[shard["sha256"]] = dict(
                match
                for table in read([home / shard["path"]], [*columns])
                for way in reversed(ways)  # of two ways the first is told
                for match in _matches(table, way, wanted.by[way])
            )
        found |= seen[shard["sha256"]]
    return found


def _matches(table: pa.Table, way: str, values: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if way == "sha256":
        sums = {value.lower() for value in values}
        pictures = table["image"].combine_chunks().field("bytes")
        mask = pa.array([one.is_valid and hashlib.sha256(one.as_buffer()).hexdigest() in sums for one in pictures])
    elif way == "prompt-regex":
        mask = reduce(pc.or_, [pc.match_substring_regex(table["prompt"], pattern) for pattern in values])
    else:
        mask = pc.is_in(table[WAYS[way]], pa.array(values, pa.string()))
    return ((id_, way) for id_ in table["id"].filter(mask).to_pylist())
