"""Cache: whole shards of remote places, kept in a local folder that grows to a size and no further."""

import hashlib
import os
from pathlib import Path

from filelock import FileLock

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
        """
        kept = self.folder / f"{shard.sha256}.tar"
        self.folder.mkdir(parents=True, exist_ok=True)
        while True:
            if not self._used(kept):
                with FileLock(self.folder / f"{shard.sha256}.lock"):
                    if not self._used(kept):
                        self._fetch(shard, url, files, kept)
            try:
                return os.open(kept, os.O_RDONLY)
            except FileNotFoundError:  # another process has just made room
                continue

    def _used(self, kept: Path) -> bool:
        try:
            os.utime(kept)  # the time at which it was last used
        except FileNotFoundError:
            return False
        return True

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
        """Removes the shards that were not used for longest; who reads one of them goes on reading."""
        kept = []
        for path in self.folder.glob("*.tar"):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            kept.append((stat.st_mtime, stat.st_size, path))
        wanted += sum(size for _, size, _ in kept) - self.limit
        for _, size, path in sorted(kept):
            if wanted <= 0:
                break
            path.unlink(missing_ok=True)
            wanted -= size
