"""Rows out as Parquet shards: pictures written once, straight from where they lie, and every byte accounted for.

Own code instead of `Dataset.to_parquet`, which leaves path-only pictures out and cuts shards by the number of
processes.
"""

import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from datasets import Dataset, Features
from datasets.utils import tqdm

from hfds.archive import Reader, sha256_of
from hfds.embed import embedded, sizes
from hfds.record import canonical, hash_texts

MAX_SHARD = 500_000_000  # bytes, as `datasets`
ROW_GROUP = 32 << 20  # bytes: a page of the Hub's viewer reads one
MAX_ROWS = 100_000  # rows of a row group


@dataclass(frozen=True)
class Shard:
    """A Parquet file to be: `groups` are ascending row positions, one array for each row group."""

    name: str  # "data/v4/train-00000-of-00012.parquet"
    split: str
    groups: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Written:
    """A Parquet file that is: `rows` is what its footer says, `digests` has shape (rows, 2), dtype uint64, one xxh3-128
    for each row."""

    name: str
    split: str
    rows: int
    bytes: int
    sha256: str
    digests: np.ndarray


def plan(
    positions: dict[str, np.ndarray], row_bytes: np.ndarray, folder: str, max_shard: int = MAX_SHARD
) -> list[Shard]:
    """Cuts the rows of every split into shards and row groups by the bytes of each row; depends on nothing else.

    Args:
        positions: per split the row positions, ascending, int64.
        row_bytes: bytes of every row of the dataset, shape (rows,), int64.
        folder: where the shards go, such as "data/v4".
    """
    shards = []
    for split, rows in positions.items():
        parts = cut(rows, row_bytes, max_shard)
        for number, part in enumerate(parts):
            name = f"{folder}/{split}-{number:05d}-of-{len(parts):05d}.parquet"
            shards.append(Shard(name, split, tuple(cut(part, row_bytes, ROW_GROUP, MAX_ROWS))))
    return shards


def cut(rows: np.ndarray, row_bytes: np.ndarray, most_bytes: int, most_rows: int = 1 << 62) -> list[np.ndarray]:
    """As few runs of rows as the limits allow, of about equal bytes; only a row that is larger by itself is above."""
    ends = np.cumsum(row_bytes[rows])
    cuts = _cuts(ends, most_bytes, most_rows)
    low, high = 0, most_bytes  # the fewest bytes a run that still make no more runs lie in (low, high]
    while len(cuts) and high - low > max(1, most_bytes >> 10):
        middle = (low + high) // 2
        fewer = _cuts(ends, middle, most_rows, len(cuts))
        low, high, cuts = (low, middle, fewer) if len(fewer) == len(cuts) else (middle, high, cuts)
    return np.split(rows, cuts)


def _cuts(ends: np.ndarray, most_bytes: int, most_rows: int, most_cuts: int | None = None) -> list[int]:
    """Where runs begin, but for the first, when each takes what it can; gives up behind `most_cuts`."""
    cuts: list[int] = []
    at, before = 0, 0
    while most_cuts is None or len(cuts) <= most_cuts:
        full = int(np.searchsorted(ends, before + most_bytes, "right"))
        at = max(at + 1, min(full, at + most_rows))
        if at >= len(ends):
            break
        before = int(ends[at - 1])
        cuts.append(at)
    return cuts


def row_sizes(rows: Dataset) -> np.ndarray:
    """Bytes that each row will take, its picture included: shape (rows,), int64."""
    columns = [name for name in rows.column_names if name != "image"]
    narrow: int = sum(rows.data.column(name).nbytes for name in columns) // max(1, rows.data.num_rows)
    if "image" not in rows.column_names or not len(rows):
        return np.full(len(rows), narrow, np.int64)
    found: np.ndarray = np.concatenate([sizes(chunk) for chunk in rows.data.column("image").chunks]) + narrow
    return found if rows._indices is None else found[np.asarray(rows._indices.column(0))]


def write(
    rows: Dataset, shards: list[Shard], features: Features, folder: Path, journal: Path, finished: Path, threads: int
) -> list[Written]:
    """Writes every shard below `folder`, in parallel; what `journal` knows to be in `finished` already is linked.

    Raises:
        SourceChanged: a picture's bytes are no longer those that were indexed.
    """
    journal.mkdir(parents=True, exist_ok=True)
    rows = rows if rows._indices is None else rows.flatten_indices()
    planned = {folder / f"{shard.name}{end}" for shard in shards for end in ("", ".part")}
    for old in {*folder.glob("data/*/*")} - planned:
        old.unlink()  # a killed run had planned other shards

    def one(shard: Shard) -> Written:
        note = journal / f"{_key(rows, shard, features)}.json"
        known = _known(note, shard, folder, finished)
        return known or _write(rows, shard, features, folder / shard.name, note)

    with ThreadPoolExecutor(max(1, threads)) as pool:
        return list(tqdm(pool.map(one, shards), total=len(shards), desc="Writing shards", unit=" shards"))


def _key(rows: Dataset, shard: Shard, features: Features) -> str:
    digest = xxhash.xxh3_128(
        repr((rows._fingerprint, shard.name, features, ROW_GROUP, pa.__version__, version("hfds"))).encode()
    )
    for group in shard.groups:
        digest.update(f"{len(group)}:".encode() + group.tobytes())
    return digest.hexdigest()


def _known(note: Path, shard: Shard, folder: Path, finished: Path) -> Written | None:
    """A shard that an earlier run wrote, if the file is still the one it wrote."""
    if not (note.exists() and note.with_suffix(".npy").exists()):
        return None
    try:
        said, digests = json.loads(note.read_text()), np.load(note.with_suffix(".npy"))
    except (ValueError, OSError):
        return None
    for root in (folder, finished):
        path = root / shard.name
        if path.exists() and [path.stat().st_size, path.stat().st_mtime_ns] == said["stamp"]:
            if root != folder:
                (folder / shard.name).parent.mkdir(parents=True, exist_ok=True)
                (folder / shard.name).unlink(missing_ok=True)
                try:
                    os.link(path, folder / shard.name)
                except OSError:  # a disk without hard links: written again
                    continue
            return _written(shard, folder / shard.name, said["sha256"], digests)
    return None


def _write(rows: Dataset, shard: Shard, features: Features, path: Path, note: Path) -> Written:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    schema = features.arrow_schema
    digests = []
    with pq.ParquetWriter(aside, schema, **writer_options(schema)) as writer:
        for table in _tables(rows, shard.groups, features):
            digests.append(row_digests(table, shard.split))
            writer.write_table(table.select(schema.names), row_group_size=len(table) or None)
    aside.rename(path)
    all_digests = np.concatenate(digests) if digests else np.zeros((0, 2), np.uint64)
    stat, sha256 = path.stat(), sha256_of(path)
    with note.with_suffix(".part").open("wb") as file:
        np.save(file, all_digests)
    note.with_suffix(".part").rename(note.with_suffix(".npy"))
    note.with_suffix(".part").write_text(json.dumps({"stamp": [stat.st_size, stat.st_mtime_ns], "sha256": sha256}))
    note.with_suffix(".part").rename(note)
    return _written(shard, path, sha256, all_digests)


def digested(features: Iterable[str]) -> list[str]:
    """The columns that `row_digests` needs of these: pictures only where their hashes are none of them."""
    names = [*features]
    return [name for name in names if name != "image" or "image_hash" not in names]


def row_digests(table: pa.Table, split: str) -> np.ndarray:
    """xxh3-128 of what each row says, pictures by their hash, and of its split: (rows, 2) uint64."""
    if "image" in digested(table.column_names):
        pictures = (picture and picture["bytes"] for picture in table["image"].to_pylist())
        hashes = [None if data is None else xxhash.xxh3_128_hexdigest(data) for data in pictures]
        table = table.append_column("image_hash", pa.array(hashes, pa.string()))
    content = table.drop_columns([column for column in ("image",) if column in table.column_names])
    return hash_texts(canonical(content.append_column("split", pa.repeat(split, len(table)))))


def _written(shard: Shard, path: Path, sha256: str, digests: np.ndarray) -> Written:
    rows = pq.read_metadata(path).num_rows
    return Written(shard.name, shard.split, rows, path.stat().st_size, sha256, digests)


def writer_options(schema: pa.Schema) -> dict[str, Any]:
    """Pictures are compressed already: no codec, no dictionary, no statistics for their bytes."""
    leaves = list(_leaves(schema))
    others = [leaf for leaf in leaves if leaf != "image.bytes"]
    codec = {leaf: "none" if leaf == "image.bytes" else "zstd" for leaf in leaves}
    return {"compression": codec, "use_dictionary": others, "write_statistics": others, "write_page_index": True}


def _leaves(fields: Iterable[pa.Field], prefix: str = "") -> Iterator[str]:
    for field in fields:
        if pa.types.is_struct(field.type):
            yield from _leaves(field.type, f"{prefix}{field.name}.")
        elif isinstance(field.type, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
            yield from _leaves([field.type.value_field.with_name("element")], f"{prefix}{field.name}.list.")
        else:
            yield prefix + field.name


def _tables(rows: Dataset, groups: tuple[np.ndarray, ...], features: Features) -> Iterator[pa.Table]:
    """The rows of each group with their pictures embedded, and these with their `image_hash`."""
    readers: dict[str, Reader] = {}
    hashed = ("image_hash",) if "image" in features else ()
    wanted = [name for name in dict.fromkeys((*features, *hashed)) if name in rows.column_names]
    table = rows.data.table.select(wanted)
    try:
        for positions in groups:
            low, high = (int(positions[0]), int(positions[-1]) + 1) if len(positions) else (0, 0)
            chosen = np.zeros(high - low, bool)
            chosen[positions - low] = True
            # `take` copies all chunks into one, which fails at 2 GiB of pictures, also of those that it leaves out.
            part = table.slice(low, high - low).filter(pa.array(chosen)).combine_chunks()
            if "image" in features:
                image = _one_chunk(part["image"])
                image = embedded(image, part["id"].to_pylist(), part["image_hash"].to_pylist(), readers)
                part = part.set_column(part.column_names.index("image"), "image", image)
            yield part
    finally:
        for reader in readers.values():
            reader.close()


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
