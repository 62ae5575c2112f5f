"""Matching: keys and tests of rows that are compared by several measures at once.

`parts`: the measures. `groups`, (parts, rows): which of the distinct rows of each part a row is, -1 without a value.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from processors.duplicates.arrays import ranges, row_bits
from processors.duplicates.embedded import Embedded
from processors.duplicates.pairs import Measure, Test


def keys_of(parts: Sequence[Measure], groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The keys that rows have in all parts, and whose they are."""
    bits = row_bits(len(parts))
    keys, owners = [], []
    for number, (part, group) in enumerate(zip(parts, groups, strict=True)):
        order, counts = np.argsort(part.owners, kind="stable"), np.bincount(part.owners, minlength=len(part.distinct))
        rows = np.flatnonzero(group >= 0)
        mine = group[rows]
        which = order[ranges(counts.cumsum()[mine] - counts[mine], counts[mine])]
        keys.append(part.keys[which] >> bits | np.uint64(number) << (np.uint64(64) - bits))
        owners.append(rows.repeat(counts[mine]).astype(np.int32))
    return np.concatenate(keys), np.concatenate(owners)


def both(parts: Sequence[Measure], groups: np.ndarray) -> tuple[Test, Test]:
    """Whether rows may be alike in all parts, and the least of their similarities, -inf where they are not."""

    def plausible(later: np.ndarray, earlier: np.ndarray) -> np.ndarray:
        mask = np.ones(len(later), bool)
        for part, group in zip(parts, groups, strict=True):
            left = np.flatnonzero(mask)
            mask[left] = _plausible(part, group[later[left]], group[earlier[left]])
        return mask

    def similarity(later: np.ndarray, earlier: np.ndarray) -> np.ndarray:
        least = np.ones(len(later))
        for part, group in zip(parts, groups, strict=True):
            left = np.flatnonzero(least > -np.inf)
            found = _similarity(part, group[later[left]], group[earlier[left]])
            least[left] = np.minimum(least[left], found)
        return least

    return plausible, similarity


def either(parts: Sequence[Measure], groups: np.ndarray) -> tuple[Test, Test]:
    """The same for rows that have a key in common and are alike in any part, and for the highest similarity.

    Vectors that are not equal are compared without keys.
    """
    parts = [replace(part, plausible=np.equal) if isinstance(part, Embedded) else part for part in parts]

    def plausible(later: np.ndarray, earlier: np.ndarray) -> np.ndarray:
        mask = np.zeros(len(later), bool)
        for part, group in zip(parts, groups, strict=True):
            left = np.flatnonzero(~mask)
            mask[left] = _plausible(part, group[later[left]], group[earlier[left]])
        return mask

    def similarity(later: np.ndarray, earlier: np.ndarray) -> np.ndarray:
        found = [_similarity(part, group[later], group[earlier]) for part, group in zip(parts, groups, strict=True)]
        highest: np.ndarray = np.max(found, axis=0)
        return highest

    return plausible, similarity


def _plausible(part: Measure, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether rows of a part may be alike, or are the same: a mask."""
    mask: np.ndarray = (one == other) & (one >= 0)
    some = np.flatnonzero((one != other) & (one >= 0) & (other >= 0))
    mask[some] = part.plausible(one[some], other[some])
    return mask


def _similarity(part: Measure, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The similarity of rows of a part, as float32 holds it, -inf where they are not alike: float64."""
    found = np.where((one == other) & (one >= 0), 1, -np.inf)
    some = np.flatnonzero(_plausible(part, one, other) & (one != other))
    similarity = part.similarity(one[some], other[some])
    found[some] = np.where(similarity >= part.threshold, rounded(similarity), -np.inf)
    return found


def rounded(similarity: np.ndarray) -> np.ndarray:
    """As float32 holds it: what is given as float64 by one part and as float32 by another is equal."""
    held: np.ndarray = similarity.astype(np.float32).astype(np.float64)
    return held
