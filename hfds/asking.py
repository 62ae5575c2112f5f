"""Asking: one step's model, the rows that wait for it, and what it said of them that is not in the store yet."""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from hfds.asked import Asked, Asks, Partly
from hfds.batch import Batch
from hfds.errors import BadRow, HfdsError
from hfds.journal import Journal
from hfds.record import printable
from hfds.run import Run

ALIKE = 16  # failures in a row that are no matter of the rows any more
FLYING = 1  # batches that are still being worked on when the next is begun, so that a device waits for nothing
_log = logging.getLogger(__name__)


class Crash(NamedTuple):
    """An exception that a row caused, or seemed to cause."""

    reason: str
    value: str


def crash(error: BaseException) -> Crash:
    """An exception as a reason and a value of the ledger."""
    return Crash(type(error).__name__, printable(" ".join(str(error).split()))[:200])


class _Row(NamedTuple):
    """The position of a row, and what its model is shown."""

    position: int
    item: Any


class _Said(NamedTuple):
    """What became of a batch: answers or an exception, and the seconds."""

    answers: Partly | None
    problem: Exception | None
    seconds: float


class Asking:
    """Shows rows to the model of one step.

    Args:
        asked: the step.
        run: where, with what is loaded already.
        threads: of which two keep a device busy; None asks here and waits.
    """

    def __init__(self, asked: Asked, run: Run, threads: Executor | None):
        self.asked, self.run, self.threads = asked, run, threads
        self.size = _remembered(asked, run)
        self.computed = self.failed = 0
        self.busy = self.loading = 0.0  # seconds
        self._waiting: list[_Row] = []
        self._flying: deque[tuple[list[_Row], int, Future[_Said]]] = deque()
        self._positions: list[int] = []
        self._tables: list[pa.Table] = []
        self._failures: list[tuple[int, BadRow | Crash]] = []
        self._unprepared: list[tuple[int, Crash]] = []  # with no row after them yet that could be prepared
        self._unanswered: list[tuple[int, Crash]] = []  # with no answer after them yet
        self.held = 0  # bytes that are not in the store yet
        self._journal = Journal(run.journal, asked.answers.folder)
        self._one_at_a_time = threading.Lock()

    def take(self, positions: np.ndarray, items: list[Any]) -> None:
        """Puts prepared rows in line, and asks as soon as a batch is full."""
        for position, item in zip(positions.tolist(), items, strict=True):
            if isinstance(item, BadRow):
                self._fail([(position, item)])
            elif isinstance(item, Crash):
                self._suspect(self._unprepared, position, item)
            else:
                self._believe(self._unprepared)
                self._waiting.append(_Row(position, item))
        while len(self._waiting) >= self.size:
            batch, self._waiting = self._waiting[: self.size], self._waiting[self.size :]
            self._ask(batch)

    def finish(self) -> None:
        """Asks about all that still waits."""
        batch, self._waiting = self._waiting, []
        self._ask(batch)
        self.land()
        for suspects in (self._unprepared, self._unanswered):
            if suspects:
                self._judge(suspects)

    def land(self, flying: int = 0) -> None:
        """Waits for answers until so many batches are left in the air."""
        while len(self._flying) > flying:
            batch, size, said = self._flying.popleft()
            self._hear(batch, size, said.result())

    def settle(self) -> None:
        """Keeps what is still being said where the run ends early."""
        while self._flying:
            batch, size, coming = self._flying.popleft()
            with suppress(HfdsError):
                if (said := coming.result()).answers is not None:
                    self._hear(batch, size, said)

    def commit(self) -> None:
        """Writes to the store what was said since the last time."""
        keys = self.asked.keys
        if self._tables:
            self.asked.answers.write(keys[self._positions], pa.concat_tables(self._tables))
        if self._failures:
            positions, why = zip(*self._failures, strict=True)
            self.asked.answers.write_failed(keys[[*positions]], [w.reason for w in why], [w.value for w in why])
        self._positions, self._tables, self._failures = [], [], []
        self.held = 0
        if not self._flying:  # what is being said now is in the journal alone
            self._journal.clear()

    def _ask(self, batch: list[_Row]) -> None:
        while len(batch) > self.size:
            first, batch = batch[: self.size], batch[self.size :]
            self._ask(first)
        if not batch:
            return
        model = self._model()
        items = [row.item for row in batch]
        if self._filled:  # always the same shape: an answer does not depend on how many other rows came
            items += items[-1:] * (self.size - len(items))
        if self.threads is None:
            return self._hear(batch, self.size, self._say(model, items, batch))
        self._flying.append((batch, self.size, self.threads.submit(self._say, model, items, batch)))
        self.land(FLYING)

    @property
    def _filled(self) -> bool:
        return self.asked.step.loads and self.asked.step.shaped

    def _say(self, model: Any, items: list[Any], batch: Sequence[_Row] = ()) -> _Said:
        def keep(number: int, said: Mapping[str, Any] | BadRow) -> None:
            if number < len(batch):
                key = self.asked.keys[batch[number].position].tobytes()
                row = {"reason": said.reason, "value": said.value} if isinstance(said, BadRow) else {"said": said}
                with self._one_at_a_time:
                    self._journal.add(key, row)

        began = time.monotonic()
        try:
            said = self.asked.step.annotate_each(model, items, keep)
        except HfdsError:
            raise
        except Exception as error:  # noqa: BLE001  models raise anything
            # Without the traceback, which would hold on to the device's memory.
            return _Said(None, error.with_traceback(None), time.monotonic() - began)
        name = self.asked.step.name
        answers = said if isinstance(said, Partly) else Partly(said, range(len(items)))
        if len(answers.table) != len(answers.rows):
            count = f"{len(answers.table)} rows for {len(answers.rows)}"
            raise HfdsError(f"{name}.annotate gave {count}; it must give as many")
        if missing := set(self.asked.schema.names) - set(answers.table.column_names):
            raise HfdsError(f"{name}.annotate gave no column {min(missing)!r}, which it says that it adds")
        return _Said(answers, None, time.monotonic() - began)

    def _hear(self, batch: list[_Row], size: int, said: _Said) -> None:
        self.busy += said.seconds
        if said.problem is not None:
            return self._mend(batch, size, said.problem)
        assert said.answers is not None
        positions = [batch[row].position for row in said.answers.rows if row < len(batch)]
        if positions:
            schema = self.asked.schema
            self._positions += positions
            self._tables.append(said.answers.table.slice(0, len(positions)).select(schema.names).cast(schema))
            self.held += self._tables[-1].nbytes
            self.computed += len(positions)
            self.asked.answered = positions[-1]
            self._believe(self._unanswered)
        for row, error in said.answers.failed:
            if positions or isinstance(error, BadRow):
                self._fail([(batch[row].position, error if isinstance(error, BadRow) else crash(error))])
            else:
                self._suspect(self._unanswered, batch[row].position, crash(error))
        if said.answers.stop is not None:
            raise said.answers.stop

    def _mend(self, batch: list[_Row], size: int, problem: Exception) -> None:
        """Goes on after an error: with smaller batches where memory was short, else by finding the row to blame."""
        name = self.asked.step.name
        if is_memory(problem):
            if size > 1:
                if size // 2 < self.size:
                    self.size = size // 2
                    _remember(self.asked, self.run, self.size)
                    _log.warning("%s: out of memory, going on with %d rows at a time", name, self.size)
                return self._ask(batch)
        elif "CUDA error" in str(problem):
            raise HfdsError(f"the device failed while {name} ran ({crash(problem).value}); run again to go on")
        if len(batch) == 1:
            return self._suspect(self._unanswered, batch[0].position, crash(problem))
        middle = len(batch) // 2
        self._ask(batch[:middle])
        self._ask(batch[middle:])

    def _suspect(self, suspects: list[tuple[int, Crash]], position: int, why: Crash) -> None:
        suspects.append((position, why))
        if len(suspects) >= ALIKE:
            self._judge(suspects)

    def _judge(self, suspects: list[tuple[int, Crash]]) -> None:
        """Blames the rows if a row that was answered before still is; else it is no matter of rows."""
        if not self._well():
            _, why = suspects[-1]
            raise HfdsError(
                f"{self.asked.step.name} failed on each of {len(suspects)} rows and answers no other, the last time "
                f"with {why.reason}: {why.value}; none of them is dropped: mend it and run again"
            )
        self._believe(suspects)

    def _well(self) -> bool:
        """Whether the step can still do what it did before."""
        position, step = self.asked.answered, self.asked.step
        if position is None:
            return False
        with Batch(
            self.asked.rows.select_columns([*step.needs]).with_format("arrow")[position : position + 1]
        ) as batch:
            items = prepared(step, batch)
        if isinstance(items[0], (BadRow, Crash)):
            return False
        answers = self._say(self._model(), items * (self.size if self._filled else 1)).answers
        return answers is not None and len(answers.rows) > 0

    def _believe(self, suspects: list[tuple[int, Crash]]) -> None:
        """These failures are those of their rows."""
        self._fail(suspects)
        suspects.clear()

    def _fail(self, failures: Sequence[tuple[int, BadRow | Crash]]) -> None:
        self._failures += failures
        self.failed += len(failures)

    def _model(self) -> Any:
        """What the step loads, once per process."""
        models, name = self.run.models, self.asked.answers.folder
        if self.asked.step.loads and name not in models:
            began = time.monotonic()
            models[name] = self.asked.step.open(self.run)
            self.loading += time.monotonic() - began
            if self.asked.step.key() != self.asked.answers.key:
                del models[name]
                raise HfdsError(f"the checkpoint of {self.asked.step.name} was changed while it was loaded; run again")
        return models.get(name)


def prepared(step: Asks, batch: Batch) -> list[Any]:
    """What `step.prepare` gives, with a BadRow or a Crash for the rows that it cannot take.

    Raises:
        HfdsError: that is no matter of rows.
        OSError: a disk or a network failed, which is none either.
    """
    blame: BadRow | Crash
    try:
        items = step.prepare(batch)
    except BadRow as error:
        blame = error
    except HfdsError:
        raise
    except Exception as error:  # whatever a tokenizer or a decoder trips over
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        blame = crash(error)
    else:
        if len(items) != len(batch):
            problem = f"{step.name}.prepare gave {len(items)} items for {len(batch)} rows; it must give one for each"
            raise HfdsError(problem)
        return items
    if len(batch) == 1:
        return [blame]
    return [item for row in range(len(batch)) for item in prepared(step, batch.row(row))]


def is_memory(error: Exception) -> bool:
    """Whether an error says that there was not enough memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def _remembered(asked: Asked, run: Run) -> int:
    """How many rows a model is shown at once: what was asked for, or what was found to fit on this kind of device."""
    wanted = (run.batch_size if asked.step.shaped else None) or asked.step.batch_size
    if not asked.step.loads:  # and importing torch, to ask it for the device, takes seconds
        return wanted
    return min(wanted, _sizes(run).get(f"{asked.answers.folder} on {run.device_name}", wanted))


def _remember(asked: Asked, run: Run, size: int) -> None:
    aside = run.workdir / f"batches-{run.rank}.part"
    aside.parent.mkdir(parents=True, exist_ok=True)
    aside.write_text(json.dumps({**_sizes(run), f"{asked.answers.folder} on {run.device_name}": size}, indent=2))
    aside.replace(run.workdir / "batches.json")


def _sizes(run: Run) -> dict[str, int]:
    try:
        found = json.loads((run.workdir / "batches.json").read_text())
        return {name: size for name, size in found.items() if isinstance(size, int) and size > 0}
    except (OSError, ValueError, AttributeError):
        return {}
