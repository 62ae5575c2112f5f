"""Course: what an epoch hands out at which position: samples of one place or of a mixture, or batches of a bucket."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

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

    def before(self, position: int, epoch: int) -> int:
        """Samples before a position of an epoch."""


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

    def before(self, position: int, epoch: int) -> int:
        """Samples before a position of an epoch."""
        return position


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

    def before(self, position: int, epoch: int) -> int:
        """Samples before a position of an epoch."""
        return position


class Bucketed:
    """Batches of pictures of one bucket; a position is one batch.

    A picture is in the bucket whose aspect ratio is nearest to its own, by the logarithm; of two the first. The samples
    of an epoch go into their buckets in its order, each bucket is cut into batches, and those of all are shuffled.

    Args:
        course: the samples.
        rows: of each place.
        sizes: (width, height) of each bucket.
        batch: pictures of a batch.
        remainder: "keep" leaves a smaller batch of each bucket, "drop" none, "repeat" fills it from the bucket's first.
        seed: of the order of batches.
        shuffle: as of `hfds.stream`.
    """

    def __init__(
        self, course: Course, rows: Sequence[Rows], sizes: Sequence[Size], batch: int, remainder: str, seed: int,
        shuffle: str | None,
    ):  # fmt: skip
        self.course, self.sizes, self.batch, self.remainder = course, tuple(sizes), batch, remainder
        self._seed, self._shuffle = seed, shuffle
        edges, ranked = _edges(self.sizes)
        aspects = (np.log(one.column("width") / one.column("height")) for one in rows)
        self.buckets = [ranked[np.searchsorted(edges, aspect)].astype(np.int16) for aspect in aspects]
        self._cut: tuple[int, _Cut] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cut": None}

    def _of(self, epoch: int) -> "_Cut":
        """How an epoch is cut, which is kept until the next one."""
        if self._cut is None or self._cut[0] != epoch:
            some = self.course.at(np.arange(self.course.length(epoch)), epoch)
            bucket = np.empty(len(some.rows), np.int16)
            for place, own in enumerate(self.buckets):
                mine = some.places == place
                bucket[mine] = own[some.rows[mine]]
            self._cut = epoch, _Cut.of(bucket, len(self.sizes), self.batch, self.remainder)
        return self._cut[1]

    def length(self, epoch: int) -> int:
        """Batches of an epoch.

        Raises:
            ConfigError: it has none.
        """
        if not (length := int(self._of(epoch).ends[-1])):
            raise ConfigError(
                f"no bucket has the {self.batch} pictures of a batch: ask for a smaller one, or keep the remainder"
            )
        return length

    def dropped(self, epoch: int) -> int:
        """Samples of an epoch that are in no batch."""
        return int((self._of(epoch).counts % self.batch).sum()) if self.remainder == "drop" else 0

    def before(self, position: int, epoch: int) -> int:
        """Samples in the batches before a position."""
        cut, order = self._of(epoch), order_of(self.length(epoch), self._seed, self._shuffle)
        _, _, first, n = cut.batches(order.at(np.arange(position), epoch), self.batch)
        return int(np.minimum(self.batch, n - first).sum())

    def at(self, positions: np.ndarray, epoch: int) -> Some:
        """The batch at a position, which is the only one of `positions`."""
        cut, order = self._of(epoch), order_of(self.length(epoch), self._seed, self._shuffle)
        ((bucket,), (start,), (first,), (n,)) = cut.batches(order.at(positions, epoch), self.batch)
        inside = np.arange(first, first + self.batch)
        again = int((inside >= n).sum()) if self.remainder == "repeat" else 0
        inside = inside % n if again else inside[inside < n]
        some = self.course.at(cut.positions[start + inside], epoch)
        return some._replace(size=self.sizes[bucket], again=again)


class _Cut(NamedTuple):
    """The positions of an epoch by bucket, how many each has, and the numbers of the batches behind each bucket's."""

    positions: np.ndarray
    counts: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, bucket: np.ndarray, buckets: int, batch: int, remainder: str) -> "_Cut":
        """The epoch whose samples are in these buckets."""
        counts = np.bincount(bucket, minlength=buckets)
        whole = counts // batch if remainder == "drop" else -(-counts // batch)
        return cls(np.argsort(bucket, kind="stable"), counts, np.cumsum(whole))

    def batches(self, numbers: np.ndarray, batch: int) -> tuple[np.ndarray, ...]:
        """Of some batches: the bucket, where it starts, the batch's first sample in it, and how many the bucket has."""
        bucket = np.searchsorted(self.ends, numbers, "right")
        starts, firsts = (np.concatenate([[0], ends[:-1]]) for ends in (np.cumsum(self.counts), self.ends))
        return bucket, starts[bucket], (numbers - firsts[bucket]) * batch, self.counts[bucket]


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
