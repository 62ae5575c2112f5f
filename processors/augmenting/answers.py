"""What a model wrote, taken apart: every line or list item is a prompt, or has a fault that says why it is none.

Nothing is mended: a model that numbers its prompts is asked better, and what it said until then is counted. Nothing is
lost either: all of an answer that is not blank is in one of its parts.
"""

import json
import re
from collections.abc import Collection
from typing import Any, NamedTuple

from hfds.record import printable

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"prompts": {"type": "array", "items": {"type": "string"}}},
    "required": ["prompts"],
    "additionalProperties": False,
}
FAULTS = (  # docs/generate.md has one of each
    "numbering", "quotes", "preamble", "refused", "example", "blank", "cut", "empty_answer", "filtered",
    "broken_answer", "not_json", "wrong_json",
)  # fmt: skip
UNANSWERED = {"refusal": "refused", "content_filter": "filtered"}  # as `processors.write` names them
_REFUSAL = re.compile(
    r"(i['’]?m|i am) (very |so |really |truly )?(sorry|afraid|unable|not able|not allowed)\b"
    r"|(i|we) (can(no|['’])?t|cannot|can not|won['’]?t|will not|must decline|am unable|['’]m unable)\b"
    r"|(sorry|apologies|unfortunately)\b[,.:!]? ?(but )?(i|we|as)\b"
    r"|as an? (ai|artificial intelligence|language model|large language model)\b",
    re.IGNORECASE,
)
_PREAMBLE = re.compile(
    r"((sure|certainly|of course|absolutely|okay|ok|great|yes)\b\s*[,.:!]"
    r"|here (are|is|['’]s)\b|here['’]s\b|these are\b|below (are|is)\b|the following\b"
    r"|(new |more )?prompts?\s*(\d+\s*)?:"
    r"|(i hope|let me know|feel free|would you like|note that|please note|as requested)\b"
    r"|```|<think>|</?\w+>$)",
    re.IGNORECASE,
)
_NUMBERING = re.compile(r"\(?#?\d{1,3}[.)\]](\s|$)|\(?[a-zA-Z]{1,4}\)\s|\d{1,3}\s*[:–—-]\s|[-*•–—·]\s|#+\s")
_QUOTES = {'"': '"', "'": "'", "“": "”", "„": "“", "‘": "’", "«": "»", "`": "`", "”": "”", "「": "」"}
_BETWEEN = " \t\r\n,"  # what stands between the items of a JSON list
_strings = json.JSONDecoder()


class Part(NamedTuple):
    """One thing that a model said: its text as it stands there, and the `fault` that makes it no prompt."""

    text: str
    fault: str | None = None


def parts(text: str, finish: str, form: str, known: Collection[str]) -> list[Part]:
    """An answer as its parts, in order; never none.

    Faults of an answer as a whole are "empty_answer", "refused", "filtered", "broken_answer", "not_json" and
    "wrong_json" (another value than was asked for); of a part "blank", "cut" (where the answer ended too early),
    "numbering", "quotes", "preamble" (and remarks at the end), "refused", and "example" (it repeats an example).

    Args:
        finish: how the answer ended; see `hfds.writer.Answer`.
        form: "json" for an object of SCHEMA, "lines" for one prompt a line.
        known: the examples, as `folded`.
    """
    if finish in UNANSWERED:
        return [Part(text, UNANSWERED[finish])]
    if finish not in ("stop", "length"):
        return [Part(text, "broken_answer")]
    if not text.strip():
        return [Part(text, "cut" if finish == "length" else "empty_answer")]
    found = _lines(text, finish) if form == "lines" else _items(text, finish)
    return [part if part.fault else Part(part.text, fault(part.text, known)) for part in found]


def fault(text: str, known: Collection[str]) -> str | None:
    """What makes a text no prompt, the first that is found; None where nothing does."""
    said = text.strip()
    if not said:
        return "blank"
    if _NUMBERING.match(said):
        return "numbering"
    if len(said) > 1 and _QUOTES.get(said[0]) == said[-1]:
        return "quotes"
    if _REFUSAL.match(said):
        return "refused"
    if _PREAMBLE.match(said) or said.endswith(":"):
        return "preamble"
    return "example" if folded(said) in known else None


def folded(text: str) -> str:
    """A text by which it is known again, whatever its case, blanks and final stop."""
    return " ".join(text.casefold().split()).rstrip(" .")


def shown(text: str) -> str:
    """What the ledger says of a text: without control characters, and not all of a long one."""
    return printable(" ".join(text.split()))[:200]


def _lines(text: str, finish: str) -> list[Part]:
    lines = [Part(line) for line in text.splitlines() if line.strip()]
    if finish == "length":
        lines[-1] = Part(lines[-1].text, "cut")
    return lines


def _items(text: str, finish: str) -> list[Part]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _cut_items(text) if finish == "length" else [Part(text, _not_json(text))]
    prompts = value.get("prompts") if isinstance(value, dict) and len(value) == 1 else None
    if not isinstance(prompts, list):
        return [Part(text, "wrong_json")]
    if not prompts:
        return [Part(text, "empty_answer")]
    return [Part(_held(one)) if isinstance(one, str) else Part(json.dumps(one), "wrong_json") for one in prompts]


def _not_json(text: str) -> str:
    """Why it is not JSON: words in front of it or around it, a refusal, or nothing of either."""
    if _REFUSAL.match(text.strip()):
        return "refused"
    return "preamble" if _PREAMBLE.match(text.strip()) else "not_json"


def _cut_items(text: str) -> list[Part]:
    """The whole texts at the beginning of a list that was cut, and what is left."""
    begun = re.match(r'\s*\{\s*"prompts"\s*:\s*\[', text)
    if begun is None:
        return [Part(text, "cut")]
    found, left = [], text[begun.end() :].lstrip(_BETWEEN)
    while left:
        try:
            one, end = _strings.raw_decode(left)
        except (ValueError, RecursionError):
            break
        if not isinstance(one, str):
            break
        found.append(Part(_held(one)))
        left = left[end:].lstrip(_BETWEEN)
    return [*found, Part(left, "cut")] if left or not found else found


def _held(text: str) -> str:
    """A text that Arrow can hold: JSON may say half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode()
