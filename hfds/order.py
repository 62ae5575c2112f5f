"""Order: which row stands at which position of an epoch, computed from (seed, epoch) for the positions asked for only.

The permutation is an alternating Feistel network over the smallest power of two that holds all rows, walked on until it
falls below their number (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002). Nothing of the size
of the rows is ever held, so that beginning in the middle of ten million costs what beginning at the first one does.
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np

ROUNDS = 8
PIECE = 1 << 16  # positions that are worked on at once: they stay in the processor's cache
_FIRST, _SECOND, _TWEAK = (np.uint64(odd) for odd in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53, 0x9E3779B97F4A7C15))


class Order(Protocol):
    """A permutation of `n` rows for every epoch."""

    @property
    def n(self) -> int:
        """How many rows there are."""

    def at(self, positions: np.ndarray, *epoch: int) -> np.ndarray:
        """The rows at some positions of an epoch, int64; an epoch is a number, or several."""


@dataclass(frozen=True)
class InOrder:
    """The rows as they lie, in every epoch."""

    n: int

    def at(self, positions: np.ndarray, *epoch: int) -> np.ndarray:
        """The rows at some positions, int64."""
        return np.asarray(positions, np.int64)


@dataclass(frozen=True)
class Shuffled:
    """All rows, each equally likely anywhere."""

    n: int
    seed: int

    def at(self, positions: np.ndarray, *epoch: int) -> np.ndarray:
        """The rows at some positions of an epoch, int64."""
        return permuted(positions, self.n, _keys(self.seed, "rows", *epoch))


@dataclass(frozen=True)
class Blocks:
    """Runs of `block` neighbouring rows in any order, and inside of every `window` of those positions all rows mixed.

    For places where many short reads are slow: whoever reads a window needs `window` whole runs of neighbours, or one
    more where the last and shorter run lies before it. A run may come anywhere; its rows come within a window, or two
    where an edge cuts it.
    """

    n: int
    seed: int
    block: int = 32
    window: int = 16

    def at(self, positions: np.ndarray, *epoch: int) -> np.ndarray:
        """The rows at some positions of an epoch, int64."""
        positions = np.asarray(positions, np.int64)
        mixed = self._inside(positions, _keys(self.seed, "windows", *epoch))
        full, rest = divmod(self.n, self.block)
        keys = _keys(self.seed, "blocks", *epoch)
        if not full:
            return mixed
        place = int(keys[0]) % (full + 1) * self.block  # where the run that is shorter begins
        behind = mixed >= place + rest
        whole = mixed - rest * behind
        rows = permuted(whole // self.block % full, full, keys) * self.block + whole % self.block
        short = (mixed >= place) & ~behind
        found: np.ndarray = np.where(short, full * self.block + mixed - place, rows)
        return found

    def _inside(self, positions: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Positions, each changed for another one of its window."""
        wide = self.block * self.window
        number = positions // wide
        last = number == self.n // wide  # shorter than the others
        found = np.empty_like(positions)
        for chosen, size in ((~last, wide), (last, self.n % wide)):
            at = number[chosen]
            found[chosen] = at * wide + permuted(positions[chosen] - at * wide, size, keys, at)
        return found


def permuted(positions: np.ndarray, n: int, keys: np.ndarray, tweak: np.ndarray | None = None) -> np.ndarray:
    """What a permutation of `n` has at some positions, int64.

    Args:
        positions: numbers below `n`.
        n: how many there are.
        keys: eight numbers that choose the permutation, uint64.
        tweak: chooses another one for each position.
    """
    positions = np.asarray(positions, np.int64)
    found = np.empty(len(positions), np.int64)
    bits = max(1, (n - 1).bit_length())
    for start in range(0, len(positions), PIECE):
        values = positions[start : start + PIECE].astype(np.uint64)
        salt = np.zeros(len(values), np.uint64)
        if tweak is not None:
            salt = (tweak[start : start + PIECE].astype(np.uint64) + np.uint64(1)) * _TWEAK
        values = _network(values, bits, keys, salt)
        outside = np.flatnonzero(values >= n)
        while len(outside):
            values[outside] = _network(values[outside], bits, keys, salt[outside])
            outside = outside[values[outside] >= n]
        found[start : start + PIECE] = values
    return found


def _network(values: np.ndarray, bits: int, keys: np.ndarray, salt: np.ndarray) -> np.ndarray:
    low = np.uint64(bits - bits // 2)
    masks = [(np.uint64(1) << count) - np.uint64(1) for count in (low, np.uint64(bits // 2))]
    right, left = values & masks[0], values >> low
    for number, key in enumerate(keys):
        if number % 2:
            left = left ^ _hashed(right, key, salt) & masks[1]
        else:
            right = right ^ _hashed(left, key, salt) & masks[0]
    joined: np.ndarray = left << low | right
    return joined


def _hashed(values: np.ndarray, key: np.uint64, salt: np.ndarray) -> np.ndarray:
    """The finalizer of MurmurHash3, of 64 bits."""
    mixed: np.ndarray = (values + key) ^ salt
    mixed ^= mixed >> np.uint64(33)
    mixed *= _FIRST
    mixed ^= mixed >> np.uint64(33)
    mixed *= _SECOND
    mixed ^= mixed >> np.uint64(33)
    return mixed


def _keys(*parts: int | str) -> np.ndarray:
    """Numbers that are the same for equal parts on every machine, and unlike for others."""
    made = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8 * ROUNDS).digest()
    return np.frombuffer(made, "<u8").astype(np.uint64)


@dataclass(frozen=True)
class Mixed:
    """Several orders in one, by weights: in every `CYCLE` positions each has its share, to the place, at random places.

    An order that has come to its end begins its next round, with another permutation. `until` says when the epoch
    ends: "first", before any row would come a second time, or "all", as soon as every row has come.
    """

    CYCLE = 1000

    orders: tuple[Order, ...]
    weights: tuple[float, ...]
    seed: int
    until: str = "first"

    @property
    def shares(self) -> np.ndarray:
        """Positions of a cycle that each order has: of the largest remainders, and at least one."""
        wanted = np.asarray(self.weights, float) / sum(self.weights) * self.CYCLE
        counts = np.maximum(np.floor(wanted), 1).astype(np.int64)
        while counts.sum() > self.CYCLE:  # where many weights are tiny
            counts[np.argmax(counts)] -= 1
        for number in np.argsort(counts - wanted, kind="stable")[: self.CYCLE - counts.sum()]:
            counts[number] += 1
        return counts

    def length(self, epoch: int) -> int:
        """Positions of an epoch."""
        shares = self.shares
        ends = [self._reaches(number, order.n, int(shares[number]), epoch) for number, order in enumerate(self.orders)]
        return min(at for at, _ in ends) if self.until == "first" else max(at for _, at in ends)

    def _reaches(self, number: int, n: int, share: int, epoch: int) -> tuple[int, int]:
        """The position at which an order would begin its second round, and the one behind its last row."""
        found = []
        for count in (n, n - 1):
            cycle, left = divmod(count, share)
            which, turn = self._cycles(np.array([cycle]), epoch)
            found.append(cycle * self.CYCLE + int(np.flatnonzero((which[0] == number) & (turn[0] == left))[0]))
        return found[0], found[1] + 1

    def _cycles(self, cycles: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Whose turn it is at each position of some cycles, and how often it was its turn in that cycle before: both of
        shape (cycles, CYCLE)."""
        shape, keys = (len(cycles), self.CYCLE), _keys(self.seed, "mixture", epoch)
        positions = np.tile(np.arange(self.CYCLE), len(cycles))
        places = permuted(positions, self.CYCLE, keys, np.repeat(cycles, self.CYCLE)).reshape(shape)
        which = np.searchsorted(np.cumsum(self.shares), places, "right")
        turn = np.empty(shape, np.int64)
        for number in range(len(self.orders)):
            mine = which == number
            turn[mine] = (np.cumsum(mine, axis=1) - 1)[mine]
        return which, turn

    def at(self, positions: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The number of the order, and the row of it, at each of some positions of an epoch."""
        positions = np.asarray(positions, np.int64)
        pieces = [self._some(positions[at : at + PIECE], epoch) for at in range(0, max(1, len(positions)), PIECE)]
        which, counted = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        rows = np.empty_like(positions)
        for number, order in enumerate(self.orders):
            mine = which == number
            for turn in np.unique(counted[mine] // order.n).tolist():
                chosen = mine & (counted // order.n == turn)
                rows[chosen] = order.at(counted[chosen] - turn * order.n, epoch, turn)
        return which, rows

    def _some(self, positions: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The number of the order at each position, and how often it was its turn in the epoch before."""
        cycles, of = np.unique(positions // self.CYCLE, return_inverse=True)
        whose, turn = self._cycles(cycles, epoch)
        inside = positions % self.CYCLE
        which = whose[of, inside]
        return which, cycles[of] * self.shares[which] + turn[of, inside]
