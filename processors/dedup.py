"""MarkDuplicates: rows that say or show the same as an earlier row, each marked with the id of the one that stays.

Exact comparison. DiffusionDB and OpenPrompts are one stream: normalised, 99.6 % of one is found in the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Value

from hfds import record
from hfds.processor import BATCH, Made, WholeDataset, kept, marked
from processors.parameters import wrong_parameters

NONE = np.iinfo(np.int64).max


def normalise(texts: pa.Array) -> pa.Array:
    """Texts as they are compared: NFKC, lower case, every run of other than letters, marks and digits one blank.

    A text of nothing but such characters keeps them, so that two different emoji are not the same prompt.
    """
    folded = pc.utf8_lower(pc.utf8_normalize(texts, form="NFKC"))
    words = pc.utf8_trim_whitespace(pc.replace_substring_regex(folded, r"[^\p{L}\p{M}\p{N}]+", " "))
    return pc.if_else(pc.equal(words, ""), pc.utf8_trim_whitespace(folded), words)


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
    """Drops every row whose `of` is that of an earlier kept row: reason "duplicate_<of>", with the first one's id.

    Args:
        of: "prompt" (compared normalised) or any column of texts, such as "image_hash" (compared exactly). Rows in
            which it is null or blank are never duplicates.
    """

    of: str = "prompt"

    @property
    def needs(self) -> tuple[str, ...]:
        """The ids, to name the partner, and what is compared."""
        return "id", self.of

    @property
    def adds(self) -> Features:
        """Marks in `dropped`."""
        return Features({"dropped": record.FEATURES["dropped"]})

    def problems(self) -> list[str]:
        """One column."""
        return wrong_parameters(self, {"of": "column"})

    def misfits(self, features: Mapping[str, Any]) -> list[str]:
        """Texts are compared."""
        return not_text(self.name, self.of, features)

    def decide(self, rows: Dataset) -> Made:
        """One pass for the hashes, one for the partners' ids."""
        first, _ = first_of(rows, self.of)
        twice = (first != NONE) & (first != np.arange(len(rows)))
        wanted = np.unique(first[twice])
        partners = take(rows, "id", wanted)

        def mark(table: pa.Table, positions: np.ndarray) -> pa.Table:
            doubled = twice[positions]
            place = pa.array(np.searchsorted(wanted, np.where(doubled, first[positions], 0)), mask=~doubled)
            reason = pc.if_else(pa.array(doubled), f"duplicate_{self.of}", None)
            fields: dict[str, Any] = {
                "step": self.name,
                "reason": reason,
                "value": "1",
                "partner": partners.take(place),
            }
            return marked(table, record.struct(record.DROPPED, len(table), fields, pa.array(doubled)))

        return mark


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
