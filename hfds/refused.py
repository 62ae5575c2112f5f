"""Refused: rows that are dropped before any step of a release, so that no model is shown them.

Those that were withdrawn, and those whose licence the release does not allow.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hfds.processor import Filter
from hfds.record import drops
from hfds.withdrawn import Tombstone, summary

LONGEST = 200  # characters of a licence that may be an expression
UNKNOWN = "unknown"
UNKNOWNS = frozenset({UNKNOWN, "noassertion", "none"})  # the others are SPDX's: nobody said, and there is none


@dataclass(frozen=True)
class Withdraw(Filter):
    """Drops the rows that were withdrawn, for the reason that was given then."""

    stones: tuple[Tombstone, ...]

    @property
    def needs(self) -> tuple[str, ...]:
        """Tombstones have nothing but ids."""
        return ("id",)

    def parameters(self) -> dict[str, Any]:
        """Which list it was: how long, and the sha256 of `withdrawn.jsonl`."""
        return summary(self.stones)

    def verdicts(self, table: pa.Table) -> pa.Array:
        """The reason of each row that is on the list."""
        ids, reasons = (pa.array([getattr(one, name) for one in self.stones], pa.string()) for name in ("id", "reason"))
        return drops(self.name, len(table), reasons.take(pc.index_in(table["id"].combine_chunks(), ids)))


@dataclass(frozen=True)
class AllowLicenses(Filter):
    """Drops rows of any other licence, as "license".

    `allowed` are SPDX identifiers, in any case. A row's licence may be an SPDX expression: of "A AND B" all must be
    allowed, of "A OR B" one. No licence is "unknown", and so is whatever `is_unknown` finds; it is dropped unless it is
    allowed by that name, also beside one that is allowed.
    """

    allowed: tuple[str, ...]

    @property
    def needs(self) -> tuple[str, ...]:
        """What each row says of itself."""
        return ("license",)

    def allow(self, license_: str) -> bool:
        """Whether rows of this licence stay."""
        known = frozenset(name.strip().casefold() for name in self.allowed)
        return allows(known | UNKNOWNS if UNKNOWN in known else known, license_)

    def verdicts(self, table: pa.Table) -> pa.Array:
        """Each licence is looked at once."""
        licenses = pc.fill_null(table["license"].combine_chunks(), UNKNOWN).dictionary_encode()
        names = [name.strip() or UNKNOWN for name in licenses.dictionary.to_pylist()]
        refused = pa.array([None if self.allow(name) else name for name in names], pa.string())
        value = refused.take(licenses.indices)
        reason = pc.if_else(value.is_valid(), "license", pa.scalar(None, pa.string()))
        return drops(self.name, len(table), reason, value, ", ".join(self.allowed))


def allows(known: frozenset[str], license_: str) -> bool:
    """Whether a licence, or an SPDX expression of licences, is allowed by those `known`, in lower case.

    https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions: AND binds closer than OR.
    """
    license_ = license_.strip()
    if license_.casefold() in known:
        return True
    if len(license_) > LONGEST or _unknown(license_) - known:
        return False
    for operator, decide in ((" OR ", any), (" AND ", all)):
        if len(parts := [*_parts(license_, operator)]) > 1:
            return decide(allows(known, part) for part in parts)
    return license_[:1] == "(" and license_[-1:] == ")" and allows(known, license_[1:-1])


def is_unknown(license_: str | None) -> bool:
    """Whether nobody knows the licence of a row: it has none, or any part of it says so, however that is written."""
    return bool(_unknown(license_ or ""))


def unknown_rows(licenses: Mapping[str, int]) -> int:
    """How many rows have an unknown licence, of rows by licence as a lock counts them."""
    return sum(rows for license_, rows in licenses.items() if is_unknown(license_))


def _unknown(expression: str) -> frozenset[str]:
    """What is not known in an expression; a blank one is unknown."""
    words = re.sub("[()]", " ", expression.casefold()).split()
    parts = {part.strip() for part in " ".join("|" if word in ("and", "or") else word for word in words).split("|")}
    return UNKNOWNS & parts if any(parts) else frozenset({UNKNOWN})


def _parts(expression: str, operator: str) -> Iterator[str]:
    """What stands on both sides of an operator that is in no brackets."""
    depth, start = 0, 0
    for at, letter in enumerate(expression):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and at >= start and expression.startswith(operator, at):
            yield expression[start:at]
            start = at + len(operator)
    yield expression[start:]
