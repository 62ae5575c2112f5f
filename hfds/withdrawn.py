"""Withdrawn: tombstones, the ids of rows that no release of a dataset may have any more, in a file beside its card.

`withdrawn.jsonl` has one JSON object a line, sorted by id: `id`, `reason`, `by` (what the row was found by) and
`release`, the first that is without it. What was asked for, a URL or a text, is not in it: that may be what is to be
forgotten.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hfds.errors import BadFile
from hfds.record import printable
from hfds.statistics import CATEGORIES
from hfds.text import json_object

FILE = "withdrawn.jsonl"  # in a dataset's folder, and in its repository
STEP = "Withdraw"  # what drops such rows, in ledgers


@dataclass(frozen=True)
class Tombstone:
    """A row that was withdrawn.

    Args:
        id: the row's.
        reason: as whoever withdrew it said, on one line.
        by: what it was found by: "id", "url", "sha256" or "prompt-regex".
        release: the first that is without it.
    """

    id: str
    reason: str
    by: str
    release: str


def read_withdrawn(home: Path) -> tuple[Tombstone, ...]:
    """The tombstones in a dataset's folder, sorted by id; none where there is no such file."""
    path = home / FILE
    return parse(path.read_bytes(), str(path)) if path.is_file() else ()


def parse(data: bytes, file: str) -> tuple[Tombstone, ...]:
    """The tombstones that a file holds, sorted by id. Control characters in their reasons are escaped.

    Raises:
        BadFile: a line of it is no tombstone.
    """
    found = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        told = json_object(line.decode("utf-8", "replace"))
        values = [told.get(field.name) for field in fields(Tombstone)] if isinstance(told, dict) else [None]
        if not all(isinstance(value, str) and value for value in values):
            problem = f"line {number:,} is no JSON object with the texts id, reason, by and release"
            raise BadFile(file, problem, "take the file as it was before: its rows must stay away")
        id_, reason, *rest = map(str, values)
        found.append(Tombstone(id_, printable(reason), *rest))
    return merged(found)


def merged(*lists: Iterable[Tombstone]) -> tuple[Tombstone, ...]:
    """The tombstones of all lists, sorted by id; of two for one id that of the first list stays."""
    found: dict[str, Tombstone] = {}
    for stone in (stone for one in lists for stone in one):
        found.setdefault(stone.id, stone)
    return tuple(found[id_] for id_ in sorted(found))


def text_of(stones: Iterable[Tombstone]) -> str:
    """The file that says these, as its text."""
    return "".join(json.dumps(asdict(stone), ensure_ascii=False) + "\n" for stone in stones)


def write_withdrawn(stones: Iterable[Tombstone], home: Path) -> None:
    """Writes the file aside and renames it."""
    aside = home / f"{FILE}.part"
    aside.write_text(text_of(stones), encoding="utf-8")
    aside.rename(home / FILE)


def summary(stones: Iterable[Tombstone]) -> dict[str, Any]:
    """How many rows are on a list, and the sha256 of the file that says so."""
    stones = tuple(stones)
    return {"rows": len(stones), "sha256": hashlib.sha256(text_of(stones).encode()).hexdigest()}


def ids_digest(ids: Iterable[str]) -> str:
    """What says that something was made without the rows of these ids; empty without any."""
    listed = sorted(ids)
    return hashlib.sha256("\n".join(listed).encode()).hexdigest() if listed else ""


def without_texts(group: Mapping[str, Any], ids: Collection[str] | None = None) -> dict[str, Any]:
    """A group of rows of a diff, of whose samples nothing but the id is told where that, or the id of the partner that
    may say the same, is one of these; of all of them when None."""
    samples = [
        {"id": one["id"]} if ids is None or not {one["id"], one.get("partner")}.isdisjoint(ids) else one
        for one in group["samples"]
    ]
    return {**group, "samples": samples}


def redacted(entry: Mapping[str, Any], stones: Iterable[Tombstone]) -> dict[str, Any]:
    """The entry of a diff (`hfds.changelog.Diff.entry`), which tells of rows that were withdrawn nothing but the id.

    Of texts that come up often nothing is counted then: they may be those of such rows.
    """
    ids = {stone.id for stone in stones}
    if not ids:
        return dict(entry)
    parts = ("added", "removed", "moved", "changed")
    told: dict[str, Any] = {part: [without_texts(group, ids) for group in entry[part]] for part in parts}
    told["drift"] = [
        {**one, **{side: _uncounted(one["column"], one[side]) for side in ("old", "new")}} for one in entry["drift"]
    ]
    return {**entry, **told}


def redacted_lock(lock: Mapping[str, Any], stones: Collection[Tombstone]) -> dict[str, Any]:
    """A release's lock as its card is rendered from it: where rows were withdrawn, no texts are counted in it."""
    if "statistics" not in lock or not stones:
        return dict(lock)
    columns = {name: _uncounted(name, one) for name, one in lock["statistics"]["columns"].items()}
    return {**lock, "statistics": {**lock["statistics"], "columns": columns}}


def _uncounted(column: str, known: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What was measured of a column without the counts of its values, unless these are names of licences or sources."""
    if known is None:
        return None
    return {name: value for name, value in known.items() if name != "counts" or column in CATEGORIES}
