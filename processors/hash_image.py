"""Perceptual hash: 64 bits that stay when a picture is encoded again or resized, and differ between pictures.

The pHash of Krawetz (hackerfactor.com/blog, "Looks Like It", 2011) as the package imagehash defines it:

1. grey by ITU-R 601, squeezed to 32x32 pixels with a Lanczos filter;
2. the two-dimensional DCT-II of those, of which the 8x8 lowest frequencies are kept, the mean grey included;
3. a bit for each, row by row, the first one the highest: whether it is above the median of the 64.

Two hashes are compared by how many bits differ, `np.bitwise_count(a ^ b)`. Over 51 photos: at most 4 when one is
resized or encoded again, down to a quality of 20; at most 8 when it is made a quarter brighter; of two photos 18 or
more, and 31 in the mean. Of the same 32x32 pixels the hashes are those of imagehash, whose hexadecimal digits are this
number; that JPEGs are decoded at a part of their size changes 2 or 4 bits of one photo in four.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from datasets import Features, Value
from PIL.Image import Resampling

from hfds.annotator import ModelAnnotator
from hfds.batch import Batch
from hfds.errors import BadRow
from hfds.pixels import Encoded

SIDE, LOW = 32, 8  # pixels, and frequencies, in each direction
SPARE = 2  # a JPEG is decoded at no less than so many times the size that is needed
# Cosines as whole numbers: every sum below stays under 2^53 and is exact in float64, in any order on any machine. A
# picture of one colour has no frequencies then, where rounding would give it 63 bits of noise.
SCALE = 1 << 16
COSINES = np.rint(SCALE * np.cos(np.pi / SIDE * np.outer(np.arange(LOW), np.arange(SIDE) + 0.5)))


@dataclass(frozen=True)
class HashImage(ModelAnnotator):
    """`perceptual_hash`: 64 bits that pictures which look alike have nearly in common, uint64.

    Pictures are read as trainers see them (see `hfds.pixels`), JPEGs at the smallest of their scales that is large
    enough. Mirrored, turned or cropped pictures have other hashes; those of one colour all have the same.
    """

    batch_size: ClassVar[int] = 1024

    @property
    def needs(self) -> tuple[str, ...]:
        return ("image",)

    @property
    def adds(self) -> Features:
        return Features({"perceptual_hash": Value("uint64")})

    @property
    def means(self) -> Mapping[str, str]:
        return {"perceptual_hash": "64 bits that pictures which look alike have nearly in common"}

    def prepare(self, batch: Batch) -> list[int | BadRow]:
        greys = [_grey(picture) for picture in batch.pictures]
        hashes = iter(perceptual_hashes([grey for grey in greys if not isinstance(grey, BadRow)]).tolist())
        return [grey if isinstance(grey, BadRow) else next(hashes) for grey in greys]

    def annotate(self, model: None, items: list[int]) -> pa.Table:
        return pa.table({"perceptual_hash": items}, self.adds.arrow_schema)


def perceptual_hashes(greys: list[np.ndarray]) -> np.ndarray:
    """The hashes of pictures of 32x32 grey pixels, uint8: shape (len(greys),), uint64."""
    pixels = np.array(greys, np.float64).reshape(-1, SIDE, SIDE)
    low = (COSINES @ pixels @ COSINES.T).reshape(-1, LOW * LOW)
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def _grey(picture: Encoded) -> np.ndarray | BadRow:
    """A picture as 32x32 grey pixels, or why there are none."""
    try:
        grey = picture.rgb(SPARE * SIDE).convert("L")
    except BadRow as bad:
        return bad
    # With a box filter first, where a picture is far too large: Lanczos alone takes four times as long.
    return np.asarray(grey.resize((SIDE, SIDE), Resampling.LANCZOS, reducing_gap=SPARE))
