"""The journal of a long comparison: what has been decided so far, so that a run that was killed goes on."""

import time
from pathlib import Path

import numpy as np
import xxhash

KEY = 16  # bytes of xxh3-128


class Journal:
    """Keeps arrays, and how far they have been filled, in a file: damaged or of other work, it counts for nothing.

    Args:
        file: where; None keeps nothing.
        work: whatever the arrays depend on, as text.
        arrays: as they are before anything is decided, and changed in place from then on.
        seconds: to let pass before they are written again.
    """

    def __init__(self, file: Path | None, work: str, arrays: tuple[np.ndarray, ...], seconds: float):
        self.file, self.arrays, self.seconds = file, arrays, seconds
        self._aside = None if file is None else file.with_name(file.name + ".part")
        self._key = xxhash.xxh3_128_digest(work.encode())
        self._written = time.monotonic()

    def resume(self) -> int:
        """Fills the arrays with what was written last, and gives how far that was: 0 where there is nothing."""
        if self.file is None or not self.file.is_file():
            return 0
        with open(self.file, "rb") as file:
            content = np.fromfile(file, np.uint8)
        if len(content) != 2 * KEY + 8 + sum(array.nbytes for array in self.arrays):
            return 0
        key, digest = content[:KEY].tobytes(), content[-KEY:].tobytes()
        if key != self._key or digest != xxhash.xxh3_128_digest(content[:-KEY].data):
            return 0
        at = KEY + 8
        for array in self.arrays:
            array[:] = content[at : at + array.nbytes].view(array.dtype)
            at += array.nbytes
        return int(content[KEY : KEY + 8].view(np.int64)[0])

    def note(self, done: int) -> None:
        """So much is decided; writes it when it is time, aside and renamed."""
        if self.file is None or self._aside is None or time.monotonic() - self._written < self.seconds:
            return
        digest = xxhash.xxh3_128()
        head: list[bytes | memoryview] = [self._key, np.int64(done).tobytes()]
        with open(self._aside, "wb") as file:
            for part in head + [array.data for array in self.arrays]:
                file.write(part)
                digest.update(part)
            file.write(digest.digest())
        self._aside.replace(self.file)
        self._written = time.monotonic()

    def remove(self) -> None:
        """When all is decided."""
        for file in filter(None, (self.file, self._aside)):
            file.unlink(missing_ok=True)
