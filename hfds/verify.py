"""Verify: whether a release on the Hub is what its lock says, from every byte of it, and is listed so."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hfds.check import differences
from hfds.documents import CROISSANT
from hfds.errors import ConfigError, nearest
from hfds.front_matter import front_matter
from hfds.hub import Hub
from hfds.place import published
from hfds.there import There
from hfds.words import Words, front_and_body


def verify(repo: str, name: str, token: str | None = None) -> list[dict[str, Any]]:
    """What differs between a release of the dataset repository `repo` and its lock: `what`, `lock`, `found`.

    Every file is fetched, one at a time, and hashed; rows are counted and hashed again and columns measured, and the
    ledger must account for them. At the release's tag and on main its files must be there and no others in its folder,
    and the card must list it with the columns and rows that it has, the Croissant document with its hashes.

    Args:
        name: a release; that of main where it has no tag.

    Raises:
        ConfigError: the repository has no such release.
        HubError: it cannot be read.
    """
    hub = Hub(repo, token)
    main = There.of(hub)
    there = There.of(hub, name) if name in main.tags else main
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

        found = differences(published(hub, lock, there.head, there.tree), fetch)
        for where, one in {f"at the tag {name}": there, "on main": main}.items() if there is not main else [("", main)]:
            told = hub.part(CROISSANT, one.head, 0, one.tree[CROISSANT].size) if CROISSANT in one.tree else b""
            differing = (part for part in _listed(lock, one, told) if part["lock"] != part["found"])
            found += [{**part, "what": f"{part['what']} {where}".strip()} for part in differing]
        return found


def _listed(lock: Mapping[str, Any], there: There, croissant: bytes) -> Iterator[dict[str, Any]]:
    """What the repository has and says of a release."""
    name = lock["release"]
    shards = [shard for split in lock["splits"].values() for shard in split["shards"]]
    sums = {file["path"]: file["sha256"] for file in (*shards, lock["ledger"])}
    for path, sha256 in sums.items():
        yield {"what": path, "lock": sha256, "found": there.tree[path].sha256 if path in there.tree else None}
    for path in there.tree:
        if path.startswith(f"data/{name}/") and path.endswith(".parquet") and path not in sums:
            yield {"what": path, "lock": None, "found": f"{there.tree[path].size:,} bytes"}
    said, wanted = front_and_body(there.card)[0], front_matter({name: lock}, Words())
    for part in ("configs", "dataset_info"):
        listed = said.get(part)
        entries = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        entry = next((one for one in entries if one.get("config_name") == name), None)
        told = entry and {key: value for key, value in entry.items() if key != "default"}
        own = {key: value for key, value in wanted[part][0].items() if key != "default"}
        yield {"what": f"{part} of the card", "lock": own, "found": told}
    try:
        files = {one["@id"]: one.get("sha256") for one in json.loads(croissant)["distribution"]}
    except (ValueError, KeyError, TypeError, AttributeError):
        files = {}
    yield {"what": CROISSANT, "lock": sums, "found": {path: files.get(path) for path in sums}}
