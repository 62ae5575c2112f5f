"""Verify: whether a release on the Hub is what its lock says, from every byte of it, and whether the card lists it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hfds.check import differences
from hfds.errors import ConfigError, nearest
from hfds.front_matter import config_of, listed_in
from hfds.hub import Hub
from hfds.place import published
from hfds.there import There


def verify(repo: str, name: str, token: str | None = None) -> list[dict[str, Any]]:
    """What differs between a release of the dataset repository `repo` and its lock: `what`, `lock`, `found`.

    Every file is fetched, one at a time, and hashed; rows are counted and columns measured again, and the ledger must
    account for them. The digest is compared where `image_hash`, by which pictures are in it, is one of the columns. The
    card must list the release's files.

    Args:
        name: a release; its tag is looked at, or main where it has none.

    Raises:
        ConfigError: the repository has no such release.
        HubError: it cannot be read.
    """
    hub = Hub(repo, token)
    there = There.of(hub, hub.tags().get(name, "main"))
    if name not in there.locks:
        raise ConfigError(f"{repo} has no release {name!r}: {nearest(name, there.locks)}")
    lock = there.locks[name]
    with TemporaryDirectory() as folder:

        @contextmanager
        def fetch(path: str) -> Iterator[Path | None]:
            file = hub.fetch(path, there.head, Path(folder)) if path in there.tree else None
            try:
                yield file
            finally:
                if file:
                    file.unlink()

        listed = {"what": f"config {name} of the card", "lock": config_of(lock), "found": listed_in(there.card, name)}
        found = differences(published(hub, lock, there.head, there.tree), fetch)
        return [*found, *([listed] if listed["lock"] != listed["found"] else [])]
