"""Arrays: what the measures do with whole columns of numbers."""

import numpy as np


def copies(keys: np.ndarray) -> np.ndarray:
    """For every row the first with the same of `keys`, (rows, columns): (rows,) int64."""
    order = np.lexsort(keys.T)
    new = np.any([changes(column[order]) for column in keys.T], axis=0)
    first = np.empty(len(keys), np.int64)
    first[order] = order[new][new.cumsum() - 1]
    return first


def ranges(first: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """first[0], first[0] + 1, ... (`sizes[0]` numbers), then as many as `sizes[1]` says from first[1] on: int64."""
    ends = sizes.cumsum()
    made: np.ndarray = (first - ends + sizes).repeat(sizes) + np.arange(ends[-1] if len(ends) else 0)
    return made


def changes(values: np.ndarray) -> np.ndarray:
    """Where a value differs from the one before it: a mask, true for the first."""
    made = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=made[1:])
    return made


def numbered(count: int) -> np.ndarray:
    """A key for each of `count` rows, in its upper bits: uint64."""
    return np.arange(count, dtype=np.uint64) << (np.uint64(64) - row_bits(count))


def row_bits(rows: int) -> np.uint64:
    """Bits that hold the number of every row."""
    return np.uint64(max(rows - 1, 1).bit_length())


def low_bits(count: np.uint64) -> np.uint64:
    """A mask of that many bits."""
    return (np.uint64(1) << count) - np.uint64(1)
