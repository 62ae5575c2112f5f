"""Phrases that prompts hold, and how they are found: words that name cameras, sites, engines, artists.

Patterns are RE2, as pyarrow runs it over whole columns: time linear in the text, no lookaround, and word borders of
ASCII only. So accented letters are put between underscores before a search, see `marked`.
"""

import re
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def _listed(names: str) -> tuple[str, ...]:
    return tuple(names.split(", "))


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


def any_of(phrases: Iterable[str]) -> str:
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


def marked(texts: pa.Array) -> pa.Array:
    """`texts` with an underscore on both sides of accented letters."""
    other = pc.invert(pc.string_is_ascii(texts))
    return pc.replace_with_mask(texts, other, pc.replace_substring_regex(texts.filter(other), ACCENTED, r"_\1_"))


def unmarked(texts: pa.Array) -> pa.Array:
    other = pc.invert(pc.string_is_ascii(texts))
    return pc.replace_with_mask(texts, other, pc.replace_substring_regex(texts.filter(other), f"_{ACCENTED}_", r"\1"))


def distinct_words(tokens: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The distinct words of `tokens`, without case and outer punctuation, and which of them each token is."""
    coded = tokens.dictionary_encode()
    words = pc.utf8_trim(pc.utf8_lower(coded.dictionary), characters=TRIMMED).dictionary_encode()
    return words.dictionary, np.asarray(words.indices)[np.asarray(coded.indices)]
