"""Pixels: an encoded picture decoded as trainers see it, at no more than the size that is needed."""

from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import PIL.Image

from hfds.errors import BadRow
from hfds.picture import HEAD, ReadAt, measure
from hfds.pillow import opened, orientation, refusal

T = TypeVar("T")
LARGEST_PIXELS = 1 << 28  # of a picture as it is decoded
LARGEST_JPEG = 1 << 31  # pixels of a JPEG that is decoded at a part of its size
_SCALES = (8, 4, 2)  # a JPEG is decoded at an eighth, a quarter or half of its size for little more than that costs
_TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}


class Encoded:
    """One encoded picture of `size` bytes, read when asked for: `read_at(offset, n)` gives a part of it."""

    def __init__(self, size: int, read_at: ReadAt):
        self.size, self.read_at = size, read_at
        self._found: dict[int, PIL.Image.Image | BadRow] = {}  # by the scale it was decoded at
        self._made: dict[Hashable, Any] = {}

    @classmethod
    def of(cls, data: bytes) -> "Encoded":
        """A picture whose bytes are here."""
        return cls(len(data), lambda offset, n: data[offset : offset + n])

    @cached_property
    def head(self) -> bytes:
        """Its first bytes, in which nearly every format says its size."""
        return bytes(self.read_at(0, min(HEAD, self.size)))

    @cached_property
    def data(self) -> bytes:
        """All its bytes."""
        return bytes(self.read_at(0, self.size))

    def rgb(self, least: int | None = None, *, exact: bool = False) -> PIL.Image.Image:
        """The picture in RGB, upright; the same object when asked again, so not to be changed.

        The first frame of several. What is transparent lies on white, as img2dataset has it. 16 bits are scaled to 8.
        Colour profiles are not applied, as trainers do not either.

        Args:
            least: pixels that its shorter side should at least have, where the picture has as many; a JPEG is then
                decoded at an eighth, a quarter or half of its size, and other pictures are reduced by a whole number
                after decoding, each pixel the mean of those it stands for. In full when None.
            exact: decode in full whatever `least` says.

        Raises:
            BadRow: "truncated_image", "decompression_bomb" (of so many pixels), "undecodable_image" (with what the
                decoder says), or what `hfds.picture.measure` raises. Also for a picture of floating-point numbers,
                which do not say what is white.
        """
        scale = 1 if exact or least is None else self._scale(least)
        if scale not in self._found:
            self._found[scale] = _decoded(self.data, scale)
        found = self._found[scale]
        if isinstance(found, BadRow):
            raise BadRow(found.reason, found.value)
        times = 1 if exact or least is None or self._jpeg else min(found.size) // least
        return found if times < 2 else self.once(("reduced", times), lambda: found.reduce(times))

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, made once for each key: steps that want the same of a picture share it."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    @property
    def _jpeg(self) -> bool:
        return self.head[:2] == b"\xff\xd8"

    def _scale(self, least: int) -> int:
        """The part of its size that leaves `least` pixels of the shorter side: one of `_SCALES`, or 1."""
        if not self._jpeg:
            return 1
        try:
            shorter = min(measure(self.head, self.size, self.read_at)[:2])
        except BadRow:  # or a picture that only Pillow sees through
            return 1
        return next((scale for scale in _SCALES if -(-shorter // scale) >= least and shorter >= scale), 1)


def _decoded(data: bytes, scale: int) -> PIL.Image.Image | BadRow:
    """The picture in RGB, upright, or why there is none."""
    try:
        image = opened(data)
        _bound(image, scale)
        if scale > 1:  # asked for these sizes, `draft` takes just that scale
            image.draft(None, (image.width // scale, image.height // scale))
        image.load()
        turn = _TURNS.get(orientation(image.info))
        image = _flat(image)
        if turn is not None:
            image = image.transpose(turn)
    except BadRow as bad:
        return bad
    except Exception as error:  # noqa: BLE001  Pillow's plugins raise whatever they trip over
        return refusal(error, data)
    image.info = {}  # it would be turned again by whoever finds its EXIF
    return image


def _bound(image: PIL.Image.Image, scale: int) -> None:
    """Refuses what would take too much memory or time to decode."""
    width, height = image.size
    held = 1 if image.info.get("progressive") else scale  # a progressive JPEG is held in full, whatever is made of it
    if width * height > LARGEST_JPEG or -(-width // held) * -(-height // held) > LARGEST_PIXELS:
        raise BadRow("decompression_bomb", f"{width}x{height}")


def _flat(image: PIL.Image.Image) -> PIL.Image.Image:
    """A loaded picture of any mode, in RGB on white."""
    if image.mode == "F":
        raise BadRow("undecodable_image", "floating-point pixels")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _scaled(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = PIL.Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def _scaled(image: PIL.Image.Image) -> PIL.Image.Image:
    """16 bits of grey, which Pillow would clip, as 8 bits by their upper half, as it does with 16 bits of colour."""
    levels = np.asarray(image)
    grey = (levels.clip(0, 0xFFFF) >> 8).astype(np.uint8)
    if "transparency" in image.info:
        grey[levels == image.info["transparency"]] = 255
    return PIL.Image.fromarray(grey).convert("RGB")
