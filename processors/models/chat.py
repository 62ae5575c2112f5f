"""Chats: questions as a model reads them, by its own template, and what an engine that is not constrained is told."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hfds.errors import BadRow, ConfigError
from hfds.model import Model
from hfds.writer import Question
from processors.models.checkpoint import load_tokenizer

FENCED = re.compile(r"\s*```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL)


def load_chat(model: Model) -> Any:
    """The tokenizer of a chat model.

    Raises:
        ConfigError: it has none, or no template for chats.
    """
    tokenizer = load_tokenizer(model)
    if not tokenizer.chat_template:
        raise ConfigError(
            f"{model.repo} must hold a model for chats: neither chat_template.jinja nor tokenizer_config.json has a "
            "template"
        )
    return tokenizer


def messages(question: Question) -> list[dict[str, str]]:
    """A question as templates and servers want it."""
    return [{"role": role, "content": text} for role, text in question.messages]


def marks_of(tokenizer: Any) -> re.Pattern[str]:
    """What finds the special tokens of a chat, by which a model knows where a message ends and who speaks. One letter
    or sign is none of them: some checkpoints pad with "!"."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    marks = {mark for mark in (*added, *tokenizer.all_special_tokens) if len(mark.strip()) > 1}
    return re.compile("|".join(map(re.escape, sorted(marks))) or r"(?!)")


def refuse_marks(question: Question, marks: re.Pattern[str]) -> None:
    """Looks whether a message holds what `marks` finds: of a row's text that would be an end of the message, or another
    speaker. What the system says is no row's.

    Raises:
        BadRow: one does.
    """
    for role, text in question.messages:
        if role != "system" and (found := marks.search(text)):
            raise BadRow("special_token", found[0])


def told_schema(question: Question, schema: Mapping[str, Any]) -> Question:
    """A question that says which JSON its answer must be, for an engine that does not see to it."""
    *before, (role, text) = question.messages
    text = f"{text}\n\nAnswer with JSON alone, of this JSON Schema:\n{json.dumps(dict(schema))}"
    return replace(question, messages=(*before, (role, text)))


def unfenced(text: str) -> str:
    """What stands between the marks of a code block, where that is all of a text."""
    found = FENCED.fullmatch(text)
    return found[1] if found else text
