"""Near-duplicate texts, found by MinHash signatures of their sets of shingles and checked by the sets themselves.

A signature estimates the Jaccard similarity of two sets (Broder 1997, "On the resemblance and containment of
documents"). It is cut into bands, and pairs of which a band is equal are candidates (Leskovec, Rajaraman and Ullman,
"Mining of massive datasets", chapter 3). Of these the members in common are counted, so that no row is dropped for one
that is not like it, and the similarity is the true one. What a signature misses is never looked at: see `bands`. Equal
sets are found without signatures, all of them.

Of prompts `processors.duplicates.jaccard` finds all pairs in less time. Texts of thousands of shingles have hundreds of
keys there; here they have one for each band.

Rows come in the order of priority; the first `fixed` ones are references, which are never dropped. Rows with empty sets
are never duplicates.
"""

from math import log, log1p
from typing import NamedTuple

import numpy as np

from processors.duplicates import Verdicts, greedy
from processors.duplicates.jaccard import equal_sets, in_common, not_too_far
from processors.duplicates.pairs import Measure, Progress
from processors.duplicates.shingles import Sets, mixed

MISSED = 1e-3  # the most of the pairs just at the threshold that may have no band in common
AT_ONCE = 1 << 10  # sets of which signatures are made: a permutation of these stays in a core's cache
EMPTY = 2**32 - 1  # all numbers in the signature of an empty set


class Signed(NamedTuple):
    """Sets, and their signatures: (rows, permutations) uint32, made with the same permutations for all rows."""

    signatures: np.ndarray
    sets: Sets

    def take(self, rows: np.ndarray) -> "Signed":
        """Those of `rows`, in that order."""
        return Signed(self.signatures[rows], self.sets.take(rows))


def keep_first(
    values: Signed, threshold: float, *, fixed: int = 0, among: bool = True, progress: Progress | None = None
) -> Verdicts:
    """Drops every row that is like a kept row before it; of these the most similar one, and the first, is its partner.

    Two rows are alike when they have a band in common and the similarity of their sets is at least `threshold`, which
    is above 0. Without `among` rows are compared with the fixed ones only. `progress` is called with the rows that are
    done, and with all (without those that are equal).
    """
    return greedy.keep_first(minhash(values, threshold), fixed=fixed, among=among, progress=progress)


def drop_all(values: Signed, threshold: float, *, fixed: int = 0, progress: Progress | None = None) -> Verdicts:
    """Drops every row that is like any other row; of these the most similar one, and the first, is its partner."""
    return greedy.drop_all(minhash(values, threshold), fixed=fixed, progress=progress)


def components(values: Signed, threshold: float, *, progress: Progress | None = None) -> np.ndarray:
    """For every row the first row that it is alike with, directly or through others: (rows,) int64."""
    return greedy.components(minhash(values, threshold), progress=progress)


def minhash(values: Signed, threshold: float) -> Measure:
    """How sets with signatures are compared.

    Raises:
        ValueError: the threshold is not above 0 and at most 1, or signatures are not a row of uint32 for each set.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"a threshold of Jaccard similarity is above 0 and at most 1, got {threshold!r}")
    shape, dtype, rows = values.signatures.shape, values.signatures.dtype, len(values.sets.sizes)
    if dtype != np.uint32 or len(shape) != 2 or shape[0] != rows:
        raise ValueError(f"signatures must be a row of uint32 for each of {rows} sets, got {dtype} of shape {shape}")
    copy_of = equal_sets(values.sets)
    distinct = np.flatnonzero(copy_of == np.arange(rows))
    signatures, sets = values if len(distinct) == rows else values.take(distinct)
    keys = _keys(signatures, *bands(signatures.shape[1], threshold))
    owners = np.tile(np.arange(len(distinct), dtype=np.int32), len(keys))
    return Measure(
        copy_of, distinct, keys.ravel(), owners, not_too_far(sets, threshold), in_common(sets), float(threshold)
    )


def bands(permutations: int, threshold: float) -> tuple[int, int]:
    """How many bands of how many numbers a signature is cut into.

    Two sets of similarity s agree in one number with a chance of s, and in none of b bands of r numbers with one of
    (1 - s**r)**b. The longest bands are taken, so the fewest candidates, for which that is at most 0.001 at the
    threshold: at 0.7, 32 bands of 4 of 128 numbers, which miss 0.00015 there and less above. Low thresholds take
    bands of one number, and more than 0.001 are missed where these are too few: with 128 numbers below 0.053.
    """
    for numbers in range(permutations, 1, -1):
        count = permutations // numbers
        if threshold == 1 or count * log1p(-(threshold**numbers)) <= log(MISSED):
            return count, numbers
    return permutations, 1


def signatures(sets: Sets, permutations: int = 128, seed: int = 1) -> np.ndarray:
    """MinHash signatures: (rows, permutations) uint32, the same for a set in every call of the same seed.

    A permutation is x -> a x + b modulo 2**64 with an odd a, both drawn by PCG64, and of the least the upper 32 bits
    stay. The share of numbers that two rows have in common estimates their similarity, with a standard error of at most
    0.5 / sqrt(permutations).
    """
    factors, terms = np.random.Generator(np.random.PCG64(seed)).integers(0, 2**64, (2, permutations), np.uint64)
    made = np.full((len(sets.sizes), permutations), EMPTY, np.uint32)
    for at, some in sets.parts(AT_ONCE):
        there = np.flatnonzero(some.sizes)
        begin = some.offsets[there]
        least, moved = np.empty((permutations, len(there)), np.uint64), np.empty_like(some.hashes)
        for row, factor, term in zip(least, factors | np.uint64(1), terms, strict=True) if len(there) else ():
            np.multiply(some.hashes, factor, out=moved)
            moved += term
            np.minimum.reduceat(moved, begin, out=row)
        made[at + there] = (least >> np.uint64(32)).T
    return made


def _keys(signatures: np.ndarray, count: int, numbers: int) -> np.ndarray:
    """For every band a hash of its number and of the numbers in it: (bands, rows) uint64."""
    made = np.empty((count, len(signatures)), np.uint64)
    for band in range(count):
        made[band] = band
        for number in signatures[:, band * numbers : (band + 1) * numbers].T:
            made[band] = mixed(made[band] << np.uint64(32) ^ made[band] >> np.uint64(32) ^ number)
    return made
