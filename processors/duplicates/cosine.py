"""Near duplicates by the cosine of their embeddings: the same rows as if every pair had been computed exactly.

The similarity of two rows is the dot product of their vectors as they are stored, and at most 1; a pair at or above
the threshold is similar. It is computed exactly: no block size, order of summation or device changes a decision.

Rows with equal vectors are one row to all three functions. It is judged where it first stands, and what is decided
holds for the others; they are duplicates of each other at any threshold, with a similarity of 1, before all others.

Of mapped vectors a block is in memory at a time. Besides, there are 2 bytes for every number of a code (4 where
bfloat16 is not used) and 40 of each row, or 80 before there are codes: 8.1 GB of 10 M rows with 384 dimensions.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import xxhash

from processors.duplicates import Verdicts, exact
from processors.duplicates.codes import Coded, Columns, Tuning
from processors.duplicates.journal import Journal
from processors.duplicates.screen import Apart, Pairs, Screen
from processors.duplicates.vectors import check, hashed

Progress = Callable[[int], object]


def keep_first(
    vectors: np.ndarray,
    threshold: float,
    *,
    fixed: int = 0,
    among: bool = True,
    device: str = "cpu",
    progress: Progress | None = None,
    tuning: Tuning | None = None,
    journal: Path | None = None,
) -> Verdicts:
    """Drops, in order, every row that is similar to a row that was kept before it.

    The partner is the most similar of all kept rows before it, of equally similar ones the first.

    Args:
        vectors: normalised, shape (rows, dimensions), float32 or float16; an array, or a file mapped with np.memmap.
        threshold: cosine from which on two rows are duplicates, above -1 and at most 1.
        fixed: number of rows at the beginning that are kept whatever they are similar to.
        among: whether rows are compared with each other, or with the fixed ones only.
        device: where codes are compared, "cpu" or "cuda:0"; on an accelerator they must all have room.
        progress: called with the number of rows that were decided since it was called last.
        tuning: how much is compared at once; None for what is fast on the device.
        journal: a file that is written every half minute, so that a run that was killed goes on when it is called
            again; of other vectors or arguments, or damaged, it counts for nothing. It is removed in the end.

    Raises:
        ValueError: a row is not finite or not normalised, or an argument is none of the above.
        MissingExtra: torch is not installed.
    """
    check(vectors, threshold, fixed)
    first, work = _equal(vectors, "keep_first", threshold, fixed, among)
    distinct = _distinct(first)
    known, asked = np.split(distinct, [np.searchsorted(distinct, fixed)])
    screen = Screen(vectors, distinct, threshold, device, tuning)
    columns = Columns(screen.coder, len(distinct) if among else len(known))
    verdicts = _all_kept(len(vectors))
    course = Journal(journal, work, verdicts, screen.tuning.saved)
    done = course.resume()
    stayed = asked[: done if among else 0]
    _fill(columns, screen, np.concatenate([known, stayed[verdicts.partner[stayed] < 0]]))
    for block in _reported(asked, done, screen, len(vectors), progress, course):
        rows = screen.coder.code(block)
        for kept in columns.blocks(screen.tuning.columns):
            _judge(screen, rows, kept, verdicts)
        if among:
            _judge_among(screen, rows, verdicts)
            columns.add(_kept(rows, verdicts))
    _judge_copies(verdicts, first, fixed, among)
    course.remove()
    return verdicts


def drop_all(
    vectors: np.ndarray,
    threshold: float,
    *,
    fixed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
    tuning: Tuning | None = None,
    journal: Path | None = None,
) -> Verdicts:
    """Drops every row that is similar to any other row, kept or not: of a pair of duplicates, both.

    The partner is the most similar of all other rows, of equally similar ones the first. Arguments and exceptions are
    those of `keep_first`.
    """
    check(vectors, threshold, fixed)
    first, work = _equal(vectors, "drop_all", threshold, fixed)
    distinct = _distinct(first)
    alone = np.bincount(first, minlength=len(first))[distinct] == 1
    asked = distinct[alone & (distinct >= fixed)]
    screen = Screen(vectors, distinct, threshold, device, tuning)
    columns = Columns(screen.coder, len(distinct))
    verdicts = _all_kept(len(vectors))
    course = Journal(journal, work, verdicts, screen.tuning.saved)
    _fill(columns, screen, distinct)
    for block in _reported(asked, course.resume(), screen, len(vectors), progress, course):
        rows = screen.coder.code(block)
        for others in columns.blocks(screen.tuning.columns):
            _judge(screen, rows, others, verdicts, np.equal)
    copies = _copies(first)
    repeated, at = np.unique(first[copies], return_index=True)
    for ones, partners in (copies, first[copies]), (repeated, copies[at]):
        verdicts.partner[ones], verdicts.similarity[ones] = partners, 1
    verdicts.partner[:fixed], verdicts.similarity[:fixed] = -1, 0
    course.remove()
    return verdicts


def components(
    vectors: np.ndarray,
    threshold: float,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
    tuning: Tuning | None = None,
    journal: Path | None = None,
) -> np.ndarray:
    """For every row the smallest position that it is connected with by a chain of similar rows: int64, shape (rows,).

    Arguments and exceptions are those of `keep_first`.
    """
    check(vectors, threshold)
    above, work = _equal(vectors, "components", threshold)
    distinct = _distinct(above)
    screen = Screen(vectors, distinct, threshold, device, tuning)
    columns = Columns(screen.coder, len(distinct))
    course = Journal(journal, work, (above,), screen.tuning.saved)
    done = course.resume()
    _fill(columns, screen, distinct[:done])
    for block in _reported(distinct, done, screen, len(vectors), progress, course):
        rows = screen.coder.code(block)
        columns.add(rows)
        for others in columns.blocks(screen.tuning.columns):
            _connect(screen, rows, others, above)
    course.remove()
    return _roots(above, np.arange(len(above)))


def _equal(vectors: np.ndarray, *work: object) -> tuple[np.ndarray, str]:
    """The first of the rows that are equal to each, and all that the work on them depends on."""
    keys = hashed(vectors)
    return exact.components(keys), repr((vectors.shape, vectors.dtype.str, xxhash.xxh3_128_hexdigest(keys.data), *work))


def _distinct(first: np.ndarray) -> np.ndarray:
    return np.flatnonzero(first == np.arange(len(first)))


def _copies(first: np.ndarray) -> np.ndarray:
    return np.flatnonzero(first != np.arange(len(first)))


def _all_kept(rows: int) -> Verdicts:
    return Verdicts(np.full(rows, -1), np.zeros(rows, np.float32))


def _fill(columns: Columns, screen: Screen, positions: np.ndarray) -> None:
    for at in range(0, len(positions), screen.tuning.rows):
        columns.add(screen.coder.code(positions[at : at + screen.tuning.rows]))


def _reported(
    positions: np.ndarray, done: int, screen: Screen, rows: int, progress: Progress | None, journal: Journal
) -> Iterator[np.ndarray]:
    """Blocks of `positions`, without the first `done` ones.

    When a block is done, it is noted, and all of `rows` in front of the next one count as decided.
    """
    decided = 0
    for at in range(done, len(positions), screen.tuning.rows):
        block = positions[at : at + screen.tuning.rows]
        if progress is not None:
            progress(int(block[0]) - decided)
        decided = int(block[0])
        yield block
        journal.note(at + len(block))
    if progress is not None:
        progress(rows - decided)


def _judge(screen: Screen, rows: Coded, columns: Coded, verdicts: Verdicts, apart: Apart | None = None) -> None:
    """Drops rows for columns, where those are more similar than what the rows are dropped for so far."""
    similarity = verdicts.similarity[rows.positions]
    dropped = verdicts.partner[rows.positions] >= 0
    found = screen.nearest(rows, columns, np.where(dropped, similarity, screen.threshold), apart)
    better = (verdicts.partner[found.rows] < 0) | (found.similarity > verdicts.similarity[found.rows])
    verdicts.partner[found.rows[better]] = found.columns[better]
    verdicts.similarity[found.rows[better]] = found.similarity[better]


def _judge_among(screen: Screen, rows: Coded, verdicts: Verdicts) -> None:
    """Drops rows for kept ones before them in the same block. Too many pairs: first one half, then the other."""
    pairs = screen.close(rows, _kept(rows, verdicts), np.less_equal)
    if pairs is None:
        half = len(rows.positions) // 2
        early, late = rows.take(np.arange(half)), rows.take(np.arange(half, len(rows.positions)))
        _judge_among(screen, early, verdicts)
        _judge(screen, late, _kept(early, verdicts), verdicts)
        _judge_among(screen, late, verdicts)
        return
    for row, column, similarity in zip(*pairs.sorted(), strict=True):
        better = verdicts.partner[row] < 0 or similarity > verdicts.similarity[row]
        if better and verdicts.partner[column] < 0:
            verdicts.partner[row], verdicts.similarity[row] = column, similarity


def _kept(rows: Coded, verdicts: Verdicts) -> Coded:
    return rows.take(np.flatnonzero(verdicts.partner[rows.positions] < 0))


def _judge_copies(verdicts: Verdicts, first: np.ndarray, fixed: int, among: bool) -> None:
    """Drops rows for the equal row in front where that is kept, else for what that was dropped for."""
    copies = _copies(first)
    copies = copies[copies >= fixed]
    one = first[copies]
    kept = verdicts.partner[one] < 0
    verdicts.partner[copies] = np.where(kept, one, verdicts.partner[one])
    verdicts.similarity[copies] = np.where(kept, 1, verdicts.similarity[one])
    if not among:
        free = copies[kept & (one >= fixed)]
        verdicts.partner[free], verdicts.similarity[free] = -1, 0


def _connect(screen: Screen, rows: Coded, columns: Coded, above: np.ndarray) -> None:
    """Joins the components of similar rows and columns; `above` leads from a row to one in front or to itself."""

    def apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        joined: np.ndarray = np.equal(_roots(above, one), _roots(above, other))
        return joined

    if len(np.unique(_roots(above, np.concatenate([rows.positions, columns.positions])))) == 1:
        return
    floors = np.full(len(rows.positions), screen.threshold)
    pairs = screen.close(rows, columns, apart)
    while pairs is None:  # too many: each row joins its nearest, then less are apart
        nearest = screen.nearest(rows, columns, floors, apart)
        _join(above, nearest)
        pairs = screen.close(rows, columns, apart) if len(nearest.rows) else nearest
    _join(above, pairs)


def _join(above: np.ndarray, pairs: Pairs) -> None:
    for one, other in zip(pairs.rows.tolist(), pairs.columns.tolist(), strict=True):
        while above[one] != one:
            one = above[one]
        while above[other] != other:
            other = above[other]
        above[max(one, other)] = min(one, other)


def _roots(above: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The first row of the components that rows are in; from now on `above` leads there at once."""
    roots: np.ndarray = above[positions]
    while (above[roots] != roots).any():
        roots = above[roots]
    above[positions] = roots
    return roots
