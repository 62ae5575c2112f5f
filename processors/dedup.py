"""MarkDuplicates: rows that say or show the same as another row, each marked with the id of the one that stays.

DiffusionDB and OpenPrompts are one stream: normalised, 99.6 % of one is found in the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Value

from hfds import record
from hfds.errors import ConfigError
from hfds.processor import Made, WholeDataset, marked
from hfds.release import Release
from processors.duplicates import Verdicts, text_dedup
from processors.duplicates.alike import Alike
from processors.duplicates.columns import places, stacked, take
from processors.duplicates.comparison import Joined, compare, present
from processors.duplicates.joint import MATCHES
from processors.duplicates.references import Reference, among_earlier, among_rows, is_reference, named, same_ids
from processors.parameters import wrong_parameters

KEEP = ("first", "best", "cluster", "none")


@dataclass(frozen=True)
class MarkDuplicates(WholeDataset):
    """Drops rows that say or show the same as another: reason "duplicate_<of>", with the partner that stays, and how
    similar the two are. Rows in which `of` is null or blank are never duplicates.

    Args:
        of: the column that is compared, with `above`, `within` and `words` as in `Alike`; or several `Alike`.
        keep: "first" keeps a row unless a kept row before it is like it; "best" the same in the order of `best`;
            "cluster" keeps the first of all rows that are alike directly or through others, to which they may be less
            similar than `above`; "none" keeps no row that is like any other, as the image-to-prompt sets were made.
        best: columns of numbers, the highest first, or "source" for the order of the inputs.
        against: what rows are compared with, in place of each other, and what is never dropped: earlier releases, one
            split of such a release ((V2, "validation")), the rows of a split ("split:validation") or of an input
            ("input:diffusiondb/2m_text"). A row that is held there under the same id is the same row, and stays.
        match: of several in `of`, whether rows are duplicates that are alike in "either" or in "both" (in all).
        device: where cosines are computed; on an accelerator, where there is one, when None.
        text_dedup: the interpreter of an environment in which text-dedup is installed, which then finds the clusters of
            similar texts, by its own MinHash; see `processors.duplicates.text_dedup`.
    """

    of: str | tuple[Alike, ...] = "prompt"
    above: float | None = None
    within: int | None = None
    keep: str = "first"
    best: tuple[str, ...] = ()
    against: tuple[Reference, ...] = ()
    match: str = "either"
    words: int = 3
    device: str | None = None
    text_dedup: str | None = None

    @property
    def parts(self) -> tuple[Alike, ...]:
        """What is compared."""
        return self.of if isinstance(self.of, tuple) else (Alike(self.of, self.above, self.within, self.words),)

    @property
    def compares(self) -> tuple[str, ...]:
        """The columns that are compared."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.columns))

    @property
    def releases(self) -> tuple[Release, ...]:
        """Those in `against`."""
        found = [one[0] if isinstance(one, tuple) else one for one in self.against if not isinstance(one, str)]
        return tuple(dict.fromkeys(found))

    @property
    def needs(self) -> tuple[str, ...]:
        """The ids, to name the partner, what is compared, and what decides which row stays."""
        places = dict.fromkeys(one.partition(":")[0] for one in self.against if isinstance(one, str))
        return ("id", *self.compares, *self.best, *places)

    @property
    def adds(self) -> Features:
        """Marks in `dropped`."""
        return Features({"dropped": record.FEATURES["dropped"]})

    def parameters(self) -> dict[str, Any]:
        """All but the device, on which no decision depends, with earlier releases by their names."""
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "device"}
        found["text_dedup"] = self.text_dedup is not None  # wherever it lies
        found["against"] = [named(one) for one in self.against]
        if isinstance(self.of, tuple):
            found["of"] = [vars(part) for part in self.of]
        return found

    def problems(self) -> list[str]:
        """What cannot be."""
        if isinstance(self.of, tuple) and not (self.of and all(isinstance(part, Alike) for part in self.of)):
            return [f"{self.name}: of must be the name of a column or a tuple of Alike(...), got {self.of!r}"]
        if not isinstance(self.against, tuple) or not all(is_reference(one) for one in self.against):
            return [
                f"{self.name}: against must be a tuple of releases, (release, split), 'split:<name>' and "
                f"'input:<label>', got {self.against!r}"
            ]
        found = [f"{self.name}: {problem}" for part in self.parts for problem in part.problems()]
        found += wrong_parameters(self, {"best": "columns"})
        if isinstance(self.of, tuple) and (self.above, self.within) != (None, None):
            found.append(f"{self.name}: above and within belong into the Alike(...) of each column")
        if self.keep not in KEEP:
            found.append(f"{self.name}: keep must be one of {', '.join(KEEP)}, got {self.keep!r}")
        if (self.keep == "best") != bool(self.best):
            found.append(f"{self.name}: keep='best' and the columns in best belong together, got {self.best!r}")
        if self.against and self.keep != "first":
            found.append(f"{self.name}: what rows are compared with stays, so keep must be 'first', got {self.keep!r}")
        alone = isinstance(self.of, str) and self.above is not None and self.keep == "cluster"
        if self.text_dedup is not None and not alone:
            found.append(
                f"{self.name}: text_dedup finds clusters of one column of texts: give above and keep='cluster'"
            )
        if self.match not in MATCHES:
            found.append(f"{self.name}: match must be one of {', '.join(MATCHES)}, got {self.match!r}")
        return found

    def misfits(self, features: Mapping[str, Any]) -> list[str]:
        """What is compared must be comparable."""
        found = [f"{self.name}: {problem}" for part in self.parts for problem in part.misfits(features)]
        for name in self.best:
            if name != "source" and name in features and not _is_number(features[name]):
                found.append(f"{self.name}: column {name!r} in best is {features[name]}, wanted numbers or 'source'")
        of = self.parts[0].of
        if (
            self.text_dedup is not None
            and not found
            and of in features
            and self.parts[0].measure(features) != "jaccard"
        ):
            found.append(f"{self.name}: text_dedup compares texts, and column {of!r} is {features[of]}")
        return found

    def decide(self, rows: Dataset, earlier: Dataset | None = None, journal: Path | None = None) -> Made:
        """Compares, and reads the partners' ids."""
        if wrong := self.misfits(rows.features):
            raise ConfigError(*wrong)
        lined = self.line_up(rows, earlier)
        verdicts = self._verdicts(lined, journal)
        order, held = lined.order, len(lined.table) - len(rows)
        partner, similarity = np.full(len(lined.table), -1), np.zeros(len(lined.table), np.float32)
        dropped = np.flatnonzero(verdicts.partner >= 0)
        partner[order[dropped]] = order[verdicts.partner[dropped]]
        similarity[order[dropped]] = verdicts.similarity[dropped]
        return self._marks(lined.table, earlier, partner[held:], similarity[held:])

    def line_up(self, rows: Dataset, earlier: Dataset | None) -> "LinedUp":
        """What is compared, in the order of its priority."""
        table = stacked(earlier, rows, ("id", *self.compares))
        held = len(table) - len(rows)
        fixed = np.concatenate([np.ones(held, bool), among_rows(rows, self.against)])
        masks = [present(table, part) for part in self.parts]
        there = np.logical_and.reduce(masks) if self.match == "both" else np.logical_or.reduce(masks)
        if earlier is not None and held:
            there[:held] &= among_earlier(earlier, self.against)
            there[held:] &= ~same_ids(table, held, there[:held])
        positions = np.flatnonzero(there)
        order = positions[np.lexsort((*self._priority(rows, positions), ~fixed[positions]))]
        return LinedUp(table, order, [mask[order] for mask in masks], int(fixed[order].sum()))

    def _priority(self, rows: Dataset, positions: np.ndarray) -> list[np.ndarray]:
        """Sort keys, the last one first: positions, then the columns in `best`, which there are not with `against`."""
        keys = [positions]
        for name in reversed(self.best):
            values = rows.select_columns([name]).with_format("arrow")[positions][name].combine_chunks()
            if name == "source":
                keys.append(np.asarray(values.dictionary_encode().indices))  # numbered as they come
            else:
                keys.append(-np.asarray(pc.fill_null(values.cast(pa.float64()), -np.inf)))
        return keys

    def _verdicts(self, lined: "LinedUp", journal: Path | None) -> Verdicts:
        if self.text_dedup is not None:
            texts, above = take(lined.table, self.parts[0].of, lined.order), self.parts[0].above
            assert above is not None  # by `problems`
            return text_dedup.keep(texts, above, words=self.words, python=self.text_dedup)
        compared = [
            compare(lined.table, part, lined.order[mask], self.device, journal)
            for part, mask in zip(self.parts, lined.masks, strict=True)
        ]
        one = compared[0] if len(compared) == 1 else Joined(compared, lined.masks, self.match)
        if self.keep == "none":
            return one.drop_all()
        if self.keep == "cluster":
            first = one.components()
            dropped = np.flatnonzero(first < np.arange(len(first)))
            verdicts = Verdicts(np.full(len(first), -1), np.zeros(len(first), np.float32))
            verdicts.partner[dropped] = first[dropped]
            verdicts.similarity[dropped] = one.similarity(dropped, first[dropped])
            return verdicts
        return one.keep_first(lined.fixed, among=not self.against)

    def _marks(self, table: Dataset, earlier: Dataset | None, partner: np.ndarray, similarity: np.ndarray) -> Made:
        wanted = np.unique(partner[partner >= 0])
        ids, where = take(table, "id", wanted), places(earlier, wanted)
        between = "_and_" if self.match == "both" else "_or_"
        limits = [str(part.limit) for part in self.parts if part.limit is not None]

        def mark(rows: pa.Table, positions: np.ndarray) -> pa.Table:
            doubled = partner[positions] >= 0
            place = pa.array(np.searchsorted(wanted, np.where(doubled, partner[positions], 0)), mask=~doubled)
            fields: dict[str, Any] = {
                "step": self.name,
                "reason": "duplicate_" + between.join(dict.fromkeys(part.of for part in self.parts)),
                "value": _text(similarity[positions]),
                "threshold": ", ".join(limits) or None,
                "partner": ids.take(place),
                "partner_in": where.take(place),
            }
            return marked(rows, record.struct(record.DROPPED, len(rows), fields, pa.array(doubled)))

        return mark


class LinedUp(NamedTuple):
    """Rows in the order of their priority, the `fixed` first of which stay whatever they are like.

    `table`: all rows, those of earlier releases in front. `order`: positions in it, int64. `masks`: for each of the
    parts which rows of the order have a value, bool.
    """

    table: Dataset
    order: np.ndarray
    masks: list[np.ndarray]
    fixed: int


def _is_number(feature: Any) -> bool:
    kind = str(getattr(feature, "dtype", ""))
    return isinstance(feature, Value) and (kind == "bool" or kind.startswith(("int", "uint", "float")))


def _text(similarity: np.ndarray) -> pa.Array:
    """Similarities to six digits; that of equal rows is "1"."""
    return pa.array([f"{value:.6g}" for value in similarity.tolist()], pa.string())
