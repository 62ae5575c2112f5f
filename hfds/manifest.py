"""Manifest: which tars a release was exported as, of how many rows and bytes; read without believing it."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hfds.errors import BadFile

FORMAT = 1
MANIFEST = "manifest.json"
AGAIN = "fetch it again, or export the release again"
_NAME = re.compile(r"\w[\w.-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Shard:
    """A tar and its index, by their names in the folder of the manifest."""

    path: str
    bytes: int
    rows: int
    sha256: str
    index: str
    index_bytes: int
    index_sha256: str


@dataclass(frozen=True)
class Split:
    """The tars of a split, in order; `left_out` counts rows of the release that are in none of them, by reason, and
    `noted` what is wanting in others: "by_prompt" (no caption in the style that was asked for), "bad_mask"."""

    rows: int
    left_out: Mapping[str, int]
    shards: tuple[Shard, ...]
    noted: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def starts(self) -> np.ndarray:
        """The number of each shard's first row, and of the one behind the last: shape (shards + 1,), int64."""
        return np.cumsum([0, *(shard.rows for shard in self.shards)], dtype=np.int64)

    def locate(self, rows: int | np.ndarray) -> tuple[Any, Any]:
        """The number of the shard that each row lies in, and its row there; of one row, or of an array of them.

        Raises:
            IndexError: there is no such row.
        """
        asked = np.asarray(rows, np.int64)
        if asked.size and (asked.min() < 0 or asked.max() >= self.rows):
            raise IndexError(f"a row of {asked.min():,} to {asked.max():,} where there are {self.rows:,}")
        shards = np.searchsorted(self.starts, asked, "right") - 1
        return shards, asked - self.starts[shards]


@dataclass(frozen=True)
class Manifest:
    """What was exported: a release's tars by split, and how their samples were made."""

    dataset: str
    release: str
    digest: str
    caption: str
    extensions: tuple[str, ...]
    index: tuple[str, ...]  # the release's columns that stand in each index, beside those of `INDEX`
    splits: Mapping[str, Split]
    max_shard: int = 0  # bytes of a tar that were asked for
    withdrawn: str = ""  # what `hfds.withdrawn.ids_digest` says of the ids that were left out if they occur

    @property
    def files(self) -> dict[str, int]:
        """Bytes of every tar and index, by name."""
        shards = [shard for split in self.splits.values() for shard in split.shards]
        return {shard.path: shard.bytes for shard in shards} | {shard.index: shard.index_bytes for shard in shards}

    def write(self, folder: Path) -> Path:
        """Writes it into `folder`, aside and renamed."""
        path = folder / MANIFEST
        aside = path.with_name(f"{MANIFEST}.part")
        entry = {"format": FORMAT, **asdict(self)}
        aside.write_text(json.dumps(entry, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return aside.rename(path)

    @classmethod
    def of(cls, data: bytes, file: str) -> "Manifest":
        """The manifest that some bytes are; `file` is what they are called where they are wrong.

        Raises:
            BadFile: they are none, or one of another format.
        """
        try:
            said = json.loads(data)
            if _get(said, "format", int) != FORMAT:
                raise ValueError(f"format {said['format']}, and this hfds reads format {FORMAT}")
            words = {name: _get(said, name, str) for name in ("dataset", "release", "digest", "caption", "withdrawn")}
            splits = {_name(name): _split(entry) for name, entry in _get(said, "splits", dict).items()}
            lists = _strings(said, "extensions"), _strings(said, "index")
            found = cls(
                **words, extensions=lists[0], index=lists[1], splits=splits, max_shard=_count(said, "max_shard")
            )
            if len(found.files) != 2 * sum(len(split.shards) for split in splits.values()):
                raise ValueError("a file is named twice")
        except (ValueError, RecursionError) as error:  # of which those of JSON and of Unicode are kinds
            raise BadFile(file, f"it is no manifest of samples ({error})", AGAIN) from None
        return found


def _get(entry: Any, name: str, kind: type) -> Any:
    if not isinstance(entry, dict):
        raise ValueError(f"{_short(entry)} where an object should be")
    found = entry.get(name)
    if type(found) is not kind:
        raise ValueError(f"{name} is {_short(found)}")
    return found


def _short(value: Any) -> str:
    return ascii(value)[:60]


def _strings(entry: Any, name: str) -> tuple[str, ...]:
    found = _get(entry, name, list)
    if not all(isinstance(one, str) for one in found) or len(set(found)) < len(found):
        raise ValueError(f"{name} is {_short(found)}")
    return tuple(found)


def _name(value: Any) -> str:
    """A name without slashes and dots that climb, of a file or split."""
    if not isinstance(value, str) or not _NAME.fullmatch(value) or ".." in value:
        raise ValueError(f"{_short(value)} is no plain name")
    return value


def _count(entry: Any, name: str, least: int = 0) -> int:
    found: int = _get(entry, name, int)
    if not least <= found < 1 << 60:
        raise ValueError(f"{name} is {_short(found)}")
    return found


def _counts(entry: Any, name: str) -> dict[str, int]:
    found = _get(entry, name, dict)
    return {reason: _count(found, reason) for reason in found}


def _sha256(entry: Any, name: str) -> str:
    found: str = _get(entry, name, str)
    if not _SHA256.fullmatch(found):
        raise ValueError(f"{name} is {_short(found)}")
    return found


def _shard(entry: Any) -> Shard:
    if not isinstance(entry, dict):
        raise ValueError(f"a shard is {_short(entry)}")
    return Shard(
        _name(entry.get("path")), _count(entry, "bytes", 1), _count(entry, "rows", 1), _sha256(entry, "sha256"),
        _name(entry.get("index")), _count(entry, "index_bytes", 1), _sha256(entry, "index_sha256"),
    )  # fmt: skip


def _split(entry: Any) -> Split:
    shards = tuple(_shard(one) for one in _get(entry, "shards", list))
    rows = _count(entry, "rows")
    if rows != sum(shard.rows for shard in shards):
        raise ValueError(f"{rows:,} rows in a split, and {sum(shard.rows for shard in shards):,} in its shards")
    return Split(rows, _counts(entry, "left_out"), shards, _counts(entry, "noted"))
