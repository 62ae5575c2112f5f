"""Alike: what is compared of two rows, and from when on they are alike, as a value."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The names of columns of MinHash signatures: the text they are of, and the words in a run where these are not three.
SIGNATURES = re.compile(r"(?P<text>.+)_minhash(?P<words>[1-9]\d*)?")


@dataclass(frozen=True)
class Alike:
    """Two rows are alike when their values of a column are equal, or similar.

    Args:
        of: the column: texts ("prompt" is compared normalised), 64-bit hashes, embeddings, or MinHash signatures of
            texts, "prompt_minhash" of "prompt", in runs of as many words as its name says.
        above: the similarity from which on they are alike. Of texts the Jaccard similarity of their runs of `words`
            words, of embeddings the cosine; both exact, not estimated. Of signatures also the Jaccard similarity of
            the texts, of those pairs that the signatures find.
        within: of 64-bit hashes, the number of bits in which they may differ.
        words: of a shingle.
    """

    of: str = "prompt"
    above: float | None = None
    within: int | None = None
    words: int = 3

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        found = SIGNATURES.fullmatch(self.of)
        return (self.of, found["text"]) if found else (self.of,)

    @property
    def signed(self) -> bool:
        """Whether signatures are compared."""
        return SIGNATURES.fullmatch(self.of) is not None

    @property
    def run(self) -> int:
        """Words of a shingle: those of the signatures, where there are any."""
        found = SIGNATURES.fullmatch(self.of)
        return int(found["words"] or 3) if found else self.words

    @property
    def limit(self) -> float | None:
        """Of either kind; None where only equal values are alike."""
        return self.above if self.within is None else self.within

    def measure(self, features: Mapping[str, Any]) -> str | None:
        """The measure that compares a column with this feature; None where none does so."""
        feature = features[self.of]
        kind = getattr(feature, "dtype", None)
        inner = getattr(getattr(feature, "feature", None), "dtype", None)
        if self.signed and inner == "uint32" and self.above is not None:
            return "minhash"
        if self.within is not None:
            return "hamming" if kind == "uint64" else None
        if self.above is None:
            return "exact" if kind in ("string", "large_string", "null", "uint64") else None
        if kind in ("string", "large_string", "null"):
            return "jaccard"
        return "cosine" if inner in ("float16", "float32") else None

    def problems(self) -> list[str]:
        """What cannot be, one sentence each."""
        found = []
        if not (isinstance(self.of, str) and self.of):
            found.append(f"of must be the name of a column, got {self.of!r}")
        if self.above is not None and not (type(self.above) in (int, float) and 0 < self.above <= 1):
            found.append(f"above must be a similarity above 0 and at most 1, got {self.above!r}")
        if self.within is not None and not (type(self.within) is int and 0 <= self.within <= 16):
            found.append(f"within must be 0 to 16 bits, got {self.within!r}")
        if self.above is not None and self.within is not None:
            found.append("above is for texts and embeddings, within for hashes; give one of them")
        if type(self.words) is not int or self.words < 1:
            found.append(f"words must be a whole number from 1, got {self.words!r}")
        return found

    def misfits(self, features: Mapping[str, Any]) -> list[str]:
        """What is wrong with the column, where it is there."""
        if self.of not in features or self.measure(features):
            return []
        wanted = "texts"
        if self.limit is not None:
            wanted = "64-bit hashes (uint64)" if self.above is None else "texts or embeddings (float16, float32)"
        return [f"column {self.of!r} is {features[self.of]}, wanted {wanted}"]
