"""Comparison: the values of a dataset's column, and how two of them are compared, as one thing for every measure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from hfds import record
from hfds.processor import BATCH, kept
from processors.duplicates import Verdicts, cosine, exact, hamming, jaccard
from processors.duplicates.shingles import Sets, shingles

MEASURES = {"exact": exact, "jaccard": jaccard, "cosine": cosine, "hamming": hamming}


@dataclass(frozen=True)
class Comparison:
    """Values of the rows at `positions` (int64, ascending), in a form that the measure compares.

    Args:
        values: keys (rows, 2) uint64, `Sets`, vectors (rows, dimensions) float32, or hashes (rows,) uint64.
        limit: similarity from which two rows are alike, or bits in which they may differ.
    """

    measure: str
    positions: np.ndarray
    values: Any
    limit: float | None
    device: str = "cpu"

    def ordered(self, order: np.ndarray) -> "Comparison":
        """The same with the rows in this order, which is that of their priority."""
        values = self.values.take(order) if isinstance(self.values, Sets) else self.values[order]
        return Comparison(self.measure, self.positions[order], values, self.limit, self.device)

    def keep_first(self, fixed: int, among: bool) -> Verdicts:
        """Drops every row that is like a kept one before it."""
        verdicts: Verdicts = self._by("keep_first", fixed=fixed, among=among)
        return verdicts

    def drop_all(self) -> Verdicts:
        """Drops every row that is like any other one."""
        verdicts: Verdicts = self._by("drop_all")
        return verdicts

    def components(self) -> np.ndarray:
        """For every row the first one that it is like, directly or through others: (rows,) int64."""
        first: np.ndarray = self._by("components")
        return first

    def _by(self, function: str, **more: Any) -> Any:
        limit = () if self.measure == "exact" else (self.limit,)
        if self.measure == "cosine":
            more["device"] = self.device
        return getattr(MEASURES[self.measure], function)(self.values, *limit, **more)


def measure_of(feature: Any, near: bool) -> str | None:
    """How a column with this feature is compared; None where it cannot be.

    Args:
        near: whether rows are looked for that are alike, or only those that are equal.
    """
    kind = getattr(feature, "dtype", None)
    if kind in ("string", "large_string", "null"):
        return "jaccard" if near else "exact"
    if kind == "uint64":
        return "hamming" if near else "exact"
    inner = getattr(getattr(feature, "feature", None), "dtype", None)
    return "cosine" if near and inner in ("float16", "float32") else None


def compare(rows: Dataset, of: str, measure: str, limit: float | None, words: int, device: str) -> Comparison:
    """The column `of` of the rows that are kept and have a value that is not null or blank.

    `prompt` is compared normalised when it is compared exactly, every other column as it is.

    Raises:
        ValueError: embeddings have different numbers of dimensions.
    """
    positions, values, at = [], [], 0
    narrow = rows.select_columns([name for name in (of, "dropped") if name in rows.column_names])
    for table in narrow.with_format("arrow").iter(BATCH):
        column = table[of].combine_chunks()
        there = pc.and_(kept(table), column.is_valid())
        if measure in ("exact", "jaccard"):
            column = column.cast(pa.string())
            column = normalise(column) if measure == "exact" and of == "prompt" else column
            there = pc.and_(there, pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(column), ""), False))
        positions.append(np.flatnonzero(np.asarray(there)) + at)
        values.append(_values(column.filter(there), measure, words))
        at += len(table)
    return Comparison(
        measure, np.concatenate([np.zeros(0, np.int64), *positions]), _joined(values, measure), limit, device
    )


def normalise(texts: pa.Array) -> pa.Array:
    """Texts as they are compared: NFKC, lower case, every run of other than letters, marks and digits one blank.

    A text of nothing but such characters keeps them, so that two different emoji are not the same prompt.
    """
    folded = pc.utf8_lower(pc.utf8_normalize(texts, form="NFKC"))
    words = pc.utf8_trim_whitespace(pc.replace_substring_regex(folded, r"[^\p{L}\p{M}\p{N}]+", " "))
    return pc.if_else(pc.equal(words, ""), pc.utf8_trim_whitespace(folded), words)


def _values(column: pa.Array, measure: str, words: int) -> Any:
    if measure == "exact":
        return record.hash_texts(column)
    if measure == "jaccard":
        return shingles(column, words)
    if measure == "hamming":
        return np.asarray(column)
    widths = pc.unique(pc.list_value_length(column)).to_pylist()
    return np.asarray(column.flatten(), np.float32).reshape(len(column), _one(widths))


def _one(widths: Iterable[int]) -> int:
    """The one number of dimensions that all vectors have."""
    least, most = min(widths, default=1), max(widths, default=1)
    if least != most:
        raise ValueError(f"vectors have {least} and {most} dimensions")
    return least


def _joined(values: list[Any], measure: str) -> Any:
    if measure == "jaccard":
        sizes = [np.zeros(1, np.int64), *(part.sizes for part in values)]
        hashes = np.concatenate([np.zeros(0, np.uint64), *(part.hashes for part in values)])
        return Sets(hashes, np.concatenate(sizes).cumsum())
    filled = [part for part in values if len(part)]
    if measure == "cosine":
        _one({part.shape[1] for part in filled})
    empty = {
        "exact": np.zeros((0, 2), np.uint64),
        "hamming": np.zeros(0, np.uint64),
        "cosine": np.zeros((0, 1), np.float32),
    }
    return np.concatenate(filled) if filled else empty[measure]
