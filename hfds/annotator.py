"""ModelAnnotator: a step whose answers are worth keeping, and how they come from the store into a dataset's columns."""

import functools
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import xxhash
from datasets import Dataset, Features

from hfds import record
from hfds.annotate import annotate
from hfds.asked import PICTURES, Asked, Keep, Partly
from hfds.batch import Batch
from hfds.errors import HfdsError
from hfds.model import Model
from hfds.processor import BATCH, Annotator, Made, Step, marked, scatter, whole
from hfds.run import Run
from hfds.store import answers_folder


class ModelAnnotator(Annotator):
    """An annotator whose answers are worth keeping: what it said of a row is found again by every later release.

    A subclass is a frozen dataclass with a field of type `hfds.model.Model` where it has a checkpoint. Nothing in it
    may know where it runs: it is shown rows in any order, on any number of processes, and its answer for a row must
    not depend on the other rows of the batch.
    """

    by_batch: ClassVar[bool] = False  # joining answers is quick, and every process would hold all of them
    batch_size: ClassVar[int] = 64  # items that the model is shown at once, where they fit
    paid: tuple[str, str] | None = None  # the column, and the field in it, with what an answer cost in money
    shaped: ClassVar[bool] = True  # whether its last batch is filled up with copies to the size of the others

    def fetch(self) -> None:
        """Brings here what `load` and `prepare` read: the files of its checkpoints. Once, before work is shared out."""
        for model in self._models().values():
            model.folder()

    def _models(self) -> dict[str, Model]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Model)}

    @property
    def fills(self) -> tuple[str, ...]:
        """Columns that it only gives to rows which have none: a row that has them is not shown to the model."""
        return ()

    @property
    def loads(self) -> bool:
        """Whether it has a model to load; without one all its work is in `prepare`."""
        return type(self).load is not ModelAnnotator.load

    @property
    def elsewhere(self) -> bool:
        """Whether its model works elsewhere, behind a server, so that two batches may be on their way at once."""
        return False

    def load(self, device: str) -> Any:
        """The model on `device` ("cpu", "cuda:0"); not overridden where all work is in `prepare`."""
        return None

    def open(self, run: Run) -> Any:
        """What `load` gives for this rank of a run; overridden where ranks share what limits a model."""
        return self.load(run.device)

    def prepare(self, batch: Batch) -> list[Any]:
        """For each row of `batch` what the model is shown, or a BadRow that says why it cannot be.

        Runs ahead of the model in background processes: no torch in here, and nothing large in what it returns but
        bytes and numpy arrays.
        """
        raise NotImplementedError

    def annotate(self, model: Any, items: list[Any]) -> pa.Table | Partly:
        """The columns in `adds`, one row for each of `items` (from `prepare`, without its BadRows), from what `load`
        gave. An exception drops the row that caused it, with its name as the reason. Partly, where some were answered
        and that must not be lost."""
        raise NotImplementedError

    def annotate_each(self, model: Any, items: list[Any], keep: Keep) -> pa.Table | Partly:
        """As `annotate`. Overridden where answers are paid for one by one: each goes to `keep` the moment that it
        comes, by the number of its item, so that a kill does not lose it."""
        return self.annotate(model, items)

    def cost(self, table: pa.Table) -> np.ndarray:
        """How much work each row is, in any unit: shape (rows,), float64. `table` has `needs` without the pictures,
        and `width` and `height` where there are any. The ranks of a run share the work by it."""
        return np.ones(len(table))

    def problems(self) -> list[str]:
        """What is wrong with its checkpoints."""
        return [f"{self.name}: {problem}" for model in self._models().values() for problem in model.problems()]

    def parameters(self) -> dict[str, Any]:
        """As of every step, with the checkpoint by what it is instead of by where it lies."""
        return {**super().parameters(), **{name: model.identity for name, model in self._models().items()}}

    def entry(self) -> dict[str, Any]:
        """What the lock says of it, with its place in the store."""
        return {**super().entry(), "answers": answers_folder(self.name, self.key())}

    @property
    def stored(self) -> tuple[tuple[str, str], ...]:
        """Its own."""
        return ((self.name, self.key()),)

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
        file = self._file(rows, run, _state(asked, run))
        if keep is None or not all(run.gathered(whole(run, file))):
            annotate([self], rows, run)
            file = self._file(rows, run, _state(asked, run))
        seen = [name for name in ("dropped", *self.adds, *self.needs) if name in rows.column_names]
        seen = [name for name in seen if name != "image" or name in self.adds] or seen
        features = Features({**self.adds, "dropped": record.FEATURES["dropped"]})
        narrow, size = rows.select_columns([*dict.fromkeys(seen)]), PICTURES if "image" in self.adds else BATCH
        return self._map(narrow, keep, features, _joined(asked, embed=keep is None), file, size)


def _state(asked: Asked, run: Run) -> str:
    """A text that changes when a step fails on further rows or may try again, and with pictures that have no hash."""
    seen = "" if asked.hashed else xxhash.xxh3_128_hexdigest(asked.keys.tobytes())
    seen += run.agree(asked.answers.whereabouts) if "image" in asked.step.adds else ""
    return seen + "".join(run.agree(lambda: asked.answers.parts("failed")))


def _joined(asked: Asked, embed: bool) -> Made:
    """What the store says about each row, as the columns of a step and `dropped`; pictures as paths into the store, or
    their bytes where the store does not stay."""
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
        new, why = asked.answers.packs.placed(known.take(places[places >= 0])), failed.take(bad[bad >= 0])
        if embed and "image" in new.column_names:
            new = _embedded(new)
        old = {column: table[column] for column in new.column_names if column in table.column_names}
        columns = {column: scatter(answered, new[column], old.get(column)) for column in new.column_names}
        drops = scatter(broken, record.drops(name, len(why), why["reason"], why["value"]), None)
        return pa.table({**columns, **{"dropped": marked(table, drops)["dropped"]}})

    return made


def _embedded(table: pa.Table) -> pa.Table:
    """The same with the bytes of its pictures."""
    with Batch(table) as batch:
        images = [{"bytes": picture.data, "path": None} for picture in batch.pictures]
    field = table.schema.field("image")
    return table.set_column(table.column_names.index("image"), field, pa.array(images, field.type))


def passes(steps: Sequence[Step]) -> list[tuple[Step, ...]]:
    """Steps in their order, neighbours with models together where none needs what another of them makes."""
    found: list[tuple[Step, ...]] = []
    for step in steps:
        last = found[-1] if found else ()
        models = last and all(isinstance(other, ModelAnnotator) for other in last)
        made = {column for other in last for column in other.adds}
        if models and isinstance(step, ModelAnnotator) and not {*step.needs, *step.fills} & made:
            found[-1] = (*last, step)
        else:
            found.append((step,))
    return found
