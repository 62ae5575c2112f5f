"""Writer: a language model as a value, whatever runs it: an engine in this process, or a server.

A step that writes holds a Writer and knows no backend. What an engine answers comes one by one, as it is there, so
that whoever asks can keep each answer, whatever happens to the next ones.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from hfds.errors import BadRow, MissingExtra

UNFINISHED = ("length", "refusal", "content_filter")  # how an answer ends besides "stop"


@dataclass(frozen=True)
class Question:
    """One request: pairs of role ("system", "user", "assistant") and text, and the seed of its sampling, 0 to 2^53."""

    messages: tuple[tuple[str, str], ...]
    seed: int


@dataclass(frozen=True)
class Usage:
    """What was asked and written, in tokens as the backend counts them, and what it cost in the money of its prices."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def __str__(self) -> str:
        tokens = f"{self.requests:,} requests of {self.prompt_tokens:,} tokens, {self.completion_tokens:,} written"
        return f"{tokens}, for {self.cost:,.4f}" if self.cost else tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost + other.cost,
        )

    def __sub__(self, other: "Usage") -> "Usage":
        return self + Usage(-other.requests, -other.prompt_tokens, -other.completion_tokens, -other.cost)


@dataclass(frozen=True)
class Answer:
    """What a model wrote.

    Args:
        text: with nothing taken off; where it refused, its refusal.
        finish: "stop", "length" (cut where `max_tokens` ended), "refusal" or "content_filter"; or, in a BadAnswer, the
            backend's own word for another end: "abort", "error".
        usage: what this answer took.
        model: what wrote it: "<repo>@<commit> <dtype>", or what the server calls it.
    """

    text: str
    finish: str
    usage: Usage
    model: str


class BadAnswer(BadRow):
    """An answer that is not what was asked for: `reason` is "empty_answer", "not_json", "not_of_schema" or
    "broken_answer" (it did not come to an end of its own), `value` the text. It was paid for: `answer` has it whole."""

    def __init__(self, reason: str, value: str | None, answer: Answer):
        super().__init__(reason, value)
        self.args = (reason, value, answer)  # with which it is made again behind a process
        self.answer = answer


class Opened(Protocol):
    """A loaded engine, or the connection to a server."""

    @property
    def usage(self) -> Usage:
        """All that was asked of it, answers that cannot be used too."""
        ...

    def write(
        self, questions: Sequence[Question], schema: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[int, Answer | Exception]]:
        """For each question its position and what became of it, as soon as it is there: in any order, each once.

        An exception in place of an answer is about that question alone: a BadRow for sure (a BadAnswer was paid for),
        any other as far as it looks. An answer whose `finish` is "stop" is not empty. What stops everything is raised,
        after all answers that were paid for were given. Closing the iterator begins no further question.

        Args:
            schema: the JSON Schema that each answer must hold to; then one whose `finish` is "stop" is JSON of it.

        Raises:
            ConfigError: nothing can be asked as it is set up: there is no key, no such model.
            WriterError: the server is gone, or refuses.
            Stopped: the budget is reached.
        """
        ...

    def close(self) -> None:
        """Frees what it holds. No further question can be asked."""
        ...


class Writer(Protocol):
    """A language model and how it samples: a frozen dataclass of plain parameters."""

    @property
    def at_once(self) -> int:
        """How many questions `write` should be given for it to be busy with."""
        ...

    def open(self, device: str, ranks: int = 1) -> Opened:
        """It, ready to write on `device`; its limits (requests, tokens, money) are divided among `ranks` processes."""
        ...

    def entry(self) -> dict[str, Any]:
        """What its answers depend on, for keys and locks: backend, model and revision, sampling. Never a token, and
        nothing of how fast or on how many processes it runs."""
        ...

    def problems(self) -> list[str]:
        """What is wrong with its parameters, one sentence each."""
        ...


@runtime_checkable
class Limited(Protocol):
    """A writer with limits that hold for all that a run opens of it, one after the other or at once."""

    def limits(self, ranks: int) -> Any:
        """The share of one of `ranks` processes, of which nothing is used yet."""
        ...

    def open(self, device: str, ranks: int = 1, limits: Any = None) -> Opened:
        """As of every writer; within `limits`, or such of its own when None."""
        ...


def in_order(
    opened: Opened, questions: Sequence[Question], schema: Mapping[str, Any] | None = None
) -> list[Answer | Exception]:
    """What became of each question, in their order, for those who need no answer before all are there."""
    found = dict(opened.write(questions, schema))
    return [found[position] for position in range(len(questions))]


def checked(answer: Answer, schema: Mapping[str, Any] | None = None) -> Answer | BadAnswer:
    """`answer`, or a BadAnswer where it ended in no way that is known, or where the model came to its end and what it
    wrote is empty, or not JSON of `schema`.

    Raises:
        MissingExtra: jsonschema is not installed.
    """
    if answer.finish in UNFINISHED:
        return answer
    if answer.finish != "stop":
        return BadAnswer("broken_answer", f"{answer.finish}: {answer.text}", answer)
    if not answer.text.strip():
        return BadAnswer("empty_answer", None, answer)
    if schema is None:
        return answer
    try:
        from jsonschema.exceptions import best_match
        from jsonschema.validators import validator_for
    except ImportError:
        raise MissingExtra("a schema of answers", "jsonschema", "write") from None
    try:
        value = json.loads(answer.text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return BadAnswer("not_json", answer.text, answer)
    try:
        wrong = best_match(validator_for(schema)(schema, registry=_known()).iter_errors(value))
    except Exception as error:  # noqa: BLE001  of a schema that turns in a circle, say: the answer was paid for
        return BadAnswer("not_of_schema", f"{type(error).__name__}: {answer.text}", answer)
    return answer if wrong is None else BadAnswer("not_of_schema", f"{wrong.message}: {answer.text}", answer)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def schema_problems(schema: Mapping[str, Any]) -> list[str]:
    """What is wrong with a schema of answers, one sentence each."""
    try:
        from jsonschema.exceptions import SchemaError
        from jsonschema.validators import validator_for
    except ImportError:
        return [str(MissingExtra("a schema of answers", "jsonschema", "write"))]
    kind = validator_for(schema)
    try:
        kind.check_schema(schema, format_checker=kind.FORMAT_CHECKER)  # with which patterns are looked at too
    except SchemaError as error:
        return [f"the schema of answers is no JSON Schema: {error.message}"]
    except RecursionError:
        return ["the schema of answers is nested too deeply"]
    return [f"the schema of answers has no {found!r}, to which it refers" for found in _unresolved(schema)]


def _known() -> Any:
    """The schemas that another may refer to: those of JSON Schema itself. None is fetched from anywhere."""
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]

    return REGISTRY


def _unresolved(schema: Mapping[str, Any]) -> list[str]:
    """The references of a schema that lead nowhere, also in what it refers to."""
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012, specification_with

    kind = specification_with(str(schema.get("$schema", "")), default=DRAFT202012)
    whole = kind.create_resource(schema)
    found: dict[str, None] = {}
    left, seen = [(whole, _known().resolver_with_root(whole))], set()
    while left:
        part, resolver = left.pop()
        if id(part.contents) in seen or not isinstance(part.contents, Mapping):
            continue
        seen.add(id(part.contents))
        for name in ("$ref", "$dynamicRef", "$recursiveRef"):
            if not isinstance(to := part.contents.get(name), str):
                continue
            try:
                there = resolver.lookup(to)
            except Unresolvable:
                found[to] = None
            else:
                left.append((kind.create_resource(there.contents), there.resolver))
        left += [(below, resolver.in_subresource(below)) for below in part.subresources()]
    return [*found]
