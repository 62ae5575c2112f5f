"""Repeat: the same row several times, for several pictures of one prompt."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hfds.explode import Explode

MOST = 10_000


@dataclass(frozen=True)
class Repeat(Explode):
    """Every row `times` times, the row itself included: "x", "x~2", "x~3" ...

    What is made of the rows afterwards by their ids differs, such as the pictures of `Paint`. It stands behind all
    steps that look for duplicates, which would drop what it makes.
    """

    times: int = 2

    @property
    def needs(self) -> tuple[str, ...]:
        """Nothing but the rows."""
        return ("id",)

    def problems(self) -> list[str]:
        if type(self.times) is int and 1 <= self.times <= MOST:
            return []
        return [f"{self.name}: times must be a whole number from 1 to {MOST:,}, got {self.times!r}"]

    def exploded(self, table: pa.Table) -> pa.Table:
        return pa.table({"row": np.repeat(np.arange(len(table)), self.times)})
