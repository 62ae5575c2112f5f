"""MarkDuplicates: rows that say or show the same as another row, each marked with the id of the one that stays.

DiffusionDB and OpenPrompts are one stream: normalised, 99.6 % of one is found in the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Value

from hfds import record
from hfds.errors import ConfigError
from hfds.processor import BATCH, Made, WholeDataset, kept, marked
from processors.duplicates import Verdicts
from processors.duplicates.comparison import Comparison, compare, measure_of, normalise
from processors.parameters import wrong_parameters

KEEP = ("first", "best", "cluster", "none")
NONE = np.iinfo(np.int64).max


def first_of(rows: Dataset, of: str) -> tuple[np.ndarray, np.ndarray]:
    """For every row the position of the first kept row with the same value of `of`, and the hash of that value.

    Both have shape (rows,): int64, and uint64 (the upper half of xxh3-128). Rows that are dropped, and rows whose value
    is null or blank, belong to nobody: `NONE`, and 0. `prompt` is compared normalised, every other column as it is.
    """
    keys = np.zeros((len(rows), 2), np.uint64)
    alive = np.zeros(len(rows), bool)
    at = 0
    for table in (
        rows.select_columns([c for c in (of, "dropped") if c in rows.column_names]).with_format("arrow").iter(BATCH)
    ):
        values = table[of].combine_chunks().cast(pa.string())
        values = normalise(values) if of == "prompt" else values
        there = pc.and_(kept(table), pc.fill_null(pc.not_equal(values, ""), False))
        keys[at : at + len(table)] = record.hash_texts(values)
        alive[at : at + len(table)] = np.asarray(there)
        at += len(table)
    positions = np.flatnonzero(alive)
    order = positions[np.lexsort((positions, keys[positions, 0], keys[positions, 1]))]
    new = record.begins(keys, order)
    first = np.full(len(rows), NONE)
    first[order] = order[new][np.cumsum(new) - 1] if len(order) else order
    return first, np.where(alive, keys[:, 0], 0).astype(np.uint64)


@dataclass(frozen=True)
class MarkDuplicates(WholeDataset):
    """Drops rows that say or show the same as another: reason "duplicate_<of>", with the partner that stays, and how
    similar the two are. Rows in which `of` is null or blank are never duplicates.

    Args:
        of: the column that is compared: texts ("prompt" is compared normalised), 64-bit hashes, or embeddings.
        above: the similarity from which two rows are duplicates. Of texts the Jaccard similarity of their runs of
            `words` words, of embeddings the cosine; both exact, not estimated. None: only equal values are duplicates.
        within: of 64-bit hashes, the number of bits in which duplicates may differ.
        keep: "first" keeps a row unless a kept row before it is like it; "best" the same in the order of `best`;
            "cluster" keeps the first of all rows that are alike directly or through others; "none" keeps no row that
            is like any other, as the image-to-prompt sets were made.
        best: columns of numbers, the highest first, or "source" for the order of the inputs.
        across: "splits" compares rows of "train" with those of all other splits, and drops the former.
        words: of a shingle.
        device: where cosines are computed.
    """

    of: str = "prompt"
    above: float | None = None
    within: int | None = None
    keep: str = "first"
    best: tuple[str, ...] = ()
    across: str | None = None
    words: int = 3
    device: str = "cpu"

    @property
    def needs(self) -> tuple[str, ...]:
        """The ids, to name the partner, what is compared, and what decides which row stays."""
        return ("id", self.of, *self.best, *(("split",) if self.across else ()))

    @property
    def adds(self) -> Features:
        """Marks in `dropped`."""
        return Features({"dropped": record.FEATURES["dropped"]})

    def parameters(self) -> dict[str, Any]:
        """All but the device, on which no decision depends."""
        return {name: value for name, value in super().parameters().items() if name != "device"}

    def problems(self) -> list[str]:
        """What cannot be."""
        found = wrong_parameters(self, {"of": "column", "best": "columns"})
        if self.above is not None and not (type(self.above) in (int, float) and 0 < self.above <= 1):
            found.append(f"{self.name}: above must be a similarity above 0 and at most 1, got {self.above!r}")
        if self.within is not None and not (type(self.within) is int and 0 <= self.within <= 16):
            found.append(f"{self.name}: within must be 0 to 16 bits, got {self.within!r}")
        if self.above is not None and self.within is not None:
            found.append(f"{self.name}: above is for texts and embeddings, within for hashes; give one of them")
        if self.keep not in KEEP:
            found.append(f"{self.name}: keep must be one of {', '.join(KEEP)}, got {self.keep!r}")
        if (self.keep == "best") != bool(self.best):
            found.append(f"{self.name}: keep='best' and the columns in best belong together, got {self.best!r}")
        if self.across not in (None, "splits"):
            found.append(f"{self.name}: across must be None or 'splits', got {self.across!r}")
        if self.across and self.keep in ("cluster", "none"):
            found.append(f"{self.name}: across 'splits' the other splits stay: keep must be 'first' or 'best'")
        if type(self.words) is not int or self.words < 1:
            found.append(f"{self.name}: words must be a whole number from 1, got {self.words!r}")
        return found

    def misfits(self, features: Mapping[str, Any]) -> list[str]:
        """What is compared must be comparable."""
        if self.of not in features or self._measure(features):
            return []
        wanted = {"above": "texts or embeddings", "within": "64-bit hashes (uint64)"}
        given = "above" if self.above is not None else "within" if self.within is not None else ""
        return [f"{self.name}: column {self.of!r} is {features[self.of]}, wanted {wanted.get(given, 'texts')}"]

    def _measure(self, features: Mapping[str, Any]) -> str | None:
        near = self.above is not None or self.within is not None
        measure = measure_of(features[self.of], near)
        return None if measure is None or (self.within is not None) != (measure == "hamming" and near) else measure

    def decide(self, rows: Dataset) -> Made:
        """Compares, and reads the partners' ids."""
        if wrong := self.misfits(rows.features):
            raise ConfigError(*wrong)
        limit = self.above if self.within is None else self.within
        measure = self._measure(rows.features)
        assert measure is not None
        try:
            compared = compare(rows, self.of, measure, limit, self.words, self.device)
            fixed = self._fixed(rows, compared.positions)
            compared = compared.ordered(np.lexsort((*self._priority(rows, compared.positions), ~fixed)))
            verdicts = self._verdicts(compared, int(fixed.sum()))
        except ValueError as error:  # of a vector that is none
            raise ConfigError(f"{self.name}: {self.of}: {error}") from None
        partner, similarity = np.full(len(rows), -1), np.zeros(len(rows), np.float32)
        dropped = np.flatnonzero(verdicts.partner >= 0)
        partner[compared.positions[dropped]] = compared.positions[verdicts.partner[dropped]]
        similarity[compared.positions[dropped]] = verdicts.similarity[dropped]
        return self._marks(rows, partner, similarity)

    def _verdicts(self, compared: Comparison, fixed: int) -> Verdicts:
        if self.keep == "none":
            return compared.drop_all()
        if self.keep == "cluster":
            first = compared.components()
            return Verdicts(np.where(first < np.arange(len(first)), first, -1), np.zeros(len(first), np.float32))
        return compared.keep_first(fixed, among=self.across is None)

    def _fixed(self, rows: Dataset, positions: np.ndarray) -> np.ndarray:
        """Which rows stay whatever they are like: those of other splits than train."""
        if self.across is None:
            return np.zeros(len(positions), bool)
        names, given = given_splits(rows)
        train = names.index("train") if "train" in names else -2
        fixed: np.ndarray = (given[positions] >= 0) & (given[positions] != train)
        return fixed

    def _priority(self, rows: Dataset, positions: np.ndarray) -> list[np.ndarray]:
        """Sort keys, the last one first: positions, then the columns in `best` from the last one on."""
        keys = [positions]
        for name in reversed(self.best):
            values = rows.select_columns([name]).with_format("arrow")[positions][name].combine_chunks()
            if name == "source":
                keys.append(np.asarray(values.dictionary_encode().indices))  # numbered as they come
            else:
                keys.append(-np.asarray(pc.fill_null(values.cast(pa.float64()), -np.inf)))
        return keys

    def _marks(self, rows: Dataset, partner: np.ndarray, similarity: np.ndarray) -> Made:
        wanted = np.unique(partner[partner >= 0])
        partners = take(rows, "id", wanted)
        threshold = next((str(limit) for limit in (self.above, self.within) if limit is not None), None)

        def mark(table: pa.Table, positions: np.ndarray) -> pa.Table:
            doubled = partner[positions] >= 0
            place = pa.array(np.searchsorted(wanted, np.where(doubled, partner[positions], 0)), mask=~doubled)
            fields: dict[str, Any] = {
                "step": self.name,
                "reason": f"duplicate_{self.of}",
                "value": None if self.keep == "cluster" and threshold else _text(similarity[positions]),
                "threshold": threshold,
                "partner": partners.take(place),
            }
            return marked(table, record.struct(record.DROPPED, len(table), fields, pa.array(doubled)))

        return mark


def _text(similarity: np.ndarray) -> pa.Array:
    """Similarities to six digits; that of equal rows is "1"."""
    return pa.array([f"{value:.6g}" for value in similarity.tolist()], pa.string())


def given_splits(rows: Dataset) -> tuple[list[str], np.ndarray]:
    """The splits that rows have, and for every row which of them, -1 for none: shape (rows,)."""
    names: list[str] = []
    given, at = np.full(len(rows), -1, np.int16), 0
    for table in rows.select_columns(["split"]).with_format("arrow").iter(BATCH):
        split = table["split"].combine_chunks().cast(pa.string())
        names += [name for name in split.unique().drop_null().to_pylist() if name not in names]
        which = pc.fill_null(pc.index_in(split, pa.array(names, pa.string())), -1)
        given[at : at + len(table)] = np.asarray(which)
        at += len(table)
    return names, given


def not_text(step: str, column: str, features: Mapping[str, Any]) -> list[str]:
    """What is wrong with comparing a column, when it is there and holds something else than texts."""
    if column not in features or features[column] == Value("string"):
        return []
    return [f"{step}: column {column!r} is {features[column]}, wanted texts"]


def take(rows: Dataset, column: str, positions: np.ndarray) -> pa.Array:
    """The values of a text column at ascending `positions`, read in one pass and in batches."""
    found, at = [pa.array([], pa.large_string())], 0
    for table in rows.select_columns([column]).with_format("arrow").iter(BATCH):
        low, high = np.searchsorted(positions, [at, at + len(table)])
        if high > low:
            found.append(
                table[column].combine_chunks().take(pa.array(positions[low:high] - at)).cast(pa.large_string())
            )
        at += len(table)
    return pa.concat_arrays(found)
