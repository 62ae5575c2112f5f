"""DiffusionDB: 14 million pictures of Stable Diffusion with their prompts and parameters, as zips and a metadata table.

https://huggingface.co/datasets/poloclub/diffusiondb; replaces the loading script there, which runs no longer.
"""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from hfds import parquet, record
from hfds.archive import Member, Reader, unsafe, zip_members
from hfds.builder import Builder, File, Piece, SourceConfig, batched, code_version
from hfds.errors import BadFile, BadRow, SourceMissing
from hfds.parquet import INTEGER, NUMBER, TEXT, TIME
from hfds.picture import Picture, picture_of
from hfds.record import printable, text_or_none
from hfds.slices import slice_path

PARTS = {"2m": 2_000, "large": 14_000}  # published, of 1,000 pictures each
TABLES = {"2m": "metadata.parquet", "large": "metadata-large.parquet"}
FOLDERS = {"2m": "images", "large": "diffusiondb-large-part-[12]"}
SIZES = {"1k": 1, "5k": 5, "10k": 10, "50k": 50, "100k": 100, "500k": 500, "1m": 1_000, "5m": 5_000, "10m": 10_000}
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
# A row of the table as it is read: the sampler's name, or the code that has none; the row's key; what is wrong with it.
SAID = pa.schema(
    {name: pa.string() if name == "sampler" else type_ for name, (_, type_) in COLUMNS.items()}
    | {"sampler_code": pa.int32(), "key": pa.string(), "problem": pa.string()}
)
BLURRED = 2.0  # an image_nsfw off its scale of 0 to 1
YEARS = (-62_135_596_800_000_000, 253_402_300_799_999_999)  # 1 to 9999 in microseconds; NaT lies below
# What the keys of a part's JSON are called in the table.
KEYS = {"p": "prompt", "se": "seed", "c": "cfg", "st": "step", "sa": "sampler"}
BATCH = 100  # pictures of a table: the bytes of those that cannot be read in place are all in memory
BUCKET = 100  # parts whose metadata share a file


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


@dataclass
class Row:
    """A picture, what is said of it, or both. `reason` is why it will be dropped."""

    key: str
    said: dict[str, Any] = field(default_factory=dict)  # in the columns of SAID
    notes: dict[str, Any] = field(default_factory=dict)  # further keys of `extra`
    image: dict[str, Any] | None = None
    picture: Picture | None = None
    reason: str | None = None
    value: str | None = None


class DiffusionDB(Builder):
    """Pictures that users made with Stable Diffusion on Discord in August 2022, with their prompts and parameters.

    Configs: {2m,large}_first_{1k..1m} are the first parts, {2m,large}_random_{1k..1m} parts drawn by `seed` (large also
    has 5m and 10m), {2m,large}_all every part that is there, and {2m,large}_text the metadata table without pictures,
    one row for each of its rows. A part holds 1,000 pictures and is taken as a whole. Pictures stay in their zips. What
    the script called 1k_random_2m drew a million pictures: that is 2m_random_1m.

    With pictures, `prompt` and the parameters come from the JSON in the part's zip, else from the table; what the table
    says otherwise is in `extra.table`. `prompt` and `captions` (style "prompt") are as published, trailing ", "
    included; null when blank. `generation.sampler` is a name, or null for a code without one; the model's version is
    not published. `source_scores.nsfw` is image_nsfw, null for pictures that were blurred upstream (published as 2.0).
    `width` and `height` are measured, without a picture they are the table's. The id is the file's name, or a hash of
    the row where the table has none.

    `extra`, without what is null: part_id, user_name (a SHA-256, or "deleted_account"), timestamp, prompt_nsfw, blurred
    (true or false where image_nsfw is known), sampler_code (one without a name); and for pictures: table {column: what
    it says other than the JSON or the picture}, json {key: what is of another type or unknown}, json_problem (why the
    part's JSON does not tell of this picture: "missing", "broken_json", "not_utf8", "wrong_type" ...), table_problem
    ("not_utf8").
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
        """A zip is one piece, a table up to four."""
        if self.config.pick != "text":
            return [Piece(file)]
        runs = parquet.row_runs(file.path, file.name, PARTS[self.config.subset] * 1_000)
        return [Piece(file, start, stop) for start, stop in runs]

    def choose(self, pieces: list[Piece]) -> list[Piece]:
        """The parts of this config.

        Raises:
            SourceMissing: one of them is not there.
            BadFile: one of them is there twice.
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
            get = f"hf download --repo-type dataset {self.REPO} {name} --local-dir FOLDER"
            wanted = f"{len(missing):,} of the {len(numbers):,} parts of {self.config.name} are not there"
            raise SourceMissing(f"{self.NAME}: no {name}; {wanted}; get it with: {get}")
        return [there[number] for number in numbers]

    def read(self, piece: Piece) -> Iterator[pa.Table]:
        """The rows of a part, or of a run of the table's rows."""
        if self.config.pick == "text":
            yield from self._texts(piece)
            return
        with Reader(piece.path) as reader:
            for rows in batched(self._rows(piece, reader), BATCH):
                yield self._pictures(rows)

    def _texts(self, piece: Piece) -> Iterator[pa.Table]:
        repeated, at = _repeated(piece), 0
        for said in _read_table(piece.file, piece.start, piece.stop):
            again = pc.and_(pa.array(repeated[at : at + len(said)]), pc.is_valid(said["image_name"]))
            place = pa.array(np.arange(piece.start + at, piece.start + at + len(said))).cast(pa.string())
            keys = pc.if_else(again, pc.binary_join_element_wise(said["key"], place, "@"), said["key"])
            yield self._records(said, keys, pc.if_else(again, "duplicate_key", said["problem"]))
            at += len(said)

    def _rows(self, piece: Piece, reader: Reader) -> Iterator[Row]:
        """The pictures of a part as they lie, then what is said of pictures that are not there."""
        number = _number(piece)
        part = f"part-{number:06}"
        members, read = zip_members(reader, piece.name)
        records, twice, trouble = _part_json([m for m in members if _name(m) == f"{part}.json"], read)
        table: dict[str, dict[str, Any]] = {}
        for said in self._metadata(number):
            if table.setdefault(said["key"], said) is not said:
                twice.append(said["key"])
        seen: set[str] = set()
        for at, member in enumerate(members):
            name = _name(member)
            if reason := _unusable(member, f"{part}.json", seen):
                yield Row(f"{part}/{printable(member.name)}@{at}", reason=reason, value=member.name)
                continue
            seen.add(name)
            if name != f"{part}.json":
                row = _joined(name, number, records, table.get(name), trouble)
                yield _with_picture(row, member, read, piece.path if reader.local else None)
        for name in dict.fromkeys([*records, *table]):
            if name not in seen:
                row = _joined(name, number, records, table.get(name), trouble)
                row.reason = "no_picture"
                yield row
        for at, name in enumerate(twice):
            yield Row(f"{part}/{name}@said-{at}", reason="duplicate_key", value=name)

    def _pictures(self, rows: tuple[Row, ...]) -> pa.Table:
        notes = [text_or_none(json.dumps(row.notes, ensure_ascii=False)[1:-1]) if row.notes else None for row in rows]
        sizes = [row.picture or (row.said.get("width"), row.said.get("height")) for row in rows]
        return self._records(
            pa.RecordBatch.from_pylist([row.said for row in rows], SAID),
            pa.array([row.key for row in rows], pa.string()),
            pa.array([row.reason for row in rows], pa.string()),
            pa.array([row.value for row in rows], pa.string()),
            pa.array(notes, pa.string()),
            image=[row.image for row in rows],
            image_hash=[row.picture and row.picture.hash for row in rows],
            width=[size[0] for size in sizes],
            height=[size[1] for size in sizes],
        )

    def _records(
        self,
        said: pa.RecordBatch,
        keys: pa.Array,
        reason: pa.Array,
        value: Any = None,
        notes: Any = None,
        **pictures: Any,
    ) -> pa.Table:
        """The common schema from columns of SAID; `notes` are the insides of JSON objects, further keys of `extra`."""
        prompt = pc.if_else(pc.equal(pc.utf8_trim_whitespace(said["prompt"]), ""), None, said["prompt"])
        blurred = pc.equal(said["image_nsfw"], BLURRED)
        extra = {name: said[name] for name in ("part_id", "user_name", "timestamp", "prompt_nsfw", "sampler_code")}
        pieces = [
            pc.binary_join_element_wise(f'"{name}"', record.json_values(values), ": ")
            for name, values in {**extra, "blurred": blurred}.items()
        ]
        notes = pa.nulls(len(said), pa.string()) if notes is None else notes
        inside = pc.binary_join_element_wise(*pieces, notes, ", ", null_handling="skip")
        return record.records(
            len(said),
            id=pc.binary_join_element_wise(self.NAME, keys, "/"),
            source=self.NAME,
            source_revision=self.revision,
            license=self.LICENSE,
            prompt=prompt,
            captions={"prompt": prompt},
            generation={
                "seed": said["seed"],
                "steps": said["step"],
                "guidance": said["cfg"],
                "sampler": said["sampler"],
            },
            source_scores={"nsfw": pc.if_else(blurred, None, said["image_nsfw"])},
            extra=pc.if_else(pc.equal(inside, ""), None, pc.binary_join_element_wise("{", inside, "}", "")),
            dropped=record.drops(self.NAME, len(said), reason, value),
            **{"width": said["width"], "height": said["height"], **pictures},
        )

    def _metadata(self, part: int) -> list[dict[str, Any]]:
        """The table's rows of one part, in its order."""
        if "metadata" not in self.companions:
            return []
        import pyarrow.dataset

        folder = self._by_part(self.companions["metadata"]) / str(part // BUCKET)
        if not folder.exists():
            return []
        table = pyarrow.dataset.dataset(folder, format="feather").to_table(filter=pc.field("part_id") == part)
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows

    def _by_part(self, table: File) -> Path:
        """A folder beside the cache with the table's rows of this config's parts, BUCKET parts a file; made once.

        Nothing says that the table is in the order of the parts, and to search all of it for each of them is quadratic.
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


def _number(piece: Piece) -> int:
    return int(piece.name[-len("000001.zip") : -len(".zip")])


def _name(member: Member) -> str:
    return printable(member.name.rpartition("/")[2])


def _read_table(file: File, start: int = 0, stop: int | None = None) -> Iterator[pa.RecordBatch]:
    """Rows of the metadata table in the columns of SAID."""
    schema = parquet.schema_of(file.path, file.name)
    parquet.check_columns(schema, file.name, {name: kind for name, (kind, _) in COLUMNS.items()})
    for batch in parquet.rows_between(file.path, file.name, list(COLUMNS), start, stop):
        batch, not_utf8 = parquet.repaired(batch)
        yield _said(batch, pc.if_else(pa.array(not_utf8), "not_utf8", pa.scalar(None, pa.string())))


def _said(batch: pa.RecordBatch, problem: pa.Array) -> pa.RecordBatch:
    columns = {}
    for name, (kind, type_) in COLUMNS.items():
        number = kind in (INTEGER, NUMBER)
        values = parquet.numbers(batch[name], type_) if number else batch[name].cast(type_, safe=False)
        if kind is NUMBER:
            values = pc.if_else(pc.is_finite(values), values, None)
        elif kind is TIME:
            micros = values.cast(pa.int64())
            there = pc.and_(pc.greater_equal(micros, YEARS[0]), pc.less_equal(micros, YEARS[1]))
            values = pc.if_else(there, values, None)
        columns[name] = values
    code = columns["sampler"]
    known = pc.and_(pc.greater_equal(code, 1), pc.less_equal(code, len(SAMPLERS)))
    columns["sampler"] = pa.array(SAMPLERS, pa.string()).take(pc.if_else(known, pc.subtract(code, 1), None))
    columns["sampler_code"] = pc.if_else(known, None, code)
    return pa.RecordBatch.from_arrays([*columns.values(), _keys(batch), problem], schema=SAID)


def _keys(batch: pa.RecordBatch) -> pa.Array:
    """The names of the pictures; a hash of the row where there is none."""
    names = batch["image_name"].cast(pa.string())
    plain = pc.and_(pc.string_is_ascii(names), pc.utf8_is_printable(names))
    odd = pc.fill_null(pc.invert(pc.and_(plain, pc.greater(pc.binary_length(names), 0))), True)
    if not pc.any(odd).as_py():
        return names
    rows = batch.filter(odd).to_pylist()
    keys = [
        printable(row["image_name"]) or xxhash.xxh3_128_hexdigest(json.dumps(list(row.values()), default=str).encode())
        for row in rows
    ]
    return pc.replace_with_mask(names, odd, pa.array(keys, pa.string()))


def _repeated(piece: Piece) -> np.ndarray:
    """For each row of the piece whether an earlier one of the file has its image_name (by a 64-bit hash)."""
    parquet.check_columns(parquet.schema_of(piece.path, piece.name), piece.name, {"image_name": TEXT})
    batches = parquet.rows_between(piece.path, piece.name, ["image_name"], 0, piece.stop)
    hashes = np.concatenate([np.zeros(0, np.uint64), *(record.hash_texts(b["image_name"])[:, 0] for b in batches)])
    repeated = np.ones(len(hashes), bool)
    repeated[np.unique(hashes, return_index=True)[1]] = False
    return repeated[piece.start :]


def _write_by_part(table: File, numbers: pa.Array, folder: Path) -> None:
    import pyarrow.dataset

    schema = SAID.append(pa.field("bucket", pa.int32()))
    said = (batch.filter(pc.is_in(batch["part_id"], numbers)) for batch in _read_table(table))
    pyarrow.dataset.write_dataset(
        (pa.RecordBatch.from_arrays([*b.columns, pc.divide(b["part_id"], BUCKET)], schema=schema) for b in said),
        folder,
        schema=schema,
        format="feather",
        partitioning=["bucket"],
        min_rows_per_group=2_000,
        use_threads=False,
    )


def _part_json(members: list[Member], read: Callable[[Member], bytes]) -> tuple[dict[str, Any], list[str], str]:
    """The records of a part by the names of their pictures, names that are there twice, and why there are none."""
    if not members:
        return {}, [], "missing"
    try:
        text = read(members[0]).decode("utf-8-sig")
        records = json.loads(text, parse_constant=lambda _: None)
        names = [name for name, _ in json.loads(text, object_pairs_hook=list)] if isinstance(records, dict) else []
    except BadRow as bad:
        return {}, [], bad.reason
    except UnicodeDecodeError:
        return {}, [], "not_utf8"
    except (ValueError, RecursionError):
        return {}, [], "broken_json"
    if not isinstance(records, dict):
        return {}, [], "wrong_type"
    twice = [printable(name) for name, times in Counter(names).items() for _ in range(times - 1)]
    return {printable(name): said for name, said in records.items()}, twice, "missing"


def _joined(name: str, part: int, records: dict[str, Any], said: dict[str, Any] | None, trouble: str) -> Row:
    """What is said of a picture: by the JSON that lies beside it, then by the table."""
    row = Row(name, said={**(said or {"part_id": part}), "key": name})
    if said and said["problem"]:
        row.notes["table_problem"] = said["problem"]
    found = records.get(name)
    if not isinstance(found, dict):
        problem = "wrong_type" if name in records else trouble
        row.notes["json_problem"] = problem
        if said is None:
            row.reason, row.value = "no_metadata", problem
        return row
    table, rest = {}, {key: value for key, value in found.items() if value is not None}
    for key, column in KEYS.items():
        value = _fitted(rest.get(key), SAID.field(column).type)
        if value is None:
            continue
        del rest[key]
        other = row.said.get(column)
        if other not in (None, value) and not (other == "others" and value not in SAMPLERS):
            table[column] = other
        row.said[column] = value
    row.notes.update({name: notes for name, notes in (("table", table), ("json", rest)) if notes})
    return row


def _fitted(value: Any, type_: pa.DataType) -> Any:
    """A value of the JSON as a value of a column; None when it is none."""
    if pa.types.is_string(type_):
        return text_or_none(value)
    if type(value) is int and pa.types.is_integer(type_):
        return value if abs(value) < 1 << (type_.bit_width - 1) else None
    if type(value) in (int, float) and pa.types.is_floating(type_):
        return float(np.float32(value)) if abs(value) < 3e38 else None
    return None


def _with_picture(row: Row, member: Member, read: Callable[[Member], bytes], path: str | None) -> Row:
    """The row with its picture, as a slice of the zip at `path` where it can be read in place."""
    try:
        data = read(member)
        row.picture = picture_of(data)
    except BadRow as bad:
        row.reason, row.value = bad.reason, bad.value
        return row
    in_place = path is not None and member.offset >= 0
    row.image = (
        {"bytes": None, "path": slice_path(member.offset, member.size, str(path))}
        if in_place
        else {"bytes": data, "path": row.key}
    )
    for name, measured in (("width", row.picture.width), ("height", row.picture.height)):
        if row.said.get(name) not in (None, measured):
            row.notes.setdefault("table", {})[name] = row.said[name]
    return row


def _unusable(member: Member, json_name: str, seen: set[str]) -> str | None:
    """Why a member is neither a picture nor the part's JSON, or None."""
    name = _name(member)
    if member.kind == "link":
        return "link"
    if unsafe(member.name):
        return "unsafe_name"
    if name in seen or name.rpartition("#")[0] in seen:  # `zip_members` numbers a name that repeats
        return "duplicate_key"
    if member.kind != "file" or not name.endswith((".png", ".webp", json_name)):
        return "unknown_member"
    return None
