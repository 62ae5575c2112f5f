"""Equal values, by 128-bit hashes of them. Rows come in the order of priority, as in the other measures."""

import numpy as np

from hfds.record import begins
from processors.duplicates import Verdicts


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
    order = np.lexsort((keys[:, 0], keys[:, 1]))  # stable
    new = begins(keys, order)
    first = components(keys)
    second = np.full(len(keys), -1)
    follows = np.flatnonzero(~new)
    follows = follows[new[follows - 1]]  # the second of each group
    second[order[follows - 1]] = order[follows]
    rows = np.arange(len(keys))
    partner = np.where(first < rows, first, second)
    return _verdicts(np.where(rows < fixed, -1, partner))


def components(keys: np.ndarray) -> np.ndarray:
    """For every row the first row with its key: (rows,) int64."""
    order = np.lexsort((keys[:, 0], keys[:, 1]))
    new = begins(keys, order)
    first = np.empty(len(keys), np.int64)
    first[order] = order[new][np.cumsum(new) - 1] if len(order) else order
    return first


def _verdicts(partner: np.ndarray) -> Verdicts:
    return Verdicts(partner, (partner >= 0).astype(np.float32))
