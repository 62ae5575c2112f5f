"""Verify: whether a release on the Hub is what its lock says, from every byte of it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.utils import tqdm

from hfds.archive import sha256_of
from hfds.errors import ConfigError, ConservationError, nearest
from hfds.hub import Hub
from hfds.ledger import check_conservation, funnel
from hfds.lock import LOCKS, digest_of
from hfds.shards import Written, row_digests


def verify(repo: str, name: str, token: str | None = None) -> list[dict[str, Any]]:
    """What differs between a release of the dataset repository `repo` and its lock: `what`, `lock`, `found`.

    Every file is fetched, one at a time, and hashed; rows are counted and hashed again, and the ledger must account for
    them. The digest is compared where `image_hash`, by which pictures are in it, is one of the columns.

    Args:
        name: a release; its tag is looked at, or main where it has none.

    Raises:
        ConfigError: the repository has no such release.
        HubError: it cannot be read.
    """
    hub = Hub(repo, token)
    commit = hub.tags().get(name) or hub.head()
    tree = hub.tree(commit)
    names = [path.removeprefix(LOCKS).removesuffix(".lock.json") for path in tree if path.startswith(LOCKS)]
    if name not in names:
        raise ConfigError(f"{repo} has no release {name!r}: {nearest(name, names)}")
    lock = json.loads(hub.read(f"{LOCKS}{name}.lock.json", commit))
    with TemporaryDirectory() as folder:
        return [
            found for found in _compared(hub, commit, set(tree), lock, Path(folder)) if found["lock"] != found["found"]
        ]


def _compared(
    hub: Hub, commit: str, there: set[str], lock: Mapping[str, Any], folder: Path
) -> Iterator[dict[str, Any]]:
    """Everything that a lock says, with what was found."""
    shards = [(split, shard) for split, entry in lock["splits"].items() for shard in entry["shards"]]
    written = []
    for split, shard in tqdm(shards, desc=f"Verifying {lock['release']}", unit=" shards"):
        path = shard["path"]
        if path not in there:
            yield {"what": path, "lock": shard["sha256"], "found": None}
            continue
        file = hub.fetch(path, commit, folder)
        found = _written(split, path, file)
        file.unlink()
        yield {"what": f"sha256 of {path}", "lock": shard["sha256"], "found": found.sha256}
        yield {"what": f"rows of {path}", "lock": shard["rows"], "found": found.rows}
        written.append(found)
    if "image_hash" in lock["columns"] and len(written) == len(shards):
        yield {"what": "digest", "lock": lock["digest"], "found": digest_of(written)}
    ledger = lock["ledger"]["path"]
    if ledger not in there:
        yield {"what": ledger, "lock": lock["ledger"]["sha256"], "found": None}
        return
    file = hub.fetch(ledger, commit, folder)
    yield {"what": f"sha256 of {ledger}", "lock": lock["ledger"]["sha256"], "found": sha256_of(str(file))}
    yield {"what": "funnel of the ledger", "lock": lock["funnel"], "found": (counted := funnel(file))}
    inputs = {source["input"]: source["rows"] for source in lock["sources"]}
    try:
        check_conservation(counted, inputs, {split: entry["rows"] for split, entry in lock["splits"].items()})
    except ConservationError as error:
        yield {"what": "every row has a fate", "lock": None, "found": str(error)}


def _written(split: str, path: str, file: Path) -> Written:
    """A shard as it is, hashed anew."""
    digests = [np.zeros((0, 2), np.uint64)]
    try:
        with pq.ParquetFile(file) as parquet:
            columns = [name for name in parquet.schema_arrow.names if name != "image"]
            for group in range(parquet.num_row_groups):
                digests.append(row_digests(parquet.read_row_group(group, columns), split))
            rows = parquet.metadata.num_rows
    except (pa.ArrowException, OSError):  # its sha256 says that it is another file
        rows = 0
    return Written(path, split, rows, file.stat().st_size, sha256_of(str(file)), np.concatenate(digests))
