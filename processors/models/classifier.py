"""Classifiers of pictures: how probable one label is, by any image classifier of transformers (ViT and others)."""

from typing import Any

import numpy as np

from hfds.errors import ConfigError, nearest
from hfds.model import Model
from processors.models import Scorer
from processors.models.checkpoint import architecture, load, sees
from processors.models.preprocessing import Preprocessing


class _Classifier:
    def __init__(self, network: Any, index: int, preprocessing: Preprocessing):
        self.network, self.index, self.preprocessing = network, index, preprocessing

    def scores(self, shown: list[np.ndarray]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            pixels = self.preprocessing.tensor(shown, self.network.device, self.network.dtype)
            probabilities = self.network(pixels).logits.float().softmax(-1)
            found: np.ndarray = probabilities[:, self.index].cpu().numpy()
        return found


def load_classifier(model: Model, device: str, label: str) -> Scorer:
    """A Scorer that is shown pictures and gives the probability of `label`, 0 to 1.

    Args:
        label: as the checkpoint's config.json has it, in upper or lower case.

    Raises:
        ConfigError: the checkpoint is none of a classifier of pictures, or knows no such label.
    """
    from transformers import AutoModelForImageClassification

    found = architecture(model)
    if not found.endswith("ForImageClassification"):
        raise ConfigError(f"{model.repo} must hold a classifier of pictures (ForImageClassification), got {found}")
    preprocessing = Preprocessing.of(model)
    network = load(AutoModelForImageClassification, model, device)
    sees(network.config, preprocessing.shape, model)
    indices = {str(name).casefold(): int(index) for index, name in network.config.id2label.items()}
    if label.casefold() not in indices:
        labels = network.config.id2label.values()
        raise ConfigError(f"{model.repo} knows no label {label!r}: {nearest(label, map(str, labels))}")
    return _Classifier(network, indices[label.casefold()], preprocessing)
