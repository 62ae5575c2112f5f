"""Cache: whole shards of remote places, kept in a local folder that grows to a size and no further."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from hfds.disk import disk_errors
from hfds.errors import BadFile
from hfds.manifest import Shard
from hfds.urls import Files

PART = 64 << 20  # bytes of one request


class Cache:
    """Tars under their sha256, those used last; any number of processes may share the folder.

    Args:
        folder: where they lie; made where it is missing.
        limit: bytes of them. One shard may lie there, and one more while it is fetched, whatever it says.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit

    def open(self, shard: Shard, url: str, files: Files) -> int:
        """A file descriptor of a shard's local file, which is fetched where it is not there.

        Raises:
            SourceError: it cannot be fetched, or is not what the manifest says.
        OutOfSpace: the disk is full.
        """
        kept = self.folder / f"{shard.sha256}.tar"
        while True:
            with disk_errors("cache"):
                if not self._used(kept, shard):
                    self.folder.mkdir(parents=True, exist_ok=True)
                    with FileLock(self.folder / f"{shard.sha256}.lock"):
                        if not self._used(kept, shard):
                            self._fetch(shard, url, files, kept)
            with suppress(FileNotFoundError):  # where another process has just made room
                return os.open(kept, os.O_RDONLY)

    def _used(self, kept: Path, shard: Shard) -> bool:
        """Whether it is there, and whole; notes that it was used now."""
        try:
            os.utime(kept)
            return kept.stat().st_size == shard.bytes
        except FileNotFoundError:
            return False

    def _fetch(self, shard: Shard, url: str, files: Files, kept: Path) -> None:
        with FileLock(self.folder / "room.lock"):
            self._make_room(shard.bytes)
        aside, sum_ = kept.with_suffix(".part"), hashlib.sha256()
        try:
            with open(aside, "wb") as file:
                for start in range(0, shard.bytes, PART):
                    data = files.range(url, start, min(PART, shard.bytes - start))
                    sum_.update(data)
                    file.write(data)
            if sum_.hexdigest() != shard.sha256:
                raise BadFile(url, "its sha256 is not the one in the manifest", "export the release to there again")
            aside.rename(kept)
        finally:
            aside.unlink(missing_ok=True)

    def _make_room(self, wanted: int) -> None:
        """Removes the shards that were not used for longest, and what is left of a fetch that was cut off; who reads
        one of them goes on reading."""
        kept = []
        for path in (*self.folder.glob("*.tar"), *self.folder.glob("*.part")):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            kept.append((stat.st_mtime, stat.st_size, path))
        wanted += sum(size for _, size, _ in kept) - self.limit
        for _, size, path in sorted(kept):
            if wanted <= 0:
                break
            if path.suffix == ".tar":
                path.unlink(missing_ok=True)
                wanted -= size
                continue
            with suppress(Timeout), FileLock(path.with_suffix(".lock"), blocking=False):  # or it is being fetched now
                path.unlink(missing_ok=True)
                wanted -= size
