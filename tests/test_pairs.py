"""All pairs that are alike, and what a policy makes of them at thresholds above the one that they were found at."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from processors.duplicates import Verdicts, cosine, greedy
from processors.duplicates.codes import Tuning
from processors.duplicates.embedded import embedded
from processors.duplicates.greedy import replay
from processors.duplicates.hamming import hamming
from processors.duplicates.jaccard import jaccard
from processors.duplicates.pairs import Measure, Pairs, alike, equal, merged
from processors.duplicates.shingles import Sets

ROWS = 400


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """On a busy machine, products as small as these take less time than two threads take to meet."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def every(measure: Measure) -> Pairs:
    """All pairs that are alike, in ascending order."""
    return merged(list(alike(measure)))


def repeated(random: np.random.Generator) -> np.ndarray:
    """Numbers of rows, some of them several times."""
    return np.where(random.random(ROWS) < 0.3, random.integers(0, ROWS, ROWS), np.arange(ROWS))


def texts(threshold: float) -> Measure:
    random = np.random.default_rng(0)
    members = np.sort(np.argsort(random.random((ROWS, 12)), axis=1)[:, :7] + 1, axis=1)[repeated(random)]
    sizes = np.where(random.random(ROWS) < 0.05, 0, 7)
    hashes = np.sort(members.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15), axis=1)
    return jaccard(Sets(hashes[sizes > 0].ravel(), np.append(0, sizes.cumsum())), threshold)


def pictures(threshold: float) -> Measure:
    random = np.random.default_rng(1)
    return hamming(random.integers(0, 2**11, ROWS, np.uint64)[repeated(random)], round(64 * (1 - threshold)))


def meanings() -> np.ndarray:
    random = np.random.default_rng(2)
    vectors = random.standard_normal((40, 16))[random.integers(0, 40, ROWS)] + 0.5 * random.standard_normal((ROWS, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)[repeated(random)]


def embeddings(threshold: float) -> Measure:
    return embedded(meanings(), threshold, tuning=Tuning(64, 100))


def judged(measure: Callable[[float], Measure], threshold: float, fixed: int, among: bool) -> Verdicts:
    if measure is embeddings:
        return cosine.keep_first(meanings(), threshold, fixed=fixed, among=among)
    return greedy.keep_first(measure(threshold), fixed=fixed, among=among)


@pytest.mark.parametrize("fixed, among", [(0, True), (90, True), (90, False)])
@pytest.mark.parametrize(
    "measure, thresholds",
    [
        (texts, [0.4, 0.5, 5 / 9, 0.7, 0.75, 1.0]),
        (pictures, [1 - bits / 64 for bits in (4, 3, 2, 1, 0)]),
        (embeddings, [0.6, 0.7, 0.8, 0.85, 0.9, 1.0]),
    ],
)
def test_a_replay_keeps_what_comparing_again_keeps(
    measure: Callable[[float], Measure], thresholds: list[float], fixed: int, among: bool
) -> None:
    lowest = measure(thresholds[0])
    pairs, counts = every(lowest), set()
    for threshold in thresholds:
        kept = replay(pairs, lowest.copy_of, threshold, fixed=fixed, among=among)
        np.testing.assert_array_equal(kept, judged(measure, threshold, fixed, among).partner < 0)
        counts.add(int(kept.sum()))
    assert len(counts) >= 3


def test_a_replay_of_equal_rows() -> None:
    measure = equal(np.array([[5], [7], [5], [5], [7], [8]], np.uint64))
    pairs = every(measure)
    assert len(pairs.later) == 0
    assert replay(pairs, measure.copy_of, 1).tolist() == [True, True, False, False, False, True]
    assert replay(pairs, measure.copy_of, 1, fixed=1, among=False).tolist() == [True, True, False, False, True, True]


@pytest.mark.parametrize("measure, threshold", [(texts, 0.4), (pictures, 1 - 3 / 64), (embeddings, 0.7)])
def test_pairs_are_given_as_they_are_asked_for(measure: Callable[[float], Measure], threshold: float) -> None:
    made = measure(threshold)
    pairs = every(made)
    assert (np.diff(pairs.later * len(made.distinct) + pairs.earlier) > 0).all(), "each once, in ascending order"
    start, before, kept = 100, 80, np.arange(len(made.distinct)) % 3 > 0
    found = list(alike(made, start, before, kept))
    wanted = (pairs.later >= start) & (pairs.earlier < before) & kept[pairs.earlier]
    assert 0 < wanted.sum() == sum(len(block.later) for block in found)
    assert {pair for block in found for pair in zip(block.later.tolist(), block.earlier.tolist(), strict=True)} == set(
        zip(pairs.later[wanted].tolist(), pairs.earlier[wanted].tolist(), strict=True)
    )


def test_rows_that_are_no_longer_kept_are_in_no_pair_that_follows() -> None:
    made = embeddings(0.6)
    kept = np.ones(len(made.distinct), bool)
    for block in alike(made, kept=kept):
        assert kept[block.earlier].all()
        kept[block.later] = False
    assert 0 < kept.sum() < len(kept)


def test_more_pairs_of_vectors_than_are_checked_at_once() -> None:
    rows = 1_500
    vectors = (np.random.default_rng(0).standard_normal((rows, 4)) * 0.01 + 1).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = every(embedded(vectors, 0.9, tuning=Tuning(rows, rows)))
    assert len(pairs.later) == math.comb(rows, 2)
    assert (pairs.similarity > 0.9).all()
    assert (pairs.earlier < pairs.later).all()
