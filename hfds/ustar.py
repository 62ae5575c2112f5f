"""Ustar: tar files of regular members in one fixed form, written from buffers where they lie, and hashed on the way.

POSIX.1-1988 as `tarfile.USTAR_FORMAT` writes it, with nobody's name and no clock: the same members are the same bytes.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np

from hfds.archive import BLOCK, ZERO
from hfds.picture import Buffer

END = 2 * BLOCK  # zeros behind the last member
_AT_ONCE = 1000  # buffers of a system call, of which POSIX lets there be 1,024
_OWNER = b"0000644\0" + 2 * b"0000000\0"
_TIME = b"00000000000\0"
_REST = b"0" + bytes(100) + b"ustar\x0000" + bytes(247)
_SUM = sum(_OWNER) + sum(_TIME) + 8 * ord(" ") + sum(_REST)  # of a header's bytes, without its name and size


def header(name: bytes, size: int) -> bytes:
    """The header of a member with a name of at most 100 bytes; sizes from 8 GiB on are in GNU's base 256."""
    length = b"%011o\0" % size if size < 1 << 33 else b"\x80" + size.to_bytes(11, "big")
    checksum = b"%06o\0 " % (_SUM + sum(name) + sum(length))
    return name.ljust(100, b"\0") + _OWNER + length + _TIME + checksum + _REST


def padding(size: int) -> bytes:
    """The zeros behind a member of `size` bytes."""
    return ZERO[: -size % BLOCK]


def padded(sizes: np.ndarray) -> np.ndarray:
    """What members of these sizes take, without their headers."""
    found: np.ndarray = sizes + -sizes % BLOCK
    return found


class TarWriter:
    """A tar that is being written at `path`, with its `size` and, when it is closed, its `sha256`."""

    def __init__(self, path: Path):
        self._file = open(path, "wb", buffering=0)
        self._thread = ThreadPoolExecutor(1)
        self._hash = hashlib.sha256()
        self._hashing: Future[None] | None = None
        self.size = 0

    def __enter__(self) -> "TarWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self.add([bytes(END)])
        finally:
            self._thread.shutdown()
            self._file.close()

    @property
    def sha256(self) -> str:
        """Of all that was written."""
        return self._hash.hexdigest()

    def add(self, buffers: Sequence[Buffer]) -> None:
        """Writes headers, contents and padding one behind the other, while they are hashed beside it."""
        self.flush()
        self._hashing = self._thread.submit(self._digest, buffers)
        views = [memoryview(buffer) for buffer in buffers]
        at = 0
        while at < len(views):
            done = os.writev(self._file.fileno(), views[at : at + _AT_ONCE])
            self.size += done
            while at < len(views) and done >= len(views[at]):
                done -= len(views[at])
                at += 1
            if done:
                views[at] = views[at][done:]

    def flush(self) -> None:
        """Waits until all buffers are hashed, and needed no more."""
        if self._hashing is not None:
            self._hashing.result()
            self._hashing = None

    def _digest(self, buffers: Sequence[Buffer]) -> None:
        for buffer in buffers:
            self._hash.update(buffer)
