"""Vision encoders: what a picture shows, as a vector, by CLIP (Radford et al. 2021, arxiv.org/abs/2103.00020) or
SigLIP (Zhai et al. 2023, arxiv.org/abs/2303.15343), whole or the half that sees."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from hfds.errors import ConfigError
from hfds.model import Model
from processors.models.checkpoint import architecture, load, sees
from processors.models.preprocessing import Preprocessing


class _Kind(NamedTuple):
    """Of a checkpoint: its vectors, from network and pixels; their width, from its config."""

    vectors: Callable[[Any, Any], Any]
    width: Callable[[Any], int]


# Of CLIP what it compares with texts, which is a projection of what it sees; SigLIP has none.
KINDS = {
    "CLIPModel": _Kind(
        lambda network, pixels: network.get_image_features(pixel_values=pixels).pooler_output,
        lambda config: int(config.projection_dim),
    ),
    "CLIPVisionModelWithProjection": _Kind(
        lambda network, pixels: network(pixel_values=pixels).image_embeds,
        lambda config: int(config.projection_dim),
    ),
    "SiglipModel": _Kind(
        lambda network, pixels: network.get_image_features(pixel_values=pixels).pooler_output,
        lambda config: int(config.vision_config.hidden_size),
    ),
    "SiglipVisionModel": _Kind(
        lambda network, pixels: network(pixel_values=pixels).pooler_output,
        lambda config: int(config.hidden_size),
    ),
}


class VisionEncoder:
    """An encoder on a device."""

    def __init__(self, network: Any, kind: _Kind, preprocessing: Preprocessing):
        self.network, self.kind, self.preprocessing = network, kind, preprocessing
        self.width = kind.width(network.config)

    def embed(self, shown: list[np.ndarray]) -> np.ndarray:
        """A vector of length 1 for each picture, as `Preprocessing.shown` gives it: shape (len(shown), width),
        float32."""
        import torch

        with torch.inference_mode():
            pixels = self.preprocessing.tensor(shown, self.network.device, self.network.dtype)
            vectors = self.kind.vectors(self.network, pixels).float()
            found: np.ndarray = torch.nn.functional.normalize(vectors, dim=-1).cpu().numpy()
        return found


def load_vision(model: Model, device: str) -> VisionEncoder:
    """An encoder that is shown pictures.

    Raises:
        ConfigError: the checkpoint is none of CLIP's or SigLIP's.
    """
    import transformers

    found = architecture(model)
    if found not in KINDS:
        raise ConfigError(f"{model.repo} must hold an encoder of pictures ({', '.join(KINDS)}), got {found}")
    preprocessing = Preprocessing.of(model)
    network = load(getattr(transformers, found), model, device)
    sees(getattr(network.config, "vision_config", network.config), preprocessing.shape, model)
    return VisionEncoder(network, KINDS[found], preprocessing)
