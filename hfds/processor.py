"""Steps: what happens to rows between a builder and a release. Models annotate, rules decide, nothing is removed.

Every step is a frozen dataclass of plain parameters. Called on a `datasets.Dataset` it gives that dataset with columns
added or replaced, or with rows marked in `dropped`; pictures are never copied. Rows dropped before are not shown to it.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from datasets import Dataset, Features, concatenate_datasets
from datasets.table import ConcatenationTable, MemoryMappedTable

from hfds import record
from hfds.annotate import annotate
from hfds.asked import Asked
from hfds.batch import Batch
from hfds.errors import ConfigError, HfdsError
from hfds.model import Model
from hfds.run import Run
from hfds.store import answers_folder

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

    def entry(self) -> dict[str, Any]:
        """What the lock says of it."""
        return {"name": self.name, "version": self.version, "parameters": self.parameters()}

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
        made = self._of(rows, run)
        return beside(rows.remove_columns([name for name in made.column_names if name in rows.column_names]), made)

    def _of(self, rows: Dataset, run: Run | None) -> Dataset:
        """The columns that this step adds or replaces."""
        seen = dict.fromkeys((*self.needs, *self.reads, *self.adds, "dropped"))
        narrow = rows.select_columns([name for name in seen if name in rows.column_names])
        return self._map(narrow, run, self.adds, self._prepare(narrow), self._file(rows, run))

    def _file(self, rows: Dataset, run: Run | None, more: str = "") -> str:
        """The name of what `run` keeps of it, which sees the step's version, the rows, and `more`."""
        seen = f"{self.key()}\0{rows._fingerprint}{more}"
        return f"{self.name}-{xxhash.xxh3_64_hexdigest(seen.encode())}"

    def _map(self, rows: Dataset, run: Run | None, adds: Features, made: Made, file: str) -> Dataset:
        """`Dataset.map` into a file of its own, once on every machine; in memory when there is no run."""
        if len(rows) == 0:
            return Dataset(adds.arrow_schema.empty_table())  # where `map` adds no column
        shared = run is not None and self.by_batch and run.num_proc > 1 and len(rows) > BATCH and _on_disk(rows)
        with run.first() if run else nullcontext():
            if run is not None:
                run.steps.mkdir(parents=True, exist_ok=True)
                _whole(run, file)
            return (
                rows.with_format("arrow")
                .map(
                    lambda table, positions: made(table, np.asarray(positions)),
                    with_indices=True,
                    batched=True,
                    batch_size=BATCH,
                    features=adds,
                    remove_columns=rows.column_names,
                    cache_file_name=str(run.steps / f"{file}.arrow") if run else None,
                    keep_in_memory=run is None,
                    num_proc=run.num_proc if run and shared else None,
                    new_fingerprint=file.rpartition("-")[2],
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

    def fetch(self) -> None:
        """Brings here what `load` and `prepare` read: the files of its checkpoints. Once, before work is shared out."""
        for model in self._models().values():
            model.folder()

    def _models(self) -> dict[str, Model]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Model)}

    @property
    def loads(self) -> bool:
        """Whether it has a model to load; without one all its work is in `prepare`."""
        return type(self).load is not ModelAnnotator.load

    def load(self, device: str) -> Any:
        """The model on `device` ("cpu", "cuda:0"); not overridden where all work is in `prepare`."""
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
        and `width` and `height` where there are any. The ranks of a run share the work by it."""
        return np.ones(len(table))

    def parameters(self) -> dict[str, Any]:
        """As of every step, with the checkpoint by what it is instead of by where it lies."""
        return {**super().parameters(), **{name: model.identity for name, model in self._models().items()}}

    def entry(self) -> dict[str, Any]:
        """What the lock says of it, with its place in the store."""
        return {**super().entry(), "answers": answers_folder(self.name, self.key())}

    def columns(self, table: pa.Table) -> pa.Table:
        """What it says of the rows in `table`, without a store."""
        made = self(Dataset(table))
        return made.select_columns([*self.adds]).with_format("arrow")[:]

    def _of(self, rows: Dataset, run: Run | None) -> Dataset:
        if run is None:
            with TemporaryDirectory() as folder:
                return self._answered(rows, Run(Path(folder)), None)
        return self._answered(rows, run, run)

    def _answered(self, rows: Dataset, run: Run, keep: Run | None) -> Dataset:
        """The answers to all rows, those that are new computed now; `dropped` too, for rows on which it failed."""
        asked = Asked(self, rows, run)
        file = self._file(rows, run, _failures(asked, run))
        if keep is None or not run.agree(lambda: _whole(run, file)):
            annotate([self], rows, run)
            file = self._file(rows, run, _failures(asked, run))
        seen = [name for name in ("dropped", *self.adds, *self.needs) if name in rows.column_names]
        seen = [name for name in seen if name != "image"] or seen
        features = Features({**self.adds, "dropped": record.FEATURES["dropped"]})
        return self._map(rows.select_columns([*dict.fromkeys(seen)]), keep, features, _joined(asked), file)


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


def _failures(asked: Asked, run: Run) -> str:
    """A text that changes when a step fails on further rows, or is allowed to try again."""
    return "".join(run.agree(lambda: asked.answers.parts("failed")))


def _joined(asked: Asked) -> Made:
    """What the store says about each row, as the columns of a step and `dropped`."""
    found = functools.cache(asked.found)
    name = asked.step.name

    def made(table: pa.Table, positions: np.ndarray) -> pa.Table:
        known, failed = found()
        keys, shown = asked.keys[positions], asked.shown[positions]
        places = np.where(shown, known.find(keys), -1)
        bad = np.where(shown & (places < 0), failed.find(keys), -1)
        if (shown & (places < 0) & (bad < 0)).any():
            raise HfdsError(f"answers of {name} are no longer in the store; run again to compute them again")
        answered, broken = pa.array(places >= 0), pa.array(bad >= 0)
        new, why = known.take(places[places >= 0]), failed.take(bad[bad >= 0])
        old = {column: table[column] for column in new.column_names if column in table.column_names}
        columns = {column: scatter(answered, new[column], old.get(column)) for column in new.column_names}
        drops = scatter(broken, record.drops(name, len(why), why["reason"], why["value"]), None)
        return pa.table({**columns, **{"dropped": marked(table, drops)["dropped"]}})

    return made


def _whole(run: Run, file: str) -> bool:
    """Whether `run` keeps what a step made, in one file or one for each process; what is not whole is removed."""
    parts = [*run.steps.glob(f"{file}*.arrow")]
    for part in parts:
        if not _readable(part):
            part.unlink()
    return bool(parts) and all(part.exists() for part in parts)


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


def passes(steps: Sequence[Step]) -> list[tuple[Step, ...]]:
    """Steps in their order, neighbours with models together where none needs what another of them makes."""
    found: list[tuple[Step, ...]] = []
    for step in steps:
        last = found[-1] if found else ()
        models = isinstance(step, ModelAnnotator) and all(isinstance(other, ModelAnnotator) for other in last)
        if last and models and not {*step.needs} & {column for other in last for column in other.adds}:
            found[-1] = (*last, step)
        else:
            found.append((step,))
    return found


def kept(table: pa.Table) -> pa.ChunkedArray | pa.Array:
    """Which rows are not dropped, as a boolean array."""
    if "dropped" not in table.column_names:
        return pa.array(np.ones(len(table), bool))
    return table["dropped"].combine_chunks().is_null()


def marked(table: pa.Table, verdicts: pa.Array) -> pa.Table:
    """The `dropped` column of `table` with `verdicts` where a row was still kept."""
    if "dropped" in table.column_names:
        verdicts = pc.if_else(kept(table), verdicts, table["dropped"].combine_chunks().cast(record.DROPPED))
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
