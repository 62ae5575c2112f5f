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


@dataclass(frozen=True)
class There:
    """A repository as it is at a commit; empty, where it is not there."""

    head: str
    tree: Mapping[str, Stored]
    tags: Mapping[str, str]
    locks: Mapping[str, Mapping[str, Any]]
    changes: Mapping[str, Mapping[str, Any]]
    withdrawn: tuple[Tombstone, ...]
    card: str

    @classmethod
    def nowhere(cls) -> "There":
        """A repository that is not there."""
        return cls("", {}, {}, {}, {}, (), "")

    @classmethod
    def of(cls, hub: Hub, revision: str = "main") -> "There":
        """As it is at a branch, tag or commit."""
        head = hub.head(revision)
        if head is None:
            return cls.nowhere()
        tree = hub.tree(head)

        def read(path: str) -> bytes:
            return hub.part(path, head, 0, tree[path].size) if path in tree and tree[path].size else b""

        def told(ending: str) -> dict[str, Any]:
            paths = [path for path in tree if path.startswith(LOCKS) and path.endswith(ending)]
            return {path[len(LOCKS) : -len(ending)]: _object(hub, path, read(path)) for path in paths}

        card = read(CARD).decode("utf-8", "replace")
        withdrawn = parse(read(WITHDRAWN), f"{WITHDRAWN} of {hub.repo}")
        return cls(head, tree, hub.tags(), told(".lock.json"), told(".diff.json"), withdrawn, card)


def _object(hub: Hub, path: str, text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise HubError(f"{hub.repo} holds no JSON object at {path}: put back what a push wrote there, or remove it")
    return found
