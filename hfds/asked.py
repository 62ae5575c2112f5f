"""Asked: which rows a step with a model is shown, under which keys, what is known of them, who computes the rest."""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import xxhash
from datasets import Dataset, Features

from hfds import record
from hfds.batch import Batch
from hfds.errors import BadRow, HfdsError
from hfds.journal import abandoned
from hfds.run import Run
from hfds.store import Answers, Known, Store

SCAN = 10_000  # rows that are hashed at a time
PICTURES = 100  # of them where their pictures have to be read for it
BLOCK = 256  # neighbouring rows that go to one rank, at most


# Keeps what became of one item: its columns, or why it has none for good.
Keep = Callable[[int, Mapping[str, Any] | BadRow], None]


@dataclass(frozen=True)
class Partly:
    """What a model said where it did not answer all items that it was shown.

    Args:
        table: its columns, for the items numbered `rows`, ascending.
        rows: of which there are as many.
        failed: what is wrong with others, each by its number: a BadRow for sure, anything else as far as it looks.
        stop: why the rest was not answered, raised as soon as the store has what was.
    """

    table: pa.Table
    rows: Sequence[int]
    failed: Sequence[tuple[int, Exception]] = ()
    stop: HfdsError | None = None


class Asks(Protocol):
    """The side of `hfds.annotator.ModelAnnotator` that its execution needs; see there."""

    @property
    def batch_size(self) -> int:
        """Items at once."""

    @property
    def name(self) -> str:
        """Of the step."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns."""

    @property
    def adds(self) -> Features:
        """Columns."""

    @property
    def fills(self) -> tuple[str, ...]:
        """Columns that a row must not have."""

    @property
    def loads(self) -> bool:
        """Whether there is a model."""

    def key(self) -> str:
        """What its answers depend on besides what it is shown."""

    @property
    def shaped(self) -> bool:
        """Whether all batches have one size."""

    @property
    def elsewhere(self) -> bool:
        """Whether the model works elsewhere."""

    def fetch(self) -> None:
        """What the model is loaded from."""

    def open(self, run: Run) -> Any:
        """The model."""

    def prepare(self, batch: Batch) -> list[Any]:
        """What the model is shown."""

    def annotate(self, model: Any, items: list[Any]) -> pa.Table | Partly:
        """What it says."""

    def annotate_each(self, model: Any, items: list[Any], keep: Keep) -> pa.Table | Partly:
        """What it says, each answer kept the moment that it comes."""

    def cost(self, table: pa.Table) -> np.ndarray:
        """Work by row."""


class Asked:
    """A step, and the rows that it is asked about."""

    def __init__(self, step: Asks, rows: Dataset, run: Run):
        self.step, self.rows, self.run = step, rows, run
        self.answers: Answers = Store(run.annotations, run.workdir / "mirror").answers(step.name, step.key())
        self.schema: pa.Schema = step.adds.arrow_schema
        self.answered: int | None = None  # position of a row to which there is an answer, as soon as that is known

    @property
    def keys(self) -> np.ndarray:
        """xxh3-128 of what every row shows, of pictures their hash: shape (rows, 2), uint64."""
        return self._scanned[0]

    @property
    def shown(self) -> np.ndarray:
        """Which rows are kept and have all that the step needs: shape (rows,), bool."""
        return self._scanned[1]

    @property
    def hashed(self) -> bool:
        """Whether the rows say what their pictures are, if they have any."""
        return "image" not in self.step.needs or "image_hash" in self.rows.column_names

    @cached_property
    def _scanned(self) -> tuple[np.ndarray, np.ndarray]:
        seen = [name for name in self.step.needs if name != "image"]
        read = [*seen, "dropped"]
        shown = np.ones(len(self.rows), bool)
        if "image" in self.step.needs:
            seen.append("image_hash")
            read.append("image_hash" if self.hashed else "image")
            shown = _valid(self.rows, "image")
        for name in self.step.fills:
            shown &= ~_valid(self.rows, name) if name in self.rows.column_names else True
        narrow = self.rows.select_columns([name for name in dict.fromkeys(read) if name in self.rows.column_names])
        keys = np.zeros((len(self.rows), 2), np.uint64)
        at = 0
        for table in narrow.with_format("arrow").iter(SCAN if self.hashed else PICTURES):
            there = shown[at : at + len(table)]  # a view
            if not self.hashed:
                table = table.append_column("image_hash", _hashes(table))
            if "dropped" in table.column_names:
                there &= np.asarray(table["dropped"].is_null())
            for name in seen:
                there &= np.asarray(table[name].is_valid())
            keys[at : at + len(table)] = record.hash_texts(record.canonical(table.select(sorted(set(seen)))))
            at += len(table)
        return keys, shown

    @cached_property
    def firsts(self) -> np.ndarray:
        """The first position of every distinct key among the rows that are shown, ascending."""
        positions = np.flatnonzero(self.shown)
        order = positions[np.lexsort((positions, self.keys[positions, 0], self.keys[positions, 1]))]
        return np.sort(order[record.begins(self.keys, order)])

    def missing(self, parts: Sequence[str], failed: Sequence[str]) -> np.ndarray:
        """Positions of the rows about which these parts of the store say nothing, one for each distinct key."""
        keys = self.keys[self.firsts]
        known = self.answers.known(parts, self.schema).find(keys) >= 0
        self.answered = next(iter(self.firsts[known].tolist()), None)
        return self.firsts[~known & (self.answers.failed(failed).find(keys) < 0)]

    def recover(self) -> None:
        """Puts into the store what processes of this machine that were killed had been answered."""
        for path, found in abandoned(self.run.journal, self.answers.folder).items():
            known = self.answers.known(self.answers.parts(), self.schema)
            failed = self.answers.failed(self.answers.parts("failed"))
            keys = np.frombuffer(b"".join(key for key, _ in found), np.uint64).reshape(-1, 2)
            new = np.flatnonzero((known.find(keys) < 0) & (failed.find(keys) < 0)).tolist()
            good = [at for at in new if "said" in found[at][1]]
            bad = [at for at in new if "reason" in found[at][1]]
            if good:
                said = [found[at][1]["said"] for at in good]
                self.answers.write(keys[good], pa.Table.from_pylist(said, self.schema))
            if bad:
                why = [found[at][1] for at in bad]
                self.answers.write_failed(keys[bad], [w["reason"] for w in why], [w["value"] for w in why])
            path.unlink(missing_ok=True)

    def costs(self, positions: np.ndarray) -> np.ndarray:
        """What the step says each of these rows costs: shape (positions,), float64."""
        wanted = [*(name for name in self.step.needs if name != "image"), "width", "height"]
        names = [name for name in dict.fromkeys(wanted) if name in self.rows.column_names]
        if not names:
            return np.ones(len(positions))
        narrow = self.rows.select_columns(names).with_format("arrow")
        parts = [narrow[positions[at : at + SCAN]] for at in range(0, len(positions), SCAN)]
        return np.concatenate([np.zeros(0), *(np.asarray(self.step.cost(part), np.float64) for part in parts)])

    def found(self) -> tuple[Known, Known]:
        """All answers, and all failures."""
        return (
            self.answers.known(self.answers.parts(), self.schema),
            self.answers.failed(self.answers.parts("failed")),
        )


def _valid(rows: Dataset, column: str) -> np.ndarray:
    """Where a column is not null; not one of its values is read."""
    valid = np.asarray(rows.data[column].is_valid())
    return valid if rows._indices is None else valid[np.asarray(rows._indices.column(0))]


def _hashes(table: pa.Table) -> pa.Array:
    """xxh3-128 of pictures that come without their hash; null where there is none."""
    data, path = table["image"].combine_chunks().flatten()
    there = np.asarray(data.is_valid()) | np.asarray(path.is_valid())
    with Batch(table) as batch:
        pictures = batch.pictures if there.any() else []
        hashes = [xxhash.xxh3_128_hexdigest(p.data) if t else None for t, p in zip(there, pictures, strict=False)]
    return pa.array(hashes or [None] * len(table), pa.string())


def groups(todo: Sequence[np.ndarray]) -> list[tuple[list[int], np.ndarray]]:
    """The positions for which the same of several steps have work, with the numbers of those steps.

    Args:
        todo: for each step the positions of its missing rows, distinct.
    """
    positions = np.unique(np.concatenate(todo))
    wanted = np.stack([np.isin(positions, own) for own in todo], axis=1)
    patterns = np.unique(wanted, axis=0)[::-1]  # those with most steps first
    return [(np.flatnonzero(p).tolist(), positions[(wanted == p).all(axis=1)]) for p in patterns]


def share(costs: np.ndarray, positions: np.ndarray, run: Run) -> np.ndarray:
    """This rank's part of `positions`: blocks of neighbours, dealt out from the most expensive one down.

    Ranks that are given the same costs and positions get parts that do not overlap and together are all of them.
    """
    if run.ranks == 1:
        return positions
    size = int(np.clip(len(positions) // (run.ranks * 16), 1, BLOCK))
    starts = np.arange(0, len(positions), size)
    totals = np.add.reduceat(costs, starts)
    loads = [(0.0, rank) for rank in range(run.ranks)]
    own = []
    for block in np.argsort(-totals, kind="stable").tolist():
        load, rank = heapq.heappop(loads)
        heapq.heappush(loads, (load + float(totals[block]), rank))
        if rank == run.rank:
            own.append(block)
    return np.concatenate([positions[:0], *(positions[starts[b] : starts[b] + size] for b in sorted(own))])
