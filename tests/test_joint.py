"""Duplicates by several measures at once, against comparing all pairs in all of them."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.duplicates import Verdicts
from processors.duplicates.codes import Tuning
from processors.duplicates.embedded import embedded
from processors.duplicates.hamming import hamming
from processors.duplicates.jaccard import jaccard
from processors.duplicates.joint import components, drop_all, keep_first
from processors.duplicates.pairs import Measure, equal
from processors.duplicates.shingles import Sets

ROWS = 24
SMALL = Tuning(7, 5)
AXES = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """On a busy machine, products as small as these take less time than two threads take to meet."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Part:
    """A column of small numbers, None where there is no value, and how alike every two rows of it are."""

    def __init__(self, kind: str, values: list[int | None]):
        self.kind = kind
        self.positions = np.array([n for n, value in enumerate(values) if value is not None], np.int64)
        numbers = [value for value in values if value is not None]
        self.measure = self.made(numbers).over(self.positions, len(values))
        self.like = np.full((len(values), len(values)), -np.inf, np.float32)
        for one in range(len(numbers)):
            for other in range(len(numbers)):
                if one != other and numbers[one] == numbers[other]:
                    like = 1.0
                else:
                    like = -np.inf if one == other else self.similarity(numbers[one], numbers[other])
                self.like[self.positions[one], self.positions[other]] = like

    def made(self, numbers: list[int]) -> Measure:
        values = np.array(numbers, np.uint64)
        if self.kind == "exact":
            return equal(values[:, None])
        if self.kind == "hamming":
            return hamming(values << np.uint64(7), 2)
        if self.kind == "cosine":
            rows = [vector(number) for number in numbers]
            return embedded(np.array(rows, np.float32).reshape(-1, 3), 0.8, tuning=SMALL)
        sets = [sorted(number * 0x9E3779B97F4A7C15 % 2**64 for number in members(value)) for value in numbers]
        hashes = np.array([member for one in sets for member in one], np.uint64)
        return jaccard(Sets(hashes, np.cumsum([0, *map(len, sets)])), 0.4)

    def similarity(self, one: int, other: int) -> float:
        if self.kind == "exact":
            return -np.inf
        if self.kind == "hamming":
            bits = (one ^ other).bit_count()
            return 1 - bits / 64 if bits <= 2 else -np.inf
        if self.kind == "cosine":
            cosine = math.fsum((vector(one).astype(float) * vector(other)).tolist())
            return min(cosine, 1) if cosine >= 0.8 else -np.inf
        common = len(members(one) & members(other)) / len(members(one) | members(other))
        return common if common >= 0.4 else -np.inf


def members(value: int) -> set[int]:
    """The bits that are set, as numbers, and one more, so that there is one."""
    return {bit for bit in range(6) if value >> bit & 1} | {99}


def vector(value: int) -> np.ndarray:
    """Directions on a grid, no two the same."""
    direction = AXES @ [value % 4 - 1.5, value // 4 % 4 - 1.3, value // 16 - 1.1]
    return (direction / np.linalg.norm(direction) * 0.999).astype(np.float32)


def plain_keep_first(like: np.ndarray, fixed: int, among: bool) -> Verdicts:
    kept: list[int] = []
    partner, similarity = np.full(len(like), -1), np.zeros(len(like), np.float32)
    for row, others in enumerate(like):
        near = [(-others[n], n) for n in kept if others[n] > -np.inf and (among or n < fixed)]
        if row >= fixed and near:
            partner[row], similarity[row] = min(near)[1], -min(near)[0]
        else:
            kept.append(row)
    return Verdicts(partner, similarity)


def plain_drop_all(like: np.ndarray, fixed: int) -> Verdicts:
    best = np.array([others.argmax() for others in like], np.int64)
    highest = like[np.arange(len(like)), best]
    dropped = (highest > -np.inf) & (np.arange(len(like)) >= fixed)
    return Verdicts(np.where(dropped, best, -1), np.where(dropped, highest, 0).astype(np.float32))


def plain_components(like: np.ndarray) -> list[int]:
    label = np.arange(len(like))
    near = (like > -np.inf) | np.eye(len(like), dtype=bool)
    for _ in like:
        label = np.where(near, label, len(like)).min(axis=1, initial=len(like))
    return label.tolist()


def same(made: Verdicts, wanted: Verdicts) -> None:
    assert [made.partner.dtype, made.similarity.dtype] == [np.int64, np.float32]
    np.testing.assert_array_equal(made.partner, wanted.partner)
    np.testing.assert_array_equal(made.similarity, wanted.similarity)


COLUMN = st.tuples(
    st.sampled_from(["exact", "jaccard", "hamming", "cosine"]),
    st.lists(st.none() | st.integers(0, 63) | st.integers(0, 5), min_size=ROWS, max_size=ROWS),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(COLUMN, min_size=1, max_size=3), st.integers(0, ROWS), st.integers(0, ROWS))
def test_equals_comparing_all_pairs(columns: list[tuple[str, list[int | None]]], rows: int, fixed: int) -> None:
    parts = [Part(kind, values[:rows]) for kind, values in columns]
    measures, fixed = [part.measure for part in parts], min(fixed, rows)
    for match, joined in ("both", np.minimum), ("either", np.maximum):
        like = joined.reduce([part.like for part in parts])
        for among in True, False:
            same(keep_first(measures, match, fixed=fixed, among=among), plain_keep_first(like, fixed, among))
        same(drop_all(measures, match, fixed=fixed), plain_drop_all(like, fixed))
        assert components(measures, match).tolist() == plain_components(like)


MANY = 50_000
NUMBERS = np.arange(MANY)
ONE, HALF = np.zeros(MANY, int), np.where(NUMBERS % 2, NUMBERS, 0)  # all rows the same, and all even ones
OTHER_HALF = np.where(NUMBERS % 2, 1, NUMBERS)


def texts(numbers: np.ndarray) -> Measure:
    """For each number a set of its own."""
    hashes = (numbers[:, None] * 20 + np.arange(1, 21)).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return jaccard(Sets(np.sort(hashes, axis=1).ravel(), np.arange(len(numbers) + 1) * 20), 0.7)


def pictures(numbers: np.ndarray) -> Measure:
    """For each number a random hash."""
    return hamming(np.random.default_rng(0).integers(0, 2**64, MANY, np.uint64)[numbers], 4)


def meanings(numbers: np.ndarray, together: float = 0) -> Measure:
    """For each number a vector; the further they are moved together, the more similar they are."""
    vectors = np.random.default_rng(1).standard_normal((MANY, 16)).astype(np.float32) + np.float32(together)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return embedded(vectors[numbers], 0.97)


def counted(part: Measure, pairs: list[int]) -> Measure:
    """The same, with the numbers of pairs that are tested."""

    def plausible(later: np.ndarray, earlier: np.ndarray) -> np.ndarray:
        pairs.append(len(later))
        return part.plausible(later, earlier)

    return replace(part, plausible=plausible)


@pytest.mark.parametrize("function", [keep_first, drop_all])
@pytest.mark.parametrize(
    "one, other",
    [
        (partial(texts, ONE), partial(pictures, NUMBERS)),
        (partial(texts, HALF), partial(pictures, OTHER_HALF)),
        (partial(texts, ONE), partial(meanings, NUMBERS)),
        (partial(texts, HALF), partial(meanings, OTHER_HALF)),
        (partial(texts, NUMBERS), partial(meanings, NUMBERS, 100)),
        (partial(meanings, NUMBERS, 100), partial(meanings, NUMBERS)),
    ],
)
def test_rows_that_are_alike_in_one_part_are_not_all_compared_in_the_other(
    function: Callable[..., Verdicts], one: Callable[[], Measure], other: Callable[[], Measure]
) -> None:
    tested: list[int] = []
    made = function([counted(one(), tested), counted(other(), tested)], "both")
    assert np.count_nonzero(made.partner < 0) > 0.9 * MANY
    assert sum(tested) < 50 * MANY


@pytest.mark.parametrize("match", ["both", "either"])
@pytest.mark.parametrize("function", [keep_first, drop_all])
def test_equal_rows_cost_no_pairs(function: Callable[..., Verdicts], match: str) -> None:
    tested: list[int] = []
    made = function([counted(texts(ONE), tested), counted(pictures(ONE), tested)], match)
    assert made.partner.tolist() == [-1 if function is keep_first else 1, *[0] * (MANY - 1)]
    assert sum(tested) == 0
    assert not components([counted(texts(ONE), tested), counted(pictures(ONE), tested)], match).any()
    assert sum(tested) == 0


@pytest.mark.parametrize("other", [pictures, meanings])
def test_rows_that_are_equal_in_one_of_either(other: Callable[[np.ndarray], Measure]) -> None:
    tested: list[int] = []
    parts = [counted(texts(ONE), tested), counted(other(NUMBERS), tested)]
    assert keep_first(parts, "either").partner.tolist() == [-1, *[0] * (MANY - 1)]
    assert drop_all(parts, "either").partner.tolist() == [1, *[0] * (MANY - 1)]
    assert not components(parts, "either").any()
    assert sum(tested) < 400 * MANY


@pytest.mark.parametrize("match", ["both", "either"])
@pytest.mark.parametrize("function", [keep_first, drop_all, components])
def test_progress_ends_with_all(function: Callable[..., object], match: str) -> None:
    told: list[tuple[int, int]] = []
    parts = [Part(kind, [5, 9, None, 9, 60, 4]).measure for kind in ("jaccard", "cosine")]
    function(parts, match, progress=lambda done, rows: told.append((done, rows)))
    assert told
    assert told[-1][0] == told[-1][1] > 0


def test_bad_parts() -> None:
    with pytest.raises(ValueError, match="positions must be ascending"):
        texts(NUMBERS[:2]).over(np.array([1, 0]), 2)
    with pytest.raises(ValueError, match="match must be one of either, both, got 'all'"):
        keep_first([equal(np.zeros((2, 1)))], "all")
    for match in "both", "either":
        with pytest.raises(ValueError, match=r"the same number of rows, got \[2, 3\]"):
            drop_all([equal(np.zeros((2, 1))), equal(np.zeros((3, 1)))], match)
