"""Pixels: an encoded picture decoded as trainers see it, at no more than the size that is needed."""

from functools import cached_property

import PIL.Image

from hfds.picture import HEAD, ReadAt


class Encoded:
    """One encoded picture of `size` bytes, read when asked for: `read_at(offset, n)` gives a part of it."""

    def __init__(self, size: int, read_at: ReadAt):
        self.size, self.read_at = size, read_at

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
        """The picture in RGB, upright.

        Args:
            least: pixels that its shorter side should at least have, where the picture has as many; a JPEG is then
                decoded at an eighth, a quarter or half of its size. In full when None.
            exact: decode in full whatever `least` says.

        Raises:
            BadRow: "truncated_image", "undecodable_image", "decompression_bomb" ...
        """
        raise NotImplementedError
