"""Publish: a built release onto the Hub, so that it appears there whole or not at all, and is never changed again.

1. The shards, in commits that no card lists yet. What is there already is not sent again.
2. They are read back: their sha256, their rows, their columns, and a row group of each split.
3. One commit with the card, the Croissant document, the ledger and the lock: from then on `load_dataset(repo, release)`
   finds it.
4. The tag. A release that has one is never written again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets.utils import tqdm

from hfds.card import merged, render
from hfds.croissant import croissant
from hfds.earlier import lock_of
from hfds.errors import ConfigError, HubError
from hfds.hub import Hub, Moved, Stored
from hfds.lock import LOCKS, release_order

AT_ONCE = 25  # shards of a commit: what a kill can cost is one commit
TURNS = 10  # times that the last commit is made anew because somebody else was faster
CROISSANT = "croissant.json"


@dataclass(frozen=True)
class Push:
    """What a push sends: `files` by path with their bytes, `there` the bytes that the repository has already."""

    repo: str
    release: str
    files: dict[str, int]
    there: int
    commits: int
    tagged: bool
    commit: str | None = field(default=None)


def push(
    dataset: str,
    name: str,
    repo: str,
    *,
    out: str | Path = "dist",
    token: str | None = None,
    private: bool = False,
    unknown_license: bool = False,
    dry_run: bool = False,
) -> Push:
    """Publishes a release that was built below `out` as config and tag `name` of the dataset repository `repo`.

    Running again goes on where a push was cut off, and sends nothing that is there.

    Args:
        token: of someone who may write there; the one that `hf auth login` keeps when None.
        private: how the repository is made, where it is not there.
        unknown_license: publish rows whose licence is not known.
        dry_run: only say what would be sent.

    Raises:
        ConfigError: the release is not built, was published as something else, or holds rows of unknown licence.
        HubError: the Hub refuses it, cannot be reached, or has something else than was sent.
    """
    home = Path(out) / dataset
    lock = lock_of(Path(out), dataset, name)
    if (unknown := lock["licenses"].get("unknown")) and not unknown_license:
        raise ConfigError(
            f"{dataset}/{name} holds {unknown:,} rows of unknown licence: leave them out, or publish them with "
            "--allow-unknown-license"
        )
    hub = Hub(repo, token)
    there = hub.exists()
    if not there and not dry_run:
        hub.create(private)
    tree = hub.tree() if there else {}
    tags = hub.tags() if there else {}
    own = f"{LOCKS}{name}.lock.json"
    if name in tags or own in tree:
        _same_build(hub, lock, json.loads(hub.read(own, tags.get(name, "main"))))
    if name in tags:
        return Push(repo, name, {}, sum(split["bytes"] for split in lock["splits"].values()), 0, True, tags[name])
    shards = {shard["path"]: shard for split in lock["splits"].values() for shard in split["shards"]}
    missing = [path for path, shard in shards.items() if not _same(tree.get(path), shard)]
    rest = (lock["ledger"]["path"], own, "README.md")
    sizes = {path: shards[path]["bytes"] for path in missing} | {path: (home / path).stat().st_size for path in rest}
    planned = Push(
        repo, name, sizes, sum(shard["bytes"] for path, shard in shards.items() if path not in missing),
        -(-len(missing) // AT_ONCE) + 1, tagged=False,
    )  # fmt: skip
    if dry_run:
        return planned
    for at in tqdm(range(0, len(missing), AT_ONCE), desc=f"Pushing {name}", unit=" commits", disable=not missing):
        some = missing[at : at + AT_ONCE]
        message = f"{name}: {at + len(some)} of {len(missing)} shards"
        hub.commit(message, {path: home / path for path in some})
    _read_back(hub, home, lock)
    commit = _list(hub, home, lock)
    hub.tag(name, commit)
    return Push(repo, name, planned.files, planned.there, planned.commits, tagged=True, commit=commit)


def _same(stored: Stored | None, shard: Mapping[str, Any]) -> bool:
    return stored is not None and (stored.size, stored.sha256) == (shard["bytes"], shard["sha256"])


def _same_build(hub: Hub, lock: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Raises ConfigError where the repository has another build of that name."""
    if theirs["digest"] == lock["digest"]:
        return
    said = [
        f"{one['digest'][:12]} with {sum(split['rows'] for split in one['splits'].values()):,} rows"
        for one in (theirs, lock)
    ]
    raise ConfigError(
        f"{hub.repo} has another build of {lock['release']} ({said[0]}; this one is {said[1]}), and what is published "
        "is never changed: give this one a name of its own"
    )


def _read_back(hub: Hub, home: Path, lock: Mapping[str, Any]) -> None:
    """Compares what the repository has with the lock.

    Raises:
        HubError: with the first thing that differs.
    """
    head = hub.head()
    tree = hub.tree(head)
    for split in lock["splits"].values():
        for number, shard in enumerate(split["shards"]):
            path = shard["path"]
            if not _same(tree.get(path), shard):
                raise HubError(f"{hub.repo} has another {path} than was sent: run again to send it again")
            theirs, sample = hub.call(partial(_footer, hub, path, head, number == 0))
            with pq.ParquetFile(home / path) as ours:
                if (theirs.num_rows, theirs.schema) != (shard["rows"], ours.metadata.schema):
                    raise HubError(f"{hub.repo} gives other rows or columns for {path} than were sent")
                if sample is not None and not sample.equals(ours.read_row_group(0)):
                    raise HubError(f"{hub.repo} gives other values for {path} than were sent")


def _footer(hub: Hub, path: str, commit: str, sample: bool) -> tuple[pq.FileMetaData, pa.Table | None]:
    """What a shard in the repository says of itself, and its first rows."""
    with hub.files.open(f"datasets/{hub.repo}@{commit}/{path}", "rb") as file, pq.ParquetFile(file) as parquet:
        return parquet.metadata, parquet.read_row_group(0) if sample else None


def _list(hub: Hub, home: Path, lock: Mapping[str, Any]) -> str:
    """Puts a release whose shards are there onto the card, beside all others; returns the commit."""
    name = lock["release"]
    own, ledger = f"{LOCKS}{name}.lock.json", lock["ledger"]["path"]
    shards = {shard["path"] for split in lock["splits"].values() for shard in split["shards"]}
    for _ in range(TURNS):
        head = hub.head()
        tree = hub.tree(head)
        paths = [path for path in tree if path.startswith(LOCKS) and path.endswith(".lock.json")]
        locks = {path: json.loads(hub.read(path, head)) for path in paths}
        if locks.get(own, {}).get("digest") == lock["digest"]:
            return head  # an answer was lost, or the kill came before the tag
        locks = {one["release"]: one for one in (*locks.values(), lock)}
        ordered = {one: locks[one] for one in sorted(locks, key=release_order)}
        old = hub.read("README.md", head).decode() if "README.md" in tree else ""
        card = merged(old, ordered) if old.strip() else render(ordered)
        gone = [path for path in tree if path.startswith(f"data/{name}/") and path not in shards]
        told = json.dumps(croissant(ordered, hub.repo), indent=2, ensure_ascii=False)
        files: dict[str, bytes | Path] = {"README.md": card.encode(), CROISSANT: told.encode()}
        files |= {own: home / own, ledger: home / ledger}
        try:
            return hub.commit(f"{name}: {sum(s['rows'] for s in lock['splits'].values()):,} rows", files, gone, head)
        except Moved:
            continue
    raise HubError(f"{hub.repo} is being written by others all the time: run again to go on")
