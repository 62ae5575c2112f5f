"""Tarred: the files of a release's export, on their way into a repository beside its Parquet."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfds.errors import ConfigError, SourceMissing
from hfds.hub import Stored
from hfds.manifest import MANIFEST
from hfds.samples import FOLDER, Samples, exported
from hfds.withdrawn import ids_digest


@dataclass(frozen=True)
class Large:
    """A file that is sent before a release is on the card; `blob` is how Git knows one that is not kept in LFS."""

    bytes: int
    sha256: str
    blob: str | None = None

    def matches(self, stored: Stored | None) -> bool:
        """Whether a file of a repository is this one."""
        if stored is None or stored.size != self.bytes:
            return False
        return stored.sha256 == self.sha256 if stored.sha256 else stored.blob == self.blob


def tarred(home: Path, lock: Mapping[str, Any], withdrawn: Iterable[str]) -> dict[str, Large]:
    """The files of the finished export of a release in its dataset's folder, by path, the manifest last.

    Args:
        withdrawn: ids of rows that must not be in it.

    Raises:
        ConfigError: there is none, or it is of another build, or rows were withdrawn since.
        BadFile: it is damaged.
    """
    dataset, release = lock["dataset"], lock["release"]
    folder, again = home / FOLDER / release, f"hfds export webdataset {dataset} {release}"
    try:
        manifest, paths = Samples(folder).manifest, exported(home, release)
    except SourceMissing:
        raise ConfigError(f"{dataset}/{release} has no finished export in {folder}: {again}") from None
    if manifest.digest != lock["digest"]:
        raise ConfigError(f"{folder} is the export of another build of {dataset}/{release}: {again}")
    if manifest.withdrawn != ids_digest(withdrawn):
        raise ConfigError(
            f"{folder} was exported before other rows were withdrawn, here or in the repository: copy withdrawn.jsonl "
            f"from there into {home}, then {again}"
        )
    text = paths[f"{FOLDER}/{release}/{MANIFEST}"].read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(text) + text, usedforsecurity=False).hexdigest()
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    found = {shard.path: Large(shard.bytes, shard.sha256) for shard in shards}
    found |= {shard.index: Large(shard.index_bytes, shard.index_sha256) for shard in shards}
    found[MANIFEST] = Large(len(text), hashlib.sha256(text).hexdigest(), blob)
    return {f"{FOLDER}/{release}/{name}": file for name, file in found.items()}
