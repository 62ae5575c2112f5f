"""KeepPrompt: drops prompts by named rules.

The rules are those of the original pipeline (songjein/image-to-prompts-28th-solution) in its two generations: the
defaults are v2 to v4 but for the language, V5_KEEP is v5 and later. docs/prompts.md shows each of them.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hfds import record
from hfds.processor import Filter
from processors.parameters import wrong_parameters
from processors.phrases import ACCENTED, BANNED, CAMERA_WORDS, FIRST_PERSON, any_of, distinct_words, marked, unmarked

CHECKED = {
    **dict.fromkeys(("links", "stop_words", "banned", "first_person"), "phrases"),
    **dict.fromkeys(("chars", "words"), "range"),
    **dict.fromkeys(("unique_words", "hyphens", "by", "commas", "persons"), "count"),
    "repeated_words": "share",
    "mean_word_length": "length",
    "language": "language",
}
Rule = tuple[str, pa.Array, pa.Array, object]  # reason, where it fails, value, threshold


@dataclass(frozen=True)
class KeepPrompt(Filter):
    """Drops prompts by the rules that are on, in the order of the fields; a rule that is None or () is off.

    Ranges and limits are inclusive. `language` and `persons` need the columns of those names (DetectLanguage,
    CountPersons); persons count only where the prompt holds "by" or "style".
    """

    chars: tuple[int, int] | None = (16, 256)
    links: tuple[str, ...] = ("http", "fps")
    stop_words: tuple[str, ...] = CAMERA_WORDS
    banned: tuple[str, ...] = ()
    first_person: tuple[str, ...] = FIRST_PERSON
    words: tuple[int, int] | None = None
    unique_words: int | None = 4
    repeated_words: float | None = 0.55
    mean_word_length: float | None = 2.5
    hyphens: int | None = None
    by: int | None = None
    commas: int | None = None
    language: str | None = None
    persons: int | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        return ("prompt", *(name for name in ("language", "persons") if getattr(self, name) is not None))

    def problems(self) -> list[str]:
        return wrong_parameters(self, CHECKED)

    def verdicts(self, table: pa.Table) -> pa.Array:
        sized = self._first(table, self._size_rules)
        rest = pc.is_null(sized[0])  # the longest texts are spared the other rules
        columns = [
            pc.replace_with_mask(before, rest, after)
            for before, after in zip(sized, self._first(table.filter(rest), self._text_rules), strict=True)
        ]
        return record.drops(self.name, len(table), *columns)

    def _first(self, table: pa.Table, rules: Callable[[pa.Table, pa.Array], Iterator[Rule]]) -> list[pa.Array]:
        """Reason, value and threshold of the first of `rules` that a row fails, as text; null where it fails none."""
        prompt = record.column(table["prompt"], pa.string(), len(table))
        reason = value = threshold = pa.nulls(len(table), pa.string())
        for name, fails, found, limit in rules(table, prompt):
            new = pc.and_(pc.fill_null(fails, False), reason.is_null())
            if pc.any(new).as_py():
                reason = pc.if_else(new, name, reason)
                value = pc.if_else(new, found.cast(pa.string()), value)
                threshold = pc.if_else(new, None if limit is None else str(limit), threshold)
        return [reason, value, threshold]

    def _size_rules(self, table: pa.Table, prompt: pa.Array) -> Iterator[Rule]:
        yield "no_prompt", prompt.is_null(), pa.nulls(len(prompt), pa.string()), None
        yield from _between("too_short", "too_long", pc.utf8_length(prompt), self.chars)

    def _text_rules(self, table: pa.Table, prompt: pa.Array) -> Iterator[Rule]:
        text = pc.utf8_lower(prompt)
        words = marked(text)
        for name, listed, pattern in (
            ("link", self.links, _linked),
            ("stop_word", self.stop_words, any_of),
            ("banned", self.banned, _anywhere),
            ("first_person", self.first_person, any_of),
        ):
            if listed:
                yield _containing(name, words, pattern(phrase.lower() for phrase in listed))
        yield from self._word_rules(text)
        for name, counted, most in (
            ("too_many_hyphens", "-", self.hyphens),
            ("too_many_by", r"\bby\b", self.by),
            ("too_many_commas", ",", self.commas),
        ):
            if most is not None:
                yield _at_most(name, pc.count_substring_regex(words, counted), most)
        if self.language is not None:
            language = table["language"].combine_chunks()
            yield "other_language", pc.fill_null(pc.not_equal(language, self.language), True), language, self.language
        if self.persons is not None:
            said = pc.match_substring_regex(words, r"\b(?:by|style)\b")
            persons = table["persons"].combine_chunks()
            yield "too_many_persons", pc.and_(said, pc.greater(persons, self.persons)), persons, self.persons

    def _word_rules(self, text: pa.Array) -> Iterator[Rule]:
        """The rules that count words: what is between blanks, less the punctuation around it."""
        if (self.words, self.unique_words, self.repeated_words, self.mean_word_length) == (None,) * 4:
            return
        total, unique, letters = _counted(text)
        yield from _between("too_few_words", "too_many_words", pa.array(total), self.words)
        some = np.maximum(total, 1)
        if self.unique_words is not None:
            yield "few_unique_words", pa.array(unique < self.unique_words), pa.array(unique), self.unique_words
        if self.repeated_words is not None:
            share = (total - unique) / some
            yield _at_most("repeated_words", pa.array(share.round(3)), self.repeated_words)
        if self.mean_word_length is not None:
            mean = letters / some
            yield "short_words", pa.array(mean < self.mean_word_length), pa.array(mean.round(3)), self.mean_word_length


V4_KEEP = KeepPrompt(language="en")


V5_KEEP = replace(V4_KEEP, stop_words=(), banned=BANNED, hyphens=5, by=3, commas=9, persons=3)


def _between(less: str, more: str, counts: pa.Array, limits: tuple[int, int] | None) -> Iterator[Rule]:
    if limits is not None:
        least, most = limits
        yield less, pc.less(counts, least), counts, least
        yield _at_most(more, counts, most)


def _at_most(name: str, counts: pa.Array, most: float) -> Rule:
    return name, pc.greater(counts, most), counts, most


def _containing(name: str, texts: pa.Array, pattern: str) -> Rule:
    """Fails where `pattern` is found in `marked` texts; the value is the first thing it finds."""
    fails = pc.match_substring_regex(texts, pattern)
    found = pc.extract_regex(texts.filter(fails), f"(?P<found>{pattern})").field("found")
    return name, fails, pc.replace_with_mask(pa.nulls(len(texts), pa.string()), fails, unmarked(found)), None


def _linked(words: Iterable[str]) -> str:
    """Each word at a border or after a digit, and with or without blanks inside: "60 f p s", but not "of psalms"."""
    spaced = (r"\s?".join(map(re.escape, word)) for word in words)
    return rf"(?:\b|[0-9])(?:{'|'.join(spaced)})"


def _anywhere(strings: Iterable[str]) -> str:
    return "|".join(re.sub(ACCENTED, r"_\1_", re.escape(string)) for string in strings)


def _counted(text: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each text (null as empty) its words, its distinct words and the characters of its words.

    The blanks around a text go first: pyarrow 26 looks beyond the end of one that ends in two of them.
    """
    lists = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pc.fill_null(text, "")))
    words, which = distinct_words(lists.flatten())
    starts, size = np.asarray(lists.offsets)[:-1], np.asarray(pc.utf8_length(words))[which]
    total = np.add.reduceat(size > 0, starts, dtype=np.int64)
    row = np.repeat(np.arange(len(text)), np.asarray(pc.list_value_length(lists)))
    pairs = np.asarray(pc.unique(pa.array(row * len(words) + which)))
    unique = np.bincount(pairs // len(words), minlength=len(text)) - np.logical_or.reduceat(size == 0, starts)
    return total, unique, np.add.reduceat(size, starts, dtype=np.int64)
