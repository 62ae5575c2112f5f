"""What a language model answered to questions, asked once and kept in the annotation store, whoever asks again.

Not a `ModelAnnotator`, because answers are paid for and questions come in rounds: each answer is kept the moment that
it is there, good or not, and the engine stays loaded while other models look at what it wrote.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datasets.utils import tqdm

from hfds.asking import ALIKE, crash
from hfds.errors import BadRow, ConservationError, HfdsError, Stopped
from hfds.journal import Journal, abandoned
from hfds.record import hash_texts
from hfds.run import Run
from hfds.store import Answers, Known, Store
from hfds.writer import Answer, BadAnswer, Opened, Question, Usage, Writer

STEP = "AugmentPrompts"  # under which the store has them
VERSION = 1
SAID = pa.schema(
    {
        "text": pa.string(),
        "finish": pa.string(),
        "model": pa.string(),
        "prompt_tokens": pa.int64(),
        "completion_tokens": pa.int64(),
        "cost": pa.float64(),
    }
)


_Failures = dict[bytes, tuple[str, str | None]]  # reason and value by key


class Said(NamedTuple):
    """What became of a question: an answer that was paid for, or why there is none."""

    answer: Answer | None
    reason: str | None = None
    value: str | None = None


def store_key(writer: Writer, schema: Mapping[str, Any] | None) -> str:
    """What answers depend on besides their questions."""
    return f"{STEP} v{VERSION} {json.dumps({'writer': writer.entry(), 'schema': schema}, sort_keys=True)}"


def answers_of(writer: Writer, schema: Mapping[str, Any] | None, run: Run) -> Answers:
    """Where the store of a run has what a writer answered."""
    return Store(run.annotations, run.workdir / "mirror").answers(STEP, store_key(writer, schema))


def keys_of(questions: Sequence[Question]) -> np.ndarray:
    """xxh3-128 of each question: shape (questions, 2), uint64."""
    texts = [json.dumps([question.messages, question.seed], ensure_ascii=False) for question in questions]
    return hash_texts(pa.array([text.encode("utf-8", "replace") for text in texts], pa.binary()))


class Asked:
    """A writer and the questions that it is asked, by all ranks of a run together. Used in a `with`: what it opened is
    closed behind that."""

    def __init__(self, writer: Writer, schema: Mapping[str, Any] | None, run: Run):
        self.writer, self.schema, self.run = writer, schema, run
        self.answers = answers_of(writer, schema, run)
        self._opened: Opened | None = None
        self._well = False  # whether any rank was answered in this run
        self._suspects: _Failures = {}  # of all ranks, and in no store yet: what failed while nothing was answered
        self._own: _Failures = {}  # those of this rank

    def __enter__(self) -> "Asked":
        with self.run.first():
            self._recover()
        return self

    def __exit__(self, *_: object) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def all(self, questions: Sequence[Question], title: str) -> list[Said]:
        """What became of each question, in their order. The store knows all of them when it returns.

        Every rank of the run must call it with the same questions; each asks its share of those that are missing.

        Raises:
            Stopped: the run's hours or the writer's budget are over; what was paid for is kept.
            HfdsError: the writer cannot be asked, is gone, or answers nothing; what was paid for is kept.
        """
        keys = keys_of(questions)
        missing = self._missing(keys, *self._known())
        own = missing[self.run.rank :: self.run.ranks]
        answered, failures = False, _Failures()
        if len(own) and not self.run.overdue:
            answered, failures = self._ask([questions[at] for at in own.tolist()], keys[own], title)
        self._judge(answered, failures, title)
        known, failed = self._known()
        if left := len(self._missing(keys, known, failed)):
            if self.run.max_hours is None:
                raise ConservationError(f"{title}: {left:,} requests were neither answered nor did they fail")
            raise Stopped(
                f"stopped after {self.run.max_hours:g} hours as asked, with {left:,} requests of {title} left; "
                "run again to go on"
            )
        return self._said(keys, known, failed)

    def mark(self, course: str, questions: Sequence[Question], said: Sequence[Said]) -> None:
        """Keeps that these questions, where they were answered, were asked in a course of this name."""
        paid = [question for question, one in zip(questions, said, strict=True) if one.answer is not None]
        new = [at for at, there in enumerate(self.marked(course, paid)) if not there]
        if new and self.run.main:
            nothing = _row(Answer("", "asked", Usage(), ""))
            self.answers.write(_marks(course, paid)[new], pa.Table.from_pylist([nothing] * len(new), SAID))
        self.run.gathered(None)

    def marked(self, course: str, questions: Sequence[Question]) -> list[bool]:
        """Of each question whether `mark` was told that it was asked and answered in this course."""
        if not questions:
            self._known()  # every rank agrees as often as the others
            return []
        found: list[bool] = (self._known()[0].find(_marks(course, questions)) >= 0).tolist()
        return found

    def settle(self, title: str) -> None:
        """Blames the questions for the failures that no answer came after, where there were answers in runs before.

        Raises:
            HfdsError: nothing was ever answered.
        """
        if self._suspects and not len(self._known()[0]):
            raise self._silence(title)
        self._believe()

    def _judge(self, answered: bool, failures: _Failures, title: str) -> None:
        """Keeps what failed on all ranks. It is in the store once a question is answered, whichever rank asked it."""
        told = self.run.gathered((answered, failures))
        self._well |= any(well for well, _ in told)
        self._own |= failures
        for _, theirs in told:
            self._suspects |= theirs
        if self._well:
            self._believe()
        elif len(self._suspects) >= ALIKE:
            raise self._silence(title)

    def _believe(self) -> None:
        if self._own:
            keys = np.frombuffer(b"".join(self._own), np.uint64).reshape(-1, 2)
            reasons, values = zip(*self._own.values(), strict=True)
            self.answers.write_failed(keys, [*reasons], [*values])
        self._own, self._suspects = {}, {}
        self.run.gathered(None)

    def _silence(self, title: str) -> HfdsError:
        number, (reason, value) = len(self._suspects), [*self._suspects.values()][-1]
        return HfdsError(
            f"{title}: each of {number} requests failed, the last with {reason}: {value}; none of them is dropped: "
            "mend it and run again"
        )

    def _missing(self, keys: np.ndarray, known: Known, failed: Known) -> np.ndarray:
        """Positions of the keys about which nothing is known, one for each distinct key, ascending."""
        firsts = np.sort(np.unique(keys, axis=0, return_index=True)[1])
        firsts = firsts[(known.find(keys[firsts]) < 0) & (failed.find(keys[firsts]) < 0)]
        return firsts[[keys[at].tobytes() not in self._suspects for at in firsts.tolist()]]

    def _said(self, keys: np.ndarray, known: Known, failed: Known) -> list[Said]:
        places, bad = known.find(keys), failed.find(keys)
        rows = iter(known.take(places[places >= 0]).to_pylist())
        why = iter(failed.take(bad[(places < 0) & (bad >= 0)]).to_pylist())
        return [
            _answer(next(rows)) if place >= 0
            else Said(None, **next(why)) if failure >= 0
            else Said(None, *self._suspects[key.tobytes()])
            for place, failure, key in zip(places.tolist(), bad.tolist(), keys, strict=True)
        ]  # fmt: skip

    def _recover(self) -> None:
        """Puts into the store what processes of this machine that were killed had been answered."""
        for path, found in abandoned(self.run.journal, self.answers.folder).items():
            if found:
                keys = np.frombuffer(b"".join(key for key, _ in found), np.uint64).reshape(-1, 2)
                self.answers.write(keys, pa.Table.from_pylist([row for _, row in found], SAID))
            path.unlink()

    def _known(self) -> tuple[Known, Known]:
        """All answers and all failures, the same on every rank."""
        answers, failures = self.run.agree(lambda: (self.answers.parts(), self.answers.parts("failed")))
        return self.answers.known(answers, SAID), self.answers.failed(failures)

    def _ask(self, questions: list[Question], keys: np.ndarray, title: str) -> tuple[bool, _Failures]:
        """Asks, and keeps what was said, also where it is not to go on; gives whether anything was answered, and the
        failures that it did not keep."""
        if self._opened is None:
            for name in [*self.run.models]:  # of steps before: they make room
                getattr(self.run.models.pop(name), "close", lambda: None)()
            self._opened = self.run.opened(self.writer)
        kept = _Kept(self.answers, Journal(self.run.journal, self.answers.folder), keys, self.run.commit_seconds)
        silent = self.run.local_rank > 0 or None
        bar = tqdm(total=len(questions), desc=title, unit=" requests", leave=False, disable=silent)
        size = max(1, self.writer.at_once)
        try:
            for at in range(0, len(questions), size):  # what is on its way is waited for, also when the hours are over
                if at and self.run.overdue:
                    break
                coming = self._opened.write(questions[at : at + size], self.schema)
                try:
                    for position, said in coming:
                        kept.take(at + position, said)
                        bar.update()
                finally:
                    coming.close()  # type: ignore[attr-defined]
        finally:
            kept.commit()
            bar.close()
        return kept.well, kept.suspects


def _marks(course: str, questions: Sequence[Question]) -> np.ndarray:
    """Under which keys the store has that questions were asked in a course: no question has one of these."""
    return hash_texts(pa.array([f"{course}\0{key.tobytes().hex()}" for key in keys_of(questions)], pa.string()))


class _Kept:
    """Answers that are on their way into the store. Failures go there too, but for those that are no BadRow and come
    before the first answer: these are left in `suspects`, as that may be no matter of the questions."""

    def __init__(self, answers: Answers, journal: Journal, keys: np.ndarray, seconds: float):
        self._answers, self._journal, self._keys, self._seconds = answers, journal, keys, seconds
        self._said: list[tuple[int, dict[str, Any]]] = []
        self._failures: list[tuple[int, str, str | None]] = []
        self.suspects: _Failures = {}
        self.well = False
        self._committed = time.monotonic()

    def take(self, position: int, said: Answer | Exception) -> None:
        """Keeps what became of a question: an answer that cannot be used was paid for too."""
        if isinstance(said, BadAnswer):
            said = said.answer
        if isinstance(said, Answer):
            row = _row(said)
            self._said.append((position, row))  # which is written at the end, also where the journal fails
            self.well = True
            self._journal.add(self._keys[position].tobytes(), row)
        elif isinstance(said, BadRow):
            self._failures.append((position, said.reason, said.value))
        else:
            why = crash(said)
            self.suspects[self._keys[position].tobytes()] = (why.reason, why.value)
        if time.monotonic() - self._committed > self._seconds:
            self.commit()

    def commit(self) -> None:
        """Writes to the store what was said since the last time."""
        if self._said:
            positions, rows = zip(*self._said, strict=True)
            self._answers.write(self._keys[[*positions]], pa.Table.from_pylist([*rows], SAID))
            self._journal.clear()
            self._said = []
        if self._failures:
            positions, reasons, values = zip(*self._failures, strict=True)
            self._answers.write_failed(self._keys[[*positions]], [*reasons], [*values])
            self._failures = []
        self._committed = time.monotonic()


def _row(answer: Answer) -> dict[str, Any]:
    return {
        "text": answer.text.encode("utf-8", "replace").decode(),
        "finish": answer.finish,
        "model": answer.model,
        "prompt_tokens": answer.usage.prompt_tokens,
        "completion_tokens": answer.usage.completion_tokens,
        "cost": answer.usage.cost,
    }


def _answer(row: Mapping[str, Any]) -> Said:
    usage = Usage(1, row["prompt_tokens"], row["completion_tokens"], row["cost"])
    return Said(Answer(row["text"], row["finish"], usage, row["model"]))
