"""CLIP: how well a text says what a picture shows (Radford et al. 2021, arxiv.org/abs/2103.00020)."""

from typing import Any

import numpy as np

from hfds.errors import ConfigError
from hfds.model import Model
from processors.models import Scorer
from processors.models.checkpoint import architecture, load, load_tokenizer, sees
from processors.models.preprocessing import Preprocessing


class _Clip:
    def __init__(self, network: Any, tokenizer: Any, preprocessing: Preprocessing):
        self.network, self.tokenizer, self.preprocessing = network, tokenizer, preprocessing

    def scores(self, shown: list[tuple[np.ndarray, str]]) -> np.ndarray:
        import torch

        pictures, texts = [picture for picture, _ in shown], [text for _, text in shown]
        with torch.inference_mode():
            pixels = self.preprocessing.tensor(pictures, self.network.device, self.network.dtype)
            seen = self.network.get_image_features(pixel_values=pixels).pooler_output
            read = self.network.get_text_features(**self._tokens(texts)).pooler_output
            found: np.ndarray = torch.nn.functional.cosine_similarity(seen.float(), read.float()).cpu().numpy()
        return found

    def _tokens(self, texts: list[str]) -> Any:
        """All at one length, so that none depends on the longest beside it: shape (len(texts), 77), int64."""
        length = self.network.config.text_config.max_position_embeddings
        tokens = self.tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return tokens.to(self.network.device)


def load_clip(model: Model, device: str) -> Scorer:
    """A Scorer that is shown pairs of picture and text and gives the cosine of their embeddings, -1 to 1.

    Texts are read up to the 75 tokens that CLIP has room for.

    Raises:
        ConfigError: the checkpoint is none of CLIP's.
    """
    from transformers import CLIPModel

    found = architecture(model)
    if found != "CLIPModel":
        raise ConfigError(f"{model.repo} must hold both halves of CLIP (CLIPModel), got {found}")
    preprocessing = Preprocessing.of(model)
    tokenizer = load_tokenizer(model)
    network = load(CLIPModel, model, device)
    sees(network.config.vision_config, preprocessing.shape, model)
    return _Clip(network, tokenizer, preprocessing)
