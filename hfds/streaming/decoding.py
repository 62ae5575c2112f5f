"""Decoding: what a sample's bytes are made into."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import PIL.Image

from hfds.errors import BadRow
from hfds.masks import EXTENSION as MASK
from hfds.picture import HEAD, measure
from hfds.pixels import Encoded
from hfds.samples import INDEX
from hfds.streaming.contents import members, row_of
from hfds.streaming.rows import Spot

Size = tuple[int, int]
_PICTURES = ("image", "mask")
DECODE = ("fast", "exact", None)
COLUMNS = ("id", "image", "text")


def is_size(value: Any) -> bool:
    """Whether a value is a number of pixels, or (width, height)."""
    pair = value if isinstance(value, tuple | list) and len(value) == 2 else (value,)
    return all(type(one) is int and one > 0 for one in pair)


@dataclass(frozen=True)
class Decode:
    """Makes a sample of its bytes.

    Args:
        columns: "image", "text" (the caption), "mask" (of the entities), "json" (all that is in it), columns of the
            index, other members by extension, keys of the JSON (None where a row has no such one).
        index: the columns of the index, of all places.
        decode: "fast" decodes a JPEG at the smallest part of its size that is large enough, "exact" in full; None
            leaves the bytes as they are.
        size: pixels of the pictures: the shorter side, or (width, height); None leaves them as they are.
        transform: called with the RGB picture (a PIL.Image, at least of `size`; or its bytes where `decode` is None),
            gives what `image` is; with "mask" among the columns it is called with both, of one size, and gives both.
    """

    columns: tuple[str, ...]
    index: tuple[str, ...]
    decode: str | None
    size: int | Size | None
    transform: Callable[..., Any] | None

    @property
    def indexed(self) -> tuple[str, ...]:
        """The columns that the index has."""
        return tuple(
            name for name in self.columns if name in {*INDEX.names, *self.index} - {"text", "json", *_PICTURES}
        )

    @property
    def whole(self) -> bool:
        """Whether more than the picture is read."""
        return bool({*self.columns} - {"image", *self.indexed})

    def __call__(self, data: bytes, spot: Spot, size: Size | None = None) -> dict[str, Any]:
        """The columns of a sample; `size` is that of its bucket.

        Raises:
            BadRow: its bytes are not what the index says, or its picture cannot be decoded.
        """
        found = members(data, spot)
        picture = next(iter(found.values()))
        said: Mapping[str, Any] = {}
        if self.whole:
            said = row_of(found, spot.id)
        made = {name: self._column(name, spot, found, said) for name in self.columns if name not in _PICTURES}
        if "mask" in self.columns:
            made["image"], made["mask"] = self._pair(bytes(picture), bytes(found.get(MASK, b"")), size)
        elif "image" in self.columns:
            made["image"] = self._image(bytes(picture), size)
        return {name: made[name] for name in self.columns}

    def _column(self, name: str, spot: Spot, found: Mapping[str, memoryview], said: Mapping[str, Any]) -> Any:
        if name == "text":
            return str(bytes(found.get("txt", b"")), "utf-8", "replace")
        if name == "json":
            return said
        if name in spot.values:
            return spot.values[name]
        if name in found:
            return bytes(found[name])
        return said.get(name)  # null is left out of the JSON

    def _image(self, data: bytes, bucket: Size | None) -> Any:
        if self.decode is None:
            return data if self.transform is None else self.transform(data)
        image, size = self._decoded(data, bucket), bucket or self.size
        if self.transform is not None:
            return self.transform(image if bucket is None else fitted(image, bucket))
        return tensor_of(image if size is None else fitted(image, size))

    def _pair(self, data: bytes, drawn: bytes, bucket: Size | None) -> tuple[Any, Any]:
        if self.decode is None:
            return (data, drawn) if self.transform is None else self.transform(data, drawn)
        image, size = self._decoded(data, bucket), bucket or self.size
        try:
            with PIL.Image.open(io.BytesIO(drawn), formats=("PNG",)) as opened:
                mask = opened.resize(image.size, PIL.Image.Resampling.NEAREST)
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            raise BadRow("undecodable_mask", str(error)) from None
        if size is not None and (self.transform is None or bucket):
            image, mask = fitted(image, size), fitted(mask, size, PIL.Image.Resampling.NEAREST)
        if self.transform is None:
            return tensor_of(image), numbers_of(mask)
        made: tuple[Any, Any] = self.transform(image, mask)
        return made

    def _decoded(self, data: bytes, bucket: Size | None) -> PIL.Image.Image:
        return Encoded.of(data).rgb(_least(data, bucket or self.size), exact=self.decode == "exact")


def _least(data: bytes, size: int | Size | None) -> int | None:
    """Pixels that the shorter side of a picture needs to cover a size, upright or turned."""
    if size is None or isinstance(size, int):
        return size
    try:
        width, height, _ = measure(data[:HEAD], len(data), lambda at, n: data[at : at + n])
    except BadRow:
        return max(size)
    shorter = min(width, height)
    return max(
        ceil(shorter * max(size[0] / across, size[1] / down)) for across, down in ((width, height), (height, width))
    )


def fitted(
    image: PIL.Image.Image, size: int | Size, resample: PIL.Image.Resampling = PIL.Image.Resampling.BICUBIC
) -> PIL.Image.Image:
    """A picture resized until it covers (width, height), or a square, and cut to that around its middle."""
    width, height = (size, size) if isinstance(size, int) else size
    if image.size == (width, height):
        return image
    times = min(image.width / width, image.height / height)
    across, down = width * times, height * times
    left, top = (image.width - across) / 2, (image.height - down) / 2
    if times == 1:
        return image.crop((int(left), int(top), int(left) + width, int(top) + height))
    return image.resize((width, height), resample, (left, top, left + across, top + down))


def tensor_of(image: PIL.Image.Image) -> Any:
    """An RGB picture as a tensor: uint8, (3, height, width)."""
    import torch

    return torch.from_numpy(np.array(np.asarray(image).transpose(2, 0, 1), order="C"))


def numbers_of(mask: PIL.Image.Image) -> Any:
    """A mask as a tensor: int32, (height, width)."""
    import torch

    return torch.from_numpy(np.asarray(mask).astype(np.int32))


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch: tensors of one shape are stacked, all else is a list with an entry for each sample."""
    import torch
    from torch.utils.data import default_collate

    batch: dict[str, Any] = {}
    for name in samples[0]:
        values = [sample[name] for sample in samples]
        alike = all(isinstance(value, torch.Tensor) for value in values) and len({value.shape for value in values}) == 1
        batch[name] = default_collate(values) if alike else values
    return batch
