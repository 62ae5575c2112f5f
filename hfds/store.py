"""Store: what models said about rows, kept under the hash of what they were shown, and found again by every release.

A folder, local or at any fsspec URL, with one folder per step; "step" is its name, version, parameters and checkpoint:

    <name>-<hash of the step's key>/step.json                     the key
                                   /answers/<time>-<hash>.arrow   key, and the columns that the step adds
                                   /failed/<time>-<hash>.arrow    key, reason, value: rows that made the model fail
                                   /pictures/<hash>.pack          pictures that the step made; see `hfds.packs`

Parts are written aside and renamed, and never changed. Their names carry the xxh3-128 of their bytes, so a part that
was cut or altered is set aside by whoever reads it. Of two answers to one key the first that was written holds.
"""

import io
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from filelock import FileLock
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from hfds.errors import ConfigError
from hfds.packs import KIND, Packs

PART = 32 << 20  # bytes of a part, about; what a kill can cost on top of the seconds between two commits
SMALL = 1 << 20  # bytes of a part that is read instead of mapped
STALE = 3600  # seconds after which a file that was left half written belongs to nobody
KEY = pa.binary(16)
FAILED = pa.schema({"key": KEY, "reason": pa.string(), "value": pa.string()})
_PART = re.compile(r"\d{20}-[0-9a-f]{32}\.arrow")
_log = logging.getLogger(__name__)


class Store:
    """The annotation store at `url`; `mirror` is a local folder for copies of the parts of a remote one.

    Raises:
        ConfigError: nothing that is installed opens such URLs.
    """

    def __init__(self, url: str | Path, mirror: Path):
        self.mirror = mirror
        try:
            self.fs, self.root = url_to_fs(str(url))
        except (ImportError, ValueError) as error:
            raise ConfigError(f"the annotation store {url} cannot be opened: {error}") from None

    def answers(self, name: str, key: str) -> "Answers":
        """What the step called `name` with this key has said."""
        return Answers(self, answers_folder(name, key), key)

    def steps(self) -> list["Answers"]:
        """Everything that is in the store, by name."""
        found = []
        for path in sorted(self.fs.ls(self.root, detail=False)) if self.fs.exists(self.root) else []:
            folder = path.rstrip("/").rpartition("/")[2]
            note = f"{self.root}/{folder}/step.json"
            if re.fullmatch(r"\w+-[0-9a-f]{32}", folder) and self.fs.exists(note):
                try:
                    found.append(Answers(self, folder, json.loads(self.fs.cat_file(note))["key"]))
                except (ValueError, KeyError, TypeError):  # nothing but these listings depends on it
                    found.append(Answers(self, folder, "unknown: its step.json is damaged"))
        return found


class Answers:
    """What one step said: read with `known`, extended with `write` and `write_failed`."""

    def __init__(self, store: Store, folder: str, key: str):
        self.folder, self.key = folder, key
        self._fs: AbstractFileSystem = store.fs
        self._local = isinstance(store.fs, LocalFileSystem)
        self._root = f"{store.root}/{folder}"
        self._mirror = store.mirror / folder
        self.packs = Packs(store.fs, self._root, self._put, lambda name: self._here(KIND, name))

    def parts(self, kind: str = "answers") -> list[str]:
        """The names of its whole parts, the oldest first; "failed" for those of rows that made the model fail.

        One that is damaged is named in the log and set aside, and what it said is computed again.
        """
        return [name for name in self._names(kind) if self._whole(kind, name)]

    def known(self, parts: Sequence[str], schema: pa.Schema) -> "Known":
        """What these parts say of the columns in `schema`; nothing of rows whose pictures are gone."""
        tables = (self._read("answers", name).select(["key", *schema.names]) for name in parts)
        return Known([self.packs.whole(table) for table in tables], schema)

    def failed(self, parts: Sequence[str]) -> "Known":
        """The reasons and values of rows that made the model fail."""
        return Known([self._read("failed", name) for name in parts], FAILED.remove(0))

    def write(self, keys: np.ndarray, columns: pa.Table) -> None:
        """Adds answers: `keys` of shape (rows, 2) and dtype uint64, and their columns."""
        columns = self.packs.stored(columns)
        self._write_all(columns.add_column(0, pa.field("key", KEY), key_column(keys)))

    def write_failed(self, keys: np.ndarray, reasons: list[str], values: list[str | None]) -> None:
        """Adds rows that made the model fail."""
        table = pa.table([key_column(keys), pa.array(reasons, pa.string()), pa.array(values, pa.string())], FAILED)
        self._write("failed", table)

    def whereabouts(self) -> str:
        """Where its pictures are, and which of them are gone: a text that changes when paths to them do."""
        lost = self.packs.lost(self._read("answers", name) for name in self.parts())
        return f"{self._root if self._local else self._mirror}\0{lost}"

    def forget_failed(self, reason: str | None = None) -> int:
        """Forgets the failures with this reason, or all, so that they are tried again; returns how many."""
        names, forgotten = self.parts("failed"), 0
        for name in names:
            table = self._read("failed", name)
            other = table.filter(pc.not_equal(table["reason"], reason)) if reason else table.slice(0, 0)
            if len(other) < len(table):
                forgotten += len(table) - len(other)
                if len(other):
                    self._write("failed", other)
                self._fs.rm_file(f"{self._root}/failed/{name}")
        return forgotten

    def describe(self) -> dict[str, Any]:
        """What there is, for people: step, rows, failed, parts, bytes."""
        sizes = [self._fs.size(f"{self._root}/answers/{name}") for name in self._names("answers")]
        nothing = pa.schema([])
        rows, failed = (
            len(Known([self._read(kind, name) for name in self.parts(kind)], nothing)) for kind in ("answers", "failed")
        )
        return {
            "step": self.folder, "rows": rows, "failed": failed, "parts": len(sizes),
            "bytes": sum(sizes) + self.packs.bytes(), "key": self.key,
        }  # fmt: skip

    def bytes_per_row(self) -> float:
        """What an answer takes on disk, from those that are there; 0 where none is."""
        there = self.describe()
        return float(there["bytes"] / there["rows"]) if there["rows"] else 0.0

    def mean(self, column: str, field: str) -> float:
        """The mean of a number in a column of its answers; 0 where there is none."""
        numbers = [pc.struct_field(self._read("answers", name)[column], field) for name in self.parts()]
        counted = [chunk for one in numbers for chunk in one.chunks]
        return float(pc.mean(pa.chunked_array(counted, pa.float64())).as_py() or 0.0)

    def damaged(self) -> list[str]:
        """The parts that are not what they were when they were written, those set aside before too."""
        for kind in ("answers", "failed"):
            self.parts(kind)
        self.packs.set_damaged_aside()
        return [path for path in self._listed() if path.endswith(".damaged")]

    def tidy(self) -> int:
        """Removes damaged parts and what was left half written, merges small parts; returns the bytes that it freed."""
        before = sum(self._fs.size(path) for path in self._listed())
        self.damaged()
        for path in self._listed():
            left = path.endswith(".part") and time.time() - self._fs.modified(path).timestamp() > STALE
            if left or path.endswith(".damaged"):
                self._fs.rm_file(path)
        names = self.parts()
        small = [name for name in names if self._fs.size(f"{self._root}/answers/{name}") < PART // 2]
        if len(small) > 1:
            tables = [self._read("answers", name) for name in small]
            known = Known(tables, tables[0].schema.remove(0))
            # Under the oldest one's time: what was first stays first.
            merged = self._write_all(known.table(), small[0][:20])
            for name in set(small) - merged:  # one that says all that the others say is what it was merged into
                self._fs.rm_file(f"{self._root}/answers/{name}")
        self.packs.tidy((self._read("answers", name) for name in self._names("answers")), STALE)
        return int(before - sum(self._fs.size(path) for path in self._listed()))

    def remove(self) -> int:
        """Removes all of it; returns the bytes that it freed."""
        freed = sum(self._fs.size(path) for path in self._listed())
        self._fs.rm(self._root, recursive=True)
        return int(freed)

    def _listed(self) -> list[str]:
        kinds = [f"{self._root}/{kind}" for kind in ("answers", "failed", KIND)]
        return [path for kind in kinds if self._fs.exists(kind) for path in sorted(self._fs.find(kind))]

    def _names(self, kind: str) -> list[str]:
        folder = f"{self._root}/{kind}"
        if not self._fs.exists(folder):
            return []
        self._fs.invalidate_cache(folder)
        names = [path.rpartition("/")[2] for path in self._fs.ls(folder, detail=False)]
        return sorted(name for name in names if _PART.fullmatch(name))

    def _whole(self, kind: str, name: str) -> bool:
        for _ in range(1 if self._local else 2):  # a bad copy is copied again before the part is blamed
            path = self._here(kind, name)
            if _hash(path) == name[21:53]:
                return True
            if not self._local:
                path.unlink(missing_ok=True)
        _log.warning("%s/%s/%s is damaged: it is set aside, and its rows are computed again", self._root, kind, name)
        with suppress(OSError):  # a store that may only be read
            self._fs.mv(f"{self._root}/{kind}/{name}", f"{self._root}/{kind}/{name}.damaged")
        return False

    def _here(self, kind: str, name: str) -> Path:
        """A part as a local file; one of a remote store is copied once."""
        if self._local:
            return Path(self._root, kind, name)
        path = self._mirror / kind / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(f"{uuid.uuid4().hex}.part")
            self._fs.get_file(f"{self._root}/{kind}/{name}", str(aside))
            aside.rename(path)
        return path

    def _read(self, kind: str, name: str) -> pa.Table:
        path = self._here(kind, name)
        if path.stat().st_size < SMALL:  # the number of mappings of a process is limited
            return pa.ipc.open_file(pa.py_buffer(path.read_bytes())).read_all()
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()

    def _write_all(self, table: pa.Table, when: str | None = None) -> set[str]:
        rows = max(1, PART * len(table) // max(1, table.nbytes))
        return {self._write("answers", table.slice(at, rows), when) for at in range(0, len(table), rows)}

    def _write(self, kind: str, table: pa.Table, when: str | None = None) -> str:
        sink = io.BytesIO()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        data = sink.getbuffer()
        self._fs.makedirs(f"{self._root}/{kind}", exist_ok=True)
        if not self._fs.exists(f"{self._root}/step.json"):
            self._put(f"{self._root}/step.json", json.dumps({"key": self.key}, indent=2).encode())
        # What is read first must stay the first: parts get their time and their place one after the other.
        with FileLock(f"{self._root}/.lock") if self._local else nullcontext():
            newest = [int(name[:20]) + 1 for name in self._names(kind)[-1:]]
            now = max(time.time_ns(), *newest, 0)  # of two machines the clocks may differ
            name = f"{when or f'{now:020d}'}-{xxhash.xxh3_128_hexdigest(data)}.arrow"
            self._put(f"{self._root}/{kind}/{name}", data)
        return name

    def _put(self, path: str, data: Any) -> None:
        aside = f"{path.rpartition('/')[0]}/.{uuid.uuid4().hex}.part"
        try:
            if self._local:
                with open(aside, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                Path(aside).replace(path)
            else:
                self._fs.pipe_file(aside, bytes(data))
                self._fs.mv(aside, path)
        except BaseException:
            with suppress(OSError):
                self._fs.rm_file(aside)
            raise


class Known:
    """Answers by key: `find` says where they are, `take` gives them. The parts stay on disk, mapped."""

    def __init__(self, tables: list[pa.Table], schema: pa.Schema):
        self.schema = schema
        self._tables = [table.drop_columns(["key"]) for table in tables]
        keys = np.concatenate([np.zeros((0, 2), np.uint64), *(keys_of(table["key"]) for table in tables)])
        order = np.lexsort((keys[:, 0], keys[:, 1]))  # stable: of equal keys the oldest comes first
        new = np.ones(len(order), bool)
        new[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
        self._place = order[new]
        self._keys = keys[self._place]
        self._starts = np.concatenate([[0], np.cumsum([len(table) for table in tables])]).astype(np.int64)

    def __len__(self) -> int:
        return len(self._place)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Where the answers to `keys`, shape (rows, 2), are: int64 for `take`, -1 for none."""
        if not len(self):
            return np.full(len(keys), -1)
        at = np.searchsorted(self._keys[:, 1], keys[:, 1])
        found = np.full(len(keys), -1)
        todo = np.arange(len(keys))
        while len(todo):  # more than once only for keys that share their upper half
            inside = at[todo] < len(self)
            todo = todo[inside]
            todo = todo[self._keys[at[todo], 1] == keys[todo, 1]]
            same = self._keys[at[todo], 0] == keys[todo, 0]
            found[todo[same]] = self._place[at[todo[same]]]
            todo = todo[~same]
            at[todo] += 1
        return found

    def take(self, places: np.ndarray) -> pa.Table:
        """The answers at `places` (from `find`, none of them -1), in that order."""
        part = np.searchsorted(self._starts, places, "right") - 1
        order = np.argsort(part, kind="stable")
        numbers, starts = np.unique(part[order], return_index=True)
        if not len(places):
            return self.schema.empty_table()
        pieces = [
            self._tables[number].take(pa.array(places[rows] - self._starts[number]))
            for number, rows in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True)
        ]
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return pa.concat_tables(pieces).combine_chunks().take(pa.array(back)).cast(self.schema)

    def table(self) -> pa.Table:
        """Every key with the first answer to it, in the order in which they were written."""
        places = np.sort(self._place)
        back = np.argsort(self._place)
        return self.take(places).add_column(0, pa.field("key", KEY), key_column(self._keys[back]))


def answers_folder(name: str, key: str) -> str:
    """The name of the folder in which the answers of the step called `name` with this key lie."""
    return f"{name}-{xxhash.xxh3_128_hexdigest(key.encode())}"


def _hash(path: Path) -> str:
    if path.stat().st_size == 0:  # which cannot be mapped
        return ""
    with pa.memory_map(str(path)) as file:
        return str(xxhash.xxh3_128_hexdigest(file.read_buffer()))


def key_column(keys: np.ndarray) -> pa.Array:
    """Keys of shape (rows, 2) and dtype uint64 as a column of 16 bytes each."""
    return pa.Array.from_buffers(KEY, len(keys), [None, pa.py_buffer(keys.astype("<u8").tobytes())])


def keys_of(column: pa.ChunkedArray) -> np.ndarray:
    """The inverse of `key_column`."""
    chunks = [np.frombuffer(chunk.buffers()[1], "<u8").reshape(-1, 2)[chunk.offset :][: len(chunk)]
              for chunk in column.chunks if len(chunk)]  # fmt: skip
    return np.concatenate([np.zeros((0, 2), np.uint64), *chunks])
