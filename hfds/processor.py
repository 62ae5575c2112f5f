"""Steps: what happens to rows between a builder and a release. Models annotate, rules decide, nothing is removed.

Every step is a frozen dataclass of plain parameters. Called on a `datasets.Dataset` it gives that dataset with columns
added or replaced, or with rows marked in `dropped`; pictures are never copied. Rows dropped before are not shown to it.
"""

import functools
import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
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

    @property
    def means(self) -> Mapping[str, str]:
        """What the columns it adds hold, with their unit, as cards say it; those of the common schema say it there."""
        return {}

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

    @property
    def stored(self) -> tuple[tuple[str, str], ...]:
        """The names and keys under which the annotation store has what models said for it."""
        return ()

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
        self._check(rows)
        return _with(rows, self._of(rows, run))

    def _check(self, rows: Dataset) -> None:
        """Raises what `__call__` raises."""
        if not isinstance(rows, Dataset):
            raise ConfigError(f"{self.name} takes a datasets.Dataset with all rows, got {type(rows).__name__}")
        if problems := self.problems():
            raise ConfigError(*problems)
        if missing := [name for name in self.needs if name not in rows.column_names]:
            raise KeyError(f"{self.name} needs the column {missing[0]!r}; there are: {', '.join(rows.column_names)}")

    def _of(self, rows: Dataset, run: Run | None) -> Dataset:
        """The columns that this step adds or replaces."""
        narrow = self._narrow(rows)
        return self._map(narrow, run, self.adds, self._prepare(narrow), self._file(rows, run))

    def _narrow(self, rows: Dataset) -> Dataset:
        """The columns that this step sees."""
        seen = dict.fromkeys((*self.needs, *self.reads, *self.adds, "dropped"))
        return rows.select_columns([name for name in seen if name in rows.column_names])

    def _file(self, rows: Dataset, run: Run | None, more: str = "") -> str:
        """The name of what `run` keeps of it, which sees the step's version, the rows, and `more`."""
        seen = f"{self.key()}\0{rows._fingerprint}{more}"
        return f"{self.name}-{xxhash.xxh3_64_hexdigest(seen.encode())}"

    def _map(self, rows: Dataset, run: Run | None, adds: Features, made: Made, file: str, size: int = BATCH) -> Dataset:
        """`Dataset.map` into a file of its own, once on every machine; in memory when there is no run."""
        if len(rows) == 0:
            return Dataset(adds.arrow_schema.empty_table())  # where `map` adds no column
        shared = run is not None and self.by_batch and run.num_proc > 1 and len(rows) > BATCH and _on_disk(rows)
        with run.first() if run else nullcontext():
            if run is not None:
                run.steps.mkdir(parents=True, exist_ok=True)
                whole(run, file)
            return (
                rows.with_format("arrow")
                .map(
                    lambda table, positions: made(table, np.asarray(positions)),
                    with_indices=True,
                    batched=True,
                    batch_size=size,
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
    """Reads a few narrow columns of all rows, then writes marks or one column: duplicates, splits, balance.

    It may also look at the rows of earlier releases, which come as a dataset of their own: `id`, `release`
    ("<dataset>/<release>"), `split`, and the columns in `compares`.
    """

    by_batch = False

    @property
    def releases(self) -> tuple[Any, ...]:
        """The earlier releases (`hfds.release.Release`) whose rows it looks at, the oldest first."""
        return ()

    @property
    def compares(self) -> tuple[str, ...]:
        """The columns of those rows that it needs."""
        return ()

    @property
    def optional(self) -> tuple[str, ...]:
        """Those of them, of texts, that an earlier release may lack; not all of them at once."""
        return ()

    def __call__(self, rows: Dataset, run: Run | None = None, earlier: Dataset | None = None) -> Dataset:
        """As of every step; `earlier` has the rows of `releases`, which `hfds.build` finds.

        Raises:
            ConfigError: also when they are needed and not given.
        """
        self._check_both(rows, earlier)
        return _with(rows, self._decided(rows, run, earlier))

    def _check_both(self, rows: Dataset, earlier: Dataset | None) -> None:
        """Raises what `__call__` raises."""
        self._check(rows)
        if self.releases and earlier is None:
            names = ", ".join(label(release) for release in self.releases)
            raise ConfigError(f"{self.name} needs the rows of {names}: give them as `earlier`, or use hfds.build")

    def decide(self, rows: Dataset, earlier: Dataset | None = None, journal: Path | None = None) -> Made:
        """Reads all it needs from `rows` (narrow columns, dropped rows too) and returns what `_prepare` returns.

        Args:
            earlier: the rows of `releases`.
            journal: a file that may note how far long work is, so that it goes on when run again.
        """
        raise NotImplementedError

    def _decided(self, rows: Dataset, run: Run | None, earlier: Dataset | None) -> Dataset:
        narrow = self._narrow(rows)
        file = self._file(rows, run, earlier._fingerprint if earlier is not None else "")
        journal = run.steps / f"{file}.journal" if run else None
        decided = functools.cache(lambda: self.decide(narrow, earlier, journal))  # a result that is cached never asks
        return self._map(narrow, run, self.adds, lambda table, positions: decided()(table, positions), file)


def label(release: Any) -> str:
    """The name under which ledgers and locks know another release: "image-to-prompt/v2"."""
    return f"{release.dataset}/{release.name}"


def whole(run: Run, file: str) -> bool:
    """Whether `run` keeps what a step made in one process; what is not whole of any step's files is removed."""
    for part in run.steps.glob(f"{file}*.arrow"):  # one, or one for each process
        if not _readable(part):
            part.unlink()
    return (run.steps / f"{file}.arrow").exists()


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


def _with(rows: Dataset, made: Dataset) -> Dataset:
    """`rows` with the columns in `made`, in place of its own of these names."""
    return beside(rows.remove_columns([name for name in made.column_names if name in rows.column_names]), made)


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
