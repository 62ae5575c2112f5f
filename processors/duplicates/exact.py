"""Equal values, by 128-bit hashes of them. Rows come in the order of priority, as in the other measures."""

import numpy as np

from processors.duplicates import Verdicts
from processors.duplicates.arrays import changes, copies, low_bits, row_bits


def keep_first(keys: np.ndarray, *, fixed: int = 0, among: bool = True) -> Verdicts:
    """Drops every row whose key, shape (rows, 2), is that of a row before it; the first such row is its partner.

    The first `fixed` rows are never dropped; without `among` rows are compared with those only.
    """
    first = components(keys)
    rows = np.arange(len(keys))
    dropped = (rows >= fixed) & (first < (rows if among else np.minimum(rows, fixed)))
    return _verdicts(np.where(dropped, first, -1))


def drop_all(keys: np.ndarray, *, fixed: int = 0) -> Verdicts:
    """Drops every row whose key another row has; the first other such row is its partner."""
    partner = components(keys)
    rows = np.arange(len(keys))
    again = np.flatnonzero(partner < rows)[::-1]
    partner[partner == rows] = -1
    partner[partner[again]] = again  # of several copies of a row the first one, which is written last
    partner[:fixed] = -1
    return _verdicts(partner)


def components(keys: np.ndarray) -> np.ndarray:
    """For every row the first row with its key, shape (rows, 2), uint64: (rows,) int64.

    Rows are sorted by the upper bits of half a key with the row's number below them: values are sorted several times
    faster than places by values. Where all 128 bits tell rows apart that these bits do not, they are sorted again.
    """
    bits = row_bits(len(keys))
    entries = np.sort(keys[:, 0] >> bits << bits | np.arange(len(keys), dtype=np.uint64))
    order = (entries & low_bits(bits)).astype(np.int64)
    new = changes(entries >> bits)
    first = np.empty(len(keys), np.int64)
    first[order] = order[new].repeat(np.diff(np.flatnonzero(new), append=len(order)))
    apart = keys.take(first, axis=0) != keys
    if apart.any():
        mixed = np.flatnonzero(np.isin(first, first[apart.any(axis=1)]))
        first[mixed] = mixed[copies(keys[mixed])]
    return first


def _verdicts(partner: np.ndarray) -> Verdicts:
    return Verdicts(partner, (partner >= 0).astype(np.float32))
