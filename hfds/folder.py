"""Pictures in a folder beside a listing: found by walking it, matched by name, never opened by what a listing says.

Use:

    folder = PictureFolder(root)
    claimed = [folder.claim(name) for name in listing]         # BadRow where there is none, or it is taken or unsafe
    picture_columns(NAME, [folder.look(one) for one in claimed])
    folder.unclaimed()                                         # pictures that nobody listed
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import xxhash

from hfds import record
from hfds.archive import Reader, unsafe
from hfds.errors import BadRow, SourceMissing
from hfds.picture import Examiner, Picture
from hfds.upstream import File

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class Found(NamedTuple):
    """A listed picture: where it is and what it is, or why there is none."""

    path: str | None = None
    picture: Picture | None = None
    bad: BadRow | None = None


def by_name(names: Sequence[str]) -> dict[str, str]:
    """Pictures by the names below the folder, and by base names that only one of them has."""
    index: dict[str, str] = {}
    twice = set()
    for name in names:
        base = name.rpartition("/")[2]
        twice.update([base] if base in index else [])
        index[base] = name
    return {**{base: name for base, name in index.items() if base not in twice}, **{name: name for name in names}}


def by_number(names: Sequence[str]) -> dict[str, str]:
    """Pictures by the number that names them, without leading zeros; the first one of a number counts."""
    stems = {name: PurePosixPath(name).stem for name in reversed(names)}
    return {str(int(stem)): name for name, stem in stems.items() if stem.isascii() and stem.isdecimal()}


class PictureFolder:
    """The pictures (jpg, jpeg, png, webp) below `root`, each of which can be claimed once.

    Args:
        root: the folder; walked in full, links to folders not followed.
        index: from the names of the pictures, sorted and relative to `root`, to the keys that a listing uses.

    Raises:
        SourceMissing: it holds no picture.
    """

    def __init__(self, root: Path, index: Callable[[Sequence[str]], Mapping[str, str]] = by_name):
        self.root = root
        self._names = sorted(entry.path[len(str(root)) + 1 :] for entry in _walk(root))
        if not self._names:
            raise SourceMissing(f"no pictures ({', '.join(SUFFIXES)}) in {root}: unpack them there")
        self._index = index([name for name in self._names if name.isprintable()])
        self._claimed: set[str] = set()
        self._examine = Examiner()

    def claim(self, key: str | None) -> str | BadRow:
        """The name of the picture that a listing calls `key`, or why there is none.

        The reasons are "unsafe_name", "no_picture", and "duplicate_key" for a key, or another key of the same picture,
        that was claimed before.
        """
        if not key:
            return BadRow("no_picture")
        if unsafe(key) or not key.isprintable() or "\\" in key:
            return BadRow("unsafe_name", record.printable(key))
        name = self._index.get(key)
        if (name or key) in self._claimed:
            return BadRow("duplicate_key", key)
        self._claimed.add(name or key)
        return name or BadRow("no_picture", key)

    def keys(self) -> Collection[str]:
        """What a listing may call a picture."""
        return self._index.keys()

    def unclaimed(self) -> list[str]:
        """The names of the pictures that were not claimed, sorted."""
        return [name for name in self._names if name not in self._claimed]

    def look(self, claimed: str | BadRow) -> Found:
        """A picture that was claimed, measured and hashed, or the reason for which there is none."""
        if isinstance(claimed, BadRow):
            return Found(bad=claimed)
        path = str(self.root / claimed)
        try:
            with Reader(path) as reader:
                return Found(path, self._examine(reader, 0, reader.size))
        except BadRow as bad:
            return Found(bad=bad)


def picture_columns(step: str, found: Sequence[Found]) -> dict[str, Any]:
    """The columns image, image_hash, width, height and dropped, for `hfds.record.records`."""
    pictures = [one.picture for one in found]
    return {
        "image": [one.path and {"bytes": None, "path": one.path} for one in found],
        "image_hash": [p and p.hash for p in pictures],
        "width": [p and p.width for p in pictures],
        "height": [p and p.height for p in pictures],
        "dropped": record.drops(
            step,
            len(found),
            [one.bad and one.bad.reason for one in found],
            [one.bad and one.bad.value for one in found],
        ),
    }


def unlisted(source: str, under: str, names: Sequence[str], **columns: Any) -> pa.Table:
    """Dropped rows "no_metadata", one for each picture that no listing names, with ids below `under`."""
    ids = [f"{source}/{under}/{record.printable(name)}" for name in names]
    dropped = record.drops(source, len(names), "no_metadata")
    return record.records(len(names), id=ids, source=source, dropped=dropped, **columns)


def folder_file(root: Path, name: str) -> File:
    """A folder of pictures as one upstream file: its stamp changes when one is added, removed or written again."""
    stats = sorted((entry.path, (stat := entry.stat()).st_size, stat.st_mtime_ns) for entry in _walk(root))
    stamp = xxhash.xxh3_128_hexdigest(repr(stats).encode("utf-8", "backslashreplace"))
    return File(f"{name}/", str(root), sum(size for _, size, _ in stats), stamp)


def _walk(root: Path) -> Iterator[os.DirEntry[str]]:
    try:
        entries = list(os.scandir(root))
    except (FileNotFoundError, NotADirectoryError):
        raise SourceMissing(f"no folder {root}: unpack the pictures there") from None
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        elif entry.name.lower().endswith(SUFFIXES) and entry.is_file():
            yield entry
