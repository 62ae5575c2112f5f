"""Changelog: what changed from one release to another as a value, its level, and how it is told."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import xxhash

from hfds.errors import ConfigError
from hfds.markdown import escape, table
from hfds.record import printable
from hfds.withdrawn import STEP as WITHDRAW

FEW = 0.01  # of all rows: no more may be removed or changed in a patch
WIDE = 300  # characters of a value in a sample
NARROW = 60  # and in a table


@dataclass(frozen=True)
class Diff:
    """What changed from the release `old` to the release `new`, in JSON values.

    - `rows`: how many `old` and `new` have, how many are in `both`, and how many were `added`, `removed`, `moved` to
      another split, or `changed` in any column.
    - `columns`: those that only one has, or whose type differs: `column`, and its type in `old` and `new` or None.
    - `added`: rows that only `new` keeps, by the `step` and `reason` that dropped them in `old`. Where the step is
      None, `old` did not read them. `removed`: rows that only `old` keeps, by what dropped them in `new`.
    - `moved`: rows by the split they went `from` and `to`, and by the `decision` in the ledger of `new`.
    - `changed`: for each column that has other values the rows, their `share` of those in both, and samples.
    - `drift`: for each column but lists and pictures what is measured `of` it ("value", "length" of a text in
      characters, or "counts" of its values): the share of `nulls` and the counts, or mean and quantiles.
    - `made_of`: what the locks say differently of inputs, steps, earlier releases and packages.
    """

    dataset: str
    old: str
    new: str
    digests: dict[str, str]
    rows: dict[str, int]
    splits: list[dict[str, Any]]
    columns: list[dict[str, Any]]
    added: list[dict[str, Any]]
    removed: list[dict[str, Any]]
    moved: list[dict[str, Any]]
    changed: list[dict[str, Any]]
    drift: list[dict[str, Any]]
    made_of: list[dict[str, Any]]

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> "Diff":
        """The one that an entry says."""
        return cls(**{part.name: entry[part.name] for part in fields(cls)})

    def entry(self) -> dict[str, Any]:
        """All of it, with its level and what makes it so."""
        found, because = level(self)
        return {"level": found, "because": because, **vars(self)}

    def headline(self) -> str:
        """The level, what makes it so, and the numbers of rows."""
        found, because = level(self)
        why = f" ({', '.join(because)})" if because else ""
        counts = ", ".join(f"{self.rows[name]:,} {name}" for name in ("added", "removed", "moved", "changed"))
        return f"{found}{why}: {self.rows['old']:,} rows became {self.rows['new']:,}; {counts}"

    def tables(self) -> dict[str, list[dict[str, str]]]:
        """What a person reads, by title: rows of cells of one line each. Their markup is still in them."""
        drift = [entry for entry in self.drift if entry["old"] != entry["new"]]
        listed = {
            "Splits": self.splits,
            "Added": [{f"dropped from {self.old} by": one["step"], **_shown(one)} for one in self.added],
            "Removed": [{f"dropped from {self.new} by": one["step"], **_shown(one)} for one in self.removed],
            "Moved": [_shown(one) for one in self.moved],
            "Changed": [_shown(one) for one in self.changed],
            "Columns": self.columns,
            "Drift": drift,
            "Made of": self.made_of,
        }
        named = {"old": f"old: {self.old}", "new": f"new: {self.new}"}
        return {
            title: [{named.get(name, name): _said(cell) for name, cell in row.items()} for row in rows]
            for title, rows in listed.items()
            if rows
        }

    def markdown(self) -> str:
        """The changelog as a section of a card. Nothing in it that comes from data is markup."""
        parts = [f"### {escape(self.new)} after {escape(self.old)}", f"{escape(self.headline())}."]
        for title, rows in self.tables().items():
            parts += [f"**{escape(title)}**", table([*rows[0]], [[*row.values()] for row in rows])]
        return "\n\n".join(parts)


def changelog(changes: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of CHANGELOG.md: what changed with each release, the newest first.

    Args:
        changes: an entry (see `Diff.entry`) for each release that has one before it, oldest first.
    """
    parts = [Diff.of(entry).markdown().removeprefix("#") for entry in reversed([*changes.values()])]
    return "\n\n".join(["# Changelog", *parts]) + "\n"


def fitting(changes: Mapping[str, Mapping[str, Any]], locks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The entries that are about these releases as they are, in the order of `locks`, by release."""
    digests = {name: lock["digest"] for name, lock in locks.items()}
    return {
        name: changes[name]
        for name in locks
        if name in changes
        and changes[name]["new"] == name
        and changes[name]["digests"] == {"old": digests.get(changes[name]["old"]), "new": digests[name]}
    }


def level(found: Diff) -> tuple[str, list[str]]:
    """How much a release differs from the one before it, and what makes it so.

    - "major", what was made with the old one does not fit any more: a column was removed or is of another type, or a
      row went from train into a split that is held back, which is any other, or from there into train.
    - "minor": rows or a column were added. Or more than `FEW` of the rows were removed, moved between splits that are
      held back, or have another value in one column.
    - "patch": less than that, or rows were withdrawn, however many.
    - "none": the digests are equal.
    """
    major = [f"column {one['column']} was removed" for one in found.columns if one["new"] is None]
    major += [f"column {one['column']} is of another type" for one in found.columns if one["old"] and one["new"]]
    ways: Counter[tuple[str, str]] = Counter()
    for one in found.moved:
        ways[one["from"], one["to"]] += one["rows"]
    major += [f"{rows:,} rows went from {way[0]} into {way[1]}" for way, rows in ways.items() if "train" in way]
    if major:
        return "major", major
    if found.digests["old"] == found.digests["new"]:
        return "none", []
    minor = [f"column {one['column']} was added" for one in found.columns]
    minor += [f"{found.rows['added']:,} rows were added"] if found.rows["added"] else []
    removed = sum(one["rows"] for one in found.removed if one["step"] != WITHDRAW)
    for what, rows, of in (("removed", removed, "old"), ("moved", found.rows["moved"], "both")):
        minor += [f"{rows:,} rows were {what}"] if rows > FEW * found.rows[of] else []
    minor += [f"{one['rows']:,} rows have another {one['column']}" for one in found.changed if one["share"] > FEW]
    return ("minor", minor) if minor else ("patch", [])


def _shown(group: Mapping[str, Any]) -> dict[str, Any]:
    """What a table has of some rows: all but the step, and of the samples the first."""
    first = group["samples"][0]
    sides = [first["old"], first["new"]] if "new" in first else [first["prompt"]] if "prompt" in first else []
    text = " → ".join(brief(side, most=NARROW) or "-" for side in sides)
    told = {name: value for name, value in group.items() if name not in ("step", "samples")}
    return {**told, "such as": f"{first['id']}: {text}" if text else first["id"]}


def _said(cell: Any) -> str:
    """A value as one line without control characters."""
    if isinstance(cell, dict):
        return ", ".join(f"{_said(name)} {_said(value)}" for name, value in cell.items()) or "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        return f"{cell:,.4g}"
    if cell is None or isinstance(cell, int):
        return "-" if cell is None else f"{cell:,}"
    return printable(" ".join(str(brief(cell)).split()))


def brief(value: Any, start: int = 0, most: int = WIDE) -> str | None:
    """A value as text, `most` characters of it."""
    text = text_of(value)
    if text is None:
        return None
    return ("…" if start else "") + text[start : start + most] + ("…" if len(text) > start + most else "")


def text_of(value: Any) -> str | None:
    """A text as it is, anything else as JSON, bytes in it as their hash."""
    if value is None or isinstance(value, str):
        return value
    told = xxhash.xxh3_128_hexdigest
    return json.dumps(value, ensure_ascii=False, default=lambda one: told(one) if isinstance(one, bytes) else str(one))


LEVELS = ("none", "patch", "minor", "major")


def promised(old: str, new: str) -> str | None:
    """The most that the name of a release promises to differ from the one before: names are <base>[.<minor>[.<patch>]].

    "patch" for the same base and minor, "minor" for the same base, None for another base: that promises nothing.
    """
    before, after = _numbered(old), _numbered(new)
    if before[0] != after[0]:
        return None
    return "patch" if before[1] == after[1] else "minor"


def check_level(found: Diff) -> None:
    """Raises ConfigError where a release differs more from the one before than its name promises."""
    promise, (is_, because) = promised(found.old, found.new), level(found)
    if promise is None or LEVELS.index(is_) <= LEVELS.index(promise):
        return
    base, minor = _numbered(found.old)
    right = f"{base}.{minor + 1}" if is_ == "minor" else _next(base)
    raise ConfigError(
        f"{found.new} is named as a {promise} of {found.old}, but is {is_} ({', '.join(because)}): name it {right}"
    )


def _numbered(name: str) -> tuple[str, int]:
    """The base and the minor number of a release's name, 0 where it has none."""
    parts = re.fullmatch(r"(.+?)(?:\.(\d+)(?:\.\d+)?)?", name, re.DOTALL)
    return (parts[1], int(parts[2] or 0)) if parts else (name, 0)


def _next(base: str) -> str:
    """Another base: with the last number in it one higher, "v5" after "v4" and "v5-a" after "v4-a"."""
    last = re.search(r"(\d+)(\D*)\Z", base)
    return f"{base[: last.start()]}{int(last[1]) + 1}{last[2]}" if last else f"{base}-2"
