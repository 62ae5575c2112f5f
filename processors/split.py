"""Split: train or validation by the hash of a row's cluster of duplicates, so that no duplicate crosses the border.

The winners of the image-to-prompt competition split by groups; a split by shuffled rows leaks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, Value

from hfds.processor import Made, WholeDataset
from processors.dedup import NONE, first_of, given_splits, not_text
from processors.parameters import wrong_parameters

TRAIN, VALIDATION = "train", "validation"


@dataclass(frozen=True)
class Split(WholeDataset):
    """Adds `split`: "train", "validation" or one that an input was read `into`; null for dropped rows.

    Rows that share the value of any column in `of` are one cluster, also through others (a prompt shared with one row,
    a picture with another). A cluster is decided as a whole, by the smallest hash among its rows' values, so the
    decision does not depend on the order or number of rows. An input read `into` a split decides for the clusters of
    its rows; when two inputs disagree, "train" loses, and of other splits the last by name wins.

    Args:
        validation: the share of clusters that go into validation, 0..1.
        of: the columns of text that make clusters; those that the rows lack are ignored.
        seed: another seed gives another split.
    """

    validation: float = 0.05
    of: tuple[str, ...] = ("prompt", "image_hash")
    seed: int = 0

    @property
    def needs(self) -> tuple[str, ...]:
        """The ids: a row with nothing in `of` is a cluster of its own."""
        return ("id",)

    @property
    def reads(self) -> tuple[str, ...]:
        """What makes clusters, and the split that an input was read into."""
        return (*self.of, "split")

    @property
    def adds(self) -> Features:
        """One column."""
        return Features({"split": Value("string")})

    def problems(self) -> list[str]:
        """A share must be a share, and so on."""
        return wrong_parameters(self, {"validation": "fraction", "of": "columns", "seed": "seed"})

    def misfits(self, features: Mapping[str, Any]) -> list[str]:
        """Clusters are made by texts."""
        return [problem for name in self.of for problem in not_text(self.name, name, features)]

    def decide(self, rows: Dataset) -> Made:
        """Clusters first, then one decision for each."""
        ids, own = first_of(rows, "id")
        alive = ids != NONE
        groups = []
        for column in reversed([c for c in self.of if c in rows.column_names]):
            first, hashes = first_of(rows, column)
            groups.append(first)
            own = np.where(first != NONE, hashes, own)
        label = clusters(groups, len(rows))
        key = np.full(len(rows), np.iinfo(np.uint64).max)
        np.minimum.at(key, label[alive], own[alive])
        share = _uniform(key[label], self.seed)
        names, given = given_splits(rows) if "split" in rows.column_names else ([], np.full(len(rows), -1))
        given = np.where(alive, given, -1)
        order = [TRAIN, *sorted({*names, VALIDATION} - {TRAIN})]
        place = np.where(share < self.validation, order.index(VALIDATION), 0)
        for number, name in enumerate(order):  # the later ones win
            forced = np.zeros(len(rows), bool)
            forced[label[given == names.index(name)] if name in names else []] = True
            place = np.where(forced[label], number, place)
        known = pa.array(order)

        def made(table: pa.Table, positions: np.ndarray) -> pa.Table:
            return pa.table({"split": known.take(pa.array(place[positions], mask=~alive[positions]))})

        return made


def clusters(groups: list[np.ndarray], rows: int) -> np.ndarray:
    """Connected components: each array in `groups` names for every row the first row it belongs with, or NONE.

    The result has shape (rows,), dtype int64: the smallest position in the row's component.
    """
    label = np.arange(rows)
    while True:
        before = label
        for first in groups:
            linked = np.flatnonzero(first != NONE)
            least = np.arange(rows)
            np.minimum.at(least, first[linked], label[linked])
            label = label.copy()
            label[linked] = np.minimum(label[linked], least[first[linked]])
        label = label[label]
        if np.array_equal(label, before):
            return label


def _uniform(keys: np.ndarray, seed: int) -> np.ndarray:
    """A number in 0..1 from each 64-bit key (the finaliser of SplitMix64)."""
    mixed = keys + np.uint64((0x9E3779B97F4A7C15 * (seed + 1)) % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2**53
