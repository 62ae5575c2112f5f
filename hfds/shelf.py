"""Pictures by key in a tar or a folder: listed once, taken by comparing keys, never opened by what a row says."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from hfds.archive import Member, Reader, unsafe
from hfds.errors import BadRow
from hfds.picture import Examiner, Picture
from hfds.slices import slice_path

PICTURES = ("jpg", "png", "webp")  # img2dataset's encode formats: extensions, and columns of its `parquet` layout
SIDECARS = ("json", "txt")


class Taken(NamedTuple):
    """The picture of a row, or why it has none."""

    image: dict[str, Any] | None = None
    picture: Picture | None = None
    reason: str | None = None
    value: str | None = None


def folder_members(entries: list[dict[str, Any]]) -> Iterator[Member]:
    """A listed folder as if it were an archive, by name."""
    for entry in sorted(entries, key=lambda entry: str(entry["name"])):
        kind = "link" if entry.get("islink") else "file" if entry["type"] == "file" else "other"
        yield Member(entry["name"].rpartition("/")[2], -1, entry["size"], kind, b"")


class Shelf:
    """The pictures in the tar or folder at `path`, by key; in `odd` whatever cannot be one, with the reason."""

    def __init__(self, members: Iterable[Member], path: str, tar: Reader | None = None):
        self._path, self._tar, self._examine = path, tar, Examiner()
        self._held: dict[str, Member] = {}
        self.odd: list[tuple[Member, str]] = []
        for member in members:
            key, _, extension = member.name.rpartition("/")[2].rpartition(".")
            if reason := self._unusable(member, key, extension):
                self.odd.append((member, reason))
            elif extension in PICTURES:
                self._held[key] = member

    def _unusable(self, member: Member, key: str, extension: str) -> str | None:
        if member.kind == "link":
            return "link"
        if unsafe(member.name) or "::" in member.name:
            return "unsafe_name"
        if member.kind != "file" or extension not in (*PICTURES, *SIDECARS):
            return "unknown_member"
        return "duplicate_key" if extension in PICTURES and key in self._held else None

    def take(self, key: str | None) -> Taken:
        """The picture of a key; raises BadRow where there is none or it is broken."""
        if key is None or key not in self._held:
            raise BadRow("no_picture")
        name, offset, size, *_ = self._held[key]
        if self._tar is not None:
            return self._read(self._tar, offset, size, slice_path(offset, size, self._path))
        with Reader(f"{self._path}/{name}") as reader:
            return self._read(reader, 0, reader.size, reader.path)

    def _read(self, reader: Reader, offset: int, size: int, path: str) -> Taken:
        picture = self._examine(reader, offset, size)
        stays = {"bytes": None, "path": path}
        return Taken(stays if reader.local else {"bytes": reader.read(offset, size), "path": None}, picture)

    def unknown(self, keys: set[str]) -> list[tuple[Member, str]]:
        """The pictures whose key is none of these."""
        return [(member, "no_metadata") for key, member in self._held.items() if key not in keys]
