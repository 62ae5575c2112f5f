"""Rows: a release in blocks of rows, as the formats of trainers take them: pictures measured, captions picked."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hfds import columns
from hfds.columns import File
from hfds.errors import BadRow, ConfigError
from hfds.pixels import Encoded
from hfds.place import Place
from hfds.properties import Properties, properties
from hfds.sidecar import PROMPT, captions, style_of

BLOCK = 10_000  # rows whose pictures lie in one folder
ALL = "all"  # a caption that is no style: every text of a row
_EXTENSIONS = {"jpeg": "jpg", "jpeg2000": "jp2", "tiff": "tif"}  # where it is not the format's name


@dataclass(frozen=True)
class Block:
    """Rows `start` to `stop` of a split, which lie in `files`; the first row there is row `first` of the split."""

    split: str
    number: int
    start: int
    stop: int
    files: tuple[File, ...]
    first: int

    @property
    def name(self) -> str:
        """Of the folder that its pictures lie in."""
        return f"{self.number:05d}"


@dataclass(frozen=True)
class Wanted:
    """What is wanted of rows: a caption (see `pick`), further `columns`; rows may lack what is in `keeps` ("picture",
    "caption"), and those with an id in `withdrawn` are left out."""

    caption: str
    columns: Sequence[str]
    keeps: AbstractSet[str]
    withdrawn: AbstractSet[str]

    def read(self, pictures: Path | None) -> list[str]:
        """The columns to be read."""
        texts = (PROMPT,) if self.caption == PROMPT else (PROMPT, "captions")
        return [*dict.fromkeys(("id", *self.columns, *texts)), *(["image.bytes"] if pictures else [])]

    def without(self, part: str, reason: str) -> str:
        """The reason, where a row may be without that part; raises BadRow where not."""
        if part not in self.keeps:
            raise BadRow(reason)
        return reason


@dataclass(frozen=True)
class Account:
    """Rows by reason: those left out, and what rows lack that are written."""

    left_out: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Batch:
    """Rows that are written. `files` and `sizes` are None where a row has no picture, `captions` is text or lists of
    it, null where there is none; `rows` are the columns that the format asked for."""

    numbers: np.ndarray
    files: list[str | None]
    sizes: list[Properties | None]
    captions: pa.Array
    rows: pa.Table

    def shown(self, side: str) -> list[int | None]:
        """The "width" or "height" of every picture as it is shown, which is not as stored where EXIF turns it."""
        other = "height" if side == "width" else "width"
        return [size and getattr(size, other if size.rotated else side) for size in self.sizes]

    def stored(self, side: str) -> list[int | None]:
        """The "width" or "height" of every picture as it is stored."""
        return [size and getattr(size, side) for size in self.sizes]


def blocks(place: Place, split: str) -> Iterator[Block]:
    """The rows of a split in blocks; row n is in block n // BLOCK."""
    shards = place.lock["splits"][split]["shards"]
    ends = np.cumsum([shard["rows"] for shard in shards])
    for number, start in enumerate(range(0, int(ends[-1]), BLOCK)):
        stop = min(start + BLOCK, int(ends[-1]))
        low, high = (int(np.searchsorted(ends, row, "right")) for row in (start, stop - 1))
        files = tuple(place.at(shard["path"]) for shard in shards[low : high + 1])
        yield Block(split, number, start, stop, files, int(ends[low]) - shards[low]["rows"])


def batches(block: Block, wanted: Wanted, pictures: Path | None, account: Account) -> Iterator[Batch]:
    """The rows of a block, a row group at a time; their pictures are written into the folder `pictures`, as they are.

    Without that folder none is written, and no row lacks one.
    """
    at = block.start
    for table in columns.read(block.files, wanted.read(pictures), np.arange(block.start, block.stop) - block.first):
        numbers = np.arange(at, at + len(table))
        at += len(table)
        texts, instead = pick(table, wanted.caption)
        spoken = texts.is_valid().to_pylist()
        gone = pc.is_in(_one(table["id"]), pa.array(sorted(wanted.withdrawn), pa.string())).to_pylist()
        data = _one(pc.struct_field(table["image"], "bytes")) if pictures else pa.nulls(len(table))
        files: list[str | None] = [None] * len(table)
        sizes: list[Properties | None] = [None] * len(table)
        chosen = []
        for row in range(len(table)):
            noted = ["by_prompt"] if instead[row].as_py() else []
            try:
                if gone[row]:
                    raise BadRow("withdrawn")
                if not spoken[row]:
                    noted.append(wanted.without("caption", "no_caption"))
                if pictures:
                    try:
                        files[row], sizes[row] = _write(data[row], int(numbers[row]), pictures)
                    except BadRow as bad:
                        noted.append(wanted.without("picture", bad.reason))
                chosen.append(row)
                account.noted.update(noted)
            except BadRow as bad:
                account.left_out[bad.reason] += 1
        where = pa.array(chosen, pa.int64())
        yield Batch(
            numbers[chosen],
            [files[row] for row in chosen],
            [sizes[row] for row in chosen],
            texts.take(where),
            table.select([*wanted.columns]).take(where),
        )


def _write(data: pa.Scalar, number: int, folder: Path) -> tuple[str, Properties]:
    """Writes a picture under a name of ours, with the extension of what its bytes are."""
    if not data.is_valid:
        raise BadRow("no_picture")
    view = memoryview(data.as_buffer())
    found = properties(Encoded(len(view), lambda offset, n: bytes(view[offset : offset + n])))
    name = f"{number:09d}.{_EXTENSIONS.get(found.format, found.format)}"
    (folder / name).write_bytes(view)
    return f"{folder.name}/{name}", found


def pick(table: pa.Table, caption: str) -> tuple[pa.Array, pa.Array]:
    """The captions asked for, null where a row has none that is not blank, and whether each is the prompt instead.

    They are as in `hfds.sidecar.captions`, or, for "all", a list of every text of the row, the prompt first and none
    twice.
    """
    batch = table.select([PROMPT, *(["captions"] if caption != PROMPT else [])]).combine_chunks().to_batches()[0]
    if caption != ALL:
        return captions(batch, caption)
    rows = [
        [row[PROMPT], *(one["text"] for one in row["captions"] or ())] for row in batch.to_pylist()
    ]  # both may be null throughout, where the release has no such column
    lists = [[*dict.fromkeys(text for text in texts if text and text.strip())] or None for texts in rows]
    return pa.array(lists, pa.list_(pa.string())), pa.repeat(False, len(lists))


def caption_of(place: Place, splits: Sequence[str], caption: str) -> str:
    """The caption that is meant: "prompt", "all", or a style, of which "short_caption" may be called "short".

    Raises:
        ConfigError: no row of the release can have it; names those there are.
    """
    there = place.lock["columns"]
    needed = {PROMPT: {PROMPT}, ALL: {PROMPT, "captions"}}.get(caption, {"captions"})
    if not needed & set(there):
        raise ConfigError(
            f"{place.name} has no column {' or '.join(sorted(needed))} to take captions from: "
            f"its columns are {', '.join(there)}"
        )
    if caption in (PROMPT, ALL):
        return caption
    files = [place.at(shard["path"]) for split in splits for shard in place.lock["splits"][split]["shards"]]
    return style_of(files, caption, place.label)


def textual(place: Place, *without: str) -> list[str]:
    """The columns of the release but some; raises ConfigError for one that has no form as text."""
    schema = place.features.arrow_schema
    names = [name for name in schema.names if name not in without]
    for name in names:
        if _holds_bytes(schema.field(name).type):
            raise ConfigError(
                f"the column {name!r} of {place.name} holds bytes, which are no text: build a release without it"
            )
    return names


def free(name: str, taken: Collection[str]) -> str:
    """A name that is not taken: this one, or with as many "_" behind it as it needs."""
    while name in taken:
        name += "_"
    return name


def _holds_bytes(kind: pa.DataType) -> bool:
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if kind.num_fields:
        return any(_holds_bytes(kind.field(number).type) for number in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()
