"""CleanPrompt: rewrites a prompt by named rules.

The rules are those of the original pipeline (songjein/image-to-prompts-28th-solution) in its two generations: the
defaults are v2 to v4, V5_CLEAN is v5 and later. docs/prompts.md shows each of them.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from html import unescape
from html.entities import html5

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Features

from hfds import record
from hfds.processor import Annotator
from processors.parameters import wrong_parameters
from processors.phrases import (
    ARTISTS,
    CAMERA_WORDS,
    ENGINES,
    PUNCTUATION,
    SITES,
    any_of,
    distinct_words,
    marked,
    unmarked,
)

LONGEST = 10_000  # characters; a longer text is no prompt, and is left as it is
BLANKS = r"[\t-\r\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"
# Control, bidirectional and tag characters; the joiners U+200C and U+200D stay, scripts and emoji need them.
INVISIBLE = (
    r"[\x00-\x08\x0e-\x1f\x7f-\x{84}\x{86}-\x{9f}\x{ad}\x{200b}\x{200e}\x{200f}\x{202a}-\x{202e}\x{2060}-\x{2064}"
    r"\x{2066}-\x{2069}\x{feff}\x{e0000}-\x{e007f}]"
)
ENDS = " ,;:|/-_"
FULL_WIDTH = dict(zip("，、。；：！？（）", ",,.;:!?()", strict=True))
# What only few prompts hold: a row without any of it is spared the rules down to spaced_digits.
UNUSUAL = r"[^ -~]|[&<]|[0-9] [0-9dDsS/]"
SPACED_DIGITS = (
    (r"\b([0-9]) ([dD])\b", r"\1\2"),
    (r"\b([0-9]) ([0-9])" + r"(?: ([0-9]))?" * 6 + r"\b", r"\1\2\3\4\5\6\7\8"),
    (r"\b((?:[0-9]{2})?[0-9]0) ([sS])\b", r"\1\2"),
    (r"\b([0-9]{1,2}) / ([0-9])", r"\1/\2"),
)
# Doubled punctuation, a blank before it, brackets around nothing; what stays of a match is in its groups.
UNTIDY = (
    rf" *([{PUNCTUATION}])(?: *[{PUNCTUATION}|])+|(\|)(?: *[{PUNCTUATION}|])+| +([,;!?])| +([.:])( |$)|(-)(?: *-)+"
    r"|[(\[{][ ,;.()\[\]{}]*[)\]}]"
)
ERASED = {  # the rules that put a blank for what they match; each begins and ends at the borders of words
    "size_flags": r"\B(?:--?|—|–) ?(?:n|k|h|w|height|width) ?=? ?[0-9]{1,4}",
    "aspect_ratio": r"(?:\B(?:--?|—|–) ?|\b)ar ?=? ?[0-9]{1,2} ?: ?[0-9]{1,2}"
    r"|\baspect ratio(?: of)? ?:? ?[0-9]{1,2} ?[:/x] ?[0-9]{1,2}|\b[0-9]{1,2} ?[:/x] ?[0-9]{1,2} aspect ratio",
    "f_number": r"\b(?:(?:aperture )?f|_ƒ_)(?: ?/ ?[0-9]{1,2}(?: ?[.,] ?[0-9]{1,2})?| ?[0-9]{1,2} ?[.] ?[0-9]{1,2})",
    "lens": r"\b(?:[0-9]{1,4} ?(?:mm)? ?- ?)?[0-9]{1,4}(?:[.] ?[0-9]{1,2})? ?mm"
    r"(?: (?:(?:prime|zoom|macro) )?lens(?:es)?)?",
    "iso": r"\biso ?[:-]? ?[0-9]{2,6}",
    "hd": r"\b(?:(?:full|ultra) ?-? ?)?(?:[ufq]?hd|hdr)",
    "resolution_k": r"\b(?:2|4|6|8|12|16|32|64|128) ?-? ?k(?: res(?:olution)?)?",
    "high_resolution": r"\b(?:(?:very|ultra|super) )?(?:high ?-? ?|hi(?: ?- ?| ))res(?:olution)?",
    "unreal_engine": r"\b(?:(?:(?:rendered|render|made|created) )?(?:in|with|by|on|using) )?unreal ?engine"
    r"(?: ?[0-9](?:[.] ?[0-9])?)?(?: render(?:ed|ing)?)?",
    "award_winning": r"\baward ?-? ?winning",
}
LED = {  # the lists of names, and what is erased along with them
    "words": ("", ""),
    "artists": (r"(?:\b(?:(?:art(?:work)? )?by|(?:in )?(?:the )?style of|and|&) )?", r"(?: ?'s\b)?"),
    "sites": (r"(?:\b(?:(?:trending|featured|popular|posted|seen) )?(?:on|at|from) )?", ""),
    "engines": (
        r"(?:\b(?:(?:rendered|render|made|created) )?(?:in|with|by|on|using) )?",
        r"(?: render(?:er|ed|ing)?\b)?(?: [0-9](?:[.] ?[0-9])?\b)?",
    ),
}


@dataclass(frozen=True)
class CleanPrompt(Annotator):
    """`prompt` with every rule applied until none changes it any more; null stays null, and "" is what is all erased.

    The rules run in the order of the fields. Weigh a text by 1 for a blank, 2 for any other ASCII character and 3 for
    the rest: each rule lowers the weight of what it changes, so the repetition ends, and its end is what all rules
    leave alone. No rule makes a text longer.
    """

    entities: bool = True
    mentions: bool = True
    invisible: bool = True
    full_width: bool = True
    spaced_digits: bool = True
    size_flags: bool = True
    aspect_ratio: bool = True
    f_number: bool = True
    lens: bool = True
    iso: bool = True
    hd: bool = True
    resolution_k: bool = True
    high_resolution: bool = True
    unreal_engine: bool = True
    award_winning: bool = True
    words: tuple[str, ...] = ()
    artists: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    long_numbers: bool = False
    repeats: bool = False
    punctuation: bool = True
    whitespace: bool = True
    ends: bool = True

    @property
    def needs(self) -> tuple[str, ...]:
        return ("prompt",)

    @property
    def adds(self) -> Features:
        return Features({"prompt": record.FEATURES["prompt"]})

    def problems(self) -> list[str]:
        return wrong_parameters(
            self, {f.name: "switch" if isinstance(f.default, bool) else "names" for f in fields(self)}
        )

    def columns(self, table: pa.Table) -> pa.Table:
        texts = record.column(table["prompt"], pa.string(), len(table))
        short = pc.less_equal(pc.utf8_length(texts), LONGEST)  # null for null
        return pa.table({"prompt": pc.replace_with_mask(texts, short, self._settled(texts.filter(short)))})

    def _settled(self, texts: pa.Array) -> pa.Array:
        """`texts` after as many passes as each of them needs."""
        passes = []
        while len(texts):
            once = self._once(texts)
            changed = pc.not_equal(once, texts)
            passes.append((once, changed))
            texts = once.filter(changed)
        for once, changed in reversed(passes):
            texts = pc.replace_with_mask(once, changed, texts)
        return texts

    def _once(self, texts: pa.Array) -> pa.Array:
        """All rules once, in order."""
        texts = _where(UNUSUAL, texts, self._usual)
        if self._erased:
            texts = unmarked(pc.replace_substring_regex(marked(texts), self._erased, " "))
        if self.repeats:
            texts = _collapsed(texts)
        if untidy := "|".join([UNTIDY] * self.punctuation + ["( ) +"] * self.whitespace):
            groups = "".join(rf"\{n + 1}" for n in range(re.compile(untidy).groups))
            texts = pc.replace_substring_regex(texts, untidy, groups)
        if self.whitespace:
            texts = pc.utf8_trim(texts, characters=" ")
        return pc.utf8_trim(texts, characters=ENDS) if self.ends else texts

    def _usual(self, texts: pa.Array) -> pa.Array:
        """The rules for what only few prompts hold."""
        if self.entities:
            texts = _where("&", texts, _unescaped)
        if self.mentions:  # Discord's markup for users, channels and its own emoji
            texts = pc.replace_substring_regex(texts, r"<(?:@[!&]?|#)[0-9]+>|<a?:\w+:[0-9]+>", " ")
        if self.invisible:
            texts = pc.replace_substring_regex(texts, INVISIBLE, "")
        if self.full_width:
            texts = _where(f"[{''.join(FULL_WIDTH)}]", texts, _half_width)
        if self.whitespace:
            texts = pc.replace_substring_regex(texts, BLANKS, " ")
        for pattern, joined in SPACED_DIGITS if self.spaced_digits else ():
            texts = pc.replace_substring_regex(texts, pattern, joined)
        return texts

    @cached_property
    def _erased(self) -> str:
        """One pattern for all rules that erase, or "" when none is on."""
        patterns = [rf"(?:{pattern})\b" for name, pattern in ERASED.items() if getattr(self, name)]
        for name, (before, after) in LED.items():
            if listed := getattr(self, name):
                patterns.append(f"{before}(?:{any_of(listed)}){after}")
        if self.long_numbers:
            patterns.append(r"\b[0-9]{5,}\b")
        return f"(?i){'|'.join(patterns)}" if patterns else ""


V5_CLEAN = CleanPrompt(
    words=CAMERA_WORDS, artists=ARTISTS, sites=SITES, engines=ENGINES, long_numbers=True, repeats=True
)


def _collapsed(texts: pa.Array) -> pa.Array:
    """One word or two in a row that are said again at once: only the last time stays."""
    lists = pc.split_pattern(texts, " ")
    tokens = lists.flatten()
    words, which = distinct_words(tokens)
    row = np.repeat(np.arange(len(texts)), np.asarray(pc.list_value_length(lists)))
    blank = np.asarray(pc.equal(words, ""))[which]
    which = np.where(blank, -1 - np.arange(len(which)), which)  # equal to nothing
    keep = np.ones(len(tokens), bool)
    for n in (1, 2):
        again = (which[:-n] == which[n:]) & (row[:-n] == row[n:])
        edges = np.flatnonzero(np.diff(again, prepend=False, append=False))
        starts, lengths = edges[::2], edges[1::2] - edges[::2]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        whole = within < np.repeat(lengths - lengths % n, lengths)
        keep[(np.repeat(starts, lengths) + within)[whole]] = False
    if keep.all():
        return texts
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row[keep], minlength=len(texts)))])
    return pc.binary_join(pa.ListArray.from_arrays(offsets.astype(np.int32), tokens.filter(pa.array(keep))), " ")


def _where(pattern: str, texts: pa.Array, change: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """`texts` with `change` applied to those that `pattern` is found in."""
    mask = pc.match_substring_regex(texts, pattern)
    return pc.replace_with_mask(texts, mask, change(texts.filter(mask))) if pc.any(mask).as_py() else texts


def _unescaped(texts: pa.Array) -> pa.Array:
    """HTML's entities as the characters they stand for; Python decodes each distinct one once."""
    lists = pc.split_pattern(texts, "&")
    parts, offsets = lists.flatten(), np.asarray(lists.offsets)
    pattern = r"^(?:amp;)*(?P<name>#[0-9]{1,7};|#[xX][0-9A-Fa-f]{1,6};|[A-Za-z]\w{1,31};)(?P<rest>(?s:.*))$"
    found = pc.extract_regex(parts, pattern)
    names, rest = pc.struct_field(found, "name").dictionary_encode(), pc.struct_field(found, "rest")
    stands_for = pa.array([_character(name) for name in names.dictionary.to_pylist()], pa.string())
    changed = pc.binary_join_element_wise(stands_for.take(names.indices), rest, "")
    first = np.zeros(len(parts), bool)
    first[offsets[:-1]] = True
    made = pc.if_else(pa.array(first), parts, pc.coalesce(changed, pc.binary_join_element_wise("&", parts, "")))
    return pc.binary_join(pa.ListArray.from_arrays(lists.offsets, made), "")


def _character(name: str) -> str:
    return unescape(f"&{name}") if name.startswith("#") else html5.get(name, f"&{name}")


def _half_width(texts: pa.Array) -> pa.Array:
    for wide, narrow in FULL_WIDTH.items():
        texts = pc.replace_substring(texts, wide, narrow)
    return texts
