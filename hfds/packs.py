"""Packs: pictures that models made, kept beside the answers that speak of them: written once, read from where they lie.

    <step>/pictures/<hash>.pack

A pack is the pictures of one commit, one behind the other, under the xxh3-128 of its bytes. An answer has in its column
`image` a slice of a pack by the pack's name alone, so a store may lie anywhere; parts of answers may be merged, and
packs never are. A build reads a picture when a model is shown it or a shard is written, and compares it with its hash
then; `hfds store verify` reads all packs.
"""

import logging
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from hfds.embed import sizes
from hfds.slices import parse_slices

KIND = "pictures"  # the folder beside those of answers and failures
COLUMN = "image"
_PACK = re.compile(r"([0-9a-f]{32})\.pack")
_log = logging.getLogger(__name__)


class Packs:
    """Those of one step.

    Args:
        fs, root: where the step's folder is.
        put: writes a file of the store aside and renames it.
        here: a pack by its name, as a local file.
    """

    def __init__(self, fs: AbstractFileSystem, root: str, put: Callable[[str, Any], None], here: Callable[[str], Path]):
        self._fs, self._folder = fs, f"{root}/{KIND}"
        self._put, self._here = put, here

    def stored(self, table: pa.Table) -> pa.Table:
        """The table with its pictures in a pack instead of in it; as it is where it has none."""
        if COLUMN not in table.column_names:
            return table
        image = table[COLUMN].combine_chunks()
        data, _ = image.flatten()
        there = np.asarray(data.is_valid())
        lengths = sizes(image)
        starts = np.cumsum(lengths) - lengths
        pack = b"".join(value.as_buffer() for value in data if value.is_valid)
        name = f"{xxhash.xxh3_128_hexdigest(pack)}.pack"
        if there.any():
            self._fs.makedirs(self._folder, exist_ok=True)
            self._put(f"{self._folder}/{name}", pack)
        return _with_paths(table, _paths(pa.array(starts), pa.array(lengths), pa.array([name] * len(table))), there)

    def whole(self, table: pa.Table) -> pa.Table:
        """The rows of `table` whose pictures are there, by the sizes of the packs; all where it has none."""
        if COLUMN not in table.column_names:
            return table
        there = self._there()
        named = _slices(table)
        ends = pc.add(named.field("offset"), named.field("size"))
        most = pa.array([*there.values()], pa.int64()).take(
            pc.index_in(named.field("file"), pa.array([*there], pa.string()))
        )
        known = pc.fill_null(pc.less_equal(ends, most), False)
        return table.filter(pc.or_(known, named.is_null()))

    def lost(self, tables: Iterable[pa.Table]) -> list[str]:
        """The packs that answers speak of, and that are not there."""
        return sorted(self._named(tables) - {*self._there()})

    def placed(self, table: pa.Table) -> pa.Table:
        """The table with its pictures as slices of local files."""
        if COLUMN not in table.column_names or not len(table):
            return table
        named, there = _slices(table), self._there()
        files = named.field("file").dictionary_encode()
        # No name that an answer says is opened: it is compared with those that are there.
        local = [str(self._here(name)) if name in there else None for name in files.dictionary.to_pylist()]
        paths = _paths(named.field("offset"), named.field("size"), pa.array(local, pa.string()).take(files.indices))
        return _with_paths(table, paths, np.asarray(paths.is_valid()))

    def bytes(self) -> int:
        """Of all of them."""
        return sum(self._there().values())

    def set_damaged_aside(self) -> None:
        """Reads every pack, and renames those that are not what was written; their answers count no more."""
        for name in self._there():
            if not self._sound(name):
                _log.warning("%s/%s is damaged: it is set aside, and its pictures are made again", self._folder, name)
                with suppress(OSError):  # a store that may only be read
                    self._fs.mv(f"{self._folder}/{name}", f"{self._folder}/{name}.damaged")

    def _sound(self, name: str) -> bool:
        """Whether a pack is what was written; a bad copy is copied again before the pack is blamed."""
        local = isinstance(self._fs, LocalFileSystem)
        for _ in range(1 if local else 2):
            path = self._here(name)
            digest = xxhash.xxh3_128()
            with path.open("rb") as file:
                while data := file.read(1 << 24):
                    digest.update(data)
            if digest.hexdigest() == name.partition(".")[0]:
                return True
            if not local:
                path.unlink()
        return False

    def tidy(self, tables: Iterable[pa.Table], stale: float) -> None:
        """Removes packs of which no answer speaks, `stale` seconds after they were written."""
        for name in {*self._there()} - self._named(tables):
            path = f"{self._folder}/{name}"
            if time.time() - self._fs.modified(path).timestamp() > stale:
                self._fs.rm_file(path)

    def _there(self) -> dict[str, int]:
        """Bytes of every pack, by name."""
        if not self._fs.exists(self._folder):
            return {}
        self._fs.invalidate_cache(self._folder)
        found = {path["name"].rpartition("/")[2]: int(path["size"]) for path in self._fs.ls(self._folder, detail=True)}
        return {name: size for name, size in sorted(found.items()) if _PACK.fullmatch(name)}

    def _named(self, tables: Iterable[pa.Table]) -> set[str]:
        return {name for table in tables if COLUMN in table.column_names
                for name in _slices(table).field("file").unique().drop_null().to_pylist()}  # fmt: skip


def _slices(table: pa.Table) -> pa.StructArray:
    _, path = table[COLUMN].combine_chunks().flatten()
    return parse_slices(path)


def _paths(offset: pa.Array, size: pa.Array, file: pa.Array) -> pa.Array:
    numbers = pc.binary_join_element_wise(offset.cast(pa.string()), size.cast(pa.string()), "-")
    return pc.binary_join_element_wise("slice://", pc.binary_join_element_wise(numbers, file, "::"), "")


def _with_paths(table: pa.Table, paths: pa.Array, there: np.ndarray) -> pa.Table:
    kind = table.schema.field(COLUMN).type
    children = [pa.nulls(len(table), pa.binary()), pc.if_else(pa.array(there), paths.cast(pa.string()), None)]
    image = pa.StructArray.from_arrays(children, fields=list(kind), mask=pa.array(~there))
    return table.set_column(table.column_names.index(COLUMN), table.schema.field(COLUMN), image)
