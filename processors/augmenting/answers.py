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
    r"(i['’]?m|i am) (very |so |really |truly )?(sorry|afraid|unable|not able|not allowed|not comfortable)\b"
    r"|(i|we) (can(no|['’])?t|cannot|can not|won['’]?t|will not|must (\w+ )?decline|am unable|['’]m unable)\b"
    r"|(i|we) ((do not|don['’]t) feel comfortable|(\w+ )?apologi[sz]e)\b"
    r"|(my|our) (\w+ )?apologies\b|apologies\s*[,.:!]"
    r"|(sorry|apologies|unfortunately)\b[,.:!]? ?(but )?(i|we|as|this|that|it|your|the request)\b"
    r"|(this|that|the|your) (request|topic|content|prompt)s? (\w+ )?"
    r"(violates?|goes? against|is against|breach(es)?|conflicts?)\b"
    r"|unable to (comply|help|assist|fulfil|fulfill|provide|create|generate|write|process|do)\b"
    r"|as an? (ai|artificial intelligence|language model|large language model)\b"
    r"|as an? \w+, (i|we) (can(no|['’])?t|cannot|must|will not|won['’]t)\b"
    r"|(i|we) (refuse to|(do not|don['’]t) think (i|we) (can|should))\b"
    r"|(this|that|the|your) (request|topic|content) (can(no|['’])t|cannot|can not|was|is) "
    r"(be (fulfil|complet|process|answer)|block|declin|reject)"
    r"|it (is|would be) (not|in)( )?appropriate (for|to)\b",
    re.IGNORECASE,
)
_PREAMBLE = re.compile(
    r"(sure|certainly|of course|absolutely|okay|ok|al+ ?right|great|perfect|yes)\b( thing| choice| idea)?\s*"
    r"([.:!]|[,–—-]\s*(here|these|those|below|let|as|the following|i|we)\b)"
    r"|here (are|is|['’]s)\b|here['’]s\b|these are\b|below (are|is)\b|the following\b"
    r"|(these|those|all|each|the|of|above|following|new|more|five|six|seven|eight|nine|ten|twelve|twenty|\d++|\s)+"
    r" prompts?\b|[\"']?(new |more )?prompts?[\"']?\s*:"
    r"|(i )?hope (you|this|these|that|it|they)\b|enjoy\b[^,]*[.!]$|(happy|have fun) \w+ing!"
    r"|(let me know|feel free|would you like|if you(['’]d| would| need| want)|note that|please note|as requested)\b"
    r"|((okay|ok|hmm+|al+ ?right|right|well|so|but|now|first|wait)\b[\s,.…]*+)*+((the|this) user "
    r"(wants|asks|asked|needs|gave|is asking|would like|requested)|((i|we) (need|have|want|should|must) (to )?"
    r"|(i|we)(['’]ll| will) |let me |let['’]s )(write|create|generate|produce|come up|think|start|craft|draft)"
    r"|i(['’]d| would) be (happy|glad) to)\b"
    r"|(assistant|user|answer|output|response|analysis)\s*:"
    r"|i(['’]ve| have) (created|written|prepared|generated|made|put together|come up)\b"
    r"|```|<think>|</?\w+>$|[-*_=~—]{3,}$|[\[\]{}(),;]{1,3}$",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"<\|\w+\|>|</?s>$|\[/?INST\]")  # of a chat's turns, which a tokenizer should have taken off
_NUMBERING = re.compile(
    r"[\[(]?[#№]?\d{1,4}( ?[.)\]]+:?|\\[.)]|[、/])(\s|$|(?=[^\W\d_]))|\d{1,3} \| |[*_]\d{1,4}[.)]?[*_]\s"
    r"|#\d{1,4}\b|\d{1,4}\s*:\s|\d{1,4}[–—-]\s|[①-⓿❶-➓]|\d\ufe0f?\u20e3"
    r"|\(?([a-zA-Z]|[ivxIVX]{2,5})\)\s|([a-z]|[ivx]{2,5}|[IVX]{2,5})\.\s"
    r"|([Pp]rompt|PROMPT|[Ii]dea|[Vv]ariation|[Oo]ption|[Ii]mage|[Pp]icture|[Ss]cene|[Ee]xample)\s*#?\d{1,4}\s*[.:)–—-]+"
    r"(\s|$)|[-*+–—·○■□→|>]\s|[-–](?=[a-zA-Z])|[•●►▪▫◦‣⁃▶➤➢・✓✔✅]|#+\s|\\item\b|<li>"
)
# Numbering where an answer has it twice; once it may be '35 - a number on a door'.
_LISTED = re.compile(r"\d{1,4}\s+[–—-]\s|[A-Z]\.\s")
_STRONG = re.compile(r"\*\*|__")
_QUOTES = {
    '"': '"', "'": "'", "“": "”", "„": "“", "‘": "’", "«": "»", "`": "`", "”": "”", "「": "」", "*": "*", "_": "_",
}  # fmt: skip
_WRAPPED = re.compile(r"<(\w+)>.*</\1>$|[\[{]\s*[\"']|[\"'].*[\"'] ?[\]}]+,?$")  # in a tag, or as JSON
_INVISIBLE = re.compile(r"[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}  # letters and signs as wide as Chinese ones
_APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")
_THOUGHT = re.compile(
    r"(?:[<◁]|\[(?=/?(?-i:THINK)\]))(/?)(?:seed:)?(?:think|thinking|thought|reasoning|scratchpad)[>▷\]]", re.IGNORECASE
)
_BETWEEN = " \t\r\n,"  # what stands between the items of a JSON list
_strings = json.JSONDecoder()


class Part(NamedTuple):
    """One thing that a model said: its text as it stands there, and the `fault` that makes it no prompt."""

    text: str
    fault: str | None = None


def parts(text: str, finish: str, form: str, known: Collection[str]) -> list[Part]:
    """An answer as its parts, in order; never none.

    Faults of an answer as a whole are "empty_answer", "refused", "filtered", "broken_answer", "not_json" and
    "wrong_json" (another value than was asked for, also a text of several lines, or a key that is there twice); of a
    part "blank", "cut" (where the answer ended too early), "numbering", "quotes", "preamble" (and remarks at the end),
    "refused", and "example" (it repeats an example).

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
    found = [part if part.fault else Part(part.text, fault(part.text, known)) for part in found]
    listed = [not part.fault and bool(_LISTED.match(part.text.strip())) for part in found]
    if sum(listed) < 2:
        return found
    return [Part(part.text, "numbering") if one else part for part, one in zip(found, listed, strict=True)]


def fault(text: str, known: Collection[str]) -> str | None:
    """What makes a text no prompt, the first that is found; None where nothing does."""
    said = _plain(text).strip()
    if not said:
        return "blank"
    bare = _STRONG.sub("", said).strip()
    if _NUMBERING.match(said) or _NUMBERING.match(bare):
        return "numbering"
    if _quoted(said) or _quoted(bare) or _WRAPPED.match(said):
        return "quotes"
    if _REFUSAL.match(bare):
        return "refused"
    if not bare or _PREAMBLE.match(said) or _PREAMBLE.match(bare) or _MARKUP.search(said) or bare.endswith(":"):
        return "preamble"
    return "example" if folded(said) in known else None


def _quoted(said: str) -> bool:
    """Whether all of a text stands between two marks; in '"open", a sign, "closed"' the marks belong to two texts."""
    core = said.rstrip(" ,.;")
    for marks in ("**", "__"):
        if len(core) > 4 and core.startswith(marks) and core.endswith(marks) and marks not in core[2:-2]:
            return True
    close = _QUOTES.get(core[:1])
    if close is None or len(core) < 2 or core[-1] != close:
        return False
    inside = _APOSTROPHE.sub("", core[1:-1])
    return core[0] not in inside and close not in inside


def folded(text: str) -> str:
    """A text by which it is known again, whatever its case, blanks, wide letters and final stop."""
    return " ".join(_plain(text).casefold().split()).rstrip(" .")


def _plain(text: str) -> str:
    """A text without characters that nobody sees, its letters and signs as narrow as they can be."""
    return _INVISIBLE.sub("", text).translate(_WIDE)


def shown(text: str) -> str:
    """What the ledger says of a text: without control characters, and not all of a long one."""
    return printable(" ".join(text.split()))[:200]


def _lines(text: str, finish: str) -> list[Part]:
    tags = [match[1] for match in _THOUGHT.finditer(text)]
    thinking = tags[:1] == ["/"]  # the chat's template opened it
    lines = []
    for line in text.splitlines():
        here = [match[1] for match in _THOUGHT.finditer(line)]
        if line.strip():
            lines.append(Part(line, "preamble" if thinking or here else None))
        thinking = here[-1] == "" if here else thinking
    if finish == "length":
        lines[-1] = Part(lines[-1].text, "cut")
    return lines


def _items(text: str, finish: str) -> list[Part]:
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except _Repeated:
        return [Part(text, "wrong_json")]
    except (ValueError, RecursionError):
        return _cut_items(text) if finish == "length" else [Part(text, _not_json(text))]
    prompts = value.get("prompts") if isinstance(value, dict) and len(value) == 1 else None
    if not isinstance(prompts, list):
        return [Part(text, "wrong_json")]
    if not prompts:
        return [Part(text, "empty_answer")]
    return [_item(one) if isinstance(one, str) else Part(json.dumps(one), "wrong_json") for one in prompts]


class _Repeated(ValueError):
    """A key is there twice, of which a dictionary would keep one."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Repeated
    return found


def _item(text: str) -> Part:
    """One text of a list: no prompt where it has several lines, as some models put all of theirs into one text."""
    lines = [line for line in text.splitlines() if line.strip()]
    return Part(_held(text), "wrong_json" if len(lines) > 1 else None)


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
        found.append(_item(one))
        left = left[end:].lstrip(_BETWEEN)
    return [*found, Part(left, "cut")] if left or not found else found


def _held(text: str) -> str:
    """A text that Arrow can hold: JSON may say half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode()
