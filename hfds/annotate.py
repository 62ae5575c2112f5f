"""Annotate: shows models the rows that the store does not know, and no others, and keeps what they say.

Several steps over the same rows are one pass, in which each picture is read and decoded once. Which rows a rank
computes is a function of the rows and the store alone.
"""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets.utils import tqdm

from hfds.ahead import ahead
from hfds.asked import Asked, Asks, groups, share
from hfds.asking import FLYING, Asking, prepared
from hfds.batch import Batch
from hfds.errors import ConservationError, Stopped
from hfds.run import Run
from hfds.store import PART

CHUNK = 512  # rows that a background process prepares at a time, at most: as many as a batch
DECODED = 8  # pictures that a background process has decoded at a time
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
    unique = {step.key(): Asked(step, rows, run) for step in steps}  # a release may have a step twice
    asked = [*unique.values()]
    with run.first():
        for one in asked:
            one.recover()
    seen = run.agree(lambda: [(one.answers.parts(), one.answers.parts("failed")) for one in asked])
    missing = [one.missing(*parts) for one, parts in zip(asked, seen, strict=True)]
    for other in set(run.models) - {one.answers.folder for one in asked}:
        getattr(run.models.pop(other), "close", _nothing)()  # models of passes before make room
    with ThreadPoolExecutor(FLYING + 1) as threads:
        work = _Pass(asked, run, threads)
        for which, positions in groups([own[:limit] for own in missing]):
            costs = np.sum([asked[n].costs(positions) for n in which], axis=0)
            own = share(costs, positions, run)
            if len(own) and not run.overdue:
                work.over(which, own)
    counts = np.sum(run.gathered([(each.computed, each.failed) for each in work.asking]), axis=0).tolist()
    done = {}
    for key, own, (computed, failed), seconds in zip(unique, missing, counts, work.seconds, strict=True):
        name, known = unique[key].step.name, len(unique[key].firsts) - len(own)
        done[key] = Done(name, known, computed, failed, len(own) - computed - failed, seconds)
        if computed or failed:
            _log.info("%s: %d rows known, %d computed, %d failed", name, known, computed, failed)
        if usage := getattr(run.models.get(unique[key].answers.folder), "usage", None):
            _log.info("%s: this process has used %s", name, usage)
    if limit is None and any(entry.left for entry in done.values()):
        left = ", ".join(f"{entry.left:,} rows of {entry.step}" for entry in done.values() if entry.left)
        if run.max_hours is None:
            raise ConservationError(f"{left} were neither answered nor did they fail")
        raise Stopped(f"stopped after {run.max_hours:g} hours as asked, with {left} left; run again to go on")
    return [done[step.key()] for step in steps]


class _Pass:
    """The work of one rank; `seconds` by step, without loading."""

    def __init__(self, asked: list[Asked], run: Run, threads: ThreadPoolExecutor):
        self.run = run
        device = any(one.step.loads for one in asked) and run.device.startswith("cuda")
        self.asking = [Asking(one, run, threads if device or one.step.elsewhere else None) for one in asked]
        self.seconds = [0.0] * len(asked)
        self.committed = time.monotonic()

    def over(self, which: list[int], positions: np.ndarray) -> None:
        """Shows the rows at `positions` to the steps numbered `which`."""
        asking = [self.asking[n] for n in which]
        began, before = time.monotonic(), [(one.busy, one.loading) for one in asking]
        steps = [one.asked.step for one in asking]
        for step in steps:
            step.fetch()
        needs = dict.fromkeys(name for step in steps for name in step.needs)
        narrow = asking[0].asked.rows.select_columns([*needs]).with_format("arrow")
        size = min(max(one.size for one in asking), CHUNK)
        chunks = [positions[at : at + size] for at in range(0, len(positions), size)]
        title = " + ".join(step.name for step in steps)
        bar = tqdm(total=len(positions), desc=title, unit=" rows", disable=self.run.local_rank > 0 or None)
        coming = ahead(lambda chunk: _prepare(steps, narrow[chunk]), chunks, self.run.num_proc)
        try:
            for chunk, items in zip(chunks, coming, strict=True):
                for one, own in zip(asking, items, strict=True):
                    one.take(chunk, own)
                bar.update(len(chunk))
                self._commit_sometimes()
                if self.run.overdue:
                    break
            for one in asking:
                one.land() if self.run.overdue else one.finish()
        finally:
            coming.close()  # type: ignore[attr-defined]
            bar.close()
            for one in asking:
                one.settle()
            self._commit()
            self._count(which, time.monotonic() - began, before)

    def _commit_sometimes(self) -> None:
        held = sum(one.held for one in self.asking)
        if held > PART or time.monotonic() - self.committed > self.run.commit_seconds:
            self._commit()

    def _commit(self) -> None:
        for one in self.asking:
            one.commit()
        self.committed = time.monotonic()

    def _count(self, which: list[int], wall: float, before: list[tuple[float, float]]) -> None:
        """Divides the time that passed, without loading, among the steps by how long each of their models worked."""
        busy, loading = np.array([(self.asking[n].busy, self.asking[n].loading) for n in which]).T - np.array(before).T
        parts = busy / busy.sum() if busy.sum() else np.full(len(which), 1 / len(which))
        for number, part in zip(which, parts.tolist(), strict=True):
            self.seconds[number] += (wall - loading.sum()) * part


def _nothing() -> None:
    pass


def _prepare(steps: Sequence[Asks], table: pa.Table) -> list[list[Any]]:
    """In a background process: what each step's model is shown of the rows in `table`."""
    pictures = any("image" in step.needs for step in steps)
    size = DECODED if pictures else len(table)
    found: list[list[Any]] = [[] for _ in steps]
    for at in range(0, len(table), size):
        with Batch(table.slice(at, size)) as batch:
            for own, step in zip(found, steps, strict=True):
                own += prepared(step, batch)
    return found
