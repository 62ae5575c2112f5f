"""Vectors: embeddings checked, those that are equal found, and the one cosine that all decisions are made with."""

import math

import numpy as np
import xxhash

BLOCK = 16_384  # rows read at a time
PAIRS = 2_048  # pairs multiplied at a time: 6 MB each side at 384 dimensions
LENGTH = 0.01  # how far the length of a normalised vector may be from 1; bfloat16 and float16 leave less


def check(vectors: np.ndarray, threshold: float, fixed: int = 0) -> None:
    """Returns when `vectors` can be compared at `threshold`.

    Raises:
        ValueError: they cannot; of rows, the first bad one is named.
    """
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype not in (np.float16, np.float32):
        received = (
            f"{vectors.dtype} of shape {vectors.shape}"
            if isinstance(vectors, np.ndarray)
            else f"a {type(vectors).__name__}"
        )
        raise ValueError(f"vectors must be a float32 or float16 array of shape (rows, dimensions), got {received}")
    if not -1 < threshold <= 1:
        raise ValueError(f"threshold must be a cosine above -1 and not above 1, got {threshold}")
    if not 0 <= fixed <= len(vectors):
        raise ValueError(f"fixed must be a number of the {len(vectors)} rows, got {fixed}")
    for at in range(0, len(vectors), BLOCK):
        block = vectors[at : at + BLOCK].astype(np.float32)
        lengths = np.sqrt(np.einsum("ij,ij->i", block, block))
        bad = np.flatnonzero(~(np.abs(lengths - 1) <= LENGTH))  # as a negation, so that NaN is bad
        if len(bad):
            raise BadVector(at + int(bad[0]), _wrong(block[bad[0]], lengths[bad[0]]))


class BadVector(ValueError):
    """A row that cannot be compared: its number, and what is wrong with it."""

    def __init__(self, row: int, problem: str):
        super().__init__(f"row {row} of the vectors {problem}")
        self.row, self.problem = row, problem


def _wrong(row: np.ndarray, length: float) -> str:
    if np.isnan(row).any():
        return "holds NaN; drop rows without an embedding first"
    if np.isinf(row).any():
        return "holds infinity; drop rows without an embedding first"
    if not row.any():
        return "is zero and has no direction; drop rows without an embedding first"
    return f"has length {length:.4g}, wanted 1; divide every row by its length first"


def hashed(vectors: np.ndarray) -> np.ndarray:
    """A key for each row, the same for rows with the same numbers: xxh3-128 of the bytes, shape (rows, 2), uint64."""
    keys = np.empty((len(vectors), 2), np.uint64)
    for at in range(0, len(vectors), BLOCK):
        block = np.ascontiguousarray(vectors[at : at + BLOCK]) + vectors.dtype.type(0)  # -0.0 is 0.0
        digests = b"".join([xxhash.xxh3_128_digest(row) for row in block])
        keys[at : at + len(block)] = np.frombuffer(digests, np.uint64).reshape(-1, 2)
    return keys


def similarities(vectors: np.ndarray, rows: np.ndarray, others: np.ndarray, threshold: float) -> np.ndarray:
    """The similarity of each row with the other one: float64, -inf where it is below `threshold`.

    It is the dot product of the vectors as they are stored, and 1 where that is more. Which side of `threshold` it is
    on, and what it is as float32, is exact; in float64 it may be off by dimensions * 2**-51.
    """
    found = np.full(len(rows), -np.inf)
    rough = vectors.shape[1] * 2.0**-22  # four times what float32 can lose
    for at in range(0, len(rows), PAIRS):
        one = vectors[rows[at : at + PAIRS]].astype(np.float32, copy=False)
        other = vectors[others[at : at + PAIRS]].astype(np.float32, copy=False)
        near = np.flatnonzero(np.einsum("ij,ij->i", one, other) >= threshold - rough)
        sums = _exact_sums(one[near].astype(np.float64) * other[near], threshold)
        found[at + near] = np.where(sums >= threshold, np.minimum(sums, 1), -np.inf)
    return found


def _exact_sums(products: np.ndarray, threshold: float) -> np.ndarray:
    """The sum of each row, on the right side of `threshold` and of every border between two float32.

    Products of float32 are exact in float64. Where their sum, which depends on the order, is too near to one of these
    to tell the side, it is computed exactly.
    """
    sums: np.ndarray = products.sum(axis=1)
    slack = products.shape[1] * 2.0**-51  # twice what a sum with a total of lengths below 1.03 can lose
    borders = (sums - slack).astype(np.float32) != (sums + slack).astype(np.float32)
    for unsure in np.flatnonzero(borders | (np.abs(sums - threshold) <= slack)):
        sums[unsure] = math.fsum(products[unsure])
    return sums
