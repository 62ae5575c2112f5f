"""Duplicates by several measures at once: rows that are alike in both of two columns, or in either of them.

Every measure is given over all rows (`Measure.over`), in the order of priority. A row without a value in one of them is
never a duplicate where it must be alike in "both", and is compared by what it has where "either" is enough. How similar
two rows are is the least of their similarities, or with "either" the highest of those from their threshold on.

With "both" a row is looked up in the measure in which that costs it least, and tested in the others. So neither rows
with one prompt and many pictures nor rows with one picture and many prompts are all compared with each other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import numpy as np

from processors.duplicates import Verdicts, cosine, greedy
from processors.duplicates.arrays import copies
from processors.duplicates.embedded import Embedded, Near
from processors.duplicates.matching import both, either, keys_of, rounded
from processors.duplicates.pairs import Finder, Keyed, Measure, Pairs, Progress, merged, tested

MATCHES = ("either", "both")
PRODUCTS = 2_000  # of vectors, in the time of one pair that shares a key
FOUND = 20  # pairs that share a key, in the time that checking a pair of vectors takes
SAMPLE = 500  # vectors that tell how many are similar
LEAST = -1.0  # below what any part calls alike


def keep_first(
    parts: Sequence[Measure], match: str, *, fixed: int = 0, among: bool = True, progress: Progress | None = None
) -> Verdicts:
    """Drops every row that is like a kept row before it; of these the most similar one, and the first, is its partner.

    The first `fixed` rows are never dropped; without `among` rows are compared with those only. `progress` is called
    with the rows that are done, and with all (without those that are equal in all parts).

    Raises:
        ValueError: `match` is none, or the parts are not of the same number of rows.
    """
    return greedy.keep_first(joint(parts, match, fixed), fixed=fixed, among=among, progress=progress)


def drop_all(parts: Sequence[Measure], match: str, *, fixed: int = 0, progress: Progress | None = None) -> Verdicts:
    """Drops every row that is like any other row; of these the most similar one, and the first, is its partner.

    With "either" every part is asked for itself, and `progress` is called with how many of them are done.
    """
    if match != "either":
        return greedy.drop_all(joint(parts, match), fixed=fixed, progress=progress)
    best = greedy.Best(_rows(parts))
    for done, part in enumerate(parts, 1):
        best.offer(*_nearest(part))
        if progress is not None:
            progress(done, len(parts))
    return best.verdicts(fixed)


def components(parts: Sequence[Measure], match: str, *, progress: Progress | None = None) -> np.ndarray:
    """For every row the first row that it is alike with, directly or through others: (rows,) int64.

    With "either" every part is asked for itself, and `progress` is called with how many of them are done.
    """
    if match != "either":
        return greedy.components(joint(parts, match), progress=progress)
    label = np.arange(_rows(parts))
    for done, part in enumerate(parts, 1):
        label = greedy.joined(label, *_connected(part))
        if progress is not None:
            progress(done, len(parts))
    return label


def _nearest(part: Measure) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows that are like another in one part, the one that each is most like, and how much."""
    if isinstance(part, Embedded):
        made = cosine.drop_all(part.vectors, part.threshold, device=part.device, tuning=part.tuning)
        dropped = np.flatnonzero(made.partner >= 0)
        return part.rows[dropped], part.rows[made.partner[dropped]], made.similarity[dropped].astype(np.float64)
    made = greedy.drop_all(part)
    dropped = np.flatnonzero(made.partner >= 0)
    return dropped, made.partner[dropped], made.similarity[dropped].astype(np.float64)


def _connected(part: Measure) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and the first row that each is connected with in one part."""
    if isinstance(part, Embedded):
        first = cosine.components(part.vectors, part.threshold, device=part.device, tuning=part.tuning)
        return part.rows, part.rows[first]
    first = greedy.components(part)
    return np.arange(len(first)), first


def _rows(parts: Sequence[Measure]) -> int:
    sizes = {len(part.copy_of) for part in parts}
    if len(sizes) != 1:
        raise ValueError(f"parts must be of the same number of rows, got {sorted(sizes)}")
    return sizes.pop()


@dataclass(frozen=True)
class Joint(Measure):
    """How rows are compared by several measures.

    `groups`: which of the distinct rows of each part a row is, counted from 0 on, -1 where it has no value: (parts,
        rows) int64. Keys begin with the number of the part.
    """

    parts: tuple[Measure, ...]
    match: str
    groups: np.ndarray

    def finder(self, before: int) -> Finder:
        """What finds the pairs of which the earlier row is below `before`."""
        return _Finder(self, before)

    def reordered(self, order: np.ndarray) -> Self:
        """The same for the distinct rows in `order`, in that order."""
        return replace(super().reordered(order), groups=self.groups[:, order])


def joint(parts: Sequence[Measure], match: str, fixed: int = 0) -> Joint:
    """How rows are compared by several measures. Rows that are the same in all of them are copies.

    None of the first `fixed` rows: with "either", a row that is the same as one of these may be as similar to another
    one before it.
    """
    if match not in MATCHES:
        raise ValueError(f"match must be one of {', '.join(MATCHES)}, got {match!r}")
    parts = sorted(parts, key=lambda part: isinstance(part, Embedded))  # those that are tested faster first
    groups = np.full((len(parts), _rows(parts)), -1)
    for part, group in zip(parts, groups, strict=True):
        there = np.flatnonzero(part.copy_of >= 0)
        group[there] = np.searchsorted(part.distinct, part.copy_of[there])
    valued = (groups >= 0).all(axis=0) if match == "both" else (groups >= 0).any(axis=0)
    copy_of = np.where(valued, copies(np.vstack([groups, np.arange(groups.shape[1]) < fixed]).T), -1)
    distinct = np.flatnonzero(copy_of == np.arange(len(copy_of)))
    groups = groups[:, distinct]
    keys, owners = keys_of(parts, groups)
    plausible, similarity = (both if match == "both" else either)(parts, groups)
    return Joint(copy_of, distinct, keys, owners, plausible, similarity, LEAST, tuple(parts), match, groups)


class _Finder:
    """Finds pairs through the keys of all parts, and through vectors.

    With "both" a row is looked up in one part only; by vectors, where those of its keys that lead to the least rows
    lead to more than comparing it with all would cost.
    """

    def __init__(self, measure: Joint, before: int):
        self.measure, choice = measure, measure.match == "both"
        costs = [_cost(part, before) if isinstance(part, Embedded) else 0 for part in measure.parts] if choice else None
        self.keyed = Keyed(measure, before, costs)
        self.near = [
            Near(part, _at(measure, part), before, groups, partial(self._asks, number) if choice else None)
            for number, (part, groups) in enumerate(zip(measure.parts, measure.groups, strict=True))
            if isinstance(part, Embedded)
        ]

    def _asks(self, number: int) -> np.ndarray:
        """The rows that are looked up in a part: a mask."""
        asks: np.ndarray = self.keyed.index.kind == number
        return asks

    def block(self, start: int) -> int:
        """The end of the smallest of the blocks."""
        return min([self.keyed.block(start), *(near.block(start) for near in self.near)])

    def before(self, start: int, stop: int, kept: np.ndarray | None) -> Iterator[Pairs]:
        """First what has a key in common; with "either" a pair comes once for everything that it is found by."""
        yield from self.keyed.before(start, stop, kept)
        for near in self.near:
            yield from map(self._alike, near.before(start, stop, kept))

    def within(self, start: int, stop: int, kept: np.ndarray | None) -> Iterator[Pairs]:
        """All of them in one block."""
        blocks = [*self.keyed.within(start, stop, kept)]
        for near in self.near:
            blocks += map(self._alike, near.within(start, stop, kept))
        yield merged(blocks)

    def _alike(self, pairs: Pairs) -> Pairs:
        """Of pairs whose vectors are similar, those that are alike."""
        if self.measure.match == "both":
            return tested(self.measure, pairs.later, pairs.earlier)
        return pairs._replace(similarity=rounded(pairs.similarity))


def _at(measure: Joint, part: Embedded) -> np.ndarray:
    """The vector of each row in a part, -1 where it has none."""
    at = np.full(len(measure.copy_of), -1)
    at[part.rows] = np.arange(len(part.rows))
    found: np.ndarray = at[measure.distinct]
    return found


def _cost(part: Embedded, before: int) -> float:
    """What looking up a vector among `before` ones costs, by how many of a sample are similar, in pairs of a key."""
    sample = part.vectors[part.at[:: max(len(part.at) // SAMPLE, 1)]].astype(np.float32)
    similar = np.count_nonzero(sample @ sample.T >= part.threshold) - len(sample)
    return before * (1 / PRODUCTS + FOUND * similar / max(len(sample), 1) ** 2)
