"""Pushing: one release on its way into a repository, step by step; see `hfds.publish`."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets.utils import tqdm

from hfds.changelog import Diff, check_level
from hfds.check import must_agree
from hfds.diff import diff
from hfds.dist import CHANGED
from hfds.documents import CARD, PLOTS, documents
from hfds.errors import ConfigError, HfdsError, HubError
from hfds.front_matter import nothing_yet
from hfds.hub import Hub, Moved, Stored
from hfds.lock import LOCKS, release_order
from hfds.place import Place, place_of, published
from hfds.record import printable
from hfds.there import There
from hfds.wanted import Wanted, find
from hfds.withdrawn import FILE as WITHDRAWN
from hfds.withdrawn import Tombstone, merged, read_withdrawn, redacted, text_of

AT_ONCE = 25  # shards of a commit: what a kill can cost is one commit
READERS = 8  # shards that are read back at once
TURNS = 10  # times that the last commit is made anew because somebody else was faster


@dataclass(frozen=True)
class Push:
    """What a push sends, in JSON values, so that it can be kept and applied later.

    - `dataset`, `release` and `digest`: what, built below the folder `out`.
    - `repo`: where to; `private`: how that is made where it is not there.
    - `unknown_license`: rows whose licence is not known may be published.
    - `files`: what is sent, with the bytes of each, in `commits` commits; `there`: bytes of shards that are there.
    - `listed`: the releases that the repository has, with their digests.
    - `changes`: the changelog's headline, None for the first release.
    - `commit`: where the release is, None until it is there.
    """

    dataset: str
    release: str
    digest: str
    out: str
    repo: str
    private: bool
    unknown_license: bool
    files: dict[str, int]
    there: int
    commits: int
    listed: dict[str, str]
    changes: str | None
    commit: str | None = None


class Pushing:
    """A release on its way into a repository."""

    def __init__(self, dataset: str, name: str, repo: str, out: Path, token: str | None):
        self.hub, self.out = Hub(repo, token), out
        self.place = place_of(dataset, name, out)
        self.lock, self.home, self.name = self.place.lock, out / dataset, name
        shards = [shard for split in self.lock["splits"].values() for shard in split["shards"]]
        self.shards = {shard["path"]: shard for shard in shards}
        self.withdrawn = read_withdrawn(self.home)
        self.there = There.nowhere()
        self.compared: dict[str, Diff] = {}  # with releases before it, by digest

    def plan(self, private: bool, unknown_license: bool) -> Push:
        dataset = str(self.lock["dataset"])
        if (unknown := self.lock["licenses"].get("unknown")) and not unknown_license:
            raise ConfigError(
                f"{dataset}/{self.name} holds {unknown:,} rows of unknown licence: leave them out, or publish them "
                "with --allow-unknown-license"
            )
        there = self.there = There.of(self.hub)
        self._must_be_this_build(there)
        total = sum(shard["bytes"] for shard in self.shards.values())
        planned = Push(
            dataset, self.name, self.lock["digest"], str(self.out), self.hub.repo, private, unknown_license,
            {}, total, 0, {name: lock["digest"] for name, lock in there.locks.items()}, None, there.tags.get(self.name),
        )  # fmt: skip
        if planned.commit:
            return planned
        must_agree(self.place, self.home)
        self._must_hold_none(merged(there.withdrawn, self.withdrawn))
        before = self._before(there)
        missing = self._missing(there)
        last = self._last(there)
        sizes = {path: self.shards[path]["bytes"] for path in missing} | {
            path: _bytes(one) for path, one in last.items()
        }
        commits = -(-len(missing) // AT_ONCE) + bool(last) + bool(missing and nothing_yet(there.card, self.name))
        left = sum(self.shards[path]["bytes"] for path in missing)
        headline = before.headline() if before else None
        return replace(planned, files=sizes, there=total - left, commits=commits, changes=headline)

    def send(self, planned: Push) -> Push:
        """Sends what is missing; the push with the commit that the tag is at."""
        if planned.commit:
            return planned
        there = self._with_a_card(planned.private)
        missing, head = self._missing(there), there.head
        steps = range(0, len(missing), AT_ONCE)
        for at in tqdm(steps, desc=f"Pushing {self.name}", unit=" commits", disable=not missing):
            some = missing[at : at + AT_ONCE]
            sums = {path: self.shards[path]["sha256"] for path in some}
            message = f"{self.name}: {at + len(some)} of {len(missing)} shards"
            head = self.hub.commit(message, {path: self.home / path for path in some}, sums=sums)
        if self.name not in there.locks:
            self._read_back(head)
        commit = self._list()
        self.hub.tag(self.name, commit)
        return replace(planned, commit=commit)

    def _with_a_card(self, private: bool) -> There:
        """The repository, made where it is not there, with a card that names configs: without any, `datasets` would
        take the first shards for all rows."""
        there = self.there
        if not there.head:
            self.hub.create(private)
            there = There.of(self.hub)
        for _ in range(TURNS):
            card = nothing_yet(there.card, self.name)
            if not card or not self._missing(there):
                return there
            with suppress(Moved):
                self.hub.commit(f"{self.name}: a card", {CARD: card.encode()}, parent=there.head)
            there = There.of(self.hub)
        raise self._crowded()

    def _crowded(self) -> HubError:
        return HubError(f"{self.hub.repo} is being written by others all the time: run again to go on")

    def _must_be_this_build(self, there: There) -> None:
        """Raises ConfigError where the repository has another build of that name."""
        theirs = there.locks.get(self.name)
        if theirs is None or theirs["digest"] == self.lock["digest"]:
            return
        said = [
            f"{one['digest'][:12]} with {sum(split['rows'] for split in one['splits'].values()):,} rows"
            for one in (theirs, self.lock)
        ]
        raise ConfigError(
            f"{self.hub.repo} has another build of {self.name} ({said[0]}; this one is {said[1]}), and what is "
            "published is never changed: give this one a name of its own"
        )

    def _must_hold_none(self, withdrawn: Sequence[Tombstone]) -> None:
        """Raises ConfigError where the release has rows that were withdrawn."""
        found = find(Wanted(ids=tuple(stone.id for stone in withdrawn)), self.home, self.lock, {}) if withdrawn else {}
        if found:
            raise ConfigError(
                f"{self.place.label} has {len(found):,} rows that were withdrawn from {self.hub.repo}, such as "
                f"{printable(next(iter(found)))}: copy {WITHDRAWN} from there into {self.home} and build it again, or "
                "withdraw them with hfds yank"
            )

    def _missing(self, there: There) -> list[str]:
        """The shards that are to be sent; none where the release is on the card, with the same rows in other files."""
        return [] if self.name in there.locks else [path for path in self.shards if not self._has(there.tree, path)]

    def _has(self, tree: Mapping[str, Stored], path: str) -> bool:
        shard = self.shards[path]
        return path in tree and (tree[path].size, tree[path].sha256) == (shard["bytes"], shard["sha256"])

    def _before(self, there: There) -> Diff | None:
        """What changed from the newest release that was published before this one in the order of names.

        Raises:
            ConfigError: that is more than the release's name says.
        """
        own = release_order(self.name)
        older = [name for name in there.locks if name in there.tags and release_order(name) < own]
        if not older:
            return None
        before = max(older, key=release_order)
        digest = there.locks[before]["digest"]
        if digest not in self.compared:
            self.compared[digest] = diff(self._nearest(before, digest), self.place)
        check_level(self.compared[digest])
        return self.compared[digest]

    def _nearest(self, name: str, digest: str) -> Place:
        """A published release where it was built, if that still lies there, else on the Hub."""
        dataset = str(self.lock["dataset"])
        try:
            place = place_of(dataset, name, self.out)
        except HfdsError:
            place = None
        if place is None or place.lock["digest"] != digest:
            place = place_of(dataset, f"{self.hub.repo}@{name}", self.out)
        return place

    def _last(self, there: There) -> dict[str, bytes | Path]:
        """The files of the commit that puts the release onto the card, beside all others; none where it is there."""
        if self.name in there.locks:
            return {}
        locks = {**there.locks, self.name: self.lock}
        before = self._before(there)
        withdrawn = merged(there.withdrawn, self.withdrawn)
        known = {**there.changes, **({self.name: before.entry()} if before else {})}
        changes = {name: redacted(entry, withdrawn) for name, entry in known.items()}
        told = documents(
            {name: locks[name] for name in sorted(locks, key=release_order)},
            changes, len(withdrawn), self.hub.repo, there.card,
        )  # fmt: skip
        files: dict[str, bytes | Path] = {path: text for path, text in told.items() if not _drawn(path, there)}
        own, ledger = f"{LOCKS}{self.name}.lock.json", self.lock["ledger"]["path"]
        files |= {own: self.home / own, ledger: self.home / ledger}
        for name, entry in changes.items():
            if entry != there.changes.get(name):
                files[CHANGED.format(name)] = json.dumps(entry, indent=2, ensure_ascii=False).encode()
        if withdrawn:
            files[WITHDRAWN] = text_of(withdrawn).encode()
        return files

    def _list(self) -> str:
        """Puts a release whose shards are there onto the card; returns the commit."""
        for _ in range(TURNS):
            there = There.of(self.hub)
            self._must_be_this_build(there)
            if self.name in there.locks:
                return there.head  # an answer was lost, or a kill came before the tag
            if self._missing(there):
                raise HubError(f"{self.hub.repo} has other shards of {self.name} than were sent: run again to go on")
            own = f"data/{self.name}/"
            gone = [path for path in there.tree if path.startswith(own) and path not in self.shards]
            rows = sum(split["rows"] for split in self.lock["splits"].values())
            try:
                return self.hub.commit(f"{self.name}: {rows:,} rows", self._last(there), gone, there.head)
            except Moved:
                continue
        raise self._crowded()

    def _read_back(self, commit: str) -> None:
        """Compares what the repository has at a commit with what was built.

        Raises:
            HubError: with the first thing that differs.
        """
        tree = self.hub.tree(commit)
        place = published(self.hub, self.lock, commit, tree)
        firsts = {split["shards"][0]["path"] for split in self.lock["splits"].values()}

        def compare(path: str) -> None:
            if not self._has(tree, path):
                raise HubError(f"{self.hub.repo} has another {path} than was sent: run again to send it again")
            with pq.ParquetFile(place.at(path)) as theirs, pq.ParquetFile(self.home / path) as ours:
                if not theirs.metadata.equals(ours.metadata) or theirs.metadata.num_rows != self.shards[path]["rows"]:
                    raise HubError(f"{self.hub.repo} gives other rows or columns for {path} than were sent")
                if path in firsts and _bits(theirs.read_row_group(0)) != _bits(ours.read_row_group(0)):
                    raise HubError(f"{self.hub.repo} gives other values for {path} than were sent")

        with ThreadPoolExecutor(READERS) as pool:
            bar = tqdm(pool.map(compare, self.shards), "Reading back", len(self.shards), unit=" shards")
            for _ in bar:
                pass


def _bits(table: pa.Table) -> pa.Buffer:
    """All values, so that not-a-number is equal to itself."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _drawn(path: str, there: There) -> bool:
    """Whether a document is the plot of a release that is there, which is never drawn again."""
    return path.startswith(PLOTS) and path in there.tree


def _bytes(file: bytes | Path) -> int:
    return len(file) if isinstance(file, bytes) else file.stat().st_size
