"""What a build leaves: a folder that is the Hub repository, made aside and moved into place, the card last."""

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features

from hfds import shards
from hfds.archive import sha256_of
from hfds.documents import CARD, CHANGELOG, PLOTS, documents
from hfds.errors import BadFile, HfdsError
from hfds.ledger import check_conservation, funnel, funnel_rows, kept_split, write_ledger
from hfds.lock import digest_of, make_lock, read_locks, read_object, write_json
from hfds.run import Run
from hfds.statistics import measured
from hfds.withdrawn import read_withdrawn, redacted, redacted_lock

BATCH = 50_000
CHANGED = "releases/{}.diff.json"  # what changed from the release before
AGAIN = "remove it, and run hfds card again"


def write_release(
    rows: Dataset, features: Features, counts: Mapping[str, int], made_of: Mapping[str, Any], run: Run, home: Path
) -> dict[str, Any]:
    """Writes shards, ledger, lock and card of a release below `home`, and returns the lock.

    Args:
        rows: all rows of all inputs, and behind them those that steps made, with `id`, `split` and `dropped`.
        features: of the rows that come out.
        counts: rows that each input's builder gave, by label, in order.
        made_of: what the lock says of dataset, release, sources and steps.
        run: where unfinished work is noted.
        home: the dataset's folder.

    Raises:
        ConservationError: a row appeared or vanished.
        HfdsError: no row is left.
    """
    name = made_of["release"]
    aside = home / f".building-{name}"
    positions = _positions(rows)
    plan = shards.plan(positions, shards.row_sizes(rows.select_columns([*features])), f"data/{name}")
    written = shards.write(rows, plan, features, aside, run.journal / "shards", home, run.num_proc)
    ledger = f"ledger/{name}.parquet"
    write_ledger(rows, counts, aside / ledger)
    counted = funnel(aside / ledger)
    splits = {split: _split_entry(split, written) for split in positions}
    made = len(rows) - sum(counts.values())
    check_conservation(counted, counts, {split: entry["rows"] for split, entry in splits.items()}, made)
    if not splits:
        why = (
            "; ".join(f"{row[0]}: {row[1]} rows, dropped {row[2]}" for row in funnel_rows(counted))
            or "no input has any"
        )
        raise HfdsError(f"{made_of['dataset']}/{name} keeps no row, and `datasets` loads no empty split ({why})")
    lock = make_lock(
        **made_of,
        digest=digest_of(written),
        columns=features.to_dict(),
        splits=splits,
        licenses=_licenses(rows),
        ledger={"path": ledger, "sha256": sha256_of(aside / ledger)},
        funnel=counted,
        statistics=measured([aside / shard.name for shard in written], features),
    )
    move(home, aside, name, lock)
    return lock


def write_card(home: Path) -> list[str]:
    """Writes the documents of a built dataset's folder (see `hfds.documents`) from the locks and entries in it, each
    aside and renamed, the card last; returns their paths. What others wrote into the card stays, and in the entries
    nothing that is to be forgotten."""
    forgetting = _forget(home)
    told = documents_of(home)
    for path, data in told.items():
        target = home / path
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f"{target.name}.part")
        aside.write_bytes(data)
        aside.replace(target)
    for old in (home / CHANGELOG, *home.glob(f"{PLOTS}*")):
        if str(old.relative_to(home)) not in told:
            old.unlink(missing_ok=True)
    return [*forgetting, *told]


def documents_of(home: Path) -> dict[str, bytes]:
    """What the documents of a built dataset's folder must be: path to bytes.

    Raises:
        BadFile: the card is not UTF-8, or a lock or an entry holds no JSON object.
        ConfigError: what others wrote into the card cannot be kept; see `hfds.card.merged`.
    """
    card = home / CARD
    try:
        old = card.read_text(encoding="utf-8") if card.is_file() else ""
    except UnicodeDecodeError as error:
        raise BadFile(str(card), f"it is not UTF-8 (byte {error.start:,})", "save it as UTF-8") from None
    stones = read_withdrawn(home)
    locks = {name: redacted_lock(lock, stones) for name, lock in read_locks(home).items()}
    return documents(locks, changes_in(home), len(stones), old_card=old, where=str(card))


def changes_in(home: Path) -> dict[str, dict[str, Any]]:
    """What changed from the release before, by release, as it lies in a built dataset's folder. Nothing but the id is
    told of rows that were withdrawn.

    Raises:
        BadFile: an entry holds no JSON object.
    """
    paths = {path.name.removesuffix(".diff.json"): path for path in home.glob(CHANGED.format("*"))}
    stones = read_withdrawn(home)
    return {name: redacted(read_object(path, AGAIN), stones) for name, path in paths.items()}


def _forget(home: Path) -> list[str]:
    """Writes the entries that tell of rows that were withdrawn since once more; returns their paths."""
    found = []
    for name, entry in changes_in(home).items():
        path = CHANGED.format(name)
        if read_object(home / path, AGAIN) != entry:
            write_json(entry, home / path)
            found.append(path)
    return found


def _positions(rows: Dataset) -> dict[str, np.ndarray]:
    """Positions of the kept rows of every split, "train" first, the others by name."""
    narrow = rows.select_columns(["split", "dropped"]).with_format("arrow")
    found: dict[str, list[np.ndarray]] = {}
    at = 0
    for table in narrow.iter(BATCH):
        split = kept_split(table)
        for name in split.unique().drop_null().to_pylist():
            found.setdefault(name, []).append(
                np.flatnonzero(np.asarray(pc.fill_null(pc.equal(split, name), False))) + at
            )
        at += len(table)
    order = sorted(found, key=lambda name: (name != "train", name))
    return {name: np.concatenate(found[name]) for name in order}


def _licenses(rows: Dataset) -> dict[str, int]:
    """Kept rows by licence, most first."""
    counts: Counter[str] = Counter()
    for table in rows.select_columns(["license", "dropped"]).with_format("arrow").iter(BATCH):
        licenses = table["license"].filter(table["dropped"].combine_chunks().is_null())
        for entry in licenses.value_counts().to_pylist():
            counts[entry["values"] or "unknown"] += entry["counts"]
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _split_entry(name: str, written: list[shards.Written]) -> dict[str, Any]:
    own = [shard for shard in written if shard.split == name]
    return {
        "rows": sum(shard.rows for shard in own),
        "bytes": sum(shard.bytes for shard in own),
        "shards": [{"path": s.name, "rows": s.rows, "bytes": s.bytes, "sha256": s.sha256} for s in own],
    }


def move(home: Path, aside: Path, name: str, lock: Mapping[str, Any]) -> None:
    """Moves a finished release into place. One of that name that was there is first taken off the card, and the new one
    comes onto it last: a kill in between shows the other releases and no half one."""
    old = home / "releases" / f"{name}.lock.json"
    if old.exists():
        old.unlink()
        write_card(home)
    for part in (f"data/{name}", f"ledger/{name}.parquet"):
        target = home / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            shutil.rmtree(target)
        (aside / part).replace(target)
    write_json(lock, home / "releases" / f"{name}.lock.json")
    write_card(home)
    shutil.rmtree(aside)
