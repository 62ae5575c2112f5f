"""Near duplicates: what is similar to what, exactly, one file per measure."""

from typing import NamedTuple

import numpy as np


class Verdicts(NamedTuple):
    """For every row the row that it is dropped for, and how similar they are.

    `partner`: position, int64, -1 where the row is kept. `similarity`: float32, 0 where the row is kept. Both (rows,).
    """

    partner: np.ndarray
    similarity: np.ndarray
