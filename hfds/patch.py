"""Patch: a built release once more without some of its rows. Shards that hold none of those keep their bytes."""

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Features

from hfds.archive import sha256_of
from hfds.columns import read
from hfds.dist import move
from hfds.ledger import BATCH, LEDGER, check_conservation, funnel
from hfds.lock import digest_of, make_lock
from hfds.shards import Written, digested, row_digests, writer_options
from hfds.statistics import measured
from hfds.withdrawn import STEP

LEFT = ("id", "input", "made_by", "parent")  # what a ledger still says of a row that is gone


def patch(home: Path, lock: Mapping[str, Any], name: str, reasons: Mapping[str, str], **more: Any) -> dict[str, Any]:
    """Writes the release `name` into a dataset's folder: that of `lock`, without some rows. Returns its lock.

    A shard, and a split, that loses all its rows is left out; other shards keep their names. Licences are those of the
    rows that are left; where `license` is no column, and the release has several, they stay as they were. `patch_of`
    names `lock` and its digest.

    Args:
        reasons: why, by id; each is that of a row which the release keeps, and others are left.
        more: further parts of the lock.

    Raises:
        ConservationError: a row appeared or vanished.
        BadFile: a file of the release cannot be read.
    """
    aside = home / f".building-{name}"
    shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed
    ids = pa.array(sorted(reasons), pa.string())
    features = Features.from_dict(lock["columns"])
    old = [(split, shard) for split, entry in lock["splits"].items() for shard in entry["shards"]]
    made = [_shard(home / shard["path"], shard, split, features, aside / f"data/{name}", ids) for split, shard in old]
    shards = [one.written for one in made if one.written]
    ledger = aside / f"ledger/{name}.parquet"
    _write_ledger(home / lock["ledger"]["path"], ledger, reasons)
    splits = {split: _entry(one for one in shards if one.split == split) for split in lock["splits"]}
    splits = {split: entry for split, entry in splits.items() if entry["shards"]}
    counted = funnel(ledger)
    inputs = {source["input"]: source["rows"] for source in lock["sources"]}
    check_conservation(counted, inputs, {split: entry["rows"] for split, entry in splits.items()})
    parts = {
        **lock,
        "release": name,
        "digest": digest_of(shards),
        "splits": splits,
        "licenses": _licenses(lock, sum((one.gone for one in made), Counter()), sum(shard.rows for shard in shards)),
        "ledger": {"path": ledger.relative_to(aside).as_posix(), "sha256": sha256_of(str(ledger))},
        "funnel": counted,
        "patch_of": {"release": lock["release"], "digest": lock["digest"]},
        **more,
    }
    if "statistics" in lock:
        parts["statistics"] = measured([aside / shard.name for shard in shards], features)
    new = make_lock(**parts)
    move(home, aside, name, new)
    return new


@dataclass(frozen=True)
class _Made:
    """What became of a shard: None when no row is left; and the rows that are gone, by licence."""

    written: Written | None
    gone: Counter[str]


def _shard(
    path: Path, shard: Mapping[str, Any], split: str, features: Features, folder: Path, ids: pa.StringArray
) -> _Made:
    """A shard without the rows that have these ids, in `folder`."""
    at = np.concatenate([np.asarray(pc.is_in(table["id"], ids)) for table in read([path], ["id"])])
    gone, left = np.flatnonzero(at), np.flatnonzero(~at)
    licenses: Counter[str] = Counter()
    if "license" in features:
        for table in read([path], ["license"], gone):
            licenses.update(license_ or "unknown" for license_ in table["license"].to_pylist())
    if not len(left):
        return _Made(None, licenses)
    target = folder / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if len(gone):
        _write(path, left, features.arrow_schema, target)
    else:
        _link(path, target)
    told = digested(features)
    digests = [row_digests(table.select(told), split) for table in read([path], told, left)]
    sha256 = sha256_of(str(target)) if len(gone) else shard["sha256"]
    name = target.relative_to(folder.parent.parent).as_posix()
    return _Made(Written(name, split, len(left), target.stat().st_size, sha256, np.concatenate(digests)), licenses)


def _write(path: Path, left: np.ndarray, schema: pa.Schema, target: Path) -> None:
    """The rows of a shard at these places, in the row groups that they are in."""
    with pq.ParquetWriter(target, schema, **writer_options(schema)) as writer:
        for table in read([path], schema.names, left):
            writer.write_table(table.select(schema.names), row_group_size=len(table))


def _link(path: Path, target: Path) -> None:
    """The same file once more; a copy on a disk without hard links."""
    try:
        os.link(path.resolve(), target)
    except OSError:
        shutil.copyfile(path, target)


def _entry(written: Iterable[Written]) -> dict[str, Any]:
    own = [*written]
    return {
        "rows": sum(shard.rows for shard in own),
        "bytes": sum(shard.bytes for shard in own),
        "shards": [{"path": s.name, "rows": s.rows, "bytes": s.bytes, "sha256": s.sha256} for s in own],
    }


def _licenses(lock: Mapping[str, Any], gone: Counter[str], rows: int) -> dict[str, int]:
    """The rows that are left by licence, most first."""
    left = Counter(lock["licenses"]) - gone
    if len(left) == 1:  # also where no column says it
        left = Counter(dict.fromkeys(left, rows))
    return dict(sorted(left.items(), key=lambda item: (-item[1], item[0])))


def _write_ledger(path: Path, target: Path, reasons: Mapping[str, str]) -> None:
    """A ledger in which rows that were kept are dropped by `STEP`, for these reasons by id."""
    ids, why = pa.array([*reasons], pa.string()), pa.array([*reasons.values()], pa.string())
    target.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(target, LEDGER.arrow_schema, compression="zstd", write_page_index=True) as writer:
        for table in read([path], [*LEDGER]):
            at = pc.index_in(table["id"], ids)
            gone = pc.and_(at.is_valid(), table["split"].is_valid())
            columns = {name: pc.if_else(gone, None, table[name]) for name in LEDGER if name not in LEFT}
            columns["step"] = pc.if_else(gone, STEP, table["step"])
            columns["reason"] = pc.if_else(gone, why.take(at.combine_chunks()), table["reason"])
            # Rows of this release that hung on one that is gone: their partner is in no split any more.
            here = pc.and_(pc.is_in(table["partner"], ids), pc.invert(pc.match_substring(table["partner_in"], ":")))
            columns["partner_in"] = pc.if_else(pc.fill_null(here, False), None, columns["partner_in"])
            told = [columns.get(name, table[name]) for name in LEDGER]
            writer.write_table(pa.table(told, schema=LEDGER.arrow_schema), row_group_size=BATCH)
