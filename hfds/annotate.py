"""Annotate: shows models the rows that the store does not know, and no others, and keeps what they say.

Several steps over the same rows are one pass, in which each picture is read and decoded once. Which rows a rank
computes is a function of the rows and the store alone.
"""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets.utils import tqdm

from hfds.ahead import ahead
from hfds.asked import Asked, Asks, groups, share
from hfds.batch import Batch
from hfds.errors import BadRow, ConservationError, HfdsError, Stopped
from hfds.record import printable
from hfds.run import Run
from hfds.store import PART

CHUNK = (32, 512)  # rows that a background process prepares at a time: as many as a batch, within these
ALIKE = 16  # failures in a row that are no matter of the rows any more
_log = logging.getLogger(__name__)


class Done(NamedTuple):
    """Of one step: distinct rows that were known, computed and failed now, and are left; and seconds on this rank."""

    step: str
    known: int
    computed: int
    failed: int
    left: int
    seconds: float


def annotate(steps: Sequence[Asks], rows: Dataset, run: Run, limit: int | None = None) -> list[Done]:
    """Asks `steps` about the `rows` that the store does not know yet; at most `limit` of them, for a probe.

    Every rank of the run must call it with the same rows. When it returns, the store knows all of them.

    Raises:
        Stopped: the run's hours are over; what was computed is kept.
        HfdsError: a model fails on row after row, or the store cannot be written.
    """
    asked = [Asked(step, rows, run) for step in steps]
    seen = run.agree(lambda: [(one.answers.parts(), one.answers.parts("failed")) for one in asked])
    missing = [one.missing(*parts) for one, parts in zip(asked, seen, strict=True)]
    work = _Pass(asked, run)
    for which, positions in groups([own[:limit] for own in missing]):
        costs = np.sum([asked[n].costs(positions) for n in which], axis=0)
        own = share(costs, positions, run)
        if len(own) and not run.overdue:
            work.over(which, own)
    counts = np.sum(run.gathered([(tally.computed, tally.failed) for tally in work.tallies]), axis=0).tolist()
    done = []
    for one, own, (computed, failed), tally in zip(asked, missing, counts, work.tallies, strict=True):
        left = len(own) - computed - failed
        done.append(Done(one.step.name, len(one.firsts) - len(own), computed, failed, left, tally.seconds))
        if computed or failed:
            _log.info("%s: %d rows known, %d computed, %d failed", one.step.name, done[-1].known, computed, failed)
    if limit is None and any(entry.left for entry in done):
        left = ", ".join(f"{entry.left:,} rows of {entry.step}" for entry in done if entry.left)
        if run.max_hours is None:
            raise ConservationError(f"{left} were neither answered nor did they fail")
        raise Stopped(f"stopped after {run.max_hours:g} hours as asked, with {left} left; run again to go on")
    return done


class _Crash(NamedTuple):
    """An exception that a row caused, or seemed to cause."""

    reason: str
    value: str


def _crash(error: BaseException) -> _Crash:
    return _Crash(type(error).__name__, printable(" ".join(str(error).split()))[:200])


def _prepare(steps: Sequence[Asks], table: pa.Table) -> list[list[Any]]:
    """In a background process: what each step's model is shown of the rows in `table`."""
    with Batch(table) as batch:
        return [_items(step, batch) for step in steps]


def _items(step: Asks, batch: Batch) -> list[Any]:
    """What `step.prepare` gives, with a BadRow or a _Crash for the rows that it cannot take."""
    blame: BadRow | _Crash
    try:
        items = step.prepare(batch)
    except BadRow as error:
        blame = error
    except HfdsError:
        raise
    except Exception as error:  # noqa: BLE001  whatever a tokenizer or a decoder trips over
        blame = _crash(error)
    else:
        return _as_many(items, step, batch)
    if len(batch) == 1:
        return [blame]
    return [item for row in range(len(batch)) for item in _items(step, batch.row(row))]


def _as_many(items: list[Any], step: Asks, batch: Batch) -> list[Any]:
    if len(items) != len(batch):
        raise HfdsError(f"{step.name}.prepare gave {len(items)} items for {len(batch)} rows; it must give one for each")
    return items


@dataclass
class _Tally:
    """What was computed of one step, and what of it is not in the store yet."""

    size: int
    computed: int = 0
    failed: int = 0
    seconds: float = 0
    waiting: list[tuple[np.ndarray, Any]] = field(default_factory=list)  # key and item of rows for the next batch
    keys: list[np.ndarray] = field(default_factory=list)
    tables: list[pa.Table] = field(default_factory=list)
    failures: list[tuple[np.ndarray, BadRow | _Crash]] = field(default_factory=list)
    suspects: list[tuple[np.ndarray, _Crash]] = field(default_factory=list)  # with no answer after them yet

    def clear(self) -> None:
        """The number of rows is kept."""
        for pending in (self.keys, self.tables, self.failures):
            pending.clear()


class _Pass:
    """The work of one rank."""

    def __init__(self, asked: list[Asked], run: Run):
        self.asked, self.run = asked, run
        self.sizes = _Sizes(run)
        self.tallies = [_Tally(self.sizes.of(one)) for one in asked]
        self.committed = time.monotonic()
        self.held = 0  # bytes that are not in the store yet
        self.loading = 0.0

    def over(self, which: list[int], positions: np.ndarray) -> None:
        """Shows the rows at `positions` to the steps numbered `which`."""
        began, busy = time.monotonic() - self.loading, [self.tallies[n].seconds for n in which]
        steps = [self.asked[n].step for n in which]
        needs = dict.fromkeys(name for step in steps for name in step.needs)
        narrow = self.asked[0].rows.select_columns([*needs]).with_format("arrow")
        for step in steps:
            step.fetch()
        size = int(np.clip([self.tallies[n].size for n in which], *CHUNK).max())
        chunks = [positions[at : at + size] for at in range(0, len(positions), size)]
        title = " + ".join(step.name for step in steps)
        bar = tqdm(total=len(positions), desc=title, unit=" rows", disable=self.run.local_rank > 0 or None)
        prepared = ahead(lambda chunk: _prepare(steps, narrow[chunk]), chunks, self.run.num_proc)
        try:
            for chunk, items in zip(chunks, prepared, strict=True):
                for number, own in zip(which, items, strict=True):
                    self._take(number, self.asked[number].keys[chunk], own)
                bar.update(len(chunk))
                if self.run.overdue:
                    return
                if time.monotonic() - self.committed > self.run.commit_seconds or self.held > PART:
                    self.commit()
            for number in which:
                self._answer(number, len(self.tallies[number].waiting))
                self._believe(number)
        finally:
            prepared.close()  # type: ignore[attr-defined]
            bar.close()
            self.commit()
            busy = [self.tallies[n].seconds - before for n, before in zip(which, busy, strict=True)]
            idle = time.monotonic() - self.loading - began - sum(busy)
            for number in which:
                self.tallies[number].seconds += idle / len(which)

    def commit(self) -> None:
        """Writes to the store what was computed since the last time."""
        for one, tally in zip(self.asked, self.tallies, strict=True):
            if tally.tables:
                one.answers.write(np.concatenate(tally.keys), pa.concat_tables(tally.tables))
            if tally.failures:
                keys, why = zip(*tally.failures, strict=True)
                one.answers.write_failed(np.stack(keys), [w.reason for w in why], [w.value for w in why])
            tally.clear()
        self.committed, self.held = time.monotonic(), 0

    def _take(self, number: int, keys: np.ndarray, items: list[Any]) -> None:
        """Puts prepared rows in line, and answers as soon as a batch is full."""
        tally = self.tallies[number]
        for key, item in zip(keys, items, strict=True):
            if isinstance(item, BadRow):
                self._fail(tally, [(key, item)])
            elif isinstance(item, _Crash):
                self._suspect(number, key, item)
            else:
                tally.waiting.append((key, item))
        while len(tally.waiting) >= tally.size:
            self._answer(number, tally.size)

    def _answer(self, number: int, count: int) -> None:
        """Shows the first `count` waiting rows to the model."""
        tally = self.tallies[number]
        rows, tally.waiting = tally.waiting[:count], tally.waiting[count:]
        self._ask(number, rows)

    def _ask(self, number: int, batch: list[tuple[np.ndarray, Any]]) -> None:
        tally, one = self.tallies[number], self.asked[number]
        while len(batch) > tally.size:
            first, batch = batch[: tally.size], batch[tally.size :]
            self._ask(number, first)
        if not batch:
            return
        model = self._model(one)
        items = [item for _, item in batch]
        if model is not None:  # always the same shape: what it says of a row does not depend on how many others came
            items += items[-1:] * (tally.size - len(items))
        began, problem = time.monotonic(), None
        try:
            table = one.step.annotate(model, items)
        except HfdsError:
            raise
        except Exception as error:  # noqa: BLE001  models raise anything
            problem = error.with_traceback(None)  # which would hold on to the device's memory
        tally.seconds += time.monotonic() - began
        if problem is not None:
            return self._mend(number, batch, problem)
        if len(table) != len(items):
            raise HfdsError(f"{one.step.name}.annotate gave {len(table)} rows for {len(items)}; it must give as many")
        tally.keys.append(np.stack([key for key, _ in batch]))
        tally.tables.append(table.slice(0, len(batch)).select(one.schema.names).cast(one.schema))
        self.held += tally.tables[-1].nbytes
        tally.computed += len(batch)
        self._believe(number)

    def _mend(self, number: int, batch: list[tuple[np.ndarray, Any]], problem: Exception) -> None:
        """Goes on after an error: with smaller batches where memory was short, else by finding the row to blame."""
        tally, step = self.tallies[number], self.asked[number].step
        if _is_memory(problem):
            if tally.size > 1:
                tally.size = max(1, tally.size // 2)
                self.sizes.remember(self.asked[number], tally.size)
                _log.warning("%s: out of memory, going on with %d rows at a time", step.name, tally.size)
                return self._ask(number, batch)
        elif "CUDA error" in str(problem):
            raise HfdsError(f"the device failed while {step.name} ran ({_crash(problem).value}); run again to go on")
        if len(batch) == 1:
            return self._suspect(number, batch[0][0], _crash(problem))
        middle = len(batch) // 2
        self._ask(number, batch[:middle])
        self._ask(number, batch[middle:])

    def _suspect(self, number: int, key: np.ndarray, crash: _Crash) -> None:
        tally = self.tallies[number]
        tally.suspects.append((key, crash))
        if len(tally.suspects) >= ALIKE:
            raise HfdsError(
                f"{self.asked[number].step.name} failed on {ALIKE} rows in a row, the last time with {crash.reason}: "
                f"{crash.value}; that is no matter of the rows, so none of these is dropped: mend it and run again"
            )

    def _believe(self, number: int) -> None:
        """Failures with an answer after them, or with too few others, are those of their rows."""
        tally = self.tallies[number]
        self._fail(tally, tally.suspects)
        tally.suspects = []

    @staticmethod
    def _fail(tally: _Tally, failures: Sequence[tuple[np.ndarray, BadRow | _Crash]]) -> None:
        tally.failures += failures
        tally.failed += len(failures)

    def _model(self, one: Asked) -> Any:
        """What the step loads, once per process; models of other passes make room."""
        models, name = self.run.models, one.answers.folder
        if not one.step.loads:
            return None
        if name not in models:
            began = time.monotonic()
            for other in set(models) - {entry.answers.folder for entry in self.asked}:
                del models[other]
            models[name] = one.step.load(self.run.device)
            self.loading += time.monotonic() - began
        return models[name]


def _is_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


class _Sizes:
    """How many rows a step's model is shown at once: what was asked for, or what was found to fit on this device."""

    def __init__(self, run: Run):
        self.run, self.file = run, run.workdir / "batches.json"

    def of(self, one: Asked) -> int:
        wanted = self.run.batch_size or one.step.batch_size
        if not one.step.loads:  # and importing torch, to ask it for the device, takes seconds
            return wanted
        return min(wanted, self._found().get(self._name(one), wanted))

    def remember(self, one: Asked, size: int) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        aside = self.file.with_name(f"batches-{self.run.rank}.part")
        aside.write_text(json.dumps({**self._found(), self._name(one): size}, indent=2))
        aside.replace(self.file)

    def _name(self, one: Asked) -> str:
        return f"{one.answers.folder} on {self.run.device_name}"

    def _found(self) -> dict[str, int]:
        try:
            found: dict[str, int] = json.loads(self.file.read_text())
        except (OSError, ValueError):
            return {}
        return found
