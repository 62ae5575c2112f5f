"""Write: what a language model says about a row, by any backend (see `hfds.writer`)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from string import Formatter
from typing import Any, ClassVar

import pyarrow as pa
import xxhash
from datasets import Features, Value

from hfds.annotator import ModelAnnotator
from hfds.asked import Keep, Partly
from hfds.batch import Batch
from hfds.errors import BadRow, HfdsError
from hfds.record import FEATURES, printable
from hfds.run import Run
from hfds.writer import Answer, BadAnswer, Opened, Question, Writer, schema_problems
from processors.models.openai_server import OpenAIServer
from processors.parameters import wrong_parameters

# What is no answer, by how it ended, as the ledger says it.
REASONS = {"refusal": "refused", "content_filter": "filtered", "length": "cut_answer"}
SHOWN = 200  # characters of it that the ledger keeps
SEEDS = 1 << 53


@dataclass(frozen=True)
class Write(ModelAnnotator):
    """What a language model answers about each row, in the column `into`, and in `<into>_by` who wrote it and how.

    A row whose answer is empty, refused, filtered, cut where `max_tokens` ended, broken off, or not of the schema is
    dropped with that as the reason. Such an answer was paid for too: it is kept, and not asked for again by itself.

    Args:
        writer: the language model.
        ask: the question, with the columns that it shows in braces: "Say {prompt} in one sentence."
        into: the column of the answers, one of its own or `prompt`.
        system: the message before it, without columns.
        schema: the JSON Schema of the answers, which are JSON then.
        seed: another one gives other answers; each row's own seed is made of it and of what the row shows.
    """

    shaped: ClassVar[bool] = False  # a copy would have to be paid for

    writer: Writer
    ask: str
    into: str
    system: str | None = None
    schema: Mapping[str, Any] | None = field(default=None, hash=False)
    seed: int = 0

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for _, name, _, _ in Formatter().parse(self.ask) if name))

    @property
    def adds(self) -> Features:
        types = {"model": "string", "seed": "int64", "prompt_tokens": "int32", "completion_tokens": "int32"}
        by = {**{name: Value(of) for name, of in types.items()}, "cost": Value("float64")}
        return Features({self.into: Value("string"), f"{self.into}_by": by})

    @property
    def means(self) -> Mapping[str, str]:
        return {
            self.into: "what a language model wrote",
            f"{self.into}_by": "which model wrote it, from which seed, with how many tokens, and what that cost",
        }

    @property
    def paid(self) -> tuple[str, str]:  # type: ignore[override]
        return f"{self.into}_by", "cost"

    @property
    def batch_size(self) -> int:  # type: ignore[override]
        """As many as keep the writer busy."""
        return self.writer.at_once

    @property
    def elsewhere(self) -> bool:
        return isinstance(self.writer, OpenAIServer)

    def problems(self) -> list[str]:
        found = wrong_parameters(self, {"into": "column", "seed": "seed"})
        if not all(hasattr(self.writer, name) for name in ("open", "entry", "problems", "at_once")):
            return [*found, f"{self.name}: writer must be a hfds.writer.Writer, got {self.writer!r}"]
        found += [f"{self.name}: {problem}" for problem in self.writer.problems()]
        if not _names_columns(self.ask):
            found.append(f"{self.name}: ask must name columns as in 'Say {{prompt}} again', got {self.ask!r}")
        if isinstance(self.into, str) and self.into in FEATURES and self.into != "prompt":
            found.append(f"{self.name}: into must be prompt or no column of the sources, got {self.into!r}")
        if self.system is not None and not isinstance(self.system, str):
            found.append(f"{self.name}: system must be a text, got {self.system!r}")
        if self.schema is not None:
            found += [f"{self.name}: {problem}" for problem in schema_problems(self.schema)]
        return found

    def parameters(self) -> dict[str, Any]:
        """As of every step, with what the writer's answers depend on instead of all that it is, and the schema as it is
        written: answers have its properties in their order."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        schema = None if self.schema is None else json.dumps(self.schema, default=str)
        return {**values, "writer": self.writer.entry(), "schema": schema}

    def load(self, device: str) -> Opened:
        return self.writer.open(device)

    def open(self, run: Run) -> Opened:
        return run.opened(self.writer)

    def prepare(self, batch: Batch) -> list[Question]:
        columns = [batch.texts(name) for name in self.needs]
        return [self._question(dict(zip(self.needs, row, strict=True))) for row in zip(*columns, strict=True)]

    def annotate(self, model: Opened, items: list[Question]) -> Partly:
        return self.annotate_each(model, items, lambda number, said: None)

    def annotate_each(self, model: Opened, items: list[Question], keep: Keep) -> Partly:
        answers: dict[int, Answer] = {}
        failed: list[tuple[int, Exception]] = []
        stop: HfdsError | None = None
        try:
            for row, said in model.write(items, self.schema):
                if isinstance(said, Answer) and said.finish == "stop":
                    answers[row] = said
                    keep(row, self._columns(said, items[row]))
                else:
                    failed.append((row, blamed := _blamed(said)))
                    if isinstance(blamed, BadRow):
                        keep(row, blamed)
        except HfdsError as error:
            if not answers and not failed:
                raise
            stop = error
        rows = sorted(answers)
        columns = [self._columns(answers[row], items[row]) for row in rows]
        table = pa.Table.from_pylist(columns, self.adds.arrow_schema)
        return Partly(table, rows, sorted(failed, key=lambda one: one[0]), stop)

    def _question(self, values: Mapping[str, str]) -> Question:
        said = ("user", self.ask.format(**values))
        messages = (("system", self.system), said) if self.system is not None else (said,)
        seed = xxhash.xxh3_64_intdigest("\0".join(text for _, text in messages).encode(), self.seed % (1 << 64))
        return Question(messages, seed % SEEDS)

    def _columns(self, answer: Answer, question: Question) -> dict[str, Any]:
        used = answer.usage
        tokens = {"prompt_tokens": used.prompt_tokens, "completion_tokens": used.completion_tokens}
        by = {"model": answer.model, "seed": question.seed, **tokens, "cost": used.cost}
        return {self.into: answer.text.encode("utf-8", "replace").decode(), f"{self.into}_by": by}


def _names_columns(ask: Any) -> bool:
    """Whether a question has columns in braces, and nothing else in them."""
    try:
        parts = [(name, how, as_) for _, name, how, as_ in Formatter().parse(ask) if name is not None]
    except (ValueError, TypeError):
        return False
    return bool(parts) and all(name.isidentifier() and not how and not as_ for name, how, as_ in parts)


def _blamed(said: Answer | Exception) -> Exception:
    """Why a row has no answer, with what was said instead."""
    if isinstance(said, Answer):
        return BadRow(REASONS.get(said.finish, said.finish), _shown(said.text))
    if isinstance(said, BadAnswer):
        return BadRow(said.reason, _shown(said.value))
    return said


def _shown(text: str | None) -> str | None:
    return printable(text[:SHOWN]) if text else None
