"""Steps: what happens to rows between a builder and a release. Models annotate, rules decide, nothing is removed.

Every step is a frozen dataclass of plain parameters. Called on a `datasets.Dataset` it gives that dataset with columns
added or replaced, or with rows marked in `dropped`; pictures are never copied. Rows dropped before are not shown to it.
"""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from datasets import Dataset, Features, concatenate_datasets
from datasets.table import ConcatenationTable, MemoryMappedTable

from hfds import record
from hfds.batch import Batch
from hfds.errors import ConfigError
from hfds.run import Run

BATCH = 10_000
Made = Callable[[pa.Table, np.ndarray], pa.Table]


@dataclass(frozen=True)
class Step:
    """What all steps have. `version` must change whenever the same input would give another output."""

    version: ClassVar[int] = 1
    by_batch: ClassVar[bool] = True  # whether batches are independent, so that several processes may share them

    @property
    def name(self) -> str:
        """The name under which the ledger and the lock know it."""
        return type(self).__name__

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns it reads."""
        raise NotImplementedError

    @property
    def reads(self) -> tuple[str, ...]:
        """Further columns that it reads when they are there."""
        return ()

    @property
    def adds(self) -> Features:
        """The columns it adds or replaces, with their features."""
        raise NotImplementedError

    def parameters(self) -> dict[str, Any]:
        """Its parameters as plain values."""
        return asdict(self)

    def key(self) -> str:
        """What its output depends on besides its input: name, version and parameters, as JSON."""
        parameters = json.dumps(self.parameters(), sort_keys=True, default=str)
        return f"{self.name} v{self.version} {parameters}"

    def problems(self) -> list[str]:
        """What is wrong with its parameters, one sentence each."""
        return []

    def misfits(self, features: Mapping[str, Any]) -> list[str]:
        """What is wrong with the columns that it would get, by name and feature, one sentence each."""
        return []

    def _prepare(self, rows: Dataset) -> Made:
        """What makes the columns in `adds` of a batch: an Arrow table of `needs`, `reads` and `dropped` with all rows,
        dropped ones too, and the positions of its rows in the dataset."""
        raise NotImplementedError

    def __call__(self, rows: Dataset, run: Run | None = None) -> Dataset:
        """`rows` with this step's columns; `run` says where to keep the result (in memory when None).

        Raises:
            ConfigError: its parameters cannot be.
            KeyError: a column it needs is missing.
        """
        if problems := self.problems():
            raise ConfigError(*problems)
        if missing := [name for name in self.needs if name not in rows.column_names]:
            raise KeyError(f"{self.name} needs the column {missing[0]!r}; there are: {', '.join(rows.column_names)}")
        seen = [
            name
            for name in dict.fromkeys((*self.needs, *self.reads, *self.adds, "dropped"))
            if name in rows.column_names
        ]
        narrow = rows.select_columns(seen)
        made = self._map(narrow, run)
        return beside(rows.remove_columns([name for name in self.adds if name in rows.column_names]), made)

    def _map(self, rows: Dataset, run: Run | None) -> Dataset:
        """`Dataset.map` with a fingerprint that sees the step's version, and a file of its own."""
        if len(rows) == 0:
            return Dataset(self.adds.arrow_schema.empty_table())  # where `map` adds no column
        fingerprint = xxhash.xxh3_64_hexdigest(f"{self.key()}\0{rows._fingerprint}".encode())
        if run is not None:
            run.steps.mkdir(parents=True, exist_ok=True)
        made = self._prepare(rows)
        file = run.steps / f"{self.name}-{fingerprint}.arrow" if run else None
        for part in run.steps.glob(f"{self.name}-{fingerprint}*.arrow") if run else ():  # one, or one for each process
            if not _readable(part):
                part.unlink()
        shared = run is not None and self.by_batch and run.num_proc > 1 and len(rows) > BATCH and _on_disk(rows)
        return (
            rows.with_format("arrow")
            .map(
                lambda table, positions: made(table, np.asarray(positions)),
                with_indices=True,
                batched=True,
                batch_size=BATCH,
                features=self.adds,
                remove_columns=rows.column_names,
                cache_file_name=str(file) if file else None,
                keep_in_memory=run is None,
                num_proc=run.num_proc if run and shared else None,
                new_fingerprint=fingerprint,
                desc=self.name,
            )
            .with_format(None)
        )


class Annotator(Step):
    """Adds or replaces columns, row by row; never drops."""

    def columns(self, table: pa.Table) -> pa.Table:
        """The columns in `adds` for a batch of kept rows: a pure function of the columns in `needs`."""
        raise NotImplementedError

    def _prepare(self, rows: Dataset) -> Made:
        return self._made

    def _made(self, table: pa.Table, positions: np.ndarray) -> pa.Table:
        alive = kept(table)
        new = self.columns(table.filter(alive))
        old = {name: table[name] for name in self.adds if name in table.column_names}
        columns = {name: scatter(alive, new[name], old.get(name)) for name in self.adds}
        return pa.table(columns).cast(self.adds.arrow_schema)


class ModelAnnotator(Annotator):
    """An annotator whose answers are worth keeping: what it said of a row is found again by every later release.

    A subclass is a frozen dataclass with a field of type `hfds.model.Model` where it has a checkpoint. Nothing in it
    may know where it runs: it is shown rows in any order, on any number of processes, and its answer for a row must
    not depend on the other rows of the batch.
    """

    batch_size: ClassVar[int] = 64  # items that the model is shown at once, where they fit

    def load(self, device: str) -> Any:
        """The model on `device` ("cpu", "cuda:0"); None where nothing but `prepare` does the work."""
        return None

    def prepare(self, batch: Batch) -> list[Any]:
        """For each row of `batch` what the model is shown, or a BadRow that says why it cannot be.

        Runs ahead of the model in background processes: no torch in here, and nothing large in what it returns but
        bytes and numpy arrays.
        """
        raise NotImplementedError

    def annotate(self, model: Any, items: list[Any]) -> pa.Table:
        """The columns in `adds`, one row for each of `items` (from `prepare`, without its BadRows), from what `load`
        gave. An exception drops the row that caused it, with its name as the reason."""
        raise NotImplementedError

    def cost(self, table: pa.Table) -> np.ndarray:
        """How much work each row is, in any unit: shape (rows,), float64. `table` has `needs` without the pictures,
        and `width` and `height` where there are any. It shares the work out between processes."""
        return np.ones(len(table))


class Filter(Step):
    """Marks rows as dropped by a rule over columns, with reason and value; never loads a model."""

    @property
    def adds(self) -> Features:
        """`dropped`, and nothing else."""
        return Features({"dropped": record.FEATURES["dropped"]})

    def verdicts(self, table: pa.Table) -> pa.Array:
        """For a batch of kept rows an array as `hfds.record.drops` makes it: null for what stays."""
        raise NotImplementedError

    def _prepare(self, rows: Dataset) -> Made:
        return self._made

    def _made(self, table: pa.Table, positions: np.ndarray) -> pa.Table:
        alive = kept(table)
        return marked(table, scatter(alive, self.verdicts(table.filter(alive)), None))


class WholeDataset(Step):
    """Reads a few narrow columns of all rows, then writes marks or one column: duplicates, splits, balance."""

    by_batch = False

    def decide(self, rows: Dataset) -> Made:
        """Reads all it needs from `rows` (narrow columns, dropped rows too) and returns what `_prepare` returns."""
        raise NotImplementedError

    def _prepare(self, rows: Dataset) -> Made:
        decided = functools.cache(lambda: self.decide(rows))  # a result that is cached never asks
        return lambda table, positions: decided()(table, positions)


def _readable(file: Path) -> bool:
    """Whether an Arrow stream is whole: a work folder may be deleted in part, or its disk may have been full."""
    try:
        with pa.memory_map(str(file)) as source:
            for _ in pa.ipc.open_stream(source):
                pass
    except (pa.ArrowInvalid, OSError):
        return False
    return True


def _on_disk(rows: Dataset) -> bool:
    """Whether other processes can map the rows too; datasets 5.2 loses the length of an in-memory block on the way."""
    blocks = rows.data.blocks if isinstance(rows.data, ConcatenationTable) else [[rows.data]]
    return all(isinstance(block, MemoryMappedTable) for row in blocks for block in row)


def beside(rows: Dataset, more: Dataset) -> Dataset:
    """The columns of both, nothing copied; `concatenate_datasets` loses the columns of datasets without rows."""
    if not rows.column_names:  # then its length says nothing
        return more
    if len(rows) == 0:
        return Dataset(Features({**rows.features, **more.features}).arrow_schema.empty_table())
    return concatenate_datasets([rows, more], axis=1)


def kept(table: pa.Table) -> pa.ChunkedArray | pa.Array:
    """Which rows are not dropped, as a boolean array."""
    if "dropped" not in table.column_names:
        return pa.array(np.ones(len(table), bool))
    return table["dropped"].combine_chunks().is_null()


def marked(table: pa.Table, verdicts: pa.Array) -> pa.Table:
    """The `dropped` column of `table` with `verdicts` where a row was still kept."""
    if "dropped" in table.column_names:
        verdicts = pc.if_else(kept(table), verdicts, table["dropped"].combine_chunks())
    return pa.table({"dropped": verdicts})


def scatter(alive: pa.Array, values: pa.Array | pa.ChunkedArray, otherwise: pa.ChunkedArray | None) -> pa.Array:
    """`values`, one for each true in `alive`, at the places of those; elsewhere `otherwise` or null."""
    mask = np.asarray(alive)
    places = pa.array(np.cumsum(mask) - 1, mask=~mask)
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if mask.all():
        return values
    spread = values.take(places)
    return spread if otherwise is None else pc.if_else(alive, spread, otherwise.combine_chunks().cast(spread.type))
