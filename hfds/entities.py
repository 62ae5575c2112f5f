"""Entities: what the column `entities` says of a picture: names, boxes xyxy in 0..1, masks in COCO's run lengths.

Masks follow the format page and the mask API of COCO (cocodataset.org, cocoapi): runs down the columns, nothing first,
as a list or as text of five bits a character, every run from the fourth on as the difference to the one two before it.
"""

import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hfds.errors import BadRow

COLUMN = "entities"
LARGEST = 1 << 28  # pixels of a mask


@dataclass(frozen=True)
class Entity:
    """Something in a picture; `box` is left, top, right, bottom in 0..1, `runs` are the mask's."""

    name: str
    box: tuple[float, float, float, float]
    mask: Mapping[str, Any] | None
    runs: np.ndarray | None

    @property
    def pixels(self) -> int | None:
        """Of its mask."""
        return None if self.runs is None else int(self.runs[1::2].sum())


def read(found: Sequence[Mapping[str, Any]] | None, width: int, height: int, noted: Counter[str]) -> list[Entity]:
    """The entities of a picture of that size, as it is shown. Boxes reach no further than the picture.

    One without a name or with a box that is none is left out, a mask that does not fit the picture as well, each
    counted in `noted`: "entity_without_name", "bad_box", "bad_mask".
    """
    good = []
    for entity in found or ():
        name, box, mask = entity.get("name"), _box(entity.get("box")), entity.get("mask")
        if not name or not name.strip():
            noted["entity_without_name"] += 1
        elif box is None:
            noted["bad_box"] += 1
        else:
            try:
                good.append(Entity(name, box, *(mask_of(mask, width, height) if mask else (None, None))))
            except BadRow as bad:
                noted[bad.reason] += 1
                good.append(Entity(name, box, None, None))
    return good


def _box(values: Any) -> tuple[float, float, float, float] | None:
    if values is None or len(values) != 4 or not all(value is not None and math.isfinite(value) for value in values):
        return None
    left, top, right, bottom = (min(1.0, max(0.0, float(value))) for value in values)
    return (left, top, right, bottom) if left < right and top < bottom else None


def mask_of(mask: Mapping[str, Any], width: int, height: int) -> tuple[Mapping[str, Any], np.ndarray]:
    """A mask of a picture of that size, with its run lengths.

    Raises:
        BadRow: "bad_mask": it is of another size, or broken.
    """
    counts = mask.get("counts")
    counts = counts.decode("latin-1") if isinstance(counts, bytes) else counts
    if list(mask.get("size") or ()) != [height, width] or width * height > LARGEST or counts is None:
        raise BadRow("bad_mask")
    runs = decode(counts) if isinstance(counts, str) else np.asarray(counts, np.int64)
    if (runs < 0).any() or (runs > LARGEST).any() or runs.sum() != width * height:
        raise BadRow("bad_mask")
    return {"size": [height, width], "counts": counts}, runs


def decode(counts: str) -> np.ndarray:
    """The run lengths in COCO's text.

    Raises:
        BadRow: "bad_mask".
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 35:
            raise BadRow("bad_mask")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift or any(abs(run) > LARGEST for run in runs):
        raise BadRow("bad_mask")
    return np.asarray(runs, np.int64)


def png(runs: np.ndarray, width: int, height: int) -> bytes:
    """A mask as a grey PNG, white inside."""
    import PIL.Image

    values = np.repeat((np.arange(len(runs)) % 2 * 255).astype(np.uint8), runs)
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.ascontiguousarray(values.reshape(width, height).T)).save(buffer, "PNG")
    return buffer.getvalue()
