"""Pushing: one release on its way into a repository, step by step; see `hfds.publish`."""

import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets.utils import tqdm

from hfds.check import must_agree
from hfds.dist import CHANGED
from hfds.documents import CARD, PLOTS, documents
from hfds.errors import ConfigError, HubError
from hfds.front_matter import nothing_yet
from hfds.guards import must_be_this_build, must_be_welcome, must_hold_none, tagged
from hfds.hub import Hub, Moved, adding
from hfds.lock import LOCKS, release_order
from hfds.manifest import MANIFEST
from hfds.neighbours import Neighbours
from hfds.place import place_of, published
from hfds.refused import unknown_rows
from hfds.samples import FOLDER as TARS
from hfds.tarred import Large, tarred
from hfds.there import There
from hfds.withdrawn import FILE as WITHDRAWN
from hfds.withdrawn import merged, read_withdrawn, redacted, redacted_lock, text_of

AT_ONCE = 25  # shards of a commit: what a kill can cost is one commit
READERS = 8  # shards that are read back at once
TURNS = 10  # times that the last commit is made anew because somebody else was faster


@dataclass(frozen=True)
class Push:
    """What a push sends, in JSON values, so that it can be kept and applied later.

    - `dataset`, `release` and `digest`: what, built below the folder `out`.
    - `repo`: where to; `private`: how that is made where it is not there.
    - `unknown_license`: rows whose licence is not known may be published; `tars`: so is the export.
    - `files`: what is sent, with the bytes of each, in `commits` commits; `there`: bytes of shards and tars there.
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
    tars: bool
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
        self.tars: dict[str, Large] = {}
        self.withdrawn = read_withdrawn(self.home)
        self.there = There.nowhere()
        self.neighbours = Neighbours(self.place, self.hub, out)

    def plan(self, private: bool, unknown_license: bool, tars: bool) -> Push:
        dataset = str(self.lock["dataset"])
        if (unknown := unknown_rows(self.lock["licenses"])) and not unknown_license:
            raise ConfigError(
                f"{dataset}/{self.name} holds {unknown:,} rows of unknown licence: leave them out, or publish them "
                "with --allow-unknown-license"
            )
        there = self.there = There.of(self.hub)
        must_be_welcome(self.place, self.hub, there, private)
        must_be_this_build(self.place, self.hub, there)
        withdrawn = merged(there.withdrawn, self.withdrawn)
        if tars:
            self.tars = tarred(self.home, self.lock, (stone.id for stone in withdrawn))
        at, missing, here = tagged(self.place, self.hub, there, self.out), self._missing(there), self._here()
        if lost := [path for path in missing if path not in here]:
            raise HubError(f"{self.hub.repo} has lost {lost[0]} of {self.name}, and it is not here: put it back there")
        known = {stored.sha256 for stored in there.tree.values()}  # of shards, by whatever name
        new = {path: 0 if here[path].sha256 in known else here[path].bytes for path in missing}
        planned = Push(
            dataset, self.name, self.lock["digest"], str(self.out), self.hub.repo, private, unknown_license, tars,
            new, sum(file.bytes for file in here.values()) - sum(new.values()), -(-len(missing) // AT_ONCE),
            {name: lock["digest"] for name, lock in there.locks.items()}, None, at,
        )  # fmt: skip
        if at and self.name in there.locks and self.tars.keys() >= {*missing}:
            return planned
        must_agree(self.place, self.home)
        must_hold_none(self.place, self.hub, self.home, withdrawn)
        before = self.neighbours.before(there)
        last = self._last(there)
        sizes = new | {path: _bytes(one) for path, one in last.items()}
        commits = planned.commits + bool(last) + bool(missing and nothing_yet(there.card, self.name))
        headline = before.headline() if before else None
        return replace(planned, files=sizes, commits=commits, changes=headline, commit=None)

    def send(self, planned: Push) -> Push:
        """Sends what is missing; the push with the commit that the tag is at."""
        if planned.commit and not planned.files:
            return planned
        there = self._with_a_card(planned.private)
        missing = self._missing(there)
        gone = self._outdated(there, missing)
        steps = range(0, len(missing), AT_ONCE)
        for at in tqdm(steps, desc=f"Pushing {self.name}", unit=" commits", disable=not missing):
            some = missing[at : at + AT_ONCE]
            message = f"{self.name}: {at + len(some)} of {len(missing)} {'files' if self.tars else 'shards'}"
            there = self._send_large(some, [] if at else gone, message, there)
        shards = [] if self.name in there.locks else [*self.shards]
        if shards or self.tars:
            self._read_back(there.head, shards)
        if planned.commit:
            return planned
        commit = self._list()
        try:
            self.hub.tag(self.name, commit)
        except HubError as error:
            raise HubError(f"{error} ({self.name} is on the card there, and only its tag is missing)") from error
        return replace(planned, commit=there.tags.get(self.name, commit))

    def _send_large(self, paths: Sequence[str], gone: Sequence[str], message: str, there: There) -> There:
        """The repository with these shards and tars, unless somebody else puts another build there meanwhile."""
        here = self._here()
        sums = {path: here[path].sha256 for path in paths}
        files = adding({path: self.home / path for path in paths}, sums)
        for _ in range(TURNS):
            left = [file for file in files if file.path_in_repo in self._missing(there)]
            if not left:
                return there
            try:
                old = [path for path in gone if path in there.tree and path not in paths]
                return replace(there, head=self.hub.commit(message, left, old, there.head))
            except Moved:
                there = There.of(self.hub)
                must_be_this_build(self.place, self.hub, there)
        raise self._crowded()

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
                self.hub.commit(f"{self.name}: a card", adding({CARD: card.encode()}), parent=there.head)
            there = There.of(self.hub)
        raise self._crowded()

    def _crowded(self) -> HubError:
        return HubError(f"{self.hub.repo} is being written by others all the time: run again to go on")

    def _here(self) -> dict[str, Large]:
        return {**_large(self.lock), **self.tars}

    def _missing(self, there: There) -> list[str]:
        """The shards and tars that are to be sent; the shards of the lock that is there, where the release is on the
        card."""
        wanted = {**_large(there.locks.get(self.name, self.lock)), **self.tars}
        return [path for path, file in wanted.items() if not file.matches(there.tree.get(path))]

    def _outdated(self, there: There, missing: Sequence[str]) -> list[str]:
        """The files of another export of the release that are to go. Its manifest is one of them: what is there is not
        finished until the new one comes, last of all."""
        own = [path for path in there.tree if self.tars and path.startswith(f"{TARS}/{self.name}/")]
        return [path for path in own if path not in self.tars or (path.endswith(f"/{MANIFEST}") and path in missing)]

    def _last(self, there: There) -> dict[str, bytes | Path]:
        """The files of the commit that puts the release onto the card, beside all others; none where it is there."""
        if self.name in there.locks:
            return {}
        locks = {**there.locks, self.name: self.lock}
        withdrawn = merged(there.withdrawn, self.withdrawn)
        made = {
            found.new: found.entry() for found in (self.neighbours.before(there), self.neighbours.after(there)) if found
        }
        changes = {name: redacted(entry, withdrawn) for name, entry in {**there.changes, **made}.items()}
        ordered = {name: redacted_lock(locks[name], withdrawn) for name in sorted(locks, key=release_order)}
        told = documents(ordered, changes, len(withdrawn), self.hub.repo, there.card, self.hub.repo)
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
            must_be_this_build(self.place, self.hub, there)
            if self.name in there.locks:
                return there.head  # an answer was lost, or a kill came before the tag
            if self._missing(there):
                raise HubError(f"{self.hub.repo} has other shards of {self.name} than were sent: run again to go on")
            ours = re.compile(rf"data/{re.escape(self.name)}/[^/]+-\d{{5}}-of-\d{{5}}\.parquet")
            # What a push of another build that was cut off has left.
            gone = [path for path in there.tree if ours.fullmatch(path) and path not in self.shards]
            rows = sum(split["rows"] for split in self.lock["splits"].values())
            try:
                return self.hub.commit(f"{self.name}: {rows:,} rows", adding(self._last(there)), gone, there.head)
            except Moved:
                continue
        raise self._crowded()

    def _read_back(self, commit: str, shards: Sequence[str]) -> None:
        """Compares what the repository has at a commit with what was built: these shards, and all tars.

        Raises:
            HubError: with the first thing that differs.
        """
        tree = self.hub.tree(commit)
        place = published(self.hub, self.lock, commit, tree)
        firsts = {split["shards"][0]["path"] for split in self.lock["splits"].values()}

        def compare(path: str) -> None:
            with pq.ParquetFile(place.at(path)) as theirs, pq.ParquetFile(self.home / path) as ours:
                if not theirs.metadata.equals(ours.metadata) or theirs.metadata.num_rows != self.shards[path]["rows"]:
                    raise HubError(f"{self.hub.repo} gives other rows or columns for {path} than were sent")
                if path in firsts and _bits(theirs.read_row_group(0)) != _bits(ours.read_row_group(0)):
                    raise HubError(f"{self.hub.repo} gives other values for {path} than were sent")

        here = self._here()
        for path in (*shards, *self.tars):
            if not here[path].matches(tree.get(path)):
                raise HubError(f"{self.hub.repo} has another {path} than was sent: run again to send it again")
        with ThreadPoolExecutor(READERS) as pool:
            bar = tqdm(pool.map(compare, shards), "Reading back", len(shards), unit=" shards", disable=not shards)
            for _ in bar:
                pass


def _large(lock: Mapping[str, Any]) -> dict[str, Large]:
    """The shards of a release."""
    shards = [shard for split in lock["splits"].values() for shard in split["shards"]]
    return {shard["path"]: Large(shard["bytes"], shard["sha256"]) for shard in shards}


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
