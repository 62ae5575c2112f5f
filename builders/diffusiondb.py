"""DiffusionDB: 14 million pictures of Stable Diffusion with their prompts and parameters, as zips and a metadata table.

https://huggingface.co/datasets/poloclub/diffusiondb; replaces the loading script there, which runs no longer.
"""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from hfds import parquet, record
from hfds.archive import Member, Reader, unsafe, zip_members
from hfds.builder import Builder, Piece, SourceConfig, batched, code_version
from hfds.errors import BadFile, BadRow, SourceMissing
from hfds.parquet import INTEGER, NUMBER, TEXT, TIME
from hfds.picture import Picture, picture_of
from hfds.record import printable, text_or_none
from hfds.slices import slice_path
from hfds.text import blank_as_null, json_object, json_text
from hfds.upstream import File

PARTS = {"2m": 2_000, "large": 14_000}  # published, of 1,000 pictures each
SIZES = {"1k": 1, "5k": 5, "10k": 10, "50k": 50, "100k": 100, "500k": 500, "1m": 1_000, "5m": 5_000, "10m": 10_000}
FOLDERS = {"2m": "images", "large": "diffusiondb-large-part-[12]"}
TABLES = {"2m": "metadata.parquet", "large": "metadata-large.parquet"}
# The table's columns: of which kind they must be, and as what they are read.
COLUMNS = {
    "image_name": (TEXT, pa.string()),
    "prompt": (TEXT, pa.string()),
    "part_id": (INTEGER, pa.int32()),
    "seed": (INTEGER, pa.int64()),
    "step": (INTEGER, pa.int32()),
    "cfg": (NUMBER, pa.float32()),
    "sampler": (INTEGER, pa.int32()),
    "width": (INTEGER, pa.int32()),
    "height": (INTEGER, pa.int32()),
    "user_name": (TEXT, pa.string()),
    "timestamp": (TIME, pa.timestamp("us", "UTC")),
    "image_nsfw": (NUMBER, pa.float32()),
    "prompt_nsfw": (NUMBER, pa.float32()),
}
# By code, from 1; upstream's script spells the fifth "ddik_heunm".
SAMPLERS = ("ddim", "plms", "k_euler", "k_euler_ancestral", "k_heun", "k_dpm_2", "k_dpm_2_ancestral", "k_lms", "others")
# What is said of one picture: the columns with the sampler's name, or the code that has none; its key below the source;
# why it will be dropped, and what was found; further members of the JSON object `extra`.
SAID = pa.schema(
    {name: pa.string() if name == "sampler" else type_ for name, (_, type_) in COLUMNS.items()}
    | {"sampler_code": pa.int32()}
    | dict.fromkeys(("key", "reason", "value", "notes"), pa.string())
)
KEYS = {"p": "prompt", "se": "seed", "c": "cfg", "st": "step", "sa": "sampler"}  # of a part's JSON
BLURRED = 2.0  # an image_nsfw off its scale of 0 to 1
YEARS = (-62_135_596_800_000_000, 253_402_300_799_999_999)  # 1 to 9999 in microseconds; NaT lies far below
BATCH = 100  # pictures of a table: those that cannot be read in place have their bytes in it
BUCKET = 100  # parts whose metadata share a file

Said = dict[str, Any]  # a row of SAID, with its notes still as a dict


class Row(NamedTuple):
    """What is said of a picture and the picture, or either."""

    said: Said
    image: dict[str, Any] | None = None
    picture: Picture | None = None


@dataclass
class DiffusionDBConfig(SourceConfig):
    """Which parts of which subset ("2m" or "large").

    Attributes:
        pick: "first" or "random" for `parts` of those published, "all" for those that are there, "text" for the table.
        seed: which parts "random" draws: the same seed draws the same ones everywhere, and few of them are among many.
    """

    subset: str = "2m"
    pick: str = "all"
    parts: int = 0
    seed: int = 0

    def numbers(self) -> list[int]:
        """The numbers of the parts, ascending."""
        every = list(range(1, PARTS[self.subset] + 1))
        if self.pick == "random":
            every.sort(key=lambda number: xxhash.xxh3_64_intdigest(f"{self.seed}:{number}".encode()))
        return sorted(every[: self.parts])


def _config(subset: str, pick: str, name: str, parts: int) -> DiffusionDBConfig:
    part, table = f"part-{'[0-9]' * 6}.zip", (TABLES[subset],)
    files, companions = (table, {}) if pick == "text" else ((f"{FOLDERS[subset]}/{part}", part), {"metadata": table})
    return DiffusionDBConfig(
        name=f"{subset}_{name}", files={"train": files}, companions=companions, subset=subset, pick=pick, parts=parts
    )


class DiffusionDB(Builder):
    """Pictures that users made with Stable Diffusion on Discord, with their prompts and parameters.

    Configs: {2m,large}_first_{1k..1m} are the first parts, {2m,large}_random_{1k..1m} parts drawn by `seed` (large also
    has 5m and 10m), {2m,large}_all every part that is there, and {2m,large}_text the metadata table without pictures,
    one row for each of its rows. A part holds 1,000 pictures and is taken whole. Pictures stay in their zips. What the
    script called 1k_random_2m drew a thousand parts: that is 2m_random_1m.

    With pictures, `prompt` and the parameters are those of the JSON in the part's zip, else of the table; what the
    table says otherwise is in `extra.table`. `prompt` and `captions` (style "prompt") are as published, trailing ", "
    included; null when blank. `generation.sampler` is a name, or null for a code without one; which version of the
    model made a picture is not published. `source_scores.nsfw` is image_nsfw, null for pictures that were blurred
    upstream (2.0). `width` and `height` are measured, without a picture the table's. `id` is the name of the picture's
    file, or a hash of the row where the table has none; one that the table has twice is dropped by the build. Rows of
    the table that belong to no part are in the text configs alone.

    Reasons of dropped rows: no_metadata, no_picture, duplicate_key, not_utf8, link, unsafe_name, unknown_member, and
    what is wrong with a broken picture.

    `extra`, without what is null: part_id, user_name (a SHA-256, or "deleted_account"), timestamp, prompt_nsfw, blurred
    (where there is an image_nsfw), sampler_code (one without a name); and for pictures: table {column: what it says
    other than the JSON or the picture}, json {key: what is unknown or of another type}, json_problem (why the part's
    JSON says nothing of the picture: "missing", "broken_json", "not_utf8", "wrong_type" ...), table_problem (not_utf8).
    """

    NAME = "diffusiondb"
    HOMEPAGE = "https://poloclub.github.io/diffusiondb"
    LICENSE = "CC0-1.0"
    CITATION = "Z. J. Wang et al., DiffusionDB: A Large-scale Prompt Gallery Dataset for Text-to-Image Models, 2022"
    REPO = "poloclub/diffusiondb"
    BUILDER_CONFIG_CLASS = DiffusionDBConfig
    BUILDER_CONFIGS = [  # noqa: RUF012
        *(
            _config(subset, pick, f"{pick}_{size}", parts)
            for subset in PARTS
            for pick in ("first", "random")
            for size, parts in SIZES.items()
            if parts <= PARTS[subset]
        ),
        *(_config(subset, "all", "all", PARTS[subset]) for subset in PARTS),
        *(_config(subset, "text", name, 0) for subset in PARTS for name in ("text", "text_only")),
    ]
    DEFAULT_CONFIG_NAME = "2m_random_1k"

    config: DiffusionDBConfig

    def split_file(self, file: File) -> list[Piece]:
        """A zip is one piece, the table up to four."""
        if self.config.pick != "text":
            return [Piece(file)]
        runs = parquet.row_runs(file.path, file.name, PARTS[self.config.subset] * 1_000)
        return [Piece(file, start, stop) for start, stop in runs]

    def choose(self, pieces: list[Piece]) -> list[Piece]:
        """The parts of this config.

        Raises:
            SourceMissing: one of them is not there.
            BadFile: a part is there twice.
        """
        if self.config.pick == "text":
            return pieces
        there: dict[int, Piece] = {}
        for piece in pieces:
            if (first := there.setdefault(_number(piece), piece)) is not piece:
                raise BadFile(piece.name, f"the same part as {first.name}", "remove one of them")
        if self.config.pick == "all":
            return pieces
        numbers = self.config.numbers()
        if missing := [number for number in numbers if number not in there]:
            folder = FOLDERS[self.config.subset].replace("[12]", "1" if missing[0] <= 10_000 else "2")
            name = f"{folder}/part-{missing[0]:06}.zip"
            count = f"{len(missing):,} of the {len(numbers):,} parts of {self.config.name}"
            get = f"hf download --repo-type dataset {self.REPO} {name} --local-dir FOLDER"
            raise SourceMissing(f"{self.NAME}: no {name} ({count} are not there); get it with: {get}")
        return [there[number] for number in numbers]

    def read(self, piece: Piece) -> Iterator[pa.Table]:
        """The pictures of a part, or a run of the table's rows."""
        if self.config.pick == "text":
            for batch in _read_table(piece.file, piece.start, piece.stop):
                yield self._records(batch)
            return
        with Reader(piece.path) as reader:
            for rows in batched(self._rows(piece, reader), BATCH):
                yield self._records(
                    pa.RecordBatch.from_pylist(
                        [{**row.said, "notes": _inside(row.said["notes"])} for row in rows], SAID
                    ),
                    image=[row.image for row in rows],
                    image_hash=[row.picture and row.picture.hash for row in rows],
                    width=[row.picture.width if row.picture else row.said.get("width") for row in rows],
                    height=[row.picture.height if row.picture else row.said.get("height") for row in rows],
                )

    def _rows(self, piece: Piece, reader: Reader) -> Iterator[Row]:
        """The pictures of a part as they lie, then what is said of pictures that are not there."""
        part = f"part-{_number(piece):06}"
        listing = f"{part}.json"
        members, read = zip_members(reader, piece.name)
        listings = [m for m in members if _name(m) == listing and not _unusable(m, listing, set())]
        records, twice, trouble = _part_json(listings, read)
        table: dict[str, Said] = {}
        for said in self._metadata(_number(piece)):
            if table.setdefault(said["key"], said) is not said:
                twice.append(said["key"])
        seen: set[str] = set()
        for at, member in enumerate(members):
            name = _name(member)
            if reason := _unusable(member, listing, seen):
                value = printable(member.name)
                yield Row({"key": f"{part}/{value}@{at}", "reason": reason, "value": value, "notes": {}})
                continue
            seen.add(name)
            if name != listing:
                said = _joined(name, _number(piece), records, table, trouble)
                yield _shown(said, member, read, piece.path)
        for name in {**records, **table}:
            if name not in seen - {listing}:
                yield Row({**_joined(name, _number(piece), records, table, trouble), "reason": "no_picture"})
        for at, name in enumerate(twice):
            yield Row({"key": f"{part}/{name}@said-{at}", "reason": "duplicate_key", "value": name, "notes": {}})

    def _records(self, said: pa.RecordBatch, **pictures: Any) -> pa.Table:
        """Rows of SAID in the common schema."""
        prompt, rows = blank_as_null(said["prompt"]), len(said)
        blurred = pc.equal(said["image_nsfw"], BLURRED)
        extra = {name: said[name] for name in ("part_id", "user_name", "timestamp", "prompt_nsfw", "sampler_code")}
        columns = {
            "id": pc.binary_join_element_wise(self.NAME, said["key"], "/"),
            "width": said["width"],
            "height": said["height"],
            "prompt": prompt,
            "captions": {"prompt": prompt},
            "generation": {
                "seed": said["seed"],
                "steps": said["step"],
                "guidance": said["cfg"],
                "sampler": said["sampler"],
            },
            "source_scores": {"nsfw": pc.if_else(blurred, None, said["image_nsfw"])},
            "extra": record.json_objects({**extra, "blurred": blurred}, said["notes"]),
            "dropped": record.drops(self.NAME, rows, said["reason"], said["value"]),
        }
        ours = {"source": self.NAME, "source_revision": self.revision, "license": self.LICENSE}
        return record.records(rows, **ours, **{**columns, **pictures})

    def _metadata(self, part: int) -> list[Said]:
        """The table's rows of one part, in its order."""
        if "metadata" not in self.companions:
            return []
        path = self._by_part(self.companions["metadata"]) / f"{part // BUCKET}.arrow"
        if not path.exists():
            return []
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
            return [row for batch in batches for row in batch.filter(pc.equal(batch["part_id"], part)).to_pylist()]

    def _by_part(self, table: File) -> Path:
        """A folder beside the cache with the table's rows of this config's parts, BUCKET parts a file; made once.

        Nothing says that the table is in the order of its parts, and to go through it once for each is quadratic.
        """
        numbers = self.config.numbers()
        asked = repr((code_version(type(self)), table.name, table.stamp, numbers)).encode()
        folder = Path(self._cache_dir_root) / f"{self.NAME}-metadata-{xxhash.xxh3_64_hexdigest(asked)}"
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
            try:
                _write_by_part(table, pa.array(numbers, pa.int32()), aside)
                aside.rename(folder)
            except OSError:
                if not folder.exists():  # else another process was first
                    raise
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        return folder


def _write_by_part(table: File, numbers: pa.Array, folder: Path) -> None:
    writers: dict[int, Any] = {}
    with ExitStack() as stack:
        for batch in _read_table(table, rows=BUCKET * 1_000):
            said = batch.filter(pc.is_in(batch["part_id"], numbers))
            buckets = said["part_id"].to_numpy() // BUCKET
            said, buckets = said.take(pa.array(np.argsort(buckets, kind="stable"))), np.sort(buckets)
            for bucket in np.unique(buckets).tolist():
                if bucket not in writers:
                    options = pa.ipc.IpcWriteOptions(compression="lz4")
                    writer = pa.ipc.new_file(str(folder / f"{bucket}.arrow"), SAID, options=options)
                    writers[bucket] = stack.enter_context(writer)
                start, stop = np.searchsorted(buckets, [bucket, bucket + 1])
                writers[bucket].write_batch(said.slice(start, stop - start))


def _read_table(
    file: File, start: int = 0, stop: int | None = None, rows: int = parquet.ROWS
) -> Iterator[pa.RecordBatch]:
    """Rows of the metadata table as SAID."""
    schema = parquet.schema_of(file.path, file.name)
    parquet.check_columns(schema, file.name, {name: kind for name, (kind, _) in COLUMNS.items()})
    for batch in parquet.rows_between(file.path, file.name, list(COLUMNS), start, stop, rows):
        batch, not_utf8 = parquet.repaired(batch)
        reason = pc.if_else(pa.array(not_utf8), "not_utf8", pa.scalar(None, pa.string()))
        columns = {name: _read_column(batch[name], *COLUMNS[name]) for name in COLUMNS}
        code = columns["sampler"]
        known = pc.and_(pc.greater_equal(code, 1), pc.less_equal(code, len(SAMPLERS)))
        columns["sampler"] = pa.array(SAMPLERS).take(pc.if_else(known, pc.subtract(code, 1), None))
        nothing = pa.nulls(len(batch), pa.string())
        rest = [pc.if_else(known, None, code), _keys(batch, columns["image_name"]), reason, nothing, nothing]
        yield pa.RecordBatch.from_arrays([*columns.values(), *rest], schema=SAID)


def _read_column(values: pa.Array, kind: parquet.Kind, type_: pa.DataType) -> pa.Array:
    if kind in (INTEGER, NUMBER):
        return parquet.numbers(values, type_)
    values = values.cast(type_, safe=False)
    if kind is TIME:
        micros = values.cast(pa.int64())
        there = pc.and_(pc.greater_equal(micros, YEARS[0]), pc.less_equal(micros, YEARS[1]))
        values = pc.if_else(there, values, None)
    return values


def _keys(batch: pa.RecordBatch, names: pa.Array) -> pa.Array:
    """The names of the pictures; where there is none, a hash of the row."""
    plain = pc.match_substring_regex(names, "^[!-~]+$")
    if not names.null_count and pc.all(plain).as_py():
        return names
    odd = pc.invert(pc.fill_null(plain, False))
    keys = [
        printable(row["image_name"])
        if (row["image_name"] or "").strip()
        else xxhash.xxh3_128_hexdigest(json.dumps([*row.values()], default=str).encode())
        for row in batch.filter(odd).to_pylist()
    ]
    return pc.replace_with_mask(names, odd, pa.array(keys, pa.string()))


def _inside(notes: dict[str, Any]) -> str | None:
    """Members of a JSON object, without its braces."""
    return json_text(notes)[1:-1] or None


def _number(piece: Piece) -> int:
    return int(piece.name[-len("000001.zip") : -len(".zip")])


def _name(member: Member) -> str:
    return printable(member.name.rpartition("/")[2])


def _unusable(member: Member, listing: str, seen: set[str]) -> str | None:
    """Why a member is neither a picture nor the part's JSON, or None."""
    name = _name(member)
    if member.kind == "link":
        return "link"
    if unsafe(member.name):
        return "unsafe_name"
    if name in seen or name.rpartition("#")[0] in seen:  # `zip_members` numbers a name that repeats
        return "duplicate_key"
    return None if member.kind == "file" and name.endswith((".png", ".webp", listing)) else "unknown_member"


def _part_json(members: list[Member], read: Callable[[Member], bytes]) -> tuple[dict[str, Any], list[str], str]:
    """The records of a part by the names of their pictures, names that are there twice, and why one may be missing."""
    if not members:
        return {}, [], "missing"
    try:
        text = read(members[0]).decode("utf-8-sig")
    except BadRow as bad:
        return {}, [], bad.reason
    except UnicodeDecodeError:
        return {}, [], "not_utf8"
    records = json_object(text)
    if isinstance(records, BadRow):
        return {}, [], records.reason
    times = Counter(name for name, _ in json.loads(text, object_pairs_hook=list))
    twice = [printable(name) for name in times for _ in range(times[name] - 1)]
    return {printable(name): said for name, said in records.items()}, twice, "missing"


def _joined(name: str, part: int, records: dict[str, Any], table: dict[str, Said], trouble: str) -> Said:
    """What is said of a picture: by the JSON that lies beside it, else by the table."""
    notes: dict[str, Any] = {}
    said = {"part_id": part, "reason": None, **table.get(name, {}), "key": name, "notes": notes}
    if said["reason"]:
        notes["table_problem"], said["reason"] = said["reason"], None
    found = records.get(name)
    if not isinstance(found, dict):
        notes["json_problem"] = "wrong_type" if name in records else trouble
        if name not in table:
            said.update(reason="no_metadata", value=notes["json_problem"])
        return said
    rest = {key: value for key, value in found.items() if value is not None}
    for key, column in KEYS.items():
        value, other = _fitted(rest.get(key), SAID.field(column).type), said.get(column)
        if value is None:
            continue
        if other not in (None, value) and not (other == "others" and value not in SAMPLERS):
            notes.setdefault("table", {})[column] = other
        said[column] = value
        del rest[key]
    return {**said, "notes": {**notes, "json": rest} if rest else notes}


def _fitted(value: Any, type_: pa.DataType) -> Any:
    """A value of the JSON as one of a column; None where it is none."""
    if type(value) is int and pa.types.is_integer(type_):
        return value if abs(value) < 1 << (type_.bit_width - 1) else None
    if type(value) in (int, float) and pa.types.is_floating(type_):
        return float(np.float32(value)) if abs(value) < 3e38 else None
    return text_or_none(value) if pa.types.is_string(type_) else None


def _shown(said: Said, member: Member, read: Callable[[Member], bytes], path: str) -> Row:
    """The row of a picture, with a slice of the zip at `path` where it lies there as it is."""
    try:
        data = read(member)
        picture = picture_of(data)
    except BadRow as bad:
        return Row({**said, "reason": bad.reason, "value": bad.value})
    for name, measured in (("width", picture.width), ("height", picture.height)):
        if said.get(name) not in (None, measured):
            said["notes"].setdefault("table", {})[name] = said[name]
    if member.offset < 0:
        return Row(said, {"bytes": data, "path": said["key"]}, picture)
    return Row(said, {"bytes": None, "path": slice_path(member.offset, member.size, path)}, picture)
