"""The aesthetic predictor of LAION: how much people would like a picture, on a scale of about 1 to 10.

Five linear layers on the normalised picture embedding of CLIP ViT-L/14, trained on ratings of SAC, logos and AVA
(github.com/christophschuhmann/improved-aesthetic-predictor). Read as shunk031 put it on the Hub, both parts in one file
(class AestheticsPredictorV2Linear of the package simple-aesthetics-predictor), without the code that lies beside it.
"""

from typing import Any

import numpy as np

from hfds.errors import ConfigError
from hfds.model import Model
from processors.models import Scorer
from processors.models.checkpoint import architecture, load, read_json, sees
from processors.models.preprocessing import Preprocessing

ARCHITECTURE = "AestheticsPredictorV2Linear"
WIDTHS = (1024, 128, 64, 16, 1)  # of what the layers give
_OF_THE_HUB = {"architectures", "auto_map", "model_type", "dtype", "torch_dtype"}  # says who wrote it and how


class _Predictor:
    def __init__(self, network: Any, preprocessing: Preprocessing):
        self.network, self.preprocessing = network, preprocessing

    def scores(self, shown: list[np.ndarray]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            pixels = self.preprocessing.tensor(shown, self.network.device, self.network.dtype)
            embedded = torch.nn.functional.normalize(self.network(pixels).image_embeds.float(), dim=-1)
            found: np.ndarray = self.network.layers(embedded)[:, 0].cpu().numpy()
        return found


def load_predictor(model: Model, device: str) -> Scorer:
    """A Scorer that is shown pictures and gives their aesthetic score; the layers compute in float32 in any case.

    Raises:
        ConfigError: the checkpoint is not in the layout of AestheticsPredictorV2Linear.
    """
    from transformers import CLIPVisionConfig

    found = architecture(model)
    if found != ARCHITECTURE:
        raise ConfigError(f"{model.repo} must hold CLIP with aesthetic layers ({ARCHITECTURE}), got {found}")
    preprocessing = Preprocessing.of(model)
    said = read_json(model.folder() / "config.json")
    config = CLIPVisionConfig(**{name: value for name, value in said.items() if name not in _OF_THE_HUB})
    network = load(_architecture(), model, device, config=config)
    sees(network.config, preprocessing.shape, model)
    network.layers.float()
    return _Predictor(network, preprocessing)


def _architecture() -> type:
    """The class, with the names that the weights have."""
    from torch import nn
    from transformers import CLIPVisionModelWithProjection

    class AestheticsPredictorV2Linear(CLIPVisionModelWithProjection):
        def __init__(self, config: Any):
            super().__init__(config)
            first, second, third, fourth, last = (
                nn.Linear(given, gives) for given, gives in zip((config.projection_dim, *WIDTHS), WIDTHS, strict=False)
            )
            absent = nn.Identity()  # a dropout of training, which counts in the names of the layers: 0, 2, 4, 6, 7
            self.layers = nn.Sequential(first, absent, second, absent, third, absent, fourth, last)
            self.post_init()

    return AestheticsPredictorV2Linear
