"""Course: what an epoch hands out at which position: samples of one place or of a mixture, or batches of a bucket."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from hfds.errors import ConfigError
from hfds.order import Blocks, InOrder, Mixed, Order, Shuffled
from hfds.streaming.decoding import Size
from hfds.streaming.rows import Rows

SHUFFLES = ("full", "blocks", None)
REMAINDERS = ("keep", "drop", "repeat")


class Some(NamedTuple):
    """What stands at some positions: the number of each place, the row there, the size of their bucket, and how many of
    the rows fill it up for the second time."""

    places: np.ndarray
    rows: np.ndarray
    size: Size | None = None
    again: int = 0


class Course(Protocol):
    """Rows by position."""

    def length(self, epoch: int) -> int:
        """Positions of an epoch."""

    def at(self, positions: np.ndarray, epoch: int) -> Some:
        """What stands at some positions of an epoch."""


def order_of(n: int, seed: int, shuffle: str | None) -> Order:
    """The order of `n` rows or batches."""
    if shuffle == "full":
        return Shuffled(n, seed)
    return InOrder(n) if shuffle is None else Blocks(n, seed)


@dataclass(frozen=True)
class Single:
    """The rows of one place."""

    order: Order

    def length(self, epoch: int) -> int:
        """Positions of an epoch."""
        return self.order.n

    def at(self, positions: np.ndarray, epoch: int) -> Some:
        """What stands at some positions of an epoch."""
        rows = self.order.at(positions, epoch, 0)
        return Some(np.zeros(len(rows), np.int64), rows)


@dataclass(frozen=True)
class Mixture:
    """The rows of several places by weights."""

    mixed: Mixed

    def length(self, epoch: int) -> int:
        """Positions of an epoch."""
        return self.mixed.length(epoch)

    def at(self, positions: np.ndarray, epoch: int) -> Some:
        """What stands at some positions of an epoch."""
        return Some(*self.mixed.at(positions, epoch))


class Bucketed:
    """Batches of pictures of one bucket; a position is one batch.

    A picture is in the bucket whose aspect ratio is nearest to its own, by the logarithm; of two the first. Each bucket
    is shuffled for itself and cut into batches, and the batches of all buckets are shuffled.

    Args:
        rows: of one place.
        sizes: (width, height) of each bucket.
        batch: pictures of a batch.
        remainder: "keep" leaves a smaller batch of each bucket, "drop" none, "repeat" fills it from the bucket's first.
        seed: of the order.
        shuffle: as of `hfds.stream`.
    """

    def __init__(self, rows: Rows, sizes: Sequence[Size], batch: int, remainder: str, seed: int, shuffle: str | None):
        self.sizes, self.batch, self.remainder = tuple(sizes), batch, remainder
        own = np.log(rows.column("width") / rows.column("height"))
        edges, ranked = _edges(self.sizes)
        bucket = ranked[np.searchsorted(edges, own)]
        members = np.argsort(bucket, kind="stable")
        counts = np.bincount(bucket, minlength=len(sizes))
        self.members = np.split(members, np.cumsum(counts)[:-1])
        whole = counts // batch if remainder == "drop" else -(-counts // batch)
        self.ends = np.cumsum(whole)
        self.dropped = int((counts % batch).sum()) if remainder == "drop" else 0
        self.orders = [order_of(len(one), seed + number, shuffle) for number, one in enumerate(self.members)]
        if not self.ends[-1]:
            raise ConfigError(
                f"no bucket has the {batch} pictures of a batch: ask for a smaller one, or keep the remainder"
            )
        self.batches = order_of(int(self.ends[-1]), seed, shuffle)

    def length(self, epoch: int) -> int:
        """Batches of an epoch."""
        return self.batches.n

    def at(self, positions: np.ndarray, epoch: int) -> Some:
        """The batch at a position, which is the only one of `positions`."""
        (number,) = self.batches.at(positions, epoch).tolist()
        bucket = int(np.searchsorted(self.ends, number, "right"))
        first = (number - (int(self.ends[bucket - 1]) if bucket else 0)) * self.batch
        n = len(self.members[bucket])
        inside = np.arange(first, first + self.batch)
        again = int((inside >= n).sum()) if self.remainder == "repeat" else 0
        inside = inside % n if again else inside[inside < n]
        rows = self.members[bucket][self.orders[bucket].at(inside, epoch)]
        return Some(np.zeros(len(rows), np.int64), rows, self.sizes[bucket], again)


def _edges(sizes: Sequence[Size]) -> tuple[np.ndarray, np.ndarray]:
    """Between which logarithms of an aspect ratio each bucket is nearest, and the buckets in that order."""
    aspects = np.log([width / height for width, height in sizes])
    _, first = np.unique(aspects, return_index=True)
    return (aspects[first][1:] + aspects[first][:-1]) / 2, first


@dataclass(frozen=True)
class Share:
    """What one of several ranks takes of an epoch: in every step each takes the next `batch` positions after the rank
    before it.

    The last step, for which too few are left: "keep" shares them evenly, so that ranks differ by one at most and some
    may have none; "drop" leaves them out; "repeat" fills it from the epoch's beginning.

    Args:
        n: positions of the epoch.
        start: the first that is still to be taken.
        batch: positions that a rank takes in a step.
        rank: this one, from 0 on.
        ranks: how many there are.
        remainder: see above.
    """

    n: int
    start: int
    batch: int
    rank: int = 0
    ranks: int = 1
    remainder: str = "keep"

    @property
    def whole(self) -> int:
        """Steps in which every rank takes all of its positions."""
        return max(0, self.n - self.start) // (self.batch * self.ranks)

    @property
    def left(self) -> int:
        """Positions behind those."""
        return max(0, self.n - self.start) % (self.batch * self.ranks)

    @property
    def steps(self) -> int:
        """Steps that this rank takes."""
        return self.whole + bool(self._last().size)

    def positions(self, step: int) -> np.ndarray:
        """Those of a step of this rank."""
        if step == self.whole:
            return self._last()
        first = self.start + (step * self.ranks + self.rank) * self.batch
        return np.arange(first, first + self.batch)

    def again(self, step: int) -> int:
        """How many of a step's positions are taken for the second time."""
        if step < self.whole or self.remainder != "repeat":
            return 0
        return min(self.batch, max(0, (self.rank + 1) * self.batch - self.left))

    def after(self, step: int) -> int:
        """The first position to be taken when every rank has taken a step."""
        return min(self.start + (step + 1) * self.ranks * self.batch, self.n)

    def _last(self) -> np.ndarray:
        first = self.start + self.whole * self.ranks * self.batch
        if not self.left or self.remainder == "drop":
            return np.empty(0, np.int64)
        if self.remainder == "repeat":
            return (first + self.rank * self.batch + np.arange(self.batch)) % self.n
        each, more = divmod(self.left, self.ranks)
        first += self.rank * each + min(self.rank, more)
        return np.arange(first, first + each + (self.rank < more))
