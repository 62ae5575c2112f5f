"""Preprocessing: how a checkpoint wants its pictures, as its preprocessor_config.json says.

It follows the PIL processors of transformers (ViTImageProcessor, CLIPImageProcessor, SiglipImageProcessor) in two
halves: `shown` decodes, resizes and crops to uint8, in processes that have neither torch nor transformers, and `tensor`
rescales and normalises on the model's device. Of a picture decoded in full the pixels are those of the processor.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
from PIL.Image import Resampling

from hfds.errors import ConfigError
from hfds.model import Model
from hfds.picture import measure
from hfds.pixels import Encoded
from processors.models.checkpoint import read_json

FILE = "preprocessor_config.json"
# A JPEG is decoded at no less than so many times the size that it is then resized to. Mean difference to a full decode
# over 51 photos, in grey levels: at twice the size 0.8, at one and a half 1.3 to 1.9, at once 1.5 to 2.7.
SPARE = 2
STRIP = 64  # sides beyond so many times the other are cut before they are resized

_SQUARE = {"height": 224, "width": 224}
_HALVES = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5)}
_ALL = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "do_center_crop": False}
# What each processor takes for granted where the file is silent.
KINDS: dict[str, dict[str, Any]] = {
    "ViTImageProcessor": {**_ALL, **_HALVES, "size": _SQUARE, "resample": Resampling.BILINEAR},
    "CLIPImageProcessor": {
        **_ALL,
        "size": {"shortest_edge": 224},
        "resample": Resampling.BICUBIC,
        "do_center_crop": True,
        "crop_size": _SQUARE,
        "image_mean": (0.48145466, 0.4578275, 0.40821073),
        "image_std": (0.26862954, 0.26130258, 0.27577711),
    },
    "SiglipImageProcessor": {**_ALL, **_HALVES, "size": _SQUARE, "resample": Resampling.BICUBIC},
}


@dataclass(frozen=True)
class Preprocessing:
    """From an encoded picture to what a model sees.

    Args:
        size: height and width that pictures are resized to, or the pixels of their shorter side.
        shape: height and width cut from the centre then, with black where the picture is smaller.
        resample: PIL's number of a filter.
        factor, mean, std: a value v of channel c becomes (v * factor - mean[c]) / std[c].
    """

    size: tuple[int, int] | int
    shape: tuple[int, int]
    resample: int
    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, model: Model) -> "Preprocessing":
        """That of a checkpoint.

        Raises:
            ConfigError: it has none, or one that cannot be followed.
        """
        said = _said(model)
        name = str(said.get("image_processor_type") or said.get("feature_extractor_type"))
        kind = name.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")
        if kind not in KINDS:
            raise ConfigError(
                f"the pictures of {model.repo} are to be prepared by {name}, which is none of {', '.join(KINDS)}"
            )
        try:
            given = {name: value for name, value in said.items() if value is not None}
            return _followed({**KINDS[kind], **given}, square=kind == "ViTImageProcessor")
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"the {FILE} of {model.repo} cannot be followed: {error}") from None

    def shown(self, encoded: Encoded, exact: bool) -> np.ndarray:
        """What the model is shown of a picture: shape (*self.shape, 3), uint8.

        Args:
            exact: decode in full. Else at a part of its size that leaves it SPARE times as large as needed, see
                `Encoded.rgb`.

        Raises:
            BadRow: the picture cannot be decoded.
        """
        return encoded.once((self, exact), lambda: self._shown(encoded, exact))

    def _shown(self, encoded: Encoded, exact: bool) -> np.ndarray:
        if isinstance(self.size, tuple):
            height, width = self.size
            picture = encoded.rgb(SPARE * max(self.size), exact=exact)
        else:
            picture = _middle(encoded.rgb(SPARE * self.size, exact=exact))
            long = _longer(self.size, encoded)
            height, width = (self.size, long) if picture.width >= picture.height else (long, self.size)
        return np.asarray(_cut(picture.resize((width, height), self.resample), self.shape))

    def tensor(self, pictures: list[np.ndarray], device: str, dtype: Any) -> Any:
        """Pictures from `shown` as a torch tensor of pixel values: shape (len(pictures), 3, *self.shape)."""
        import torch

        pixels = torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2).contiguous().float()
        mean, std = (torch.tensor(of, device=device).view(3, 1, 1) for of in (self.mean, self.std))
        return ((pixels * self.factor - mean) / std).to(dtype)


def _said(model: Model) -> dict[str, Any]:
    """What the checkpoint's file says; processors of several parts keep it in a file of theirs."""
    folder = model.folder()
    if (folder / FILE).is_file():
        return read_json(folder / FILE)
    together = folder / "processor_config.json"
    said = read_json(together).get("image_processor") if together.is_file() else None
    if not isinstance(said, dict):
        raise ConfigError(f"{model.repo} does not say how pictures are to be prepared for it: it has no {FILE}")
    return said


def _followed(said: dict[str, Any], square: bool) -> Preprocessing:
    """Raises KeyError, TypeError or ValueError for what cannot be; a number is a square's side if `square`."""
    size = _sides(said["size"], lambda n: (n, n) if square else n)
    crop = _sides(said["crop_size"], lambda n: (n, n)) if said["do_center_crop"] else size
    if not said["do_resize"] or not isinstance(crop, tuple):
        raise ValueError("it leaves pictures at different sizes")
    mean, std = (said["image_mean"], said["image_std"]) if said["do_normalize"] else ((0, 0, 0), (1, 1, 1))
    if not len(mean) == len(std) == 3:
        raise ValueError(f"image_mean and image_std must have three values each, got {mean} and {std}")
    return Preprocessing(
        size=size,
        shape=crop,
        resample=Resampling(said["resample"]),
        factor=float(said["rescale_factor"]) if said["do_rescale"] else 1.0,
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
    )


def _sides(said: Any, number: Callable[[int], tuple[int, int] | int]) -> tuple[int, int] | int:
    """A size as files write it: {"height", "width"}, {"shortest_edge"}, or a number as of old."""
    if isinstance(said, int):
        return number(said)
    if isinstance(said, dict) and said.keys() == {"shortest_edge"}:
        return int(said["shortest_edge"])
    if isinstance(said, dict) and said.keys() == {"height", "width"}:
        return int(said["height"]), int(said["width"])
    raise ValueError(f"a size must be height and width or shortest_edge, got {said}")


def _cut(picture: PIL.Image.Image, shape: tuple[int, int]) -> PIL.Image.Image:
    """The centre of a picture, with black around it where it is smaller than height and width `shape`."""
    height, width = shape
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _longer(shorter: int, encoded: Encoded) -> int:
    """The longer side of a picture, without its `_middle`'s ends, when its shorter side is made `shorter` pixels.

    By the size it says it has: one decoded at half its size has sides rounded up, and is cut a pixel beside.
    """
    short, long = sorted(measure(encoded.head, encoded.size, encoded.read_at)[:2])
    return int(shorter * min(long, STRIP * short) / short)


def _middle(picture: PIL.Image.Image) -> PIL.Image.Image:
    """A strip without its ends, which no model sees: 60,000x10 pixels would be resized to a picture of gigabytes."""
    longest = STRIP * min(picture.size)
    return _cut(picture, (min(picture.height, longest), min(picture.width, longest)))
