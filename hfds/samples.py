"""Samples: a release as tars that every trainer's tools read, their manifest, and an index beside each tar, as values.

The tars are WebDataset's (POSIX ustar). docs/streaming.md has the format, for those who write a reader of their own.
Nothing that is read here is believed: a manifest and an index may come from anywhere.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hfds.errors import BadFile, SourceMissing
from hfds.urls import Files

FORMAT = 1
FOLDER = "wds"  # where the tars of all releases lie in a dataset's folder, and in its repository
MANIFEST = "manifest.json"
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
_NAME = re.compile(r"\w[\w.-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_AGAIN = "fetch it again, or export the release again"


@dataclass(frozen=True)
class Shard:
    """A tar and its index, by their names in the folder of the manifest."""

    path: str
    bytes: int
    rows: int
    sha256: str
    index: str
    index_bytes: int
    index_sha256: str


@dataclass(frozen=True)
class Split:
    """The tars of a split, in order; `left_out` counts rows of the release that are in none of them, by reason, and
    `noted` what is wanting in others: "by_prompt" (no caption in the style that was asked for), "bad_mask"."""

    rows: int
    left_out: Mapping[str, int]
    shards: tuple[Shard, ...]
    noted: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def starts(self) -> np.ndarray:
        """The number of each shard's first row, and of the one behind the last: shape (shards + 1,), int64."""
        return np.cumsum([0, *(shard.rows for shard in self.shards)], dtype=np.int64)

    def locate(self, rows: int | np.ndarray) -> tuple[Any, Any]:
        """The number of the shard that each row lies in, and its row there; of one row, or of an array of them.

        Raises:
            IndexError: there is no such row.
        """
        asked = np.asarray(rows, np.int64)
        if asked.size and (asked.min() < 0 or asked.max() >= self.rows):
            raise IndexError(f"a row of {asked.min():,} to {asked.max():,} where there are {self.rows:,}")
        shards = np.searchsorted(self.starts, asked, "right") - 1
        return shards, asked - self.starts[shards]


@dataclass(frozen=True)
class Manifest:
    """What was exported: a release's tars by split, and how their samples were made."""

    dataset: str
    release: str
    digest: str
    caption: str
    extensions: tuple[str, ...]
    index: tuple[str, ...]  # the release's columns that stand in each index, beside those of `INDEX`
    splits: Mapping[str, Split]
    max_shard: int = 0  # bytes of a tar that were asked for
    withdrawn: str = ""  # what `hfds.withdrawn.ids_digest` says of the ids that were left out if they occur

    @property
    def files(self) -> dict[str, int]:
        """Bytes of every tar and index, by name."""
        shards = [shard for split in self.splits.values() for shard in split.shards]
        return {shard.path: shard.bytes for shard in shards} | {shard.index: shard.index_bytes for shard in shards}

    def write(self, folder: Path) -> Path:
        """Writes it into `folder`, aside and renamed."""
        path = folder / MANIFEST
        aside = path.with_name(f"{MANIFEST}.part")
        entry = {"format": FORMAT, **asdict(self)}
        aside.write_text(json.dumps(entry, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return aside.rename(path)

    @classmethod
    def of(cls, data: bytes, file: str) -> "Manifest":
        """The manifest that some bytes are; `file` is what they are called where they are wrong.

        Raises:
            BadFile: they are none, or one of another format.
        """
        try:
            said = json.loads(data)
            if _get(said, "format", int) != FORMAT:
                raise ValueError(f"format {said['format']}, and this hfds reads format {FORMAT}")
            words = {name: _get(said, name, str) for name in ("dataset", "release", "digest", "caption", "withdrawn")}
            splits = {_name(name): _split(entry) for name, entry in _get(said, "splits", dict).items()}
            lists = _strings(said, "extensions"), _strings(said, "index")
            found = cls(
                **words, extensions=lists[0], index=lists[1], splits=splits, max_shard=_count(said, "max_shard")
            )
            if len(found.files) != 2 * sum(len(split.shards) for split in splits.values()):
                raise ValueError("a file is named twice")
        except (ValueError, RecursionError) as error:  # of which those of JSON and of Unicode are kinds
            raise BadFile(file, f"it is no manifest of samples ({error})", _AGAIN) from None
        return found


def _get(entry: Any, name: str, kind: type) -> Any:
    if not isinstance(entry, dict):
        raise ValueError(f"{_short(entry)} where an object should be")
    found = entry.get(name)
    if type(found) is not kind:
        raise ValueError(f"{name} is {_short(found)}")
    return found


def _short(value: Any) -> str:
    return ascii(value)[:60]


def _strings(entry: Any, name: str) -> tuple[str, ...]:
    found = _get(entry, name, list)
    if not all(isinstance(one, str) for one in found) or len(set(found)) < len(found):
        raise ValueError(f"{name} is {_short(found)}")
    return tuple(found)


def _name(value: Any) -> str:
    """A name without slashes and dots that climb, of a file or split."""
    if not isinstance(value, str) or not _NAME.fullmatch(value) or ".." in value:
        raise ValueError(f"{_short(value)} is no plain name")
    return value


def _count(entry: Any, name: str, least: int = 0) -> int:
    found: int = _get(entry, name, int)
    if not least <= found < 1 << 60:
        raise ValueError(f"{name} is {_short(found)}")
    return found


def _counts(entry: Any, name: str) -> dict[str, int]:
    found = _get(entry, name, dict)
    return {reason: _count(found, reason) for reason in found}


def _sha256(entry: Any, name: str) -> str:
    found: str = _get(entry, name, str)
    if not _SHA256.fullmatch(found):
        raise ValueError(f"{name} is {_short(found)}")
    return found


def _shard(entry: Any) -> Shard:
    if not isinstance(entry, dict):
        raise ValueError(f"a shard is {_short(entry)}")
    return Shard(
        _name(entry.get("path")), _count(entry, "bytes", 1), _count(entry, "rows", 1), _sha256(entry, "sha256"),
        _name(entry.get("index")), _count(entry, "index_bytes", 1), _sha256(entry, "index_sha256"),
    )  # fmt: skip


def _split(entry: Any) -> Split:
    shards = tuple(_shard(one) for one in _get(entry, "shards", list))
    rows = _count(entry, "rows")
    if rows != sum(shard.rows for shard in shards):
        raise ValueError(f"{rows:,} rows in a split, and {sum(shard.rows for shard in shards):,} in its shards")
    return Split(rows, _counts(entry, "left_out"), shards, _counts(entry, "noted"))


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
            raise BadFile(file, f"it cannot be read ({error})", _AGAIN) from None
        try:
            if data.size != shard.index_bytes or hashlib.sha256(data).hexdigest() != shard.index_sha256:
                raise ValueError(f"{data.size:,} bytes that are not the {shard.index_bytes:,} which the manifest names")
            table = pa.ipc.open_file(data).read_all()
            table.validate(full=True)
            _check(table, shard, self.manifest.index)
        except (ValueError, pa.ArrowException, OSError) as error:
            raise BadFile(file, f"it is not the index of {shard.path} ({error})", _AGAIN) from None
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
