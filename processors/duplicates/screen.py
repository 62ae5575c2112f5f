"""Screen: which vectors are similar to which, as if all pairs were computed exactly, at the speed of their codes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from processors.duplicates.codes import SLACK, Coded, Coder, Tuning, filled, summed_in_float32
from processors.duplicates.vectors import similarities

GROUP = 256  # rows that are multiplied in float64 at once
STRETCH = 256  # columns whose highest product is looked at first; divides SHAPE
LISTED = 4_096  # stretches whose candidates are listed at once
MANY = 4_096  # candidates that are checked one by one in any case
SHARE = 256  # one candidate in so many pairs: as fast to multiply all of them in float64 as to check each

Listed = tuple[np.ndarray, np.ndarray]  # positions of rows and of columns
NOBODY = np.empty(0, np.int64)

# Given positions of rows and of columns: true where they are not to be compared, as np.equal for a row with itself.
Apart = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Pairs(NamedTuple):
    """Positions of rows and of columns that are similar, and how much (float64): pairs at or above the threshold."""

    rows: np.ndarray
    columns: np.ndarray
    similarity: np.ndarray

    def sorted(self) -> "Pairs":
        """By row; for each row the most similar column in float32 first, of those with the smallest position."""
        similarity = self.similarity.astype(np.float32)
        order = np.lexsort((self.columns, -similarity, self.rows))
        return Pairs(self.rows[order], self.columns[order], similarity[order])


class Screen:
    """Compares codes of `vectors`, and checks by the vectors themselves whatever may be similar.

    `positions` are those of all vectors that will be compared; a sample of them decides about the kind of codes.
    """

    def __init__(
        self, vectors: np.ndarray, positions: np.ndarray, threshold: float, device: str, tuning: Tuning | None = None
    ):
        self.threshold = threshold
        self.tuning = tuning or Tuning.of(device)
        self.coder = coder = Coder(vectors, positions, threshold, device, self.tuning.width)
        sides = filled(self.tuning.rows), filled(max(self.tuning.rows, self.tuning.columns))
        self._room = coder.torch.empty(sides[0] * sides[1], dtype=coder.dtype, device=device)
        # Positive floats are in the order of their bits, which are compared faster, and by numpy too.
        self._compared = {coder.torch.bfloat16: coder.torch.int16}.get(coder.dtype, coder.dtype)

    def nearest(self, rows: Coded, columns: Coded, floors: np.ndarray, apart: Apart | None = None) -> Pairs:
        """For each row the most similar column, of those with the smallest position; rows without any are left out.

        `floors`, shape (rows,), says from which similarity on a row is interested.
        """
        found = self._candidates(rows, columns, floors, apart)
        if found is None:
            found = self._contenders(rows.positions, columns.positions, floors, apart)
        pairs = self._check(*found).sorted()
        best = np.diff(pairs.rows, prepend=-1) != 0
        return Pairs(*(values[best] for values in pairs))

    def close(self, rows: Coded, columns: Coded, apart: Apart, most: int | None = None) -> Pairs | None:
        """All pairs at or above the threshold; None where more than `most` may be.

        Without `most`: where they may be too many to be checked one by one.
        """
        found = self._candidates(rows, columns, np.full(len(rows.positions), self.threshold), apart, most)
        return None if found is None else self._check(*found)

    def _candidates(
        self, rows: Coded, columns: Coded, floors: np.ndarray, apart: Apart | None, most: int | None = None
    ) -> Listed | None:
        """The pairs whose codes do not rule them out; None where they are more than `most`, or too many to check."""
        if not len(rows.positions) or not len(columns.positions):
            return NOBODY, NOBODY
        limits = self._limits(floors - self.coder.band(rows, columns))
        stretches = self._multiply(rows, columns)
        row, stretch = np.nonzero(stretches.amax(dim=2).cpu().numpy() >= limits[:, None])
        left = max(MANY, len(rows.positions) * len(columns.positions) // SHARE) if most is None else most
        found = []
        for part in range(0, len(row), LISTED):
            passing, where = row[part : part + LISTED], stretch[part : part + LISTED]
            at, column = np.nonzero(_fetched(stretches, passing, where) >= limits[passing, None])
            number, column = passing[at], where[at] * STRETCH + column
            there = column < len(columns.positions)  # not filling
            found.append((rows.positions[number[there]], columns.positions[column[there]]))
            left -= len(found[-1][0])
            if left < 0:
                return None
        one, other = _joined(found)
        if apart is None:
            return one, other
        compared = ~apart(one, other)
        return one[compared], other[compared]

    def _multiply(self, rows: Coded, columns: Coded) -> Any:
        """Products of codes as what they are compared as, shape (rows, stretches of columns, STRETCH)."""
        shape = len(rows.codes), len(columns.codes)
        product = self._room[: shape[0] * shape[1]].view(shape)
        with summed_in_float32(self.coder.device):
            self.coder.torch.mm(rows.codes, columns.codes.T, out=product)
        return product.view(self._compared)[: len(rows.positions)].view(len(rows.positions), -1, STRETCH)

    def _limits(self, floors: np.ndarray) -> np.ndarray:
        """Floors as products are rounded, and as what they are compared as."""
        limits: np.ndarray = self.coder.torch.from_numpy(floors).to(self.coder.dtype).view(self._compared).numpy()
        return limits

    def _contenders(self, rows: np.ndarray, columns: np.ndarray, floors: np.ndarray, apart: Apart | None) -> Listed:
        """The pairs that may be the most similar of their rows: by the vectors in float64, so that few are left."""
        torch, found = self.coder.torch, []
        wanted = self.coder.exact(columns)
        for at in range(0, len(rows), GROUP):
            group = rows[at : at + GROUP]
            product = self.coder.exact(group) @ wanted.T
            if apart is not None:
                product[torch.from_numpy(apart(group[:, None], columns[None])).to(product.device)] = -torch.inf
            least = torch.from_numpy(floors[at : at + GROUP]).to(product.device)
            limits = torch.maximum(product.amax(dim=1).clamp(max=1), least) - SLACK
            row, column = (product >= limits[:, None]).nonzero().cpu().numpy().T
            found.append((group[row], columns[column]))
        return _joined(found)

    def _check(self, rows: np.ndarray, columns: np.ndarray) -> Pairs:
        """Those of the pairs that are similar in fact."""
        similarity = similarities(self.coder.vectors, rows, columns, self.threshold)
        there = similarity > -np.inf
        return Pairs(rows[there], columns[there], similarity[there])


def _fetched(stretches: Any, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Some of the stretches, on the host."""
    if stretches.is_cpu:  # the threads of torch take longer to meet than numpy takes for so few
        found: np.ndarray = stretches.numpy()[rows, numbers]
        return found
    return np.asarray(stretches[rows, numbers].cpu())


def _joined(parts: list[Listed]) -> Listed:
    """All pairs in one list."""
    rows, columns = (np.concatenate(side) for side in zip((NOBODY, NOBODY), *parts, strict=True))
    return rows, columns
