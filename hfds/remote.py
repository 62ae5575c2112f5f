"""Remote: a file that lies elsewhere, read by ranges; what was read once is kept here."""

import io
from collections.abc import Callable, Iterable
from tempfile import SpooledTemporaryFile
from threading import Lock
from typing import Any
from weakref import finalize

import numpy as np

BLOCK = 1 << 19  # bytes: the narrow columns of a row group full of pictures are about one
MOST = 64  # blocks that are asked for at once
MEMORY = 1 << 26  # bytes that are kept without a file


class Kept:
    """What was fetched of any number of files, in memory and, where it is much, in a file that has no name."""

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile(MEMORY)
        self._lock = Lock()
        finalize(self, self._file.close)

    def add(self, data: bytes) -> int:
        """Keeps `data`; returns its place."""
        with self._lock:
            at = self._file.seek(0, io.SEEK_END)
            self._file.write(data)
            return at

    def get(self, at: int, size: int) -> bytes:
        """The bytes at a place."""
        with self._lock:
            self._file.seek(at)
            return self._file.read(size)


class Remote(io.RawIOBase):
    """A file of `size` bytes. Whole blocks are asked for, neighbours together, each once.

    Args:
        file: what it is called.
        fetch: gives the bytes from one place to before another.
        kept: where they are kept.
    """

    def __init__(self, file: str, size: int, fetch: Callable[[int, int], bytes], kept: Kept):
        self.file, self.size = file, size
        self._fetch, self._kept = fetch, kept
        self._there: dict[int, int] = {}
        self._at = 0

    def __str__(self) -> str:
        return self.file

    def keep(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Fetches what is not here yet of the bytes from the first to before the second place of each pair."""
        wanted = {block for start, stop in ranges for block in range(start // BLOCK, -(-stop // BLOCK))}
        blocks = np.array(sorted(wanted - {*self._there}), np.int64)
        for run in np.split(blocks, np.flatnonzero(np.diff(blocks) > 1) + 1):
            for some in (run[at : at + MOST].tolist() for at in range(0, len(run), MOST)):
                place = self._kept.add(self._fetch(some[0] * BLOCK, min((some[-1] + 1) * BLOCK, self.size)))
                self._there.update((block, place + number * BLOCK) for number, block in enumerate(some))

    def readinto(self, buffer: Any) -> int:
        """The next bytes."""
        start, stop = self._at, min(self._at + len(buffer), self.size)
        self.keep([(start, stop)])
        while self._at < stop:
            block, inside = divmod(self._at, BLOCK)
            data = self._kept.get(self._there[block] + inside, min(BLOCK - inside, stop - self._at))
            buffer[self._at - start : self._at - start + len(data)] = data
            self._at += len(data)
        return max(0, stop - start)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes to another place."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        """The place of the next byte."""
        return self._at

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True
