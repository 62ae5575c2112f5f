"""Place: where a built release lies, below a folder or on the Hub."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from datasets import Features
from huggingface_hub.errors import RemoteEntryNotFoundError

from hfds.columns import File
from hfds.earlier import lock_of
from hfds.errors import ConfigError, HubError, SourceMissing, causes, nearest
from hfds.hub import Hub, Stored
from hfds.lock import LOCKS, read_lock, release_names, release_order
from hfds.remote import Kept, Remote
from hfds.withdrawn import FILE, Tombstone, parse, read_withdrawn

Stones = Callable[[], tuple[Tombstone, ...]]


@dataclass(frozen=True)
class Place:
    """Where a built release lies: its lock, what gives the file at a path that is in the lock, and what gives the
    tombstones of its dataset."""

    lock: Mapping[str, Any]
    at: Callable[[str], File]
    stones: Stones = tuple

    @property
    def name(self) -> str:
        """The release's own."""
        return str(self.lock["release"])

    @property
    def label(self) -> str:
        """The name by which ledgers know it: "toys/v1"."""
        return f"{self.lock['dataset']}/{self.name}"

    @property
    def features(self) -> Features:
        """Those of its rows."""
        return Features.from_dict(self.lock["columns"])

    @cached_property
    def shards(self) -> list[File]:
        """Its Parquet files, split after split."""
        return [self.at(shard["path"]) for split in self.lock["splits"].values() for shard in split["shards"]]

    @cached_property
    def ledger(self) -> list[File]:
        """Its ledger, as the one file of a list."""
        return [self.at(self.lock["ledger"]["path"])]

    @cached_property
    def withdrawn(self) -> dict[str, Tombstone]:
        """The rows that were withdrawn from its dataset until now, by id, whether it has them or not."""
        return {stone.id: stone for stone in self.stones()}


def named(dataset: str, release: str) -> tuple[str, str]:
    """The dataset and the release that are meant: a release may be written with its dataset, as in "org/name@v4"."""
    mine, at, name = release.rpartition("@")
    return (mine, name) if at else (dataset, release)


def place_of(dataset: str, release: str, out: Path) -> Place:
    """Where a release lies that was built below `out`, or published. Nothing else here knows how a name becomes files.

    Args:
        dataset: a dataset built there, or a repository on the Hub, which has a "/" in its name.
        release: one of its releases; or with the dataset that it is of, whatever `dataset` is: "org/name@v4".

    Raises:
        ConfigError: it was not built there, or is not published whole.
        SourceMissing: one of its files is gone or has another size.
        HubError: the repository cannot be read, or a file is not what the lock says.
    """
    dataset, release = named(dataset, release)
    if "/" in dataset:
        return _published(Hub(dataset), release)
    if not (out / dataset / LOCKS).is_dir():
        raise ConfigError(f"no dataset {dataset!r} was built in {out}: {nearest(dataset, datasets_in(out))}")
    home = out / dataset
    place = Place(lock_of(out, dataset, release), home.joinpath, partial(read_withdrawn, home))
    if not (out / dataset / place.lock["ledger"]["path"]).is_file():
        raise SourceMissing(f"{place.ledger[0]} of release {dataset}/{release} is gone: build that release again")
    return place


def datasets_in(out: Path) -> list[str]:
    """The datasets that were built below a folder."""
    return sorted(path.parent.name for path in out.glob(f"*/{LOCKS}"))


def places(dataset: str, out: Path) -> dict[str, Place]:
    """All releases of a dataset, as in `place_of`, by name, in the order of names. Whether their files are there shows
    when they are read."""
    if "/" not in dataset:
        home = out / dataset
        stones = cache(partial(read_withdrawn, home))
        return {name: Place(read_lock(home, name), home.joinpath, stones) for name in release_names(home)}
    hub = Hub(dataset)
    tags, stones = hub.tags(), cache(partial(withdrawn_from, hub))
    found = {name: _tagged(hub, name, tags[name], stones) for name in sorted(tags, key=release_order)}
    return {name: place for name, place in found.items() if place}


def _published(hub: Hub, name: str) -> Place:
    """A release at its tag."""
    tags = hub.tags()
    if name in tags and (place := _tagged(hub, name, tags[name], partial(withdrawn_from, hub))):
        return place
    if any(path.startswith((f"data/{name}/", f"{LOCKS}{name}.lock.json")) for path in hub.tree()):
        raise ConfigError(f"{hub.repo} has no tag {name!r}: that release is not published whole, push it again")
    raise ConfigError(f"{hub.repo} has no release {name!r}: {nearest(name, sorted({*tags} - {name}))}")


def _tagged(hub: Hub, name: str, commit: str, stones: Stones) -> Place | None:
    """The release at a commit that is tagged with its name; None where it has no lock there."""
    tree, own = hub.tree(commit), f"{LOCKS}{name}.lock.json"
    if own not in tree:
        return None
    try:
        lock = json.loads(hub.part(own, commit, 0, tree[own].size))
        if lock["release"] != name:
            raise ValueError
        files = [*(shard for split in lock["splits"].values() for shard in split["shards"]), lock["ledger"]]
        told = {file["path"]: (file.get("bytes"), file["sha256"]) for file in files}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise HubError(f"{own} in {hub.repo} is no lock of a release: push that release again") from None
    for path, (size, sha256) in told.items():
        there = tree.get(path)
        if not there or size not in (None, there.size) or (there.sha256 or sha256) != sha256:
            what = "has another size or sha256 than its lock says" if there else "is gone"
            raise HubError(f"{path} of {name} in {hub.repo} {what}: see hfds verify {hub.repo} {name}")
    return published(hub, lock, commit, tree, stones)


def published(
    hub: Hub, lock: Mapping[str, Any], commit: str, tree: Mapping[str, Stored], stones: Stones = tuple
) -> Place:
    """A release on the Hub, whose files are those at a commit."""
    kept = Kept()

    def at(path: str) -> Remote:
        name = f"{hub.repo}@{lock['release']}/{path}"
        return Remote(name, tree[path].size, partial(hub.part, path, commit), kept)

    return Place(lock, at, stones)


def withdrawn_from(hub: Hub) -> tuple[Tombstone, ...]:
    """The tombstones of a repository as it is now; where the Hub cannot be reached, those that were fetched last.

    Raises:
        HubError: the Hub does not say which they are, and never did.
        BadFile: the list is broken.
    """
    try:
        found = hub.call(lambda: hub.api.hf_hub_download(hub.repo, FILE, repo_type="dataset", revision="main"))
    except HubError as error:
        if any(isinstance(cause, RemoteEntryNotFoundError) for cause in causes(error)):
            return ()
        raise
    return parse(Path(found).read_bytes(), f"{hub.repo}/{FILE}")
