"""Rows: the samples of one split that are streamed, known from their indexes alone."""

import hashlib
import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hfds.archive import BLOCK
from hfds.errors import BadRow, ConfigError, NotAllowed, SourceError, SourceMissing, nearest
from hfds.hub import Hub
from hfds.manifest import MANIFEST, Shard
from hfds.samples import FOLDER, INDEX, Samples
from hfds.urls import Files
from hfds.withdrawn import FILE as WITHDRAWN
from hfds.withdrawn import ids_digest
from hfds.withdrawn import parse as parse_stones
from processors.rules import parse

log = logging.getLogger(__name__)
_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_REVISION = re.compile(r"(hf://datasets/[^/@]+/[^/@]+)(@|$)")
_PLACES = ("offset", "size", "picture_offset", "picture_size")


class Spot(NamedTuple):
    """The bytes of a sample, or of its picture behind the header, in a shard; `values` are those of its index."""

    shard: Shard
    start: int
    size: int
    picture: int  # where the picture begins
    length: int
    values: dict[str, Any]
    lost: BadRow | None = None  # why nobody knows where it is

    @property
    def id(self) -> str:
        """The row's."""
        return str(self.values["id"])


def samples_at(place: str | Path) -> Samples:
    """The samples of a place: a folder with a manifest, its URL, or "<dataset's folder or org/name>@<release>".

    Raises:
        SourceError: there are none, or they cannot be read.
    """
    text = str(place).rstrip("/")
    if "://" in text or (Path(text) / MANIFEST).is_file():
        return Samples(text if "://" in text else Path(text).resolve())
    dataset, at, release = text.rpartition("@")
    if at and Path(dataset).is_dir():
        return Samples(Path(dataset, FOLDER, release).resolve())
    if at and _HUB.fullmatch(dataset):
        return Samples(f"hf://datasets/{dataset}@{_head(dataset)}/{FOLDER}/{release}")
    return Samples(text)


def _head(repo: str) -> str:
    """The commit that main is at, where tars lie that were pushed behind the tag of their release."""
    if found := Hub(repo).head():
        return found[0]
    raise ConfigError(f"{repo} is not on the Hub, or is private: log in as someone who may see it with: hf auth login")


def withdrawn_at(samples: Samples) -> set[str]:
    """The ids of the rows that were withdrawn from a dataset since its samples were exported: of the tombstones in its
    folder or at its URL, in a repository those on main; none of samples that do not lie below its folder `wds`.

    Raises:
        SourceError: they cannot be read, or are none.
    """
    home, _, folder = samples.place.rpartition("/")[0].rpartition("/")
    if folder != FOLDER or (not home and not samples.local):
        return set()
    at_main = _REVISION.match(home)
    file = f"{at_main[1] if at_main else home or '.'}/{WITHDRAWN}"
    try:
        stones = parse_stones(Files(file).fetch(file), file)
    except SourceMissing:
        return set()
    except NotAllowed:
        if samples.local or at_main:
            raise
        log.warning("%s may not be read, which is how a bucket that cannot be listed says that it is not there", file)
        return set()
    ids = {stone.id for stone in stones}
    return set() if ids_digest(ids) == samples.manifest.withdrawn else ids


class Rows:
    """The rows of a split that a rule keeps, numbered in the order of the tars.

    Args:
        samples: where they lie.
        split: "train".
        where: a rule over columns of the index (docs/rules.md); a row for which it cannot be said is not kept.
        without: ids of rows that are not kept.
        withdrawn: ids of rows that nobody keeps any more.
        strict: an index that cannot be read is an error; else its rows are left out where they have to be chosen from,
            and lost.

    Raises:
        ConfigError: there is no such split or column, or no row is kept.
        SourceError: an index cannot be read.
    """

    def __init__(
        self,
        samples: Samples,
        split: str,
        where: str | None = None,
        without: Collection[str] = (),
        withdrawn: Collection[str] = (),
        strict: bool = True,
    ):
        self.samples, self._strict = samples, strict
        if split not in samples.manifest.splits:
            raise ConfigError(f"{samples.place} has no split {split!r}; {nearest(split, samples.manifest.splits)}")
        self.split = samples.manifest.splits[split]
        self.left_out: dict[str, int] = {}
        self._kept: np.ndarray | None = None
        self._places: dict[int, tuple[np.ndarray, ...]] = {}
        if where is not None or without or withdrawn:
            self._kept = self._chosen(where, {"withdrawn": withdrawn, "without": without})
        # An export with other captions may leave out other rows of the same release, and one from now on those that
        # are withdrawn, which are more each time.
        others = {reason: count for reason, count in sorted(self.split.left_out.items()) if reason != "withdrawn"}
        left = self.split.rows - self.left_out.get("withdrawn", 0)
        self.name = f"{samples.manifest.digest}/{split}/{left}/{samples.manifest.caption}/{others}"
        self.n = self.split.rows if self._kept is None else len(self._kept)
        if not self.n:
            raise ConfigError(
                f"{samples.place} has no row in {split!r} to stream" + (f" where {where}" if where else "")
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_places": {}}

    def _chosen(self, where: str | None, without: Mapping[str, Collection[str]]) -> np.ndarray:
        """Numbers of the rows that are kept, counting the others."""
        rule = parse(where) if where is not None else None
        for name in rule.columns if rule else ():
            if name not in (known := [*INDEX.names, *self.samples.manifest.index]):
                raise ConfigError(f"{self.samples.place} has no {name!r} in its index; {nearest(name, known)}")
        gone = {reason: pa.array(sorted(ids), pa.string()) for reason, ids in without.items() if ids}
        found = []
        for shard, start in zip(self.split.shards, self.split.starts, strict=False):
            try:
                table = self.samples.index_of(shard)
            except SourceError as error:
                if self._strict:
                    raise
                log.warning("%s", error)
                self.left_out["index_lost"] = self.left_out.get("index_lost", 0) + shard.rows
                continue
            masks = {}
            if "withdrawn" in gone:
                masks["withdrawn"] = ~pc.is_in(table["id"], gone["withdrawn"]).to_numpy()
            if rule:
                masks["where"] = np.logical_and.reduce(
                    [
                        pc.fill_null(clause.evaluate(table), False).to_numpy(zero_copy_only=False)
                        for clause in rule.clauses
                    ]
                )
            if "without" in gone:
                masks["without"] = ~pc.is_in(table["id"], gone["without"]).to_numpy()
            kept = np.ones(len(table), bool)
            for reason, mask in masks.items():
                self.left_out[reason] = self.left_out.get(reason, 0) + int((kept & ~mask).sum())
                kept &= mask
            found.append(np.flatnonzero(kept) + start)
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def column(self, name: str) -> np.ndarray:
        """A column of numbers of the index, of all rows that are kept."""
        parts = [self.samples.index_of(shard)[name].to_numpy() for shard in self.split.shards]
        whole: np.ndarray = np.concatenate(parts)
        return whole if self._kept is None else whole[self._kept]

    def spots(self, rows: np.ndarray, columns: tuple[str, ...], whole: bool) -> list[Spot]:
        """Where some rows lie.

        Args:
            rows: their numbers among those that are kept.
            columns: of the index, whose values are wanted beside the id.
            whole: all of each sample, or else its picture alone.
        """
        numbers = rows if self._kept is None else self._kept[rows]
        shards, places = self.split.locate(numbers)
        found = []
        for number, place in zip(shards.tolist(), places.tolist(), strict=True):
            shard = self.split.shards[number]
            try:
                table = self.samples.index_of(shard)
            except SourceError as error:
                lost = BadRow("missing_index" if isinstance(error, SourceMissing) else "unreadable_index", str(error))
                found.append(Spot(shard, 0, 0, 0, 0, {"id": f"row {place} of {shard.path}"}, lost))
                continue
            if number not in self._places:
                self._places[number] = tuple(table[name].to_numpy() for name in _PLACES)
            offset, size, picture, length = (int(column[place]) for column in self._places[number])
            start, size = (offset, size) if whole else (picture - BLOCK, length + BLOCK)
            values = {name: table[name][place].as_py() for name in dict.fromkeys(("id", *columns))}
            found.append(Spot(shard, start, size, picture, length, values))
        return found


def fingerprint(*parts: object) -> str:
    """16 hex digits that are the same for what reads the same."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()
