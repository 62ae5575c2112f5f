"""Near-duplicate pictures, by how many bits of their 64-bit perceptual hashes differ.

Exact. The bits are cut into `within` + n blocks: two hashes that differ in at most `within` bits agree in n whole
blocks (Manku, Jain and Das Sarma 2007, "Detecting near-duplicates for web crawling"), so every choice of n is a key.

Rows come in the order of priority; the first `fixed` ones are references, which are never dropped. Every hash counts as
it is: pictures of one colour all have the same few, such as 0, and are duplicates of each other. Leave rows out that
shall not be compared.
"""

from itertools import combinations
from math import comb

import numpy as np

from processors.duplicates import Verdicts, greedy
from processors.duplicates.arrays import copies
from processors.duplicates.pairs import Measure, Progress

BITS = 64
MOST = 1 << 26  # keys of all rows, which take 5 GB: above that fewer, shorter ones
PAIRS_PER_KEY = 10  # which take the time of one key


def keep_first(
    hashes: np.ndarray, within: int, *, fixed: int = 0, among: bool = True, progress: Progress | None = None
) -> Verdicts:
    """Drops every row that is like a kept row before it; of these the most similar one, and the first, is its partner.

    Two rows are alike when their hashes, uint64, differ in at most `within` bits, 0..16; their similarity is 1 - the
    number of these bits / 64. Without `among` rows are compared with the fixed ones only. `progress` is called with the
    rows that are done, and with all (without those that are equal).
    """
    return greedy.keep_first(hamming(hashes, within), fixed=fixed, among=among, progress=progress)


def drop_all(hashes: np.ndarray, within: int, *, fixed: int = 0, progress: Progress | None = None) -> Verdicts:
    """Drops every row that is like any other row; of these the most similar one, and the first, is its partner."""
    return greedy.drop_all(hamming(hashes, within), fixed=fixed, progress=progress)


def components(hashes: np.ndarray, within: int, *, progress: Progress | None = None) -> np.ndarray:
    """For every row the first row that it is alike with, directly or through others: (rows,) int64."""
    return greedy.components(hamming(hashes, within), progress=progress)


def hamming(hashes: np.ndarray, within: int) -> Measure:
    """How 64-bit hashes are compared.

    Raises:
        ValueError: `within` is not one of 0..16, or the hashes are not uint64.
    """
    if type(within) is not int or not 0 <= within <= 16:
        raise ValueError(f"within must be a whole number of bits, 0 to 16, got {within!r}")
    if hashes.dtype != np.uint64 or hashes.ndim != 1:
        raise ValueError(f"hashes must be one uint64 for each row, got {hashes.dtype} of shape {hashes.shape}")
    copy_of = copies(hashes[:, None])
    distinct = np.flatnonzero(copy_of == np.arange(len(hashes)))
    mine = hashes[distinct]

    def apart(later: np.ndarray, earlier: np.ndarray) -> np.ndarray:
        bits: np.ndarray = np.bitwise_count(mine[later] ^ mine[earlier])
        return bits

    keys = _keys(mine, within, _blocks(len(mine), within))
    owners = np.tile(np.arange(len(mine), dtype=np.int32), len(keys))
    return Measure(
        copy_of,
        distinct,
        keys.ravel(),
        owners,
        plausible=lambda later, earlier: apart(later, earlier) <= within,
        similarity=lambda later, earlier: 1 - apart(later, earlier) / BITS,
        threshold=1 - within / BITS,
    )


def _blocks(rows: int, within: int) -> int:
    """How many blocks to choose for the least work if bits are random; 0 where comparing all pairs is the least."""

    def work(blocks: int) -> float:
        keys = comb(within + blocks, blocks)
        pairs = keys * rows * rows / 2 / 2 ** (BITS * blocks / (within + blocks) if blocks else 0)
        return pairs + keys * rows * PAIRS_PER_KEY

    return min((n for n in range(5) if comb(within + n, n) * rows <= max(MOST, rows)), key=work)


def _keys(hashes: np.ndarray, within: int, blocks: int) -> np.ndarray:
    """For every choice of `blocks` blocks its number and the bits of these blocks: (choices, rows) uint64.

    They fill the upper bits. What does not fit is left out: then rows share more keys than they need to.
    """
    edges = np.linspace(0, BITS, within + blocks + 1).astype(int).tolist()
    choices = list(combinations(range(within + blocks), blocks))
    made = np.empty((len(choices), len(hashes)), np.uint64)
    for number, choice in enumerate(choices):
        made[number], used = number, (len(choices) - 1).bit_length()
        for block in choice:
            width = edges[block + 1] - edges[block]
            bits = hashes >> np.uint64(edges[block]) & np.uint64((1 << width) - 1)
            fits = min(width, BITS - used)
            made[number] = made[number] << np.uint64(fits) | bits >> np.uint64(width - fits)
            used += fits
        made[number] <<= np.uint64(BITS - used)
    return made
