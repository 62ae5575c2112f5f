"""Clusters: rows that are alike, also through others, and what is decided for them as a whole."""

from collections.abc import Iterable

import numpy as np

NONE = np.iinfo(np.int64).max  # no row


def clusters(groups: list[np.ndarray], rows: int) -> np.ndarray:
    """Connected components: each array in `groups` names for every row the first row it belongs with, or NONE.

    The result has shape (rows,), dtype int64: the smallest position in the row's component.
    """
    label = np.arange(rows)
    while True:
        before = label
        for first in groups:
            linked = np.flatnonzero(first != NONE)
            least = np.arange(rows)
            np.minimum.at(least, first[linked], label[linked])
            label = label.copy()
            label[linked] = np.minimum(label[linked], least[first[linked]])
        label = label[label]
        if np.array_equal(label, before):
            return label


def forced_by(
    label: np.ndarray, given: np.ndarray, ranking: Iterable[int], held: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every row what its cluster was given: the split, the first row that has it, whether earlier ones differ.

    Of several splits the last in `ranking` counts. Shape (rows,) each: int64, -1 for none; int64, NONE; bool.
    """
    forced, decider = np.full(len(label), -1), np.full(len(label), NONE)
    for split in ranking:
        forced[label[given == split]] = split
    having = np.flatnonzero((given >= 0) & (given == forced[label]))
    np.minimum.at(decider, label[having], having)
    known = np.flatnonzero(given[:held] >= 0)
    low, high = np.full(len(label), NONE), np.full(len(label), -1)
    np.minimum.at(low, label[known], given[known])
    np.maximum.at(high, label[known], given[known])
    return forced[label], decider[label], (low < high)[label]


def uniform(keys: np.ndarray, seed: int) -> np.ndarray:
    """A number in 0..1 from each 64-bit key (the finaliser of SplitMix64)."""
    mixed = keys + np.uint64((0x9E3779B97F4A7C15 * (seed + 1)) % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2**53
