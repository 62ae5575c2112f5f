"""Comparison: the values of a dataset's rows in the order of their priority, as one thing for every measure."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from datasets.utils import tqdm

from hfds import record
from hfds.errors import ConfigError
from hfds.processor import kept
from processors.duplicates import Verdicts, cosine, exact, hamming, jaccard, joint, minhash
from processors.duplicates.alike import Alike
from processors.duplicates.codes import accelerator
from processors.duplicates.columns import narrow, take
from processors.duplicates.embedded import embedded
from processors.duplicates.minhash import Signed
from processors.duplicates.normal import normalise
from processors.duplicates.pairs import Measure, equal
from processors.duplicates.shingles import Sets, shingles
from processors.duplicates.vectors import BadVector, check, similarities

MEASURES = {"exact": exact, "jaccard": jaccard, "minhash": minhash, "cosine": cosine, "hamming": hamming}
IN_MEMORY = 2 << 30  # bytes of embeddings; more are written to a file and mapped


@dataclass(frozen=True)
class Comparison:
    """Values of rows in the order of their priority, in a form that the measure compares.

    Args:
        values: keys (rows, 2) uint64, `Sets`, `Signed`, vectors (rows, dimensions) float32, or hashes (rows,) uint64.
        limit: similarity from which two rows are alike, or bits in which they may differ.
        journal: where comparing embeddings notes how far it is.
    """

    measure: str
    values: Any
    limit: float | None
    device: str = "cpu"
    journal: Path | None = None

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

    def similarity(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """How similar rows are to others, alike or not: float64. Both are numbers of rows, in the order of values."""
        if self.measure == "exact":
            return np.asarray((self.values[rows] == self.values[others]).all(axis=1), np.float64)
        if self.measure == "hamming":
            bits: np.ndarray = np.bitwise_count(self.values[rows] ^ self.values[others])
            return 1 - bits / hamming.BITS
        if self.measure == "cosine":
            return similarities(self.values, rows, others, -np.inf).astype(np.float64)
        sets = self.values if isinstance(self.values, Sets) else self.values.sets
        return jaccard.in_common(sets)(rows, others)

    def measured(self) -> Measure:
        """The same as what finds pairs."""
        make: dict[str, Callable[..., Measure]] = {
            "exact": lambda values, _: equal(values),
            "jaccard": jaccard.jaccard,
            "minhash": minhash.minhash,
            "hamming": hamming.hamming,
            "cosine": partial(embedded, device=self.device),
        }
        return make[self.measure](self.values, self.limit)

    def _by(self, function: str, **more: Any) -> Any:
        call = getattr(MEASURES[self.measure], function)
        if self.measure == "exact":
            return call(self.values, **more)
        with _bar() as bar:
            if self.measure == "cosine":
                more |= {"device": self.device, "journal": self.journal, "progress": bar.update}
                bar.total = len(self.values)
            else:
                more["progress"] = partial(_reach, bar)
            return call(self.values, self.limit, **more)


@dataclass(frozen=True)
class Joined:
    """Several comparisons of the same rows as one: rows are alike in "either" or in "both".

    Args:
        parts: each of those rows that have a value.
        masks: which these are: (rows,) bool each.
    """

    parts: list[Comparison]
    masks: list[np.ndarray]
    match: str

    def keep_first(self, fixed: int, among: bool) -> Verdicts:
        """As of a single one; the similarity is the least of "both", and the highest of "either"."""
        with _bar() as bar:
            return joint.keep_first(
                self._measured(), self.match, fixed=fixed, among=among, progress=partial(_reach, bar)
            )

    def drop_all(self) -> Verdicts:
        """As of a single one."""
        with _bar() as bar:
            return joint.drop_all(self._measured(), self.match, progress=partial(_reach, bar))

    def components(self) -> np.ndarray:
        """As of a single one."""
        with _bar() as bar:
            return joint.components(self._measured(), self.match, progress=partial(_reach, bar))

    def similarity(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """The least of the similarities, or with "either" the highest of those of what both rows have, 0 of nothing."""
        found = np.full((len(self.parts), len(rows)), np.nan)
        for held, part, mask in zip(found, self.parts, self.masks, strict=True):
            number, there = mask.cumsum() - 1, mask[rows] & mask[others]
            held[there] = part.similarity(number[rows[there]], number[others[there]])
        made: np.ndarray = np.nan_to_num((np.fmax if self.match == "either" else np.fmin).reduce(found))
        return made

    def _measured(self) -> list[Measure]:
        return [
            part.measured().over(np.flatnonzero(mask), len(mask))
            for part, mask in zip(self.parts, self.masks, strict=True)
        ]


def _bar() -> Any:
    return tqdm(desc="Comparing", unit=" rows", leave=False, delay=1)


def _reach(bar: Any, done: int, rows: int) -> None:
    bar.total = rows
    bar.update(done - bar.n)


def present(rows: Dataset, alike: Alike) -> np.ndarray:
    """Which rows are kept and have a value that is not null or blank: (rows,) bool."""
    found = [np.zeros(0, bool)]
    for table in narrow(rows, alike.columns):
        there = kept(table)
        for name in alike.columns:
            column = table[name].combine_chunks()
            there = pc.and_(there, column.is_valid())
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                there = pc.and_(there, pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(column), ""), False))
        found.append(np.asarray(there))
    return np.concatenate(found)


def compare(
    rows: Dataset, alike: Alike, order: np.ndarray, device: str | None = None, journal: Path | None = None
) -> Comparison:
    """The values of the rows at the positions in `order`, all of which are `present`, in that order.

    `prompt` is compared normalised when it is compared exactly, every other column as it is. Without a `device` cosines
    are computed on an accelerator where there is one.

    Raises:
        ConfigError: embeddings have different numbers of dimensions, or one is none; the row is named.
    """
    measure = alike.measure(rows.features)
    assert measure is not None
    positions = np.sort(order)
    back = None if np.array_equal(positions, order) else np.searchsorted(positions, order)
    parts = _parts(rows, alike, measure, positions)
    if measure == "cosine":
        device = device or accelerator()
        try:
            values: Any = _vectors(parts, len(order), back, journal)
            check(values, alike.above or 1)
        except BadVector as bad:
            (id_,) = take(rows, "id", order[bad.row : bad.row + 1]).to_pylist()
            raise ConfigError(f"column {alike.of!r} of row {id_!r} {bad.problem}") from None
        except ValueError as error:
            raise ConfigError(f"column {alike.of!r}: {error}") from None
    else:
        values = _joined(list(parts), measure)
        if back is not None:
            values = values.take(back) if isinstance(values, (Sets, Signed)) else values[back]
    return Comparison(measure, values, alike.limit, device or "cpu", journal)


def _parts(rows: Dataset, alike: Alike, measure: str, positions: np.ndarray) -> Iterator[Any]:
    """The values at ascending `positions`, batch by batch."""
    at = 0
    for table in narrow(rows, alike.columns):
        low, high = np.searchsorted(positions, [at, at + len(table)])
        if high > low:
            yield _values(table.take(pa.array(positions[low:high] - at)), alike, measure)
        at += len(table)


def _values(table: pa.Table, alike: Alike, measure: str) -> Any:
    column = table[alike.of].combine_chunks()
    if measure == "exact":
        texts = column.cast(pa.string())
        return record.hash_texts(normalise(texts) if alike.of == "prompt" else texts)
    if measure == "jaccard":
        return shingles(column, alike.run)
    if measure == "hamming":
        return np.asarray(column)
    widths = pc.unique(pc.list_value_length(column)).to_pylist()
    numbers = np.asarray(column.flatten()).reshape(len(column), _one(widths))
    if measure == "minhash":
        return Signed(numbers, shingles(table[alike.columns[1]].combine_chunks(), alike.run))
    return numbers.astype(np.float32, copy=False)


def _one(widths: Iterable[int]) -> int:
    """The one number of dimensions that all vectors have."""
    least, most = min(widths), max(widths)
    if least != most:
        raise ValueError(f"vectors have {least} and {most} dimensions")
    return least


def _vectors(parts: Iterator[np.ndarray], rows: int, back: np.ndarray | None, journal: Path | None) -> np.ndarray:
    """All vectors, each at its place: in memory, or in a file beside the journal where there are many.

    The file has no name any more when this returns: it goes with the array.
    """
    made = np.zeros((0, 1), np.float32)
    place = np.arange(rows) if back is None else np.argsort(back)
    at = 0
    for part in parts:
        if at == 0:
            made = _room((rows, part.shape[1]), journal)
        _one((made.shape[1], part.shape[1]))
        made[place[at : at + len(part)]] = part
        at += len(part)
    return made


def _room(shape: tuple[int, int], journal: Path | None) -> np.ndarray:
    if journal is None or shape[0] * shape[1] * 4 <= IN_MEMORY:
        return np.empty(shape, np.float32)
    journal.parent.mkdir(parents=True, exist_ok=True)
    file = journal.with_suffix(".vectors")
    made = np.memmap(file, np.float32, "w+", shape=shape)
    file.unlink()
    return made


def _joined(parts: list[Any], measure: str) -> Any:
    if measure == "jaccard":
        return _sets(parts)
    if measure == "minhash":
        signatures = [part.signatures for part in parts] or [np.zeros((0, 1), np.uint32)]
        _one({part.shape[1] for part in signatures})
        return Signed(np.concatenate(signatures), _sets([part.sets for part in parts]))
    empty = np.zeros((0, 2) if measure == "exact" else 0, np.uint64)
    return np.concatenate([empty, *parts])


def _sets(parts: list[Sets]) -> Sets:
    sizes = [np.zeros(1, np.int64), *(part.sizes for part in parts)]
    return Sets(
        np.concatenate([np.zeros(0, np.uint64), *(part.hashes for part in parts)]), np.concatenate(sizes).cumsum()
    )
