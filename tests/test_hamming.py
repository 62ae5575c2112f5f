"""Near-duplicate pictures: hashes within some bits of each other, against comparing all pairs."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.duplicates import Verdicts
from processors.duplicates.hamming import components, drop_all, keep_first


def similarities(hashes: np.ndarray) -> np.ndarray:
    """Of all pairs, -1 of a row with itself: (rows, rows) float64."""
    like = 1 - np.bitwise_count(hashes[:, None] ^ hashes) / 64
    np.fill_diagonal(like, -1)
    return like


def chosen(like: np.ndarray, within: int, candidates: np.ndarray) -> tuple[int, float]:
    """The most similar of the candidates and how similar it is; -1 and 0 when it is not similar enough."""
    best = int(np.where(candidates, like, -1).argmax()) if len(like) else 0
    return (best, like[best]) if candidates[best] and like[best] >= 1 - within / 64 else (-1, 0)


def plain_keep_first(hashes: np.ndarray, within: int, fixed: int = 0, among: bool = True) -> Verdicts:
    like, rows = similarities(hashes), np.arange(len(hashes))
    kept, made = np.zeros(len(rows), bool), []
    for row in rows:
        made.append((-1, 0.0) if row < fixed else chosen(like[row], within, kept & (among | (rows < fixed))))
        kept[row] = made[row][0] < 0
    return verdicts(made)


def plain_drop_all(hashes: np.ndarray, within: int, fixed: int = 0) -> Verdicts:
    like, rows = similarities(hashes), np.arange(len(hashes))
    return verdicts([(-1, 0.0) if row < fixed else chosen(like[row], within, rows != row) for row in rows])


def plain_components(hashes: np.ndarray, within: int) -> list[int]:
    near = similarities(hashes) >= 1 - within / 64
    label = np.arange(len(hashes))
    for _ in hashes:
        label = np.minimum(label, np.where(near, label, len(hashes)).min(axis=1, initial=len(hashes)))
    return label.tolist()


def verdicts(made: list[tuple[int, float]]) -> Verdicts:
    return Verdicts(np.array([row for row, _ in made], np.int64), np.array([value for _, value in made], np.float32))


def check(hashes: np.ndarray, within: int, fixed: int) -> None:
    for made, wanted in (
        (keep_first(hashes, within), plain_keep_first(hashes, within)),
        (keep_first(hashes, within, fixed=fixed), plain_keep_first(hashes, within, fixed)),
        (keep_first(hashes, within, fixed=fixed, among=False), plain_keep_first(hashes, within, fixed, False)),
        (drop_all(hashes, within, fixed=fixed), plain_drop_all(hashes, within, fixed)),
    ):
        assert [made.partner.dtype, made.similarity.dtype] == [np.int64, np.float32]
        np.testing.assert_array_equal(made.partner, wanted.partner)
        np.testing.assert_array_equal(made.similarity, wanted.similarity)
    assert components(hashes, within).tolist() == plain_components(hashes, within)


def pictures(rows: int, seed: int, most: int = 20) -> np.ndarray:
    """Hashes of which half are another one with up to `most` bits changed, and a tenth are blank pictures."""
    draw = np.random.default_rng(seed)
    hashes = draw.integers(0, 2**64, rows, np.uint64)
    for row in range(1, rows, 2):
        hashes[row] = hashes[draw.integers(row)]
        for bit in draw.choice(64, draw.integers(most + 1), replace=False):
            hashes[row] ^= np.uint64(1) << np.uint64(bit)
    blank = draw.random(rows) < 0.1
    hashes[blank] = draw.choice(np.array([0, 2**64 - 1, 1], np.uint64), blank.sum())
    return hashes


@pytest.mark.parametrize("within", range(17))
def test_equals_comparing_all_pairs(within: int) -> None:
    check(pictures(400, within), within, fixed=100)


@pytest.mark.parametrize("within", [0, 1, 3, 8])
def test_many_more(within: int) -> None:
    hashes = pictures(4000, within, 10)
    np.testing.assert_array_equal(keep_first(hashes, within).partner, plain_keep_first(hashes, within).partner)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 255), max_size=25), st.integers(0, 4), st.integers(0, 25))
def test_any_hashes(numbers: list[int], within: int, fixed: int) -> None:
    check(np.array(numbers, np.uint64) << np.uint64(30), within, min(fixed, len(numbers)))


def test_blank_pictures_are_duplicates_of_each_other() -> None:
    made = keep_first(np.array([0, 2**64 - 1, 1, 0, 2**64 - 1], np.uint64), 1)
    assert made.partner.tolist() == [-1, -1, 0, 0, 1]
    assert made.similarity.tolist() == [0, 0, 1 - 1 / 64, 1, 1]


@pytest.mark.parametrize("within", [-1, 17, 2.0, True])
def test_within_is_a_number_of_bits(within: int) -> None:
    with pytest.raises(ValueError, match="0 to 16, got"):
        keep_first(np.zeros(1, np.uint64), within)


def test_hashes_are_unsigned() -> None:
    with pytest.raises(ValueError, match=r"got int64 of shape \(1,\)"):
        keep_first(np.zeros(1, np.int64), 1)


def test_traps_take_neither_long_nor_much() -> None:
    tracemalloc.start()
    assert (keep_first(np.zeros(300_000, np.uint64), 8).partner[1:] == 0).all()
    low = np.arange(1 << 13, dtype=np.uint64)  # 13 bits: most keys of all rows are equal
    made = keep_first(low, 13)
    assert (made.partner[1:] == 0).all()
    assert made.similarity[-1] == 1 - 13 / 64
    few = drop_all(low[: 1 << 11], 3)
    assert (few.similarity == np.float32(1 - 1 / 64)).all()
    assert tracemalloc.get_traced_memory()[1] < 300e6
    tracemalloc.stop()
