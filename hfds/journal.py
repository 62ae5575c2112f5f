"""Answers on their way into the store, in a file that a killed process leaves: what was paid for is not lost."""

import errno
import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from hfds.errors import HfdsError, OutOfSpace


class Journal:
    """One line for each answer since the last `clear`: `key` as hex digits, and what was said. The file is this
    process's own, and locked as long as it lives."""

    def __init__(self, folder: Path, name: str):
        self._path = folder / f"{name}-{os.getpid()}.jsonl"
        self._file: IO[str] | None = None

    def add(self, key: bytes, row: Mapping[str, Any]) -> None:
        """Writes a line that is there from now on, whatever becomes of this process.

        Raises:
            HfdsError: the disk refuses it, which is no matter of the answer.
        """
        try:
            self._add(json.dumps({"key": key.hex(), **row}) + "\n")
        except OSError as error:
            kind = OutOfSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else HfdsError
            problem = f"cannot write {self._path} ({error.strerror}), where answers are kept the moment that they come"
            raise kind(f"{problem}: free some space or choose another --workdir, and run again to go on") from error

    def _add(self, line: str) -> None:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")
            fcntl.flock(self._file, fcntl.LOCK_EX)
        self._file.write(line)
        self._file.flush()

    def clear(self) -> None:
        """Removes it: the store has all that it says."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            with suppress(OSError):  # of a line that the disk refused, which nobody needs any more
                self._file.close()
            self._file = None


def abandoned(folder: Path, name: str) -> dict[Path, list[tuple[bytes, dict[str, Any]]]]:
    """The journals of this name that no process holds any more, with the keys and answers in them. The last line of one
    may be cut, and is no answer then."""
    found = {}
    for path in sorted(folder.glob(f"{name}-*.jsonl")):
        with path.open(encoding="utf-8", errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            found[path] = [said for line in file if (said := _said(line)) is not None]
    return found


def _said(line: str) -> tuple[bytes, dict[str, Any]] | None:
    try:
        row = json.loads(line)
        return bytes.fromhex(row.pop("key")), row
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
