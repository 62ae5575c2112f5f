"""There: a dataset repository on the Hub as it is at a commit, with what its releases say of themselves."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hfds.documents import CARD
from hfds.errors import HubError
from hfds.hub import Hub, Stored
from hfds.lock import LOCKS
from hfds.withdrawn import FILE as WITHDRAWN
from hfds.withdrawn import Tombstone, parse

LOCK = {
    **dict.fromkeys(("dataset", "release", "description", "digest"), str),
    **dict.fromkeys(("columns", "splits", "licenses", "ledger"), dict),
    **dict.fromkeys(("sources", "steps", "funnel"), list),
}  # what a lock has at least
CHANGE = {
    **dict.fromkeys(("dataset", "old", "new"), str),
    **dict.fromkeys(("digests", "rows"), dict),
    **dict.fromkeys(("splits", "columns", "added", "removed", "moved", "changed", "drift", "made_of"), list),
}  # and what an entry of a diff has


@dataclass(frozen=True)
class There:
    """A repository as it is at a commit; empty, where it is not there."""

    head: str
    private: bool
    tree: Mapping[str, Stored]
    tags: Mapping[str, str]
    locks: Mapping[str, Mapping[str, Any]]
    changes: Mapping[str, Mapping[str, Any]]
    withdrawn: tuple[Tombstone, ...]
    card: str

    @classmethod
    def nowhere(cls) -> "There":
        """A repository that is not there."""
        return cls("", False, {}, {}, {}, {}, (), "")

    @classmethod
    def of(cls, hub: Hub, revision: str = "main") -> "There":
        """As it is at a branch, tag or commit."""
        found = hub.head(revision)
        if found is None:
            return cls.nowhere()
        head, private = found
        tree = hub.tree(head)

        def read(path: str) -> bytes:
            return hub.part(path, head, 0, tree[path].size) if path in tree and tree[path].size else b""

        def told(ending: str, shape: Mapping[str, type]) -> dict[str, Any]:
            paths = [path for path in tree if path.startswith(LOCKS) and path.endswith(ending)]
            return {path[len(LOCKS) : -len(ending)]: _object(hub, path, read(path), shape) for path in paths}

        card = _text(hub, CARD, read(CARD))
        withdrawn = parse(read(WITHDRAWN), f"{WITHDRAWN} of {hub.repo}")
        locks, changes = told(".lock.json", LOCK), told(".diff.json", CHANGE)
        return cls(head, private, tree, hub.tags(), locks, changes, withdrawn, card)


def _text(hub: Hub, path: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise HubError(f"{path} of {hub.repo} is not UTF-8 (byte {error.start:,}): save it there as UTF-8") from None


def _object(hub: Hub, path: str, text: bytes, shape: Mapping[str, type]) -> dict[str, Any]:
    """A JSON object in the repository, which has these members."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(found.get(name), kind) for name, kind in shape.items()):
        raise HubError(f"{path} in {hub.repo} is not what a push writes there: put that back, or remove the file")
    return found
