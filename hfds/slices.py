"""A filesystem of byte ranges: a picture inside an archive is a path that `datasets.Image` opens like any other.

`slice://<offset>-<size>::<path of the archive>`; registered through the entry point `fsspec.specs`. Read only. Only
builders make such paths, from the names of archives that the user gave: never from what an archive says.
"""

import io
import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from fsspec import AbstractFileSystem, filesystem
from fsspec.core import url_to_fs

_RANGE = re.compile(r"(?:slice://)?([0-9]{1,18})-([0-9]{1,18})")
PATTERN = r"(?s)^slice://(?P<offset>[0-9]{1,18})-(?P<size>[0-9]{1,18})::(?P<file>.+)$"


class SliceFileSystem(AbstractFileSystem):
    """Opens `<offset>-<size>` of the file `fo`."""

    protocol = "slice"

    def __init__(self, fo: str, target_protocol: str | None = None, target_options: Any = None, **kwargs: Any):
        super().__init__(**kwargs)
        options = target_options or {}
        if target_protocol is None:
            self.fs, self.file = url_to_fs(fo, **options)
        else:  # from a chain, of which fsspec hands over the parts
            self.fs, self.file = filesystem(target_protocol, **options), fo

    def _read(self, path: str) -> bytes:
        match = _RANGE.fullmatch(path)
        if match is None:
            raise FileNotFoundError(f"{path!r} is no slice: wanted slice://<offset>-<size>::<file>")
        offset, size = int(match[1]), int(match[2])
        with self.fs.open(self.file, "rb") as file:
            if file.seek(0, io.SEEK_END) < offset + size:
                raise OSError(f"{self.file} ended inside {path}: it changed since it was indexed; build again")
            file.seek(offset)
            data: bytes = file.read(size)
        return data

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> io.BytesIO:
        if mode != "rb":
            raise NotImplementedError("slices are read only")
        return io.BytesIO(self._read(path))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """The bytes `start` to `end` of the slice."""
        return self._read(path)[start:end]

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Name, size and type, as fsspec wants them."""
        match = _RANGE.fullmatch(path)
        if match is None:
            raise FileNotFoundError(path)
        return {"name": path, "size": int(match[2]), "type": "file"}


def slice_path(offset: int, size: int, file: str) -> str:
    """The path of `size` bytes at `offset` of the local file `file`."""
    return f"slice://{offset}-{size}::{file}"


def parse_slices(paths: pa.Array) -> pa.StructArray:
    """`offset` and `size` (int64) and `file` (string) of each path; null where it is no slice."""
    parts = pc.extract_regex(paths, PATTERN)  # RE2: where nothing matches all three are null
    offset, size, file = parts.flatten()
    fields = [offset.cast(pa.int64()), size.cast(pa.int64()), file]
    return pa.StructArray.from_arrays(fields, ["offset", "size", "file"], mask=parts.is_null())
