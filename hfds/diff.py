"""Diff: what changed from one release of a dataset to another, and why, from their shards, ledgers and locks.

Rows are the same when their ids are, and values when their hashes are. What is held of a row is a few hashes, whatever
it shows; where both releases have `image_hash`, no picture is read. Of published releases the columns are fetched once.
"""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Image

from hfds.changelog import Diff, brief, text_of
from hfds.columns import gather, read, take
from hfds.drift import drift
from hfds.made_of import differing, made_of, sides, types
from hfds.place import Place
from hfds.record import canonical, hash_texts
from hfds.withdrawn import STEP, redacted, without_texts

SAMPLES = 5  # rows that are shown of each kind
BEFORE = 30  # of them before the first in which it differs
FATE = (
    "input",
    "step",
    "reason",
    "decision",
    "made_by",
)  # what is held of a ledger; all else only of samples


def diff(old: Place, new: Place) -> Diff:
    """Compares two releases. Of rows that were withdrawn since nothing is told but their ids.

    Raises:
        BadFile: one of their files cannot be read.
        HubError: one of them is published and cannot be read now.
    """
    for place, other in ((old, new), (new, old)):
        gather(place.shards, [name for name, kind in _shared(place, other) if not isinstance(kind, Image)])
        gather(place.ledger, ["id", *FATE])
    before, after = _Rows(old), _Rows(new)
    at = _find(after.keys, before.keys)
    both, added = np.flatnonzero(at >= 0), np.flatnonzero(at < 0)
    same = at[both]
    removed = np.setdiff1d(np.arange(len(before.keys)), same, assume_unique=True)
    moved = np.asarray(before.splits(same) != after.splits(both))
    changed, values = _changed(before, same, after, both)
    counts = (len(before.keys), len(after.keys), len(both), len(added), len(removed), int(moved.sum()), changed)
    splits = ({name: split["rows"] for name, split in place.lock["splits"].items()} for place in (old, new))
    found = Diff(
        dataset=str(new.lock["dataset"]),
        old=old.name,
        new=new.name,
        digests={"old": old.lock["digest"], "new": new.lock["digest"]},
        rows=dict(zip(("old", "new", "both", "added", "removed", "moved", "changed"), counts, strict=True)),
        splits=[{"split": name, "old": here or 0, "new": there or 0} for name, here, there in sides(*splits)],
        columns=differing("column", types(old), types(new)),
        added=_unkept(after, added, before, ("input new: {}", "new in {}")),
        removed=_unkept(before, removed, after, ("input gone: {}", "not in {} any more")),
        moved=_moved(before, same[moved], after, both[moved]),
        changed=values,
        drift=drift(old, new),
        made_of=made_of(old, new),
    )
    return Diff.of(redacted(vars(found), [*old.withdrawn.values(), *new.withdrawn.values()]))


class _Rows:
    """The rows that a release keeps, in the order of its shards, and the fate of all rows that it read.

    `keys` are the hashes of the kept rows' ids, `read` those of the ledger's, both of shape (rows, 2).
    """

    def __init__(self, place: Place):
        self.place = place
        self.keys = np.concatenate([hash_texts(table["id"]) for table in read(place.shards, ["id"])])
        found, fates = [], []
        for table in read(place.ledger, ["id", *FATE]):
            found.append(hash_texts(table["id"]))
            fates.append(pa.table({name: table[name].dictionary_encode() for name in FATE}))
        self.read = np.concatenate(found)
        self.fates = pa.concat_tables(fates).unify_dictionaries().combine_chunks()

    def splits(self, rows: np.ndarray) -> np.ndarray:
        """The names of the splits that these rows are in, as objects."""
        splits = self.place.lock["splits"]
        ends = np.cumsum([split["rows"] for split in splits.values()])
        return np.array([*splits], object)[np.searchsorted(ends, rows, "right")]

    def fate(self, column: str, at: np.ndarray) -> pa.Array:
        """A column of the ledger at some places, null at -1."""
        return self.fates[column].take(pa.array(at, mask=at < 0)).combine_chunks().cast(pa.string())


def _find(keys: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Where each of `keys` is `among` others, both as of `hash_texts`: (keys,), int64, -1 for those that are not."""
    order = np.argsort(among[:, 1])
    at = order[np.minimum(np.searchsorted(among[:, 1], keys[:, 1], sorter=order), len(among) - 1)]
    found: np.ndarray = np.where((among[at] == keys).all(axis=1), at, -1)  # one that shares half its hash is not found
    return found


def _unkept(here: _Rows, rows: np.ndarray, there: _Rows, unread: tuple[str, str]) -> list[dict[str, Any]]:
    """Why `there` does not keep rows of `here`, most rows first.

    Args:
        unread: what is said of rows that it did not read: of its inputs theirs is none, or is one.
    """
    at, own = _find(here.keys[rows], there.read), _find(here.keys[rows], here.read)
    limits = {source["input"]: source.get("limit") for source in there.place.lock["sources"]}
    named = here.fate("input", own).dictionary_encode()
    texts = [
        f"beyond the first {limits[name]:,} of {name}" if limits.get(name) else unread[name in limits].format(name)
        for name in named.dictionary.to_pylist()
    ]
    unseen = pa.array(texts, pa.string()).take(named.indices)
    unseen = pc.coalesce(pc.binary_join_element_wise("made by", here.fate("made_by", own), " "), unseen)
    reasons = {"step": there.fate("step", at), "reason": pc.coalesce(there.fate("reason", at), unseen)}
    told = ("value", "threshold", "partner", "partner_in")
    groups = _grouped(pa.table(reasons), here.place, rows, there.place, at, told)
    return [without_texts(one) if one["step"] == STEP else one for one in groups]


def _moved(before: _Rows, old: np.ndarray, after: _Rows, new: np.ndarray) -> list[dict[str, Any]]:
    """Which way rows went that are in another split, and what decided it, most rows first."""
    at = _find(after.keys[new], after.read)
    ways = {"from": pa.array(before.splits(old), pa.string()), "to": pa.array(after.splits(new), pa.string())}
    decided = pa.table({**ways, "decision": after.fate("decision", at)})
    return _grouped(decided, after.place, new, after.place, at, ("partner", "partner_in"))


def _grouped(
    reasons: pa.Table, place: Place, rows: np.ndarray, judge: Place, at: np.ndarray, told: Sequence[str]
) -> list[dict[str, Any]]:
    """How many `rows` of a release there are for each of `reasons`, and samples of them.

    Args:
        reasons: a row for each of `rows`.
        judge: the release whose ledger has these rows `at` some places, or not (-1).
        told: what that says of a sample.
    """
    numbered = reasons.append_column("number", pa.array(np.arange(len(rows))))
    groups = numbered.group_by(reasons.column_names, use_threads=False).aggregate([("number", "list")])
    some = pc.list_slice(groups["number_list"], 0, SAMPLES)
    chosen = pc.list_flatten(some).to_numpy()
    shown = [name for name in ("id", "prompt") if name in place.features]
    pairs = zip(take(place.shards, shown, rows[chosen]), take(judge.ledger, told, at[chosen]), strict=True)
    samples = [{name: brief(value) for name, value in {**row, **fate}.items()} for row, fate in pairs]
    groups = groups.set_column(groups.num_columns - 1, "rows", pc.list_value_length(groups["number_list"]))
    found, taken = [], 0
    for group, numbers in zip(groups.select([*reasons.column_names, "rows"]).to_pylist(), some, strict=True):
        found.append({**group, "samples": samples[taken : taken + len(numbers)]})
        taken += len(numbers)
    return sorted(found, key=lambda group: (-group["rows"], [str(group[name]) for name in reasons.column_names]))


def _changed(before: _Rows, old: np.ndarray, after: _Rows, new: np.ndarray) -> tuple[int, list[dict[str, Any]]]:
    """How many of the rows that both have changed in any column, and those that did for each, the most first."""
    anywhere, found = np.zeros(len(new), bool), []
    here, there = before.place, after.place
    hashed = all("image_hash" in place.features for place in (here, there))
    for column, kind in _shared(there, here):
        if column == "id":
            continue
        by_hash = hashed and column == "image"
        leaf = "image_hash" if by_hash else f"{column}.bytes" if isinstance(kind, Image) else column
        differs = _digests(here, leaf)[old] != _digests(there, leaf)[new]
        if some := np.flatnonzero(differs)[:SAMPLES].tolist():
            anywhere |= differs
            shown = ["id", "image.path", "image_hash"] if by_hash else ["id", column]
            pairs = zip(take(here.shards, shown, old[some]), take(there.shards, shown, new[some]), strict=True)
            samples = [{"id": one["id"], **_apart(_value(one, column), _value(other, column))} for one, other in pairs]
            rows = int(differs.sum())
            found.append({"column": column, "rows": rows, "share": rows / len(new), "samples": samples})
    return int(anywhere.sum()), sorted(found, key=lambda one: (-one["rows"], one["column"]))


def _shared(place: Place, other: Place) -> list[tuple[str, Any]]:
    """The columns that both have and of one type, and what they hold."""
    mine, theirs, held = types(place), types(other), place.features
    return [(name, held[name]) for name, kind in mine.items() if theirs.get(name) == kind]


def _value(row: Mapping[str, Any], column: str) -> Any:
    """What a row has in a column; for the bytes of a picture that were not read stands their hash."""
    value = row[column]
    return value and {"bytes": row["image_hash"], **value} if column == "image" and "image_hash" in row else value


def _digests(place: Place, leaf: str) -> np.ndarray:
    """A hash of what each row has in a column, or in a field of one: (rows,), uint64."""
    found = []
    for table in read(place.shards, [leaf]):
        kind = table.schema.types[0]
        vectors = pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type)
        found.append(hash_texts(_bits(table.column(0).combine_chunks()) if vectors else canonical(table))[:, 0])
    return np.concatenate(found)


def _bits(vectors: pa.FixedSizeListArray) -> pa.Array:
    """Vectors as the bytes that they are, which takes a thirtieth of the time of `canonical`; nulls in them are NaN."""
    size = vectors.type.list_size
    numbers = vectors.values[vectors.offset * size : (vectors.offset + len(vectors)) * size]
    flat = np.ascontiguousarray(numbers.fill_null(np.nan).to_numpy(zero_copy_only=False))
    kind = pa.binary(size * flat.itemsize)
    bits = pa.Array.from_buffers(kind, len(vectors), [None, pa.py_buffer(flat)])
    return pc.if_else(vectors.is_valid(), bits, pa.scalar(None, kind))


def _apart(old: Any, new: Any) -> dict[str, str | None]:
    """Two values as texts, from shortly before they differ."""
    texts = {"old": text_of(old), "new": text_of(new)}
    pairs = zip(*(text or "" for text in texts.values()), strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return {name: brief(text, max(0, same - BEFORE)) for name, text in texts.items()}
