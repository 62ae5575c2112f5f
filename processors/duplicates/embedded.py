"""Embeddings as a measure: which pairs are alike by cosine, in blocks, as other measures give them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from processors.duplicates import exact
from processors.duplicates.arrays import numbered
from processors.duplicates.codes import Coded, Columns, Tuning
from processors.duplicates.pairs import Finder, Measure, Pairs, merged
from processors.duplicates.screen import Screen
from processors.duplicates.vectors import check, hashed, similarities

AT_ONCE = 1 << 20  # pairs that may be alike and are checked together


@dataclass(frozen=True)
class Embedded(Measure):
    """How vectors are compared. They have no keys in common: those they have are for rows that hold the same.

    `vectors`: normalised, shape (any, dimensions), float32 or float16.
    `rows`: the row that each vector belongs to: int64.
    `at`: the vector of each distinct row: int64.
    """

    vectors: np.ndarray
    rows: np.ndarray
    at: np.ndarray
    device: str
    tuning: Tuning

    def finder(self, before: int) -> Finder:
        """What finds the pairs of which the earlier row is below `before`."""
        return Near(self, self.at, before)

    def over(self, positions: np.ndarray, rows: int) -> Self:
        """The same among `rows` rows: those at `positions` hold the vectors, the others nothing."""
        return replace(super().over(positions, rows), rows=positions[self.rows])

    def reordered(self, order: np.ndarray) -> Self:
        """The same for the distinct rows in `order`, in that order."""
        return replace(super().reordered(order), at=self.at[order])


def embedded(vectors: np.ndarray, threshold: float, *, device: str = "cpu", tuning: Tuning | None = None) -> Embedded:
    """How vectors are compared. Arguments and exceptions are those of `cosine.keep_first`."""
    check(vectors, threshold)
    copy_of = exact.components(hashed(vectors))
    distinct = np.flatnonzero(copy_of == np.arange(len(vectors)))
    return Embedded(
        copy_of,
        distinct,
        numbered(len(distinct)),
        np.arange(len(distinct), dtype=np.int32),
        plausible=lambda later, earlier: np.ones(len(later), bool),
        similarity=lambda later, earlier: similarities(vectors, distinct[later], distinct[earlier], threshold),
        threshold=threshold,
        vectors=vectors,
        rows=np.arange(len(vectors)),
        at=distinct,
        device=device,
        tuning=tuning or Tuning.of(device),
    )


class Near:
    """Finds pairs of rows by their vectors, block by block against the rows before.

    Args:
        measure: how the vectors are compared.
        at: the vector of each row, -1 where it has none: int64, each but -1 once.
        before: the row that all earlier ones are below.
        groups: rows with the same number are not compared with each other: int64; None where all are.
        asked: a mask of the rows that are looked for among the earlier ones, when it is called; None where all are.
    """

    def __init__(
        self,
        measure: Embedded,
        at: np.ndarray,
        before: int,
        groups: np.ndarray | None = None,
        asked: Callable[[], np.ndarray] | None = None,
    ):
        self.measure, self.at, self.limit, self.groups, self.asked = measure, at, before, groups, asked
        self.row_of = np.full(len(measure.vectors), -1)
        there = np.flatnonzero(at >= 0)
        self.row_of[at[there]] = there
        self.added = 0
        self.screen: Screen | None = None
        self.columns: Columns
        self.rows: Coded | None = None  # those of the block that are looked for

    def block(self, start: int) -> int:
        """The end of the block that is compared at once."""
        return start + self.measure.tuning.rows

    def before(self, start: int, stop: int, kept: np.ndarray | None) -> Iterator[Pairs]:
        """Pairs with rows before `start`, in blocks of no more than AT_ONCE."""
        asked = self._with_vector(start, stop, self.asked() if self.asked else None)
        self.rows = None
        if not len(asked):
            return
        screen = self._screen()
        self._add(screen, start, kept)
        self.rows = screen.coder.code(asked)
        for columns in self.columns.blocks(self.measure.tuning.columns):
            yield from self._pairs(screen, self.rows, columns, kept)

    def within(self, start: int, stop: int, kept: np.ndarray | None) -> Iterator[Pairs]:
        """Pairs among the rows of the block, at once."""
        if self.rows is None:
            return
        screen = self._screen()
        columns = screen.coder.code(self._with_vector(start, min(stop, self.limit), kept))
        yield merged(list(self._pairs(screen, self.rows, columns, kept)))

    def _with_vector(self, start: int, stop: int, mask: np.ndarray | None) -> np.ndarray:
        """The vectors of the rows from `start` to `stop` that are in the mask."""
        vectors = self.at[start:stop]
        there = vectors >= 0
        return vectors[there if mask is None else there & mask[start:stop]]

    def _screen(self) -> Screen:
        """Made when a row is looked for, of all vectors."""
        if self.screen is None:
            measure, there = self.measure, self.at[self.at >= 0]
            self.screen = Screen(measure.vectors, there, measure.threshold, measure.device, measure.tuning)
            self.columns = Columns(self.screen.coder, int(np.count_nonzero(self.at[: self.limit] >= 0)))
        return self.screen

    def _add(self, screen: Screen, start: int, kept: np.ndarray | None) -> None:
        """The rows before `start` that are kept and not yet there."""
        end = min(start, self.limit)
        step = self.measure.tuning.rows
        for at in range(self.added, end, step):
            self.columns.add(screen.coder.code(self._with_vector(at, min(at + step, end), kept)))
        self.added = max(self.added, end)

    def _pairs(self, screen: Screen, rows: Coded, columns: Coded, kept: np.ndarray | None) -> Iterator[Pairs]:
        """Pairs of rows and columns; of too many, those of each half of the longer side."""
        found = screen.close(rows, columns, self._apart, AT_ONCE)
        if found is not None:
            later, earlier = self.row_of[found.rows], self.row_of[found.columns]
            there = slice(None) if kept is None else kept[earlier]
            yield merged([Pairs(later[there], earlier[there], found.similarity[there])])
        elif len(rows.positions) >= len(columns.positions):
            for half in np.array_split(np.arange(len(rows.positions)), 2):
                yield from self._pairs(screen, rows.take(half), columns, kept)
        else:
            for half in np.array_split(np.arange(len(columns.positions)), 2):
                yield from self._pairs(screen, rows, columns.take(half), kept)

    def _apart(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Pairs of vectors that are none: of which the second row is not before the first, or that are one group."""
        later, earlier = self.row_of[rows], self.row_of[columns]
        apart: np.ndarray = earlier >= later
        if self.groups is not None:
            apart |= self.groups[later] == self.groups[earlier]
        return apart
