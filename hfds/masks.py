"""Masks: those of a picture's entities as one PNG, in which a pixel is the number of the entity that it shows."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
from datasets import Features

from hfds import entities
from hfds.errors import BadRow
from hfds.pixels import Encoded
from hfds.properties import properties

EXTENSION = "mask.png"


def has_masks(features: Features) -> bool:
    """Whether rows of these features have masks."""
    found = features.get(entities.COLUMN)
    item = getattr(found, "feature", None)
    return isinstance(item, Mapping) and "mask" in item


def mask_of(row: Sequence[Mapping[str, Any]] | None, picture: memoryview | None, noted: Counter[str]) -> bytes:
    """A PNG of the size of a picture as it is shown: grey levels of 8 bits, or of 16 where a row has more than 255
    entities. 0 is none of them, n the n-th of `row`; where two overlap it is the later one.

    A mask that does not fit the picture is left out and counted in `noted` as "bad_mask". One pixel where there is no
    picture, or none whose headers can be read.
    """
    width, height = (picture and shown(picture)) or (1, 1)
    if width * height > entities.LARGEST:
        width = height = 1  # nobody decodes that picture either
    row = row or ()
    numbers = np.zeros(width * height, np.uint8 if len(row) < 256 else np.uint16)  # down the columns, as runs are
    for number, entity in enumerate(row, start=1):
        if entity["mask"]:
            try:
                _, runs = entities.mask_of(entity["mask"], width, height)
            except BadRow as bad:
                noted[bad.reason] += 1
                continue
            numbers[np.repeat(np.arange(len(runs)) % 2 == 1, runs)] = number
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.ascontiguousarray(numbers.reshape(width, height).T)).save(buffer, "PNG")
    return buffer.getvalue()


def shown(picture: memoryview) -> tuple[int, int] | None:
    """Width and height of a picture as it is shown, which EXIF may turn; None where its headers cannot be read."""
    try:
        found = properties(Encoded(len(picture), lambda at, n: bytes(picture[at : at + n])))
    except BadRow:
        return None
    return (found.height, found.width) if found.rotated else (found.width, found.height)
