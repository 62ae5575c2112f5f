"""Equal values: against a dictionary of first rows, and where half a hash or more is shared by different values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.duplicates import Verdicts
from processors.duplicates.exact import components, drop_all, keep_first

HALF = 2**64 - 1


def keys_of(rows: list[tuple[int, int]]) -> np.ndarray:
    return np.array(rows, np.uint64).reshape(-1, 2)


def plain_components(rows: list[tuple[int, int]]) -> list[int]:
    first: dict[tuple[int, int], int] = {}
    return [first.setdefault(row, number) for number, row in enumerate(rows)]


def plain_drop_all(rows: list[tuple[int, int]], fixed: int) -> list[int]:
    others = [[n for n, other in enumerate(rows) if other == row and n != number] for number, row in enumerate(rows)]
    return [-1 if number < fixed or not other else other[0] for number, other in enumerate(others)]


def partners(made: Verdicts) -> list[int]:
    assert (made.partner.dtype, made.similarity.dtype) == (np.int64, np.float32)
    np.testing.assert_array_equal(made.similarity, made.partner >= 0)
    return made.partner.tolist()


# Neighbours in the lowest bits, and in the highest: what is sorted by does not tell the former apart.
PARTS = st.sampled_from([0, 1, 2, 1 << 62, (1 << 62) + 1, HALF - 1, HALF])


@given(st.lists(st.tuples(PARTS, PARTS), max_size=30), st.integers(0, 30))
def test_any_keys(rows: list[tuple[int, int]], fixed: int) -> None:
    keys, fixed = keys_of(rows), min(fixed, len(rows))
    first = plain_components(rows)
    assert components(keys).tolist() == first
    dropped = [number >= fixed and other < number for number, other in enumerate(first)]
    assert partners(keep_first(keys, fixed=fixed)) == [
        other if drop else -1 for other, drop in zip(first, dropped, strict=True)
    ]
    assert partners(keep_first(keys, fixed=fixed, among=False)) == [
        other if drop and other < fixed else -1 for other, drop in zip(first, dropped, strict=True)
    ]
    assert partners(drop_all(keys, fixed=fixed)) == plain_drop_all(rows, fixed)


@pytest.mark.parametrize("half", [0, 1])
def test_different_values_that_share_half_a_hash_are_different(half: int) -> None:
    rng = np.random.default_rng(0)
    keys = rng.integers(0, HALF, (5_000, 2), np.uint64)[rng.integers(0, 5_000, 20_000)]
    keys[1::3, half] = keys[0, half]
    assert components(keys).tolist() == plain_components([(a, b) for a, b in keys.tolist()])


def test_no_rows() -> None:
    none = keys_of([])
    assert partners(keep_first(none)) == partners(drop_all(none)) == components(none).tolist() == []
