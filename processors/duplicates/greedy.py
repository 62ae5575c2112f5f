"""What is dropped for what, from the pairs of rows that are alike: the same rules for every measure.

Rows come in the order of priority; the first `fixed` ones are references, which are never dropped.
"""

from dataclasses import replace

import numpy as np

from processors.duplicates import Verdicts
from processors.duplicates.arrays import changes, ranges
from processors.duplicates.pairs import Measure, Pairs, Progress, alike


def keep_first(measure: Measure, *, fixed: int = 0, among: bool = True, progress: Progress | None = None) -> Verdicts:
    """Drops a row when it is like a kept row before it. Its partner is the one of these that it is most like.

    Without `among` rows are compared with the fixed ones only.
    """
    best, distinct = Best(len(measure.copy_of)), measure.distinct
    known = int(np.searchsorted(distinct, fixed))
    kept = np.ones(len(distinct), bool)
    for later, earlier, similarity in alike(measure, known, None if among else known, kept, progress):
        alive = bytearray(kept)
        for row, partner in zip(later.tolist(), earlier.tolist(), strict=True):
            if alive[partner]:  # which is decided: it is later in no pair that follows
                alive[row] = False
        kept[:] = np.frombuffer(alive, bool)
        counts = kept[earlier]
        best.offer(distinct[later[counts]], distinct[earlier[counts]], similarity[counts])
    _offer_copies(measure, kept, best, fixed, among)
    return best.verdicts(fixed)


def _offer_copies(measure: Measure, kept: np.ndarray, best: "Best", fixed: int, among: bool) -> None:
    """Offers to each copy from `fixed` on the first that holds the same, or the partner of that when it is dropped."""
    copies = copies_of(measure, fixed)
    first = measure.copy_of[copies]
    dropped = best.partner[first] >= 0
    stays = ~dropped & (among | (first < fixed))
    best.offer(copies[stays], first[stays], np.ones(np.count_nonzero(stays)))
    best.offer(copies[dropped], best.partner[first[dropped]], best.similarity[first[dropped]])
    if among and dropped.any():
        _offer_what_came_between(measure, kept, best, copies[dropped])


def _offer_what_came_between(measure: Measure, kept: np.ndarray, best: "Best", copies: np.ndarray) -> None:
    """Offers to `copies` of dropped rows what was kept after these and before them, and is more like them."""
    copies = copies[np.argsort(measure.copy_of[copies], kind="stable")]
    first, begin, counts = np.unique(measure.copy_of[copies], return_index=True, return_counts=True)
    order = np.append(np.flatnonzero(kept), np.searchsorted(measure.distinct, first))
    rows, others = measure.distinct[order], len(order) - len(first)
    for later, earlier, similarity in alike(measure.reordered(order), others, others):
        more = (rows[earlier] > rows[later]) & (similarity > best.similarity[rows[later]])
        which, partner, similarity = later[more] - others, rows[earlier[more]], similarity[more]
        copy = copies[ranges(begin[which], counts[which])]
        partner, similarity = partner.repeat(counts[which]), similarity.repeat(counts[which])
        before = partner < copy
        best.offer(copy[before], partner[before], similarity[before])


def replay(pairs: Pairs, copy_of: np.ndarray, threshold: float, *, fixed: int = 0, among: bool = True) -> np.ndarray:
    """The rows that `keep_first` keeps at a threshold: a mask, (rows,).

    Cosines that are nearer to it than dimensions * 2**-51 may fall on the other side, unless it is that of the measure.

    Args:
        pairs: all pairs of distinct rows that are alike at this threshold, and any others, as `every` gives them.
        copy_of: of the measure that they were found by.
        threshold: may be above that of the measure.
    """
    rows = np.arange(len(copy_of))
    distinct = np.flatnonzero(copy_of == rows)
    known = int(np.searchsorted(distinct, fixed))
    counts = (pairs.similarity >= threshold) & (pairs.later >= known) & (among | (pairs.earlier < known))
    alive = bytearray(np.ones(len(distinct), bool))
    for row, partner in zip(pairs.later[counts].tolist(), pairs.earlier[counts].tolist(), strict=True):
        if alive[partner]:
            alive[row] = False
    kept = np.ones(len(copy_of), bool)
    kept[distinct] = np.frombuffer(alive, bool)
    copies = rows[(copy_of >= 0) & (copy_of < rows) & (rows >= fixed)]
    first = copy_of[copies]
    kept[copies] = kept[first] & ~(among | (first < fixed))
    return kept


def drop_all(measure: Measure, *, fixed: int = 0, progress: Progress | None = None) -> Verdicts:
    """Drops every row that is like any other. Its partner is the one that it is most like."""
    best, distinct = Best(len(measure.copy_of)), measure.distinct
    copies = copies_of(measure, 0)
    best.offer(copies, measure.copy_of[copies], np.ones(len(copies)))
    best.offer(measure.copy_of[copies], copies, np.ones(len(copies)))
    for later, earlier, similarity in alike(measure, int(np.searchsorted(distinct, fixed)), progress=progress):
        best.offer(distinct[later], distinct[earlier], similarity)
        best.offer(distinct[earlier], distinct[later], similarity)
    return best.verdicts(fixed)


def components(measure: Measure, *, progress: Progress | None = None) -> np.ndarray:
    """For every row the first row that it is connected with, directly or through others: (rows,) int64."""
    label = _attached(measure)
    for later, earlier, _ in alike(_between(measure, label), progress=progress):
        label[:] = joined(label, later, earlier)
    first = np.arange(len(measure.copy_of))
    first[measure.distinct] = measure.distinct[label]
    copies = copies_of(measure, 0)
    first[copies] = first[measure.copy_of[copies]]
    return first


def _attached(measure: Measure) -> np.ndarray:
    """Labels of the distinct rows after each that `keep_first` drops has joined its partner, which takes little time
    where nearly all are alike: (distinct,) int64."""
    partner = keep_first(measure).partner[measure.distinct]
    place = np.full(len(measure.copy_of), -1)
    place[measure.distinct] = np.arange(len(measure.distinct))
    rows = np.flatnonzero(partner >= 0)
    return joined(np.arange(len(measure.distinct)), rows, place[partner[rows]])


def _between(measure: Measure, label: np.ndarray) -> Measure:
    """The same without pairs of one label, which may change, and without keys that lead to such pairs only."""

    def apart(later: np.ndarray, earlier: np.ndarray) -> np.ndarray:
        mask: np.ndarray = label[later] != label[earlier]
        some = np.flatnonzero(mask)
        mask[some] = measure.plausible(later[some], earlier[some])
        return mask

    order = np.argsort(measure.keys)
    begins, labels = changes(measure.keys[order]), label[measure.owners[order]]
    starts = np.flatnonzero(begins)
    mixed = np.zeros(len(order), bool)
    if len(starts):
        several = np.minimum.reduceat(labels, starts) != np.maximum.reduceat(labels, starts)
        mixed[order] = several[begins.cumsum() - 1]
    return replace(measure, plausible=apart, keys=measure.keys[mixed], owners=measure.owners[mixed])


def joined(label: np.ndarray, one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Labels, each the least row of a component, after the components of rows `one` and `two` have become one."""
    while not np.array_equal(label[one], label[two]):
        label = label.copy()
        np.minimum.at(label, np.maximum(label[one], label[two]), np.minimum(label[one], label[two]))
        while not np.array_equal(label, further := label[label]):
            label = further
    return label


def copies_of(measure: Measure, fixed: int) -> np.ndarray:
    """The rows from `fixed` on that hold the same as one before them."""
    rows = np.arange(fixed, len(measure.copy_of))
    return rows[(measure.copy_of[fixed:] >= 0) & (measure.copy_of[fixed:] < rows)]


class Best:
    """For every row the one that it is most like of all that were offered; of equals the first."""

    def __init__(self, rows: int):
        self.partner = np.full(rows, -1)
        self.similarity = np.full(rows, -np.inf)

    def offer(self, rows: np.ndarray, others: np.ndarray, similarity: np.ndarray) -> None:
        """Row `rows[n]` is as like row `others[n]` as `similarity[n]` says."""
        order = np.lexsort((others, -similarity, rows))
        rows, others, similarity = rows[order], others[order], similarity[order]
        first = changes(rows)
        rows, others, similarity = rows[first], others[first], similarity[first]
        held = self.similarity[rows]
        better = (similarity > held) | ((similarity == held) & (others < self.partner[rows]))
        self.partner[rows[better]], self.similarity[rows[better]] = others[better], similarity[better]

    def verdicts(self, fixed: int) -> Verdicts:
        """What becomes of the rows, of which the first `fixed` are never dropped."""
        self.partner[:fixed] = -1
        return Verdicts(self.partner, np.where(self.partner >= 0, self.similarity, 0).astype(np.float32))
