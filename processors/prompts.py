r"""Prompts: CleanPrompt rewrites a prompt by named rules, KeepPrompt drops prompts by named rules.

The rules are those of the original pipeline (songjein/image-to-prompts-28th-solution) in its two generations: the
defaults are v2 to v4, V5_CLEAN and V5_KEEP are v5 and later. docs/prompts.md shows each of them.

Patterns are RE2, as pyarrow runs it over whole columns: time linear in the text, no lookaround, and a \b for which "é"
is no letter. So while borders of words matter, accented letters stand between underscores, which \b takes for letters.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from html import unescape
from html.entities import html5
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Features

from hfds import record
from hfds.errors import ConfigError
from hfds.processor import Annotator, Filter, Step


def _listed(names: str) -> tuple[str, ...]:
    return tuple(names.split(", "))


LONGEST = 10_000  # characters; a longer text is no prompt, and is left as it is

# Of the 23 words of the original pipeline those that are published facts, completed by others of their kind.
CAMERA_WORDS = _listed(
    "canon, nikon, fujifilm, hasselblad, leica, pentax, lumix, gopro, sony alpha, dslr, slr, shutter speed, 1/160, "
    "aperture, focal length, telephoto, macro lens, zoom lens, wide angle lens, dof, exif, opengl, directx"
)
FIRST_PERSON = _listed(
    "i'm, i am, i need, i want, i would, i'd like, i have, i can't, help me, give me, show me, tell me, can you, "
    "could you"
)
# "rendered with", "#", "1/", "jpg" and "png" are the original's; the others are of their kind.
BANNED = _listed(
    "#, 1/, jpg, jpeg, png, .gif, www., .com, @, ©, ®, ™, rendered with, rendered by, made with, shot with, "
    "taken with, captured with"
)
SITES = _listed(
    "artstationhq, artstation hq, artstation, art station, deviantart, deviant art, pixiv fanbox, pixiv, cgsociety, "
    "cg society, behance, pinterest, flickr, instagram, 500px, unsplash, shutterstock, pexels, zbrush central, tumblr, "
    "furaffinity, dribbble"
)
ENGINES = _listed(
    "octane, unity engine, unity 3d, cryengine, blender 3d, blender render, cinema 4d, c4d, v-ray, vray, redshift, "
    "arnold render, keyshot, zbrush, houdini, povray, lumion, marmoset toolbag, frostbite, source engine, godot, "
    "corona render, renderman, ue5"
)
# The names that the demo prompts (DiffusionDB) hold most often.
ARTISTS = _listed(
    "greg rutkowski, stanley artgerm lau, stanley artgerm, artgerm, alphonse mucha, wlop, ilya kuvshinov, "
    "makoto shinkai, rossdraws, zdzislaw beksinski, zdzisław beksinski, zdzisław beksiński, beksinski, james jean, "
    "beeple, rhads, lois van baarle, craig mullins, loish, peter mohrbacher, studio ghibli, h. r. giger, hr giger, "
    "magali villeneuve, ruan jia, tom bagshaw, moebius, ross tran, krenz cushart, jesper ejsing, gaston bussiere, "
    "marc simonetti, victo ngai, charlie bowater, norman rockwell, donato giancola, edward hopper, boris vallejo, "
    "ayami kojima, james gilleard, gustav klimt, dan mumford, frank frazetta, karol bak, andrei riabovitchev, "
    "simon stalenhag, yoshitaka amano, tooth wu, greg hildebrandt, james gurney, j. c. leyendecker, ferdinand knab, "
    "syd mead, stephen bliss, john harris, thomas kinkade, wayne barlowe, feng zhu, caravaggio, andreas rocha, "
    "mark brooks, rembrandt, gil elvgren, akihiko yoshida, mark ryden, michael whelan, gustave dore, atey ghailan, "
    "takato yamamoto, michael garmash, lisa frank"
)

ACCENTED = "([À-ÖØ-öø-ɏ\u0300-\u036fḀ-ỿ]+)"  # for Python and for RE2
PUNCTUATION = ",.;:!?"
TRIMMED = PUNCTUATION + "()[]{}<>\"'“”‘’|/\\-–—*_~"  # from the ends of a word, where words are counted or compared
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
KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "switch": ("True or False", lambda v: isinstance(v, bool)),
    "phrases": (
        "a tuple of phrases that are not blank",
        lambda v: isinstance(v, tuple) and all(isinstance(phrase, str) and phrase.strip() for phrase in v),
    ),
    "names": (
        "a tuple of phrases that begin and end with a letter or a digit",
        lambda v: isinstance(v, tuple) and all(isinstance(n, str) and re.fullmatch(r"[^\W_](.*[^\W_])?", n) for n in v),
    ),
    "range": (
        "None or two whole numbers (least, most)",
        lambda v: v is None or (isinstance(v, tuple) and [type(n) for n in v] == [int, int] and 0 <= v[0] <= v[1]),
    ),
    "count": ("None or a whole number from 0", lambda v: v is None or (type(v) is int and v >= 0)),
    "share": ("None or a number from 0 to 1", lambda v: v is None or (type(v) in (int, float) and 0 <= v <= 1)),
    "length": ("None or a number from 0", lambda v: v is None or (type(v) in (int, float) and 0 <= v < float("inf"))),
    "language": ("None or a code such as 'en'", lambda v: v is None or (isinstance(v, str) and len(v.strip()) > 1)),
}
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
        return _problems(self, {f.name: "switch" if isinstance(f.default, bool) else "names" for f in fields(self)})

    def columns(self, table: pa.Table) -> pa.Table:
        _refuse(self)
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
            texts = _unmarked(pc.replace_substring_regex(_marked(texts), self._erased, " "))
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
                patterns.append(f"{before}(?:{_any_of(listed)}){after}")
        if self.long_numbers:
            patterns.append(r"\b[0-9]{5,}\b")
        return f"(?i){'|'.join(patterns)}" if patterns else ""


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
        return _problems(self, CHECKED)

    def verdicts(self, table: pa.Table) -> pa.Array:
        _refuse(self)
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
        marked = _marked(text)
        for name, listed, pattern in (
            ("link", self.links, _linked),
            ("stop_word", self.stop_words, _any_of),
            ("banned", self.banned, _anywhere),
            ("first_person", self.first_person, _any_of),
        ):
            if listed:
                yield _containing(name, marked, pattern(phrase.lower() for phrase in listed))
        yield from self._word_rules(text)
        for name, counted, most in (
            ("too_many_hyphens", "-", self.hyphens),
            ("too_many_by", r"\bby\b", self.by),
            ("too_many_commas", ",", self.commas),
        ):
            if most is not None:
                yield _at_most(name, pc.count_substring_regex(marked, counted), most)
        if self.language is not None:
            language = table["language"].combine_chunks()
            yield "other_language", pc.fill_null(pc.not_equal(language, self.language), True), language, self.language
        if self.persons is not None:
            said = pc.match_substring_regex(marked, r"\b(?:by|style)\b")
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


V5_CLEAN = CleanPrompt(
    words=CAMERA_WORDS, artists=ARTISTS, sites=SITES, engines=ENGINES, long_numbers=True, repeats=True
)
V4_KEEP = KeepPrompt(language="en")
V5_KEEP = replace(V4_KEEP, stop_words=(), banned=BANNED, hyphens=5, by=3, commas=9, persons=3)


def _between(less: str, more: str, counts: pa.Array, limits: tuple[int, int] | None) -> Iterator[Rule]:
    if limits is not None:
        least, most = limits
        yield less, pc.less(counts, least), counts, least
        yield _at_most(more, counts, most)


def _at_most(name: str, counts: pa.Array, most: float) -> Rule:
    return name, pc.greater(counts, most), counts, most


def _containing(name: str, marked: pa.Array, pattern: str) -> Rule:
    """Fails where `pattern` is found; the value is the first thing it finds."""
    fails = pc.match_substring_regex(marked, pattern)
    found = pc.extract_regex(marked.filter(fails), f"(?P<found>{pattern})").field("found")
    return name, fails, pc.replace_with_mask(pa.nulls(len(marked), pa.string()), fails, _unmarked(found)), None


def _linked(words: Iterable[str]) -> str:
    """Each word at a border or after a digit, and with or without blanks inside: "60 f p s", but not "of psalms"."""
    spaced = (r"\s?".join(map(re.escape, word)) for word in words)
    return rf"(?:\b|[0-9])(?:{'|'.join(spaced)})"


def _anywhere(strings: Iterable[str]) -> str:
    return "|".join(re.sub(ACCENTED, r"_\1_", re.escape(string)) for string in strings)


def _any_of(phrases: Iterable[str]) -> str:
    """Any of `phrases`, its words apart by blanks or a hyphen, its punctuation with or without blanks around it."""
    patterns = []
    for phrase in phrases:
        pattern, after_word = "", False
        for piece in re.findall(r"[^\W_]+|[^\w\s]|_", phrase):
            word = piece.isalnum()
            pattern += (r"(?:\s*-\s*|\s+)" if word and after_word else r"\s*") if pattern else ""
            pattern += "['’]" if piece in "'’" else re.sub(ACCENTED, r"_\1_", re.escape(piece))
            after_word = word
        patterns.append(_border(phrase.strip()[0]) + pattern + _border(phrase.strip()[-1]))
    return "|".join(patterns)


def _border(outermost: str) -> str:
    r"""The assertion that a word or a run of punctuation ends at this outermost character of it."""
    if outermost.isascii():
        return r"\b" if re.match(r"\w", outermost) else r"\B"
    return r"\b" if re.match(ACCENTED, outermost) else ""


def _marked(texts: pa.Array) -> pa.Array:
    """`texts` with an underscore on both sides of accented letters."""
    other = pc.invert(pc.string_is_ascii(texts))
    return pc.replace_with_mask(texts, other, pc.replace_substring_regex(texts.filter(other), ACCENTED, r"_\1_"))


def _unmarked(texts: pa.Array) -> pa.Array:
    other = pc.invert(pc.string_is_ascii(texts))
    return pc.replace_with_mask(texts, other, pc.replace_substring_regex(texts.filter(other), f"_{ACCENTED}_", r"\1"))


def _words(tokens: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The distinct words of `tokens`, without case and outer punctuation, and which of them each token is."""
    coded = tokens.dictionary_encode()
    words = pc.utf8_trim(pc.utf8_lower(coded.dictionary), characters=TRIMMED).dictionary_encode()
    return words.dictionary, np.asarray(words.indices)[np.asarray(coded.indices)]


def _counted(text: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each text (null as empty) its words, its distinct words and the characters of its words."""
    lists = pc.utf8_split_whitespace(pc.fill_null(text, ""))
    words, which = _words(lists.flatten())
    starts, size = np.asarray(lists.offsets)[:-1], np.asarray(pc.utf8_length(words))[which]
    total = np.add.reduceat(size > 0, starts, dtype=np.int64)
    row = np.repeat(np.arange(len(text)), np.asarray(pc.list_value_length(lists)))
    pairs = np.asarray(pc.unique(pa.array(row * len(words) + which)))
    unique = np.bincount(pairs // len(words), minlength=len(text)) - np.logical_or.reduceat(size == 0, starts)
    return total, unique, np.add.reduceat(size, starts, dtype=np.int64)


def _collapsed(texts: pa.Array) -> pa.Array:
    """One word or two in a row that are said again at once: only the last time stays."""
    lists = pc.split_pattern(texts, " ")
    tokens = lists.flatten()
    words, which = _words(tokens)
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


def _problems(step: Step, kinds: dict[str, str]) -> list[str]:
    values = {name: getattr(step, name) for name in kinds}
    return [
        f"{step.name}: {name} must be {KINDS[kind][0]}, got {values[name]!r}"
        for name, kind in kinds.items()
        if not KINDS[kind][1](values[name])
    ]


def _refuse(step: Step) -> None:
    if problems := step.problems():
        raise ConfigError(*problems)
