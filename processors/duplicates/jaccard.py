"""Near-duplicate texts, by the Jaccard similarity of their sets of shingles: members in common / members in all.

Exact. Two sets that are alike share one of their rarest members (prefix filtering: Bayardo, Ma and Srikant 2007,
"Scaling up all pairs similarity search"), and the members of all pairs found through these are counted. For prompts
that costs less than MinHash, which also loses pairs: a prompt has 20 shingles, a signature 128 numbers.

Rows come in the order of priority; the first `fixed` ones are references, which are never dropped. Rows with empty sets
are never duplicates.
"""

import numpy as np

from processors.duplicates import Verdicts, greedy
from processors.duplicates.arrays import copies, ranges
from processors.duplicates.pairs import Measure, Progress, Test
from processors.duplicates.shingles import AT_ONCE, Sets, mixed, sort_rows

SLACK = 1 - 1e-12  # so that no bound, being a floating-point number, loses a pair that is at the threshold
WORDS = 4  # uint64 of a sketch
MEMBERS = 1 << 18  # of sets that are compared at once
FILL = np.uint64(2**64 - 1)  # no member, but by a chance of 2**-64


def keep_first(
    sets: Sets, threshold: float, *, fixed: int = 0, among: bool = True, progress: Progress | None = None
) -> Verdicts:
    """Drops every row that is like a kept row before it; of these the most similar one, and the first, is its partner.

    Two rows are alike from the similarity `threshold` on, which is above 0. Without `among` rows are compared with the
    fixed ones only. `progress` is called with the rows that are done, and with all (without those that are equal).
    """
    return greedy.keep_first(jaccard(sets, threshold), fixed=fixed, among=among, progress=progress)


def drop_all(sets: Sets, threshold: float, *, fixed: int = 0, progress: Progress | None = None) -> Verdicts:
    """Drops every row that is like any other row; of these the most similar one, and the first, is its partner."""
    return greedy.drop_all(jaccard(sets, threshold), fixed=fixed, progress=progress)


def components(sets: Sets, threshold: float, *, progress: Progress | None = None) -> np.ndarray:
    """For every row the first row that it is alike with, directly or through others: (rows,) int64."""
    return greedy.components(jaccard(sets, threshold), progress=progress)


def jaccard(sets: Sets, threshold: float) -> Measure:
    """How sets are compared.

    Raises:
        ValueError: the threshold is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"a threshold of Jaccard similarity is above 0 and at most 1, got {threshold!r}")
    copy_of = equal_sets(sets)
    distinct = np.flatnonzero(copy_of == np.arange(len(copy_of)))
    sets = sets if len(distinct) == len(copy_of) else sets.take(distinct)
    keys, owners = _rarest(sets, threshold)
    return Measure(copy_of, distinct, keys, owners, not_too_far(sets, threshold), in_common(sets), threshold)


def equal_sets(sets: Sets) -> np.ndarray:
    """For every row the first one with the same set, -1 where that is empty: (rows,) int64."""
    return np.where(sets.sizes > 0, copies(_sums(sets)), -1)


def _sums(sets: Sets) -> np.ndarray:
    """128 bits that equal sets have in common, and different ones by a chance of 2**-128: (rows, 2) uint64."""
    made = np.empty((len(sets.sizes), 2), np.uint64)
    for at, some in sets.parts(AT_ONCE):
        until = np.zeros((len(some.hashes) + 1, 2), np.uint64)
        np.cumsum(mixed(some.hashes), out=until[1:, 0])
        np.cumsum(some.hashes * some.hashes + np.uint64(1), out=until[1:, 1])
        made[at : at + len(some.sizes)] = until[some.offsets[1:]] - until[some.offsets[:-1]]
    return made


def _rarest(sets: Sets, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """The rarest members of each set, so many that two sets that are alike share one of them, and whose they are.

    How often a member occurs is counted together with those that share its upper bits, and of members that occur
    equally often the lower bits decide: any order will do that is the same for all sets.
    """
    shift = np.uint64(64 - min(max(len(sets.hashes).bit_length() - 3, 16), 24))
    often = np.minimum(np.bincount((sets.hashes >> shift).astype(np.int64)), 0xFFFF).astype(np.uint64)
    counts = sets.sizes - np.ceil(threshold * SLACK * sets.sizes).astype(np.int64) + 1
    keys = [np.zeros(0, np.uint64)]
    for at, some in sets.parts(AT_ONCE):
        order = often[(some.hashes >> shift).astype(np.int64)] << np.uint64(48) | some.hashes & np.uint64(2**48 - 1)
        prefix = ranges(some.offsets[:-1], counts[at : at + len(some.sizes)])
        keys.append(sort_rows(order, some.sizes)[prefix] << np.uint64(16))
    return np.concatenate(keys), np.arange(len(counts), dtype=np.int32).repeat(counts)


def not_too_far(sets: Sets, threshold: float) -> Test:
    """Leaves out what its sizes and its sketches show to be below the threshold.

    Two sketches differ in no more bits than their sets in members.
    """
    sizes, sketches = sets.sizes, _sketches(sets)
    most = (1 - threshold * SLACK) / (1 + threshold * SLACK)  # of all members, the share that is in one set only

    def plausible(later: np.ndarray, earlier: np.ndarray) -> np.ndarray:
        one, two = sizes[later], sizes[earlier]
        left = np.flatnonzero(np.minimum(one, two) >= threshold * SLACK * np.maximum(one, two))
        apart, limit = np.zeros(len(left)), most * (one[left] + two[left])
        for word in sketches:
            apart += np.bitwise_count(word[later[left]] ^ word[earlier[left]])
            near = np.flatnonzero(apart <= limit)
            left, apart, limit = left[near], apart[near], limit[near]
        mask = np.zeros(len(later), bool)
        mask[left] = True
        return mask

    return plausible


def _sketches(sets: Sets) -> np.ndarray:
    """For every set a bit for each member, several of which may be the same: (WORDS, rows) uint64."""
    made = np.zeros((WORDS, len(sets.sizes)), np.uint64)
    for at, some in sets.parts(AT_ONCE):
        bit = np.uint64(1) << (some.hashes & np.uint64(63))
        which = some.hashes >> np.uint64(6) & np.uint64(WORDS - 1)
        for word in range(WORDS):
            mine = np.where(which == word, bit, np.uint64(0))
            made[word, at : at + len(some.sizes)] = np.bitwise_or.reduceat(mine, some.offsets[:-1])
    return made


def in_common(sets: Sets) -> Test:
    """Counts the members that two sets have in common, 0 of empty ones; pairs of about one size are a matrix."""
    sizes = sets.sizes

    def filled(rows: np.ndarray, columns: int) -> np.ndarray:
        column = np.arange(columns)
        at = np.minimum(sets.offsets[rows, None] + column, len(sets.hashes) - 1)
        return np.where(column < sizes[rows, None], sets.hashes[at], FILL)

    def similarity(later: np.ndarray, earlier: np.ndarray) -> np.ndarray:
        both = sizes[later] + sizes[earlier]
        width = 1 << np.frexp(np.maximum(sizes[later], sizes[earlier]))[1].astype(np.int64)
        common = np.zeros(len(later), np.int64)
        for columns in np.unique(width).tolist():
            pairs, step = np.flatnonzero(width == columns), max(MEMBERS // columns, 1)
            for at in range(0, len(pairs), step):
                some = pairs[at : at + step]
                members = np.concatenate([filled(later[some], columns), filled(earlier[some], columns)], axis=1)
                members.sort(axis=1)
                equal = np.count_nonzero(members[:, 1:] == members[:, :-1], axis=1)
                common[some] = equal - np.maximum(2 * columns - both[some] - 1, 0)  # less those between fill and fill
        similar: np.ndarray = common / np.maximum(both - common, 1)
        return similar

    return similarity
