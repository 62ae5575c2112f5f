"""Samples: a release as tars that every trainer's tools read, and an index beside each, where they lie.

The tars are WebDataset's (POSIX ustar). docs/streaming.md has the format, for those who write a reader of their own.
Nothing that is read here is believed: a manifest and an index may come from anywhere.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hfds.errors import BadFile, SourceMissing
from hfds.manifest import AGAIN, MANIFEST, Manifest, Shard
from hfds.urls import Files

FOLDER = "wds"  # where the tars of all releases lie in a dataset's folder, and in its repository
INDEX = pa.schema(
    [
        pa.field("offset", pa.uint64()),  # of the first member's header
        pa.field("size", pa.uint64()),  # from there to the end of the last member's padding
        pa.field("picture_offset", pa.uint64()),  # of the picture's bytes in the tar
        pa.field("picture_size", pa.uint64()),
        pa.field("id", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
    ]
)
_NEEDED = ("offset", "size", "picture_offset", "picture_size", "id")  # never null


class Samples:
    """The tars of a release where they lie: `manifest` says which, `index_of` where each sample is in one.

    Args:
        place: their folder, or its URL: "hf://datasets/org/name@main/wds/v4", "https://...", "s3://...".

    Raises:
        SourceError: there is no manifest, it cannot be read, or it is none.
    """

    def __init__(self, place: str | Path):
        self.place = str(place).rstrip("/")
        self.local = "://" not in self.place
        self.files = Files(self.place)
        self._indexes: dict[str, pa.Table] = {}
        self.manifest = Manifest.of(self.files.fetch(self.path(MANIFEST)), self.path(MANIFEST))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_indexes": {}}  # opened again where it is needed: a table that is mapped is not sent

    def path(self, name: str) -> str:
        """Path or URL of one of its files."""
        return f"{self.place}/{name}"

    def index_of(self, shard: Shard) -> pa.Table:
        """The columns of `INDEX` and of `manifest.index`, a row for each sample of a shard in the order of its tar.

        Mapped where it is a local file, else fetched; kept, so that asking again costs nothing.

        Raises:
            SourceError: it is not there, cannot be read, or is not the index that the manifest and the tar go with.
        """
        if shard.index not in self._indexes:
            self._indexes[shard.index] = self._index(shard, self.path(shard.index))
        return self._indexes[shard.index]

    def _index(self, shard: Shard, file: str) -> pa.Table:
        try:
            if self.local:
                with pa.memory_map(file) as source:
                    data = source.read_buffer()
            else:
                data = pa.py_buffer(self.files.fetch(file))
        except FileNotFoundError:
            raise SourceMissing(f"{file} is not there: export the release again") from None
        except OSError as error:
            raise BadFile(file, f"it cannot be read ({error})", AGAIN) from None
        try:
            if data.size != shard.index_bytes or hashlib.sha256(data).hexdigest() != shard.index_sha256:
                raise ValueError(f"{data.size:,} bytes that are not the {shard.index_bytes:,} which the manifest names")
            table = pa.ipc.open_file(data).read_all()
            table.validate(full=True)
            _check(table, shard, self.manifest.index)
        except (ValueError, pa.ArrowException, OSError) as error:
            raise BadFile(file, f"it is not the index of {shard.path} ({error})", AGAIN) from None
        return table


def _check(table: pa.Table, shard: Shard, more: tuple[str, ...]) -> None:
    """Raises ValueError for an index whose samples do not lie one behind the other inside the tar."""
    if table.column_names != [*INDEX.names, *more] or pa.schema(list(table.schema)[: len(INDEX)]) != INDEX:
        raise ValueError("it has other columns")
    if len(table) != shard.rows:
        raise ValueError(f"{len(table):,} rows, and the tar has {shard.rows:,}")
    if any(table[name].null_count for name in _NEEDED):
        raise ValueError("a row without a place or an id")
    if any(pc.less(table[name], 1).combine_chunks().true_count for name in ("width", "height")):
        raise ValueError("a picture without an area")
    offset, size, picture, length = (table[name].to_numpy() for name in _NEEDED[:4])
    room = np.uint64(shard.bytes)
    if (offset > room).any() or (size > room - offset).any():
        raise ValueError("a sample that ends behind the tar")
    if (offset[1:] < (offset + size)[:-1]).any():
        raise ValueError("samples that overlap")
    if (picture < offset).any() or (picture - offset > size).any() or (length > size - (picture - offset)).any():
        raise ValueError("a picture outside of its sample")


def write_index(table: pa.Table, path: Path) -> None:
    """Writes the index of a tar, aside and renamed: an Arrow IPC file that can be mapped."""
    aside = path.with_name(path.name + ".part")
    with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    aside.rename(path)


def exported(home: Path, release: str) -> dict[str, Path]:
    """All files of a finished export in a dataset's folder, by their paths in its repository, the manifest last.

    Raises:
        SourceError: it is not there or not finished, or one of its files has another size than the manifest says.
    """
    folder = home / FOLDER / release
    manifest = Samples(folder).manifest
    for name, size in manifest.files.items():
        there = (folder / name).stat().st_size if (folder / name).is_file() else None
        if there != size:
            problem = "it is gone" if there is None else f"it has {there:,} bytes, and its manifest says {size:,}"
            raise BadFile(str(folder / name), problem, "export the release again")
    return {f"{FOLDER}/{release}/{name}": folder / name for name in (*manifest.files, MANIFEST)}
