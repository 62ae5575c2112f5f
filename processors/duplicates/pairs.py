"""Pairs of rows that are alike, found through keys that all such pairs share, in blocks that fit in memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, Self

import numpy as np

from processors.duplicates.arrays import changes, copies, low_bits, numbered, ranges, row_bits

AT_ONCE = 1 << 18  # pairs that share a key, counted for each key; more only where a single row has more
WASTE = 2  # pairs found in vain, for every entry of an index, until it is made again without what is left out
PLACE = np.uint64(33)  # bits of a place among the entries of an index; a row fits into the others

Progress = Callable[[int, int], None]  # called with the number of rows that are done, and of all
Test = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of pairs: their later rows and their earlier rows


class Pairs(NamedTuple):
    """Rows `later[n]` and `earlier[n]` are alike: int64, earlier < later, in ascending order. `similarity`: float64."""

    later: np.ndarray
    earlier: np.ndarray
    similarity: np.ndarray


@dataclass(frozen=True)
class Measure:
    """How rows are compared.

    `copy_of`: for every row the first one that holds the same, or -1 where a row is never a duplicate: (rows,) int64.
    `distinct`: the rows that are copies of themselves, ascending. All that follows counts these only, from 0 on.
    `keys`, `owners`: row `owners[n]` has `keys[n]`, uint64, and two rows that are alike have a key in common. Only the
        upper bits of a key are looked at, as many as the number of a row leaves.
    `plausible`: a mask, cheap, and true for all pairs that are alike.
    `similarity`: float64, of pairs that are plausible.
    `threshold`: two rows are alike from this similarity on.
    """

    copy_of: np.ndarray
    distinct: np.ndarray
    keys: np.ndarray
    owners: np.ndarray
    plausible: Test
    similarity: Test
    threshold: float

    def finder(self, before: int) -> "Finder":
        """What finds the pairs of which the earlier row is below `before`."""
        return Keyed(self, before)

    def over(self, positions: np.ndarray, rows: int) -> Self:
        """The same among `rows` rows: those at `positions` hold what is compared, the others nothing.

        Raises:
            ValueError: the positions are not ascending.
        """
        if (np.diff(positions) <= 0).any():
            raise ValueError("positions must be ascending: bring what is compared into the order of all rows first")
        copy_of, there = np.full(rows, -1), self.copy_of >= 0
        copy_of[positions[there]] = positions[self.copy_of[there]]
        return replace(self, copy_of=copy_of, distinct=positions[self.distinct])

    def reordered(self, order: np.ndarray) -> Self:
        """The same for the distinct rows in `order`, in that order."""
        place = np.full(len(self.distinct), -1)
        place[order] = np.arange(len(order))
        owners = place[self.owners]
        there = owners >= 0
        return replace(
            self,
            distinct=self.distinct[order],
            keys=self.keys[there],
            owners=owners[there],
            plausible=lambda later, earlier: self.plausible(order[later], order[earlier]),
            similarity=lambda later, earlier: self.similarity(order[later], order[earlier]),
        )


def equal(keys: np.ndarray) -> Measure:
    """How rows are compared that are alike where `keys`, (rows, columns), are equal: there is no pair but of copies."""
    copy_of = copies(keys)
    distinct = np.flatnonzero(copy_of == np.arange(len(keys)))
    return Measure(
        copy_of,
        distinct,
        numbered(len(distinct)),
        np.arange(len(distinct), dtype=np.int32),
        plausible=lambda later, earlier: later == earlier,
        similarity=lambda later, earlier: np.ones(len(later)),
        threshold=1,
    )


class Index:
    """Rows under their keys. A row is asked for the earlier ones, below `before`, that it has a key in common with.

    `entries`: uint64, a key in the upper bits and one of the `rows` rows in the lower ones, ascending, each once.
    `by_row`: the places of the entries of row 0 in turn, those of row 1, and so on: int64.
    `costs`: where keys are of several kinds, each of which leads to all pairs, and begin with its number: what asking a
        row for one kind costs besides, in pairs. A row is asked for the kind that costs it least: `kind`, (rows,).
    """

    def __init__(
        self, entries: np.ndarray, by_row: np.ndarray, rows: int, before: int, costs: Sequence[float] | None = None
    ):
        self.entries, self.by_row, self.rows, self.before, self.costs = entries, by_row, rows, before, costs
        bits = row_bits(rows)
        self.row = (entries & low_bits(bits)).astype(np.int32)
        self.offsets = np.append(0, np.bincount(self.row, minlength=rows).cumsum())
        begin = np.flatnonzero(changes(entries >> bits))
        self.begin = begin.repeat(np.diff(begin, append=len(entries)))  # of the entries with the same key
        known = np.append(0, (self.row < before).cumsum())
        self.partners = known[:-1] - known[self.begin]
        self.kind = np.zeros(rows, np.int64)
        if costs is not None:
            kind = entries >> (np.uint64(64) - row_bits(len(costs)))
            work = [np.bincount(self.row, self.partners * (kind == n), rows) + cost for n, cost in enumerate(costs)]
            self.kind = np.argmin(work, axis=0)
            self.partners[kind != self.kind[self.row]] = 0
        self.work = np.bincount(self.row, self.partners, rows).cumsum()

    @classmethod
    def of(
        cls, keys: np.ndarray, owners: np.ndarray, rows: int, before: int, costs: Sequence[float] | None = None
    ) -> "Index":
        """The index of `rows` rows, of which row `owners[n]` has `keys[n]`."""
        bits = row_bits(rows)
        entries = np.sort(keys >> bits << bits | owners.astype(np.uint64))
        entries = entries[changes(entries)]
        new = np.append(changes(entries >> bits), True)
        entries = entries[~(new[1:] & new[:-1])]  # of a key that one row has alone comes no pair
        # Values are sorted several times faster than places by values.
        places = np.sort((entries & low_bits(bits)) << PLACE | np.arange(len(entries), dtype=np.uint64))
        return cls(entries, (places & low_bits(PLACE)).astype(np.int64), rows, before, costs)

    def only(self, stay: np.ndarray) -> "Index":
        """The same without the rows for which the mask `stay` is false."""
        stays = stay[self.row]
        place = stays.cumsum() - 1
        return Index(self.entries[stays], place[self.by_row[stays[self.by_row]]], self.rows, self.before, self.costs)

    def block(self, start: int) -> int:
        """The end of the block of rows that begins at `start`."""
        done = self.work[start - 1] if start else 0
        return max(int(np.searchsorted(self.work, done + AT_ONCE, "right")), start + 1)

    def sharing(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows from `start` to `stop`, and earlier ones that they share a key with: a pair once for every such key."""
        entries = self.by_row[self.offsets[start] : self.offsets[stop]]
        partners = self.partners[entries]
        return self.row[entries].repeat(partners), self.row[ranges(self.begin[entries], partners)]


class Finder(Protocol):
    """Finds the pairs of rows from `start` to `stop`, one block of them after the other.

    Without rows that are not `kept`, a mask or None, as `earlier`.
    """

    def block(self, start: int) -> int:
        """The end of the largest block that begins at `start`; any smaller one may be asked for."""
        ...

    def before(self, start: int, stop: int, kept: np.ndarray | None) -> Iterator[Pairs]:
        """Those with rows before `start`."""
        ...

    def within(self, start: int, stop: int, kept: np.ndarray | None) -> Iterator[Pairs]:
        """Then those among the rows of the block: one block of pairs."""
        ...


class Keyed:
    """Finds the pairs of a measure through their keys."""

    def __init__(self, measure: Measure, before: int, costs: Sequence[float] | None = None):
        self.measure, self._wasted = measure, 0
        self.index = Index.of(measure.keys, measure.owners, len(measure.distinct), before, costs)
        self._left = np.zeros((2, 0), np.int32)  # pairs among the rows of the block

    def block(self, start: int) -> int:
        """The end of the block whose pairs share about AT_ONCE keys."""
        return self.index.block(start)

    def before(self, start: int, stop: int, kept: np.ndarray | None) -> Iterator[Pairs]:
        """One block, which is counted in full by what is found in vain."""
        later, earlier = self.index.sharing(start, stop)
        done = earlier < start
        self._left = np.stack([later[~done], earlier[~done]])
        yield self._kept(later[done], earlier[done], kept)

    def within(self, start: int, stop: int, kept: np.ndarray | None) -> Iterator[Pairs]:
        """What the rows of the block share with each other."""
        later, earlier = self._left
        yield self._kept(later, earlier, kept)
        if kept is not None and self._wasted > WASTE * len(self.index.row):
            self.index, self._wasted = self.index.only(kept | (np.arange(len(kept)) >= stop)), 0

    def _kept(self, later: np.ndarray, earlier: np.ndarray, kept: np.ndarray | None) -> Pairs:
        if kept is not None:
            some = np.flatnonzero(kept[earlier])
            self._wasted += len(earlier) - len(some)
            later, earlier = later[some], earlier[some]
        return tested(self.measure, later, earlier)


def alike(
    measure: Measure,
    start: int = 0,
    before: int | None = None,
    kept: np.ndarray | None = None,
    progress: Progress | None = None,
) -> Iterator[Pairs]:
    """All pairs that are alike, in blocks. Once a row has been `earlier` in a pair, it is `later` in none that follows.

    Args:
        measure: how rows are compared.
        start: the first row that is asked for as `later`.
        before: `earlier` is less than this; None for no limit.
        kept: a mask of the rows that may be `earlier`. Whoever consumes the blocks may set more of it to false: these
            rows are no longer `earlier` in the blocks that follow.
        progress: is told how far it is.
    """
    rows = len(measure.distinct)
    finder = measure.finder(rows if before is None else before)
    while start < rows:
        stop = min(finder.block(start), rows)
        yield from finder.before(start, stop, kept)
        yield from finder.within(start, stop, kept)  # what is left out by now spares most of it where all are alike
        start = stop
        if progress is not None:
            progress(start, rows)


def merged(blocks: list[Pairs]) -> Pairs:
    """Pairs of several blocks in ascending order."""
    if not blocks:
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    pairs = [np.concatenate(values) for values in zip(*blocks, strict=True)]
    order = np.lexsort((pairs[1], pairs[0]))
    return Pairs(*(values[order] for values in pairs))


def tested(measure: Measure, later: np.ndarray, earlier: np.ndarray) -> Pairs:
    """The pairs of these that are alike, each once."""
    maybe = np.flatnonzero(measure.plausible(later, earlier))
    pairs = np.sort(later[maybe].astype(np.int64) << 32 | earlier[maybe])
    pairs = pairs[changes(pairs)]
    later, earlier = pairs >> 32, pairs & 0xFFFFFFFF
    similarity = measure.similarity(later, earlier)
    same = similarity >= measure.threshold
    return Pairs(later[same], earlier[same], similarity[same])
