"""Shingles: the runs of words that a text holds, as sets of 64-bit hashes.

A word is a run of letters, marks, digits and "_", after NFKC and in lower case.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from processors.duplicates.arrays import changes, ranges

AT_ONCE = 1 << 14  # rows: what is made of these stays in a core's cache
# What separates words, outside ASCII. The last byte of "🕹️" is a mark of its own, a variation selector, and no word.
SEPARATORS = r"[^\x00-\x7F\p{L}\p{M}\p{N}]+|[\x{FE00}-\x{FE0F}]+"
# And inside ASCII: every other byte becomes a blank.
BLANK = bytes(byte if byte >= 128 or chr(byte).isalnum() or byte == ord("_") else ord(" ") for byte in range(256))


class Sets(NamedTuple):
    """For every row a set of hashes: those of row n are `hashes[offsets[n] : offsets[n + 1]]`, ascending, each once.

    `hashes`: uint64. `offsets`: (rows + 1,) int64.
    """

    hashes: np.ndarray
    offsets: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Members of each set: (rows,) int64."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> "Sets":
        """The sets of `rows`, in that order."""
        sizes = self.sizes[rows]
        return Sets(self.hashes[ranges(self.offsets[rows], sizes)], np.append(0, sizes.cumsum()))

    def parts(self, rows: int) -> Iterator[tuple[int, "Sets"]]:
        """All sets, `rows` at a time, each time with the number of the first one."""
        for at in range(0, len(self.offsets) - 1, rows):
            offsets = self.offsets[at : at + rows + 1]
            yield at, Sets(self.hashes[offsets[0] : offsets[-1]], offsets - offsets[0])


def shingles(texts: pa.Array, words: int = 3) -> Sets:
    """The set of all runs of `words` words in each text.

    A text of fewer words has one shingle, all of them. A text without words, or null, has none. Equal shingles have
    equal hashes in every call; two different ones share a hash with a chance of 2**-64.

    Raises:
        ValueError: `words` is below 1.
    """
    if words < 1:
        raise ValueError(f"a shingle has 1 word or more, got {words}")
    parts = [_shingles(texts[at : at + AT_ONCE], words) for at in range(0, len(texts), AT_ONCE)]
    sizes = [np.zeros(1, np.int64), *(part.sizes for part in parts)]
    hashes = np.concatenate([np.zeros(0, np.uint64), *(part.hashes for part in parts)])
    return Sets(hashes, np.concatenate(sizes).cumsum())


def tokens(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The xxh3-64 of all words of all texts in turn, uint64, and how many words each text has: (rows,) int64."""
    lists = pc.split_pattern(spaced(texts), " ")
    offsets = np.asarray(lists.offsets)
    coded = lists.values[offsets[0] : offsets[-1]].dictionary_encode()
    hashes = [xxhash.xxh3_64_intdigest(word) for word in coded.dictionary.cast(pa.binary()).to_pylist()]
    codes = np.asarray(coded.indices)
    words = np.flatnonzero(codes != pc.index(coded.dictionary, "").as_py())  # between two blanks there is ""
    return np.array(hashes, np.uint64)[codes[words]], np.diff(np.searchsorted(words, offsets - offsets[0]))


def spaced(texts: pa.Array) -> pa.Array:
    """Texts in lower case after NFKC, with one blank for every byte or character that belongs to no word."""
    folded = pc.utf8_lower(pc.utf8_normalize(pc.fill_null(texts.cast(pa.large_string()), ""), form="NFKC"))
    wide = pc.invert(pc.string_is_ascii(folded))
    # The expression costs more than all else here, and few texts need it.
    plain = pc.replace_substring_regex(folded.filter(wide), SEPARATORS, " ")
    folded = pc.replace_with_mask(folded, wide, plain)
    _, offsets, data = folded.buffers()
    blanked = pa.py_buffer(data.to_pybytes().translate(BLANK) if data else b"")
    return pa.Array.from_buffers(folded.type, len(folded), [None, offsets, blanked], offset=folded.offset)


def _shingles(texts: pa.Array, words: int) -> Sets:
    """`shingles` of a few rows."""
    hashes, counts = tokens(texts)
    first = counts.cumsum() - counts
    runs = np.zeros(len(hashes), np.uint64)  # a run begins at every word, beyond the end of its text too
    for place in range(min(words, len(hashes))):
        runs[: len(runs) - place] += hashes[place:] * _odd(place)
    few = np.flatnonzero((counts > 0) & (counts < words))
    runs[first[few]] = 0
    for place in range(words - 1):
        few = few[counts[few] > place]
        runs[first[few]] += hashes[first[few] + place] * _odd(place)
    sizes = np.where(counts < words, np.minimum(counts, 1), counts - words + 1)
    return unique(mixed(runs[ranges(first, sizes)]), sizes)


def unique(hashes: np.ndarray, sizes: np.ndarray) -> Sets:
    """Hashes of which the first `sizes[0]` belong to row 0, and so on, as sets."""
    hashes = sort_rows(hashes, sizes)
    new = changes(hashes)
    new[(sizes.cumsum() - sizes)[sizes > 0]] = True
    ends = np.append(0, new.cumsum())
    return Sets(hashes[new], ends[np.append(0, sizes.cumsum())])


def sort_rows(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Values of which the first `sizes[0]` belong to row 0, and so on: ascending within each row.

    Rows of one size are sorted as a matrix, which takes a tenth of the time of a sort by row and value.
    """
    first = sizes.cumsum() - sizes
    order, made = np.argsort(sizes, kind="stable"), np.empty_like(values)
    for rows in np.split(order, np.flatnonzero(np.diff(sizes[order])) + 1):
        at = first[rows, None] + np.arange(sizes[rows[0]] if len(rows) else 0)
        made[at] = np.sort(values[at], axis=1)
    return made


def mixed(values: np.ndarray) -> np.ndarray:
    """Numbers as hashes, sums of which say nothing of sums of the numbers: the finaliser of SplitMix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    made: np.ndarray = values ^ (values >> np.uint64(31))
    return made


def _odd(place: int) -> np.uint64:
    """A multiplier for the words at one place of a shingle."""
    return np.uint64(xxhash.xxh3_64_intdigest(place.to_bytes(8, "little")) | 1)
