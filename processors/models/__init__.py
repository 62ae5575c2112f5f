"""Checkpoints that score pictures, one file per family: each has a function that loads one and gives a Scorer."""

from typing import Any, Protocol

import numpy as np


class Scorer(Protocol):
    """A checkpoint on a device."""

    def scores(self, shown: list[Any]) -> np.ndarray:
        """One number for each of `shown`: shape (len(shown),), float32."""
        ...
