"""There: a dataset repository on the Hub as it is at a commit, with what its releases say of themselves."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hfds.documents import CARD
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
    def of(cls, hub: Hub, revision: str = "main") -> "There":
        """As it is at a branch, tag or commit."""
        if not hub.exists():
            return cls("", {}, {}, {}, {}, (), "")
        head = hub.head(revision)
        tree = hub.tree(head)

        def told(ending: str) -> dict[str, Any]:
            paths = [path for path in tree if path.startswith(LOCKS) and path.endswith(ending)]
            return {path[len(LOCKS) : -len(ending)]: json.loads(hub.read(path, head)) for path in paths}

        card = hub.read(CARD, head).decode() if CARD in tree else ""
        withdrawn = parse(hub.read(WITHDRAWN, head), f"{WITHDRAWN} of {hub.repo}") if WITHDRAWN in tree else ()
        return cls(head, tree, hub.tags(), told(".lock.json"), told(".diff.json"), withdrawn, card)
