"""Decoding: what a sample's bytes are made into."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import PIL.Image

from hfds.errors import BadRow
from hfds.picture import HEAD, measure
from hfds.pixels import Encoded
from hfds.samples import INDEX
from hfds.streaming.reading import members
from hfds.streaming.rows import Spot

DECODE = ("fast", "exact", None)
COLUMNS = ("id", "image", "text")


@dataclass(frozen=True)
class Decode:
    """Makes a sample of its bytes.

    Args:
        columns: "image", "text" (the caption), "json" (all that is in it), columns of the index, other
            members by extension, keys of the JSON (None where a row has no such one).
        index: the columns of the index.
        decode: "fast" decodes a JPEG at the smallest part of its size that is large enough, "exact" in full; None
            leaves the bytes as they are.
        size: pixels of the pictures: the shorter side, or (width, height); None leaves them as they are.
        transform: called with the RGB picture (a PIL.Image, at least of `size`; or its bytes where `decode` is None),
            gives what `image` is.
    """

    columns: tuple[str, ...]
    index: tuple[str, ...]
    decode: str | None
    size: int | tuple[int, int] | None
    transform: Callable[[Any], Any] | None

    @property
    def indexed(self) -> tuple[str, ...]:
        """The columns that the index has."""
        return tuple(name for name in self.columns if name in (*INDEX.names, *self.index))

    @property
    def whole(self) -> bool:
        """Whether more than the picture is read."""
        return bool({*self.columns} - {"image", *self.indexed})

    def __call__(self, data: bytes, spot: Spot, size: tuple[int, int] | None = None) -> dict[str, Any]:
        """The columns of a sample; `size` is that of its bucket.

        Raises:
            BadRow: its bytes are not what the index says, or its picture cannot be decoded.
        """
        found = members(data, spot)
        picture = next(iter(found.values()))
        said: Mapping[str, Any] = {}
        if "json" in found:
            try:
                said = json.loads(bytes(found["json"]))
            except ValueError:
                raise BadRow("index_mismatch", "no JSON in the member for it") from None
            if not isinstance(said, dict) or said.get("id") != spot.id:
                raise BadRow("index_mismatch", "the sample of another row")
        made = {name: self._column(name, spot, found, said) for name in self.columns if name != "image"}
        if "image" in self.columns:
            made["image"] = self._image(bytes(picture), size)
        return {name: made[name] for name in self.columns}

    def _column(self, name: str, spot: Spot, found: Mapping[str, memoryview], said: Mapping[str, Any]) -> Any:
        if name in spot.values:
            return spot.values[name]
        if name == "text":
            return str(bytes(found.get("txt", b"")), "utf-8", "replace")
        if name == "json":
            return said
        if name in found:
            return bytes(found[name])
        return said.get(name)  # null is left out of the JSON

    def _image(self, data: bytes, bucket: tuple[int, int] | None) -> Any:
        if self.decode is None:
            return data if self.transform is None else self.transform(data)
        size = bucket or self.size
        image = Encoded.of(data).rgb(_least(data, size), exact=self.decode == "exact")
        if self.transform is not None:
            return self.transform(image)
        return tensor_of(image if size is None else fitted(image, size))


def _least(data: bytes, size: int | tuple[int, int] | None) -> int | None:
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


def fitted(image: PIL.Image.Image, size: int | tuple[int, int]) -> PIL.Image.Image:
    """A picture resized until it covers (width, height), or a square, and cut to that around its middle."""
    width, height = (size, size) if isinstance(size, int) else size
    if image.size == (width, height):
        return image
    times = min(image.width / width, image.height / height)
    across, down = width * times, height * times
    left, top = (image.width - across) / 2, (image.height - down) / 2
    if times == 1:
        return image.crop((int(left), int(top), int(left) + width, int(top) + height))
    return image.resize((width, height), PIL.Image.Resampling.BICUBIC, (left, top, left + across, top + down))


def tensor_of(image: PIL.Image.Image) -> Any:
    """An RGB picture as a tensor: uint8, (3, height, width)."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)))


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
