"""LAION: pictures of the web by URL and alt text, as metadata and as img2dataset downloads them.

https://laion.ai/blog/laion-5b and https://github.com/rom1504/img2dataset
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from hfds import parquet, record
from hfds.archive import Reader, tar_members
from hfds.builder import Builder, Piece, SourceConfig, batched
from hfds.errors import BadFile, BadRow
from hfds.parquet import BYTES, NUMBER_OR_TEXT, TEXT, Kind
from hfds.picture import picture_of
from hfds.record import printable, text_or_none
from hfds.shelf import PICTURES, Shelf, Taken, folder_members
from hfds.upstream import File, stamp_of

TEXTS = Kind("a list of text", lambda type_: TEXT.holds(type_) or pa.types.is_list(type_))
# What a column is for: its type, and the names that the subsets and img2dataset give it.
COLUMNS: dict[str, tuple[Kind, tuple[str, ...]]] = {
    "url": (TEXT, ("url", "URL")),
    "text": (TEXT, ("caption", "TEXT")),
    "texts": (TEXTS, ("all_captions",)),
    "width": (NUMBER_OR_TEXT, ("WIDTH", "width")),
    "height": (NUMBER_OR_TEXT, ("HEIGHT", "height")),
    "similarity": (NUMBER_OR_TEXT, ("similarity",)),
    "watermark": (NUMBER_OR_TEXT, ("pwatermark",)),
    "nsfw": (NUMBER_OR_TEXT, ("punsafe",)),
    "aesthetic": (NUMBER_OR_TEXT, ("AESTHETIC_SCORE", "aesthetic")),
    "license": (TEXT, ("LICENSE", "license")),
    "hash": (NUMBER_OR_TEXT, ("hash",)),
    "picture_width": (NUMBER_OR_TEXT, ("width",)),
    "picture_height": (NUMBER_OR_TEXT, ("height",)),
    "key": (TEXT, ("key",)),
    "status": (TEXT, ("status",)),
    "error": (TEXT, ("error_message",)),
}
SCORES = ("similarity", "watermark", "nsfw", "aesthetic")
FAILED = ("failed_to_download", "failed_to_resize")
BATCH = 2_000
BATCH_OF_BYTES = 100  # rows, where they carry their pictures


@dataclass
class LaionConfig(SourceConfig):
    """`needs`: the columns without which a file is not of this config; `pictures`: whether img2dataset wrote it."""

    needs: tuple[str, ...] = ("url", "text")
    pictures: bool = False


def _metadata(name: str, description: str, *needs: str, repo: str | None = None) -> LaionConfig:
    files = {"train": ("part-*.parquet", "data/*.parquet")}
    return LaionConfig(name=name, files=files, needs=(*LaionConfig.needs, *needs), description=description, repo=repo)


class Laion(Builder):
    """LAION as metadata without pictures (`high_resolution`, `aesthetics_v2_475`, `laion2b_en_aesthetic`), and as
    `img2dataset` downloaded it.

    The config `img2dataset` reads the `webdataset`, `files` and `parquet` layouts; each shard `NNNNN.parquet` tells by
    what stands beside it which one it is: `NNNNN.tar`, else a folder `NNNNN`, else a column jpg, png or webp in it.
    That parquet is the authority: `.json` and `.txt` sidecars are not read. There is one row per row of it, sorted by
    key (img2dataset writes them as downloads end; the `parquet` layout, whose rows carry their pictures, stays in that
    order), then one for each thing in the tar or folder that no row knows. Reasons of dropped rows: failed_to_download
    and failed_to_resize (value: the error message), unknown_status, no_picture, what is wrong with a broken picture,
    size_mismatch (it is not of the size that the row says), duplicate_key, no_url, not_utf8; and in the tar or folder
    no_metadata, link, unsafe_name, unknown_member. One that lacks its parquet stops the build.

    `id` is xxh3-128 of URL and text: keys repeat between downloads and `hash` is not always there, while a row of the
    metadata keeps its id in every download of it. A pair that comes again in the same piece of a file is dropped as
    duplicate_key (value: its id); in another file or subset it is the same row and has the same id.

    `prompt` is the alt text as found, HTML entities and all; null where blank. `captions` holds it as "alt_text", and
    the other texts of a column all_captions (lists, or JSON of them) as "caption". `width` and `height` are measured
    where there is a picture, else WIDTH and HEIGHT as given. `source_scores` are similarity, pwatermark, punsafe, and
    AESTHETIC_SCORE or aesthetic. `license` is what a LICENSE column says, else "unknown": LAION's CC-BY-4.0 is for its
    metadata, not for the pictures behind it.

    `extra`: every other column under its own name, such as hash (exact to 64 bits; `hash_rounded` where it came as
    float), LANGUAGE, key, status, error_message, original_width, original_height, exif, sha256 or md5 (of what
    img2dataset downloaded; not checked again); and numbers that came as text. Columns of bytes are left out.
    """

    NAME = "laion"
    HOMEPAGE = "https://laion.ai/blog/laion-5b"
    LICENSE = "CC-BY-4.0"
    OBTAIN = (
        "get the metadata from the Hub (laion/laion-high-resolution, say, once its authors gave you access), and its "
        "pictures with: img2dataset --url_list FOLDER --input_format parquet --url_col URL --caption_col TEXT"
    )
    BUILDER_CONFIG_CLASS = LaionConfig
    BUILDER_CONFIGS = [  # noqa: RUF012
        _metadata(
            "high_resolution",
            "170 M rows of 1024 x 1024 and more; sizes int32, scores float32",
            repo="laion/laion-high-resolution",
        ),
        _metadata("aesthetics_v2_475", "aesthetic score (v2) of 4.75 and more; sizes and scores float64", "aesthetic"),
        _metadata("laion2b_en_aesthetic", "English, aesthetic score (v1) above 7; scores float32", "aesthetic"),
        LaionConfig(
            name="img2dataset",
            files={"train": ("[0-9]*.parquet", "*/[0-9]*.parquet")},
            needs=("url", "key", "status"),
            pictures=True,
            description="what img2dataset wrote",
        ),
    ]
    DEFAULT_CONFIG_NAME = "img2dataset"

    config: LaionConfig

    def neighbours(self) -> list[File]:
        """The tars and folders beside img2dataset's parquet files; BadFile for one that lacks its parquet."""
        files = [file for files in self.upstream.values() for file in files if "://" not in file.path]
        shards = [file for file in files if Path(file.path).stem.isdigit()]
        folders = {(Path(file.path).parent, Path(file.name).parent) for file in shards} if self.whole else ()
        for folder, name in sorted(folders):
            there = {path.name for path in folder.iterdir()}
            for shard in sorted(n for n in there if n.removesuffix(".tar").isdigit()):
                if (wanted := f"{shard.removesuffix('.tar')}.parquet") not in there:
                    advice = "the download was interrupted: run img2dataset again, or remove it to build without it"
                    raise BadFile((name / shard).as_posix(), f"no {wanted} beside it", advice)
        return [beside for file in shards if (beside := _beside(file)) is not None]

    def split_file(self, file: File) -> list[Piece]:
        """Metadata in runs of rows, a shard of img2dataset as a whole."""
        if self.config.pictures:
            return [Piece(file)]
        return [Piece(file, start, stop) for start, stop in parquet.row_runs(file.path, file.name, 1)]

    def read(self, piece: Piece) -> Iterator[pa.Table]:
        """Metadata by columns; pictures are examined where they lie and joined to their rows by key."""
        rows = Rows(self, piece)
        if not self.config.pictures:
            for batch in parquet.rows_between(piece.path, piece.name, rows.columns, piece.start, piece.stop):
                yield rows.table(*parquet.repaired(batch))
            return
        path, name = piece.path.removesuffix(".parquet"), piece.name.removesuffix(".parquet")
        fs, fs_path = fsspec.url_to_fs(path)
        if fs.isfile(f"{fs_path}.tar"):
            with Reader(f"{path}.tar") as tar:
                yield from _joined(rows, Shelf(tar_members(tar, f"{name}.tar"), tar.path, tar), f"{name}.tar")
        elif fs.isdir(fs_path):
            yield from _joined(rows, Shelf(folder_members(fs.ls(fs_path, detail=True)), path), name)
        else:
            yield from _carried(rows, name)


def _beside(shard: File) -> File | None:
    """The tar or folder of an img2dataset shard; of a folder only its own time is looked at, not that of its files."""
    name, path = shard.name.removesuffix(".parquet"), Path(shard.path)
    if (tar := path.with_suffix(".tar")).is_file():
        return File(f"{name}.tar", str(tar), tar.stat().st_size, stamp_of(tar))
    folder = path.with_suffix("")
    return File(f"{name}/", str(folder), 0, stamp_of(folder)) if folder.is_dir() else None


class Rows:
    """Turns batches of one piece into rows of the common schema; remembers the ids that it gave."""

    def __init__(self, laion: Laion, piece: Piece):
        self.source, self.revision, self.piece = laion.NAME, laion.revision, piece
        self.downloaded = laion.config.pictures
        schema = parquet.schema_of(piece.path, piece.name)
        self.names = _names(schema, piece.name, laion.config)
        self.columns = [f.name for f in schema if not (f.name.startswith("__index_level_") or BYTES.holds(f.type))]
        self.carried = [name for name in PICTURES if name in schema.names and name not in self.columns][:1]
        self._seen: set[bytes] = set()
        self._at = piece.start

    def text(self, batch: pa.RecordBatch, what: str) -> pa.Array:
        """A column of texts; nulls where the file has none for it."""
        return batch[self.names[what]].cast(pa.string()) if what in self.names else pa.nulls(len(batch), pa.string())

    def number(self, batch: pa.RecordBatch, what: str, type_: pa.DataType) -> pa.Array:
        """A column of numbers; nulls where the file has none for it."""
        return parquet.numbers(batch[self.names[what]], type_) if what in self.names else pa.nulls(len(batch), type_)

    def table(self, batch: pa.RecordBatch, bad: np.ndarray, taken: list[Taken] | None = None) -> pa.Table:
        """One row per row. `bad` tells which had a text that is not UTF-8; `taken` holds their pictures."""
        url, text = self.text(batch, "url"), self.text(batch, "text")
        ids, dropped = self._identify(url, text, bad, taken)
        prompt = pc.if_else(pc.equal(pc.utf8_trim_whitespace(text), ""), None, text)
        captions, unread = _captions(prompt, batch[self.names["texts"]] if "texts" in self.names else None)
        license_ = pc.utf8_trim_whitespace(self.text(batch, "license"))
        sizes = {side: self.number(batch, side, pa.int32()) for side in ("width", "height")}
        if taken is not None:
            for side, said in sizes.items():
                pairs = zip(taken, said.to_pylist(), strict=True)
                sizes[side] = [getattr(one.picture, side) if one.picture else given for one, given in pairs]
        return record.records(
            len(batch),
            id=ids,
            source=self.source,
            source_revision=self.revision,
            license=pc.if_else(pc.is_in(license_, pa.array(["", "?", None])), "unknown", license_),
            url=url,
            image=[one.image for one in taken] if taken else None,
            image_hash=[one.picture and one.picture.hash for one in taken] if taken else None,
            prompt=prompt,
            captions=captions,
            source_scores={score: self.number(batch, score, pa.float64()) for score in SCORES},
            extra=self._extra(batch, unread),
            dropped=dropped,
            **sizes,
        )

    def _identify(
        self, url: pa.Array, text: pa.Array, bad: np.ndarray, taken: list[Taken] | None
    ) -> tuple[pa.Array, pa.Array | None]:
        """The columns `id` and `dropped`."""
        pairs = pc.binary_join_element_wise(pc.fill_null(url, ""), pc.fill_null(text, ""), "\0")
        digests = [xxhash.xxh3_128_digest(pair) for pair in pairs.cast(pa.binary()).to_pylist()]
        count, digits = len(url), b"".join(digests).hex().encode()
        ends = pa.py_buffer(np.arange(0, 32 * count + 1, 32, dtype=np.int32))
        ids = pa.StringArray.from_buffers(count, ends, pa.py_buffer(digits))
        ids = pc.binary_join_element_wise(f"{self.source}/", ids, "")
        again = self._again(digests)
        no_url = np.asarray(pc.fill_null(pc.equal(pc.utf8_trim_whitespace(url), ""), True))
        fates = taken or [Taken()] * count
        reasons, values = [one.reason for one in fates], [one.value for one in fates]
        for row in np.flatnonzero(bad | no_url | again).tolist():
            if reasons[row] is None:
                reasons[row] = "not_utf8" if bad[row] else "no_url" if no_url[row] else "duplicate_key"
                values[row] = ids[row].as_py() if reasons[row] == "duplicate_key" else None
        if again.any():
            where = f"@{printable(self.piece.name)}:"
            apart = [f"{ids[row]}{where}{self._at + row}" for row in np.flatnonzero(again).tolist()]
            ids = pc.replace_with_mask(ids, pa.array(again), pa.array(apart, pa.string()))
        self._at += count
        return ids, record.drops(self.source, count, reasons, values) if any(reasons) else None

    def _again(self, digests: list[bytes]) -> np.ndarray:
        """Which digests were there before, in this batch or an earlier one."""
        again, fresh = np.zeros(len(digests), bool), set(digests)
        if len(fresh) < len(digests) or not self._seen.isdisjoint(fresh):
            for row, digest in enumerate(digests):
                again[row] = digest in self._seen
                self._seen.add(digest)
        self._seen |= fresh
        return again

    def _extra(self, batch: pa.RecordBatch, unread: pa.Array | None) -> pa.Array | None:
        """Every column that has no place of its own, or has lost something on the way to it."""
        placed = {name for what, name in self.names.items() if what not in ("hash", "key", "status", "error")}
        if self.downloaded:  # WIDTH and HEIGHT are the metadata's word, beside what was measured
            placed -= {"WIDTH", "HEIGHT"}
        numeric = {name for what, name in self.names.items() if COLUMNS[what][0] is NUMBER_OR_TEXT}
        kept = {
            "hash_rounded" if name == "hash" and pa.types.is_floating(array.type) else name: array
            for name, array in zip(batch.schema.names, batch.columns, strict=True)
            if name not in placed or (name in numeric and TEXT.holds(array.type))
        }
        if unread is not None:
            kept[self.names["texts"]] = unread
        return record.json_objects(kept) if kept else None


def _names(schema: pa.Schema, file: str, config: LaionConfig) -> dict[str, str]:
    """Which column of the file is which of `COLUMNS`."""
    found = {what: name for what, (_, names) in COLUMNS.items() for name in reversed(names) if name in schema.names}
    if not config.pictures:
        found = {what: name for what, name in found.items() if not what.startswith("picture_")}
    for what in config.needs:
        if what not in found:
            kind, names = COLUMNS[what]
            there = ", ".join(schema.names) or "none"
            raise BadFile(file, f"{config.name} wants a column {' or '.join(names)} ({kind.name}), it has {there}")
    parquet.check_columns(schema, file, {name: COLUMNS[what][0] for what, name in found.items()})
    return found


def _captions(prompt: pa.Array, others: pa.Array | None) -> tuple[Any, pa.Array | None]:
    """The column `captions`, and of `others` whatever is no list of texts."""
    if others is None:
        return {"alt_text": prompt}, None
    rows, unread = [], []
    for text, given in zip(prompt.to_pylist(), others.to_pylist(), strict=True):
        try:
            texts = json.loads(given) if isinstance(given, str) else given
        except (ValueError, RecursionError):
            texts = None
        listed = [text_or_none(t) for t in texts] if isinstance(texts, list) else []
        styled = [("alt_text", text), *(("caption", t) for t in listed if t != text)]
        rows.append([{"style": style, "text": t} for style, t in styled if t and t.strip()])
        unread.append(None if isinstance(texts, list) else given)
    return rows, pa.array(unread, others.type) if any(unread) else None


def _joined(rows: Rows, shelf: Shelf, where: str) -> Iterator[pa.Table]:
    """The rows of a shard by key with their pictures, then whatever else is on the shelf."""
    keys: set[str] = set()
    parts = [parquet.repaired(batch) for batch in parquet.batches(rows.piece.path, rows.piece.name, rows.columns)]
    if parts:
        table, bad = pa.Table.from_batches([part for part, _ in parts]), np.concatenate([b for _, b in parts])
        order = pc.sort_indices(table[rows.names["key"]])
        size = BATCH_OF_BYTES if "://" in rows.piece.path else BATCH
        for some in (order[at : at + size] for at in range(0, len(order), size)):
            (batch,) = table.take(some).combine_chunks().to_batches()
            yield rows.table(batch, bad[np.asarray(some)], _fates(rows, batch, keys, lambda _, key: shelf.take(key)))
    for left in batched([*shelf.odd, *shelf.unknown(keys)], BATCH):
        names = [printable(member.name) for member, _ in left]
        labels = [name + (f"@{m.offset}" if m.offset >= 0 else "") for name, (m, _) in zip(names, left, strict=True)]
        yield record.records(
            len(left),
            id=[f"{rows.source}/{printable(where)}/{label}" for label in labels],
            source=rows.source,
            source_revision=rows.revision,
            license="unknown",
            dropped=record.drops(rows.source, len(left), [reason for _, reason in left], names),
        )


def _carried(rows: Rows, base: str) -> Iterator[pa.Table]:
    """The rows of a shard that carry their pictures, in the order of the file."""
    keys: set[str] = set()
    wanted = [*rows.columns, *rows.carried]
    for part in parquet.batches(rows.piece.path, rows.piece.name, wanted, rows=BATCH_OF_BYTES):
        batch, bad = parquet.repaired(part)
        data = batch[rows.carried[0]] if rows.carried else None

        def take(row: int, _: str | None, data: pa.Array | None = data) -> Taken:
            if data is None:
                raise BadFile(rows.piece.name, f"no {base}.tar, no folder {base}, no column {' or '.join(PICTURES)}")
            if (encoded := data[row].as_py()) is None:
                raise BadRow("no_picture")
            return Taken({"bytes": encoded, "path": None}, picture_of(encoded))

        yield rows.table(batch.select(rows.columns), bad, _fates(rows, batch, keys, take))


def _fates(rows: Rows, batch: pa.RecordBatch, keys: set[str], take: Callable[[int, str], Taken]) -> list[Taken]:
    """The picture of each row, or why it has none; adds to `keys`."""
    said = [rows.text(batch, what).to_pylist() for what in ("key", "status", "error")]
    sizes = [rows.number(batch, f"picture_{side}", pa.int32()).to_pylist() for side in ("width", "height")]
    fates = []
    for row, (key, status, error, *size) in enumerate(zip(*said, *sizes, strict=True)):
        if key is not None and key in keys:
            fate = Taken(reason="duplicate_key", value=key)
        elif status in FAILED:
            fate = Taken(reason=status, value=error)
        elif status != "success":
            fate = Taken(reason="unknown_status", value=status)
        else:
            fate = _fate(row, key, size, take)
        fates.append(fate)
        keys.add(key)
    return fates


def _fate(row: int, key: str, size: list[int | None], take: Callable[[int, str], Taken]) -> Taken:
    """The picture of a row that was downloaded, if it is whole and of the `size` that the row says."""
    try:
        taken = take(row, key)
    except BadRow as bad:
        return Taken(reason=bad.reason, value=bad.value)
    found = [taken.picture.width, taken.picture.height] if taken.picture else []
    if None in size or found == size:
        return taken
    return Taken(reason="size_mismatch", value=f"{found}, the row says {size}")
