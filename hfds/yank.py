"""Yank: rows withdrawn from a dataset, in a patch release that is without them and for all builds to come."""

import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hfds.columns import read
from hfds.disk import alone, disk_errors
from hfds.dist import write_card
from hfds.earlier import lock_of
from hfds.errors import ConfigError
from hfds.lock import misnamed, release_names
from hfds.patch import patch
from hfds.refused import Withdraw
from hfds.wanted import Wanted, find
from hfds.withdrawn import FILE, STEP, Tombstone, merged, read_withdrawn, write_withdrawn

FEW = 0.01  # of a release's rows: more are withdrawn on purpose only
LONGEST = 300  # characters of a reason
NAMED = 5  # releases, where a list of them is long


@dataclass(frozen=True)
class Yank:
    """What a withdrawal did, or would do.

    - `found`: rows that were asked for, by the release that keeps them.
    - `unseen`: by release the ways by which nothing could be found in it, as it lacks the column.
    - `withdrawn`: the tombstones that are new.
    - `patch`: the release that is without them, and without all that were withdrawn before; None where `release` keeps
      none of them.
    - `rows`: how many the patch is without.
    - `alike`: ids of rows that `release` dropped for one of them, and that a later build may keep in its place.
    """

    release: str
    patch: str | None
    rows: int
    found: dict[str, int]
    unseen: dict[str, list[str]]
    withdrawn: list[dict[str, str]]
    alike: list[str]


def yank(
    dataset: str,
    release: str,
    wanted: Wanted,
    reason: str,
    *,
    out: str | Path = "dist",
    name: str | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> Yank:
    """Withdraws rows from a dataset that was built below `out`, or fetched from the Hub to there.

    They are looked for in all its releases. Their tombstones go into `withdrawn.jsonl`, by which later builds drop them
    and `hfds.load_release` leaves them out, and `release` is written once more without any row that was ever withdrawn.
    Running again changes nothing, or goes on where a killed run stopped.

    Args:
        wanted: which rows.
        reason: why, in public: it stands in ledgers, in the changelog and beside the ids.
        name: of the patch release; the next one behind `release` when None: v4.0.1 behind v4.
        force: also when these are more than 1 % of a release.
        dry_run: only look.

    Raises:
        ConfigError: there is no such release or row, or they are too many or all; or the reason or the name cannot be.
        SourceMissing: a file of one of the releases is gone.
        BadFile: one of them cannot be read.
    """
    wanted.check()
    _check_words(reason, name)
    home = Path(out) / dataset
    lock_of(Path(out), dataset, release)  # before anything is locked there
    with disk_errors(), nullcontext() if dry_run else alone(home / f".building-{FILE}.lock"):
        locks = {one: lock_of(Path(out), dataset, one) for one in dict.fromkeys([release, *release_names(home)])}
        seen: dict[str, dict[str, str]] = {}
        found = {one: find(wanted, home, lock, seen) for one, lock in locks.items()}
        unseen = {one: lacking for one, lock in locks.items() if (lacking := wanted.unseen(lock))}
        ledger = home / locks[release]["ledger"]["path"]
        ways = dict.fromkeys(_rows(ledger, "id", wanted.ids)["id"].to_pylist(), "id")  # rows that it dropped, too
        for matches in found.values():
            ways |= matches
        if not ways:
            raise ConfigError(_nothing(dataset, locks, unseen))
        if not (force or dry_run):
            _check_few(wanted, found, locks)
        before = read_withdrawn(home)
        ids = {*ways, *(stone.id for stone in before)}
        withdrawn = _rows(ledger, "id", ids)
        gone = sorted(withdrawn["id"].filter(withdrawn["split"].is_valid()).to_pylist())
        if len(gone) == _count(locks[release]):
            raise ConfigError(
                f"no row of {dataset}/{release} would be left, and `datasets` loads no release without any"
            )
        there = [
            one
            for one, lock in locks.items()
            if name in (None, one)
            and release in _origins(lock, locks)
            and _count(lock) == _count(locks[release]) - len(gone)
        ]
        patched = [*there, name or next_name(release, locks)][0] if gone else None
        if patched in locks and not there:
            raise ConfigError(f"{dataset} has a release {patched!r} already: give the patch another name with --as")
        stones = merged(before, (Tombstone(id_, reason, way, patched or release) for id_, way in ways.items()))
        if not dry_run:
            if stones != before:
                write_withdrawn(stones, home)
            if patched and not there:
                reasons = {stone.id: stone.reason for stone in stones}
                steps = [Withdraw(stones).entry(), *(one for one in locks[release]["steps"] if one["name"] != STEP)]
                patch(home, locks[release], patched, {id_: reasons[id_] for id_ in gone}, steps=steps)
            else:
                _tidy(home, patched)
    partners = _rows(ledger, "partner", [*ways])
    return Yank(
        release=release,
        patch=patched,
        rows=len(gone),
        found={one: len(matches) for one, matches in found.items() if matches},
        unseen=unseen,
        withdrawn=[asdict(stone) for stone in stones if stone not in set(before)],
        alike=sorted(set(partners["id"].filter(partners["split"].is_null()).to_pylist()) - ids),
    )


def next_name(release: str, taken: Collection[str]) -> str:
    """The name of a patch of a release: v4.0.1 for v4, v4.0.2 for v4.0.1, v4.1.1 for v4.1; behind those `taken`."""
    last = re.fullmatch(r"(.*\.\d+\.)\d+", release)
    stem = last[1] if last else f"{release}." if re.search(r"\.\d+$", release) else f"{release}.0."
    numbers = [int(one.removeprefix(stem)) for one in (release, *taken) if re.fullmatch(re.escape(stem) + r"\d+", one)]
    return f"{stem}{max(numbers, default=0) + 1}"


def _check_words(reason: str, name: str | None) -> None:
    """Raises ConfigError where the reason, or the name of the patch, cannot be."""
    if not reason.strip() or not reason.isprintable() or len(reason) > LONGEST:
        raise ConfigError(f"the reason must be one line of {LONGEST} characters at most, without control characters")
    if name is not None and (problem := misnamed(name)):
        raise ConfigError(problem)


def _check_few(wanted: Wanted, found: Mapping[str, Mapping[str, str]], locks: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ConfigError where one expression, URL or picture finds more rows than a slip may cost."""
    asked = sum(map(len, wanted.by.values()))
    told = []
    for one, matches in found.items():
        rows = _count(locks[one])
        if len(matches) > max(asked, FEW * rows):
            told.append(f"{len(matches):,} of {rows:,} rows of {one}")
    if told:
        raise ConfigError(
            f"that is {', '.join(told)}, more than {FEW:.0%}: look with --dry-run, and withdraw them with --force"
        )


def unlooked(unseen: Mapping[str, list[str]]) -> list[str]:
    """A clause for each set of ways by which releases could not be looked at (see `Yank.unseen`)."""
    by_ways: dict[str, list[str]] = {}
    for release, ways in unseen.items():
        by_ways.setdefault(", ".join(ways), []).append(release)
    return [
        f"{_some(names)} {'were' if names[1:] else 'was'} not looked at by {ways}: "
        f"{'they have' if names[1:] else 'it has'} no such column"
        for ways, names in by_ways.items()
    ]


def _nothing(dataset: str, locks: Mapping[str, Any], unseen: Mapping[str, list[str]]) -> str:
    return "; ".join([f"no row of {dataset} is one of these, in {_some([*locks])}", *unlooked(unseen)])


def _some(names: Sequence[str]) -> str:
    """Names in a list that is not long."""
    more = [f"{len(names) - NAMED:,} more"] if len(names) > NAMED else []
    return ", ".join([*names[:NAMED], *more])


def _rows(ledger: Path, column: str, values: Collection[str]) -> pa.Table:
    """`id` and `split` of the rows of a ledger that have one of some values in a column."""
    wanted = pa.array(values, pa.string())
    return pa.concat_tables(
        table.filter(pc.is_in(table[column], wanted)).select(["id", "split"])
        for table in read([ledger], ["id", "split", "partner"])
    )


def _origins(lock: Mapping[str, Any], locks: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The release that this one is a patch of, the one that that is a patch of, and so on."""
    for _ in locks:  # no more than there are
        of = lock.get("patch_of")
        if of is None or locks.get(of["release"], {}).get("digest") != of["digest"]:
            return
        yield of["release"]
        lock = locks[of["release"]]


def _count(lock: Mapping[str, Any]) -> int:
    return sum(int(split["rows"]) for split in lock["splits"].values())


def _tidy(home: Path, patched: str | None) -> None:
    """What a run that was killed right at its end had still to do."""
    write_card(home)
    if patched:
        shutil.rmtree(home / f".building-{patched}", ignore_errors=True)
