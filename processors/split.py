"""Split: train or validation by the hash of a row's cluster of duplicates, so that no duplicate crosses the border.

The winners of the image-to-prompt competition split by groups; a split by shuffled rows leaks.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Value

from hfds import record
from hfds.errors import ConfigError
from hfds.processor import Made, WholeDataset, label
from hfds.release import Release
from processors.duplicates.alike import Alike
from processors.duplicates.clusters import NONE, clusters, forced_by, uniform
from processors.duplicates.columns import codes, places, stacked, take
from processors.duplicates.comparison import compare, present
from processors.parameters import wrong_parameters

TRAIN, VALIDATION = "train", "validation"
WINS = (VALIDATION, TRAIN)
SMALL = 100  # rows of a cluster that is moved as a whole, whatever its share
REASONS = pa.array([None, "merged", "disagreed", "earlier", "input", "too_large"])
DECIDED = Features(
    {
        "decided": {  # null where chance decided
            "decision": Value("string"),  # one of REASONS
            "partner": Value("string"),  # id of the row that it hangs on; null for the row itself
            "partner_in": Value("string"),  # "<dataset>/<release>:<split>", or null for a row of this release
        }
    }
)
STRUCT: pa.StructType = DECIDED.arrow_schema.field("decided").type


@dataclass(frozen=True)
class Split(WholeDataset):
    """Adds `split`: "train", "validation" or one that an input was read `into`; null for dropped rows.

    Rows that are alike in anything in `of` are one cluster, also through others (a prompt shared with one row, a
    picture with another), and a cluster is decided as a whole:

    - Where it holds rows of earlier releases, under the same id or as duplicates, it goes where these are.
    - Where it holds rows of an input read `into` a split, it goes there.
    - Where those are several splits, `wins` decides.
    - Else the hash of its oldest row does, which is the first one in the order of the inputs: neither the number of
      rows nor what comes behind it matters.
    - A cluster of more than 100 rows that alone has a larger share of all than `validation` does not move as a whole,
      as loose thresholds chain half a dataset together: of it only rows that have a split, and those that are
      themselves like one of these, go there, and all others go to train.

    All but the fourth is a decision in the ledger, with the row that it hangs on: "earlier", "input", "too_large";
    "merged by <id>" where rows that earlier releases had in several splits are one cluster now, with the first new row
    of it; "disagreed" where several releases have the same row in several splits.

    Args:
        validation: the share of clusters that go into validation, 0..1.
        of: what makes clusters: columns of equal texts, those that the rows lack are ignored; or `Alike` values.
        seed: another seed gives another split.
        earlier: the releases to honour, the oldest first.
        wins: "validation", so that what was once held back never is in train, or "train", so that what was once
            trained on is never held back.
        device: where cosines are computed; on an accelerator, where there is one, when None.
    """

    validation: float = 0.05
    of: tuple[str | Alike, ...] = ("prompt", "image_hash")
    seed: int = 0
    earlier: tuple[Release, ...] = ()
    wins: str = VALIDATION
    device: str | None = None

    @property
    def parts(self) -> tuple[Alike, ...]:
        """What makes clusters."""
        return tuple(one if isinstance(one, Alike) else Alike(one) for one in self.of)

    @property
    def releases(self) -> tuple[Release, ...]:
        """Those in `earlier`."""
        return self.earlier

    @property
    def compares(self) -> tuple[str, ...]:
        """What makes clusters."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.columns))

    @property
    def optional(self) -> tuple[str, ...]:
        """What is compared for being equal: a release of texts has no hashes of pictures."""
        return tuple(name for part in self.parts if part.limit is None for name in part.columns)

    @property
    def needs(self) -> tuple[str, ...]:
        """The ids, and what is compared for similarity: a row with nothing in `of` is a cluster of its own."""
        near = [name for part in self.parts if part.limit is not None for name in part.columns]
        return tuple(dict.fromkeys(("id", *near)))

    @property
    def reads(self) -> tuple[str, ...]:
        """What makes clusters, and the split that an input was read into."""
        return (*self.compares, "split")

    @property
    def adds(self) -> Features:
        """The split, and what decided it."""
        return Features({"split": Value("string"), **DECIDED})

    def parameters(self) -> dict[str, Any]:
        """All but the device, on which no decision depends, with earlier releases by their names."""
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "device"}
        found["of"] = [one if isinstance(one, str) else vars(one) for one in self.of]
        found["earlier"] = [label(release) for release in self.earlier]
        return found

    def problems(self) -> list[str]:
        """A share must be a share, and so on."""
        found = wrong_parameters(self, {"validation": "fraction", "seed": "seed"})
        if not isinstance(self.of, tuple) or not all(isinstance(one, (str, Alike)) and one for one in self.of):
            return [*found, f"{self.name}: of must be a tuple of names of columns and Alike(...), got {self.of!r}"]
        if not isinstance(self.earlier, tuple) or not all(isinstance(one, Release) for one in self.earlier):
            return [*found, f"{self.name}: earlier must be a tuple of releases, got {self.earlier!r}"]
        if self.wins not in WINS:
            found.append(f"{self.name}: wins must be one of {', '.join(WINS)}, got {self.wins!r}")
        return found + [f"{self.name}: {problem}" for part in self.parts for problem in part.problems()]

    def misfits(self, features: Mapping[str, Any]) -> list[str]:
        """What makes clusters must be comparable."""
        return [f"{self.name}: {problem}" for part in self.parts for problem in part.misfits(features)]

    def decide(self, rows: Dataset, earlier: Dataset | None = None, journal: Path | None = None) -> Made:
        """Clusters first, then one decision for each."""
        if wrong := self.misfits(rows.features):
            raise ConfigError(*wrong)
        parts = [part for part in self.parts if all(name in rows.column_names for name in part.columns)]
        table = stacked(earlier, rows, ("id", *(name for part in parts for name in part.columns)))
        held = len(table) - len(rows)
        groups = [self._group(table, part, journal, number) for number, part in enumerate((Alike("id"), *parts))]
        label = clusters(groups, len(table))
        alive = present(table, Alike("id"))
        splits, given = _given(earlier, rows, alive)
        chance = uniform(_own_hashes(table, parts)[label], self.seed) < self.validation  # that of the oldest row
        sizes = np.bincount(label[held:][alive[held:]], minlength=len(table))[label]
        large = sizes > max(SMALL, self.validation * alive[held:].sum())
        ranking = sorted(range(len(splits)), key=lambda n: (splits[n] == self.wins, n > 0, splits[n]))
        forced, decider, differ = forced_by(label, given, ranking, held)
        ids = np.where(groups[0] != NONE, groups[0], np.arange(len(table)))
        by_id, _, unsure = forced_by(ids, given, ranking, held)
        merged = forced_by(label, np.where(given >= 0, by_id, -1), ranking, held)[2]  # of rows, not of releases
        if (apart := np.flatnonzero(alive & large & (forced >= 0))).size:
            direct = self._direct(table, parts, given, apart, ranking, held)
            forced[apart], decider[apart], differ[apart] = (found[apart] for found in direct)
            merged[apart] = differ[apart] & ~unsure[apart]
        there = forced >= 0
        place = np.where(there, forced, np.where(chance & ~large, splits.index(VALIDATION), 0))
        too_large = alive & large & ~there & (chance | np.isin(np.arange(len(table)), apart))
        reason = np.select([merged, differ, there & (decider < held), there, too_large], [1, 2, 3, 4, 5], 0)
        new = np.where(alive & (ids >= held), np.arange(len(table)), NONE)  # rows that no earlier release holds
        first_new = np.full(len(table), NONE)
        np.minimum.at(first_new, label, new)
        joiner = np.where(merged, first_new[label], NONE)
        told = _Told(table, earlier, decider, ids[np.where(there, decider, 0)] == ids, joiner)

        def made(batch: pa.Table, positions: np.ndarray) -> pa.Table:
            at = positions + held
            split = pa.array(splits).take(pa.array(place[at], mask=~alive[at]))
            fields = {"decision": told.why(REASONS.take(pa.array(reason[at])), at), **told.fields(at)}
            decided = record.struct(STRUCT, len(at), fields, pa.array(alive[at] & (reason[at] > 0)))
            return pa.table({"split": split, "decided": decided})

        return made

    def _direct(
        self, table: Dataset, parts: list[Alike], given: np.ndarray, rows: np.ndarray, ranking: Iterable[int], held: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What `forced_by` says, of `rows` that have a split or are themselves like one that has it."""
        forced, decider = np.full(len(table), -1), np.full(len(table), NONE)
        found = np.zeros(len(table), np.int64)
        for split in ranking:
            like = np.where(given == split, np.arange(len(table)), NONE)
            like = self._spread(table, [Alike("id")], rows, like)  # who has the id of a row has its split
            like = self._spread(table, parts, rows, like)
            mine = rows[like[rows] != NONE]
            forced[mine], decider[mine] = split, like[mine]
            found[mine] += like[mine] < held
        return forced, decider, found > 1

    def _spread(self, table: Dataset, parts: list[Alike], rows: np.ndarray, like: np.ndarray) -> np.ndarray:
        """`like`, the row that each row has its split from, with those of `rows` that are like one that has any."""
        made = like.copy()
        known, asked = rows[like[rows] != NONE], rows[like[rows] == NONE]
        for part in parts:
            there = present(table, part)
            order = np.concatenate([known[there[known]], asked[there[asked]]])
            partner = compare(table, part, order, self.device).keep_first(int(there[known].sum()), False).partner
            alike = np.flatnonzero(partner >= 0)
            made[order[alike]] = np.minimum(made[order[alike]], like[order[partner[alike]]])
        return made

    def _group(self, table: Dataset, part: Alike, journal: Path | None, number: int) -> np.ndarray:
        """For every row the first one that it is alike with, also through others; NONE for rows without a value."""
        positions = np.flatnonzero(present(table, part))
        journal = journal and journal.with_name(f"{journal.name}{number}")  # one for each part
        first = np.full(len(table), NONE)
        first[positions] = positions[compare(table, part, positions, self.device, journal).components()]
        return first


def _given(earlier: Dataset | None, rows: Dataset, alive: np.ndarray) -> tuple[list[str], np.ndarray]:
    """All splits, "train" first, and for every row the one that it has already, -1 for none: (rows,) int64."""
    none: tuple[list[str], np.ndarray] = [], np.full(len(rows), -1, np.int16)
    both = [codes(earlier, "split")] if earlier is not None else []
    both.append(codes(rows, "split") if "split" in rows.column_names else none)
    known = {name for names, _ in both for name in names}
    splits = [TRAIN, *sorted((known | {VALIDATION}) - {TRAIN})]
    given = np.concatenate([np.array([*map(splits.index, names), -1])[which] for names, which in both])
    return splits, np.where(alive, given, -1)


def _own_hashes(table: Dataset, parts: list[Alike]) -> np.ndarray:
    """For every row the hash of the first thing of it that is compared for being equal, else of its id: uint64."""
    hashes = np.zeros(len(table), np.uint64)
    for part in (Alike("id"), *reversed([part for part in parts if part.limit is None])):
        positions = np.flatnonzero(present(table, part))
        hashes[positions] = compare(table, part, positions).values[:, 0]
    return hashes


class _Told:
    """The rows that decisions hang on, as what the ledger says of them."""

    def __init__(
        self, table: Dataset, earlier: Dataset | None, decider: np.ndarray, itself: np.ndarray, joiner: np.ndarray
    ):
        both = np.concatenate([decider, joiner])
        self._wanted = np.unique(both[both != NONE])
        self._ids, self._places = take(table, "id", self._wanted), places(earlier, self._wanted)
        self._decider, self._itself, self._joiner = decider, itself, joiner

    def fields(self, at: np.ndarray) -> dict[str, pa.Array]:
        """For the rows at these positions; a row that decides for itself has no partner."""
        place, decided = self._place(self._decider[at])
        return {
            "partner": self._ids.take(pa.array(place, mask=~decided | self._itself[at])),
            "partner_in": self._places.take(pa.array(place, mask=~decided)),
        }

    def why(self, reasons: pa.Array, at: np.ndarray) -> pa.Array:
        """The reasons, with the first of the new rows that joined clusters: "merged by <id>"."""
        place, joined = self._place(self._joiner[at])
        by = self._ids.take(pa.array(place, mask=~joined)).cast(pa.string())
        return pc.coalesce(pc.binary_join_element_wise(reasons, by, " by "), reasons)

    def _place(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        there = positions != NONE
        return np.searchsorted(self._wanted, np.where(there, positions, 0)), there
