"""Sentence encoders: what a text means, as a vector (Reimers and Gurevych 2019, arxiv.org/abs/1908.10084).

The pipeline of sentence-transformers, read from the same files without that package: an encoder of BERT's family, the
mean over its tokens, and L2 normalisation.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from hfds.errors import ConfigError
from hfds.model import Model
from processors.models.checkpoint import load, read_json

# The model_type of their config.json, and how many of the positions it counts no token has.
FAMILY = {"bert": 0, "distilbert": 0, "modernbert": 0, "mpnet": 2, "roberta": 2, "xlm-roberta": 2}
LONGEST = 256  # tokens that are read of a text, where a checkpoint does not say


class Shapes(NamedTuple):
    """The shapes of what a device is shown, which decide the last bits of what it gives.

    A text is padded to a multiple of `step` tokens, so by its own length alone, and shown with others of the same
    length: at most `most` tokens at once, filled up with copies to `least`.
    """

    step: int
    least: int
    most: int


# A CPU gives a row the same bits beside any number of others once a batch has a few tokens (measured with MiniLM: 8 or
# more, float32 and bfloat16, one thread and two). So there lengths are kept apart to the token, and next to nothing is
# padded. A GPU chooses its kernels by the whole shape, so there that is always the same, and a part of it is padding.
CPU = Shapes(step=1, least=128, most=4096)
GPU = Shapes(step=32, least=8192, most=8192)


class SentenceEncoder:
    """An encoder on a device.

    Args:
        network: a model of transformers that gives a vector for each token.
        longest: the number of tokens that it has room for.
        shapes: of what it is shown at once.
    """

    def __init__(self, network: Any, longest: int, shapes: Shapes):
        self.network, self.longest, self.shapes = network, longest, shapes
        self.width: int = network.config.hidden_size

    def embed(self, shown: list[np.ndarray]) -> np.ndarray:
        """A vector of length 1 for each text, given as its token ids: shape (len(shown), width), float32.

        Texts of the same tokens, as those that differ in case or fill up a batch, are computed once.
        """
        numbers: dict[bytes, int] = {}
        places = [numbers.setdefault(text.tobytes(), len(numbers)) for text in shown]
        distinct = [np.frombuffer(text, shown[0].dtype) for text in numbers]
        lengths = np.array([len(text) for text in distinct])
        found = np.empty((len(distinct), self.width), np.float32)
        for rows, shape in batches(lengths, self.longest, self.shapes):
            found[rows] = self._embedded([distinct[row] for row in rows], shape)
        return found[places]

    def _embedded(self, texts: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
        """Some texts as one batch of `shape`, the last of them repeated: shape (len(texts), width), float32."""
        import torch

        ids, there = np.full(shape, self.network.config.pad_token_id or 0), np.zeros(shape, np.int64)
        for row in range(len(ids)):
            text = texts[min(row, len(texts) - 1)]
            ids[row, : len(text)], there[row, : len(text)] = text, 1
        device = self.network.device
        with torch.inference_mode():
            mask = torch.from_numpy(there).to(device)
            hidden = self.network(input_ids=torch.from_numpy(ids).to(device), attention_mask=mask).last_hidden_state
            summed = (hidden.float() * mask[:, :, None]).sum(1)  # which points where the mean does
            found: np.ndarray = torch.nn.functional.normalize(summed, dim=-1)[: len(texts)].cpu().numpy()
        return found


def batches(lengths: np.ndarray, longest: int, shapes: Shapes) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
    """Which texts are shown at once, by their positions, and the rows and tokens of the batch that they make."""
    padded = np.minimum(-(-lengths // shapes.step) * shapes.step, longest)
    order = np.argsort(padded, kind="stable")
    for same in np.split(order, np.flatnonzero(np.diff(padded[order])) + 1):
        length = int(padded[same[0]])
        least, most = (max(1, tokens // length) for tokens in (shapes.least, shapes.most))
        for at in range(0, len(same), most):
            rows = same[at : at + most]
            yield rows, (max(least, len(rows)), length)


def load_sentences(model: Model, device: str) -> SentenceEncoder:
    """An encoder that is shown token ids, from what `load_tokens` gives.

    Raises:
        ConfigError: the checkpoint is none of an encoder of texts, or makes its vectors in another way.
    """
    from transformers import AutoModel

    _means(model)
    return SentenceEncoder(load(AutoModel, model, device), _longest(model), CPU if device == "cpu" else GPU)


def load_tokens(model: Model) -> Any:
    """The tokenizer of a checkpoint, a `tokenizers.Tokenizer`: it cuts texts where the encoder's room ends, and does
    not pad them, whatever its file says. Neither torch nor transformers is imported.

    Raises:
        ConfigError: the checkpoint has none, or one that cannot be read.
    """
    from tokenizers import Tokenizer

    file = model.folder() / "tokenizer.json"
    if not file.is_file():
        raise ConfigError(f"{model.repo} must hold the tokenizer of its texts: it has no tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # noqa: BLE001  it raises nothing more exact
        raise ConfigError(f"the tokenizer of {model.repo} cannot be loaded: {error}") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(_longest(model))
    return tokenizer


def _longest(model: Model) -> int:
    """How many tokens the encoder reads of a text, those that mark its ends included."""
    config = read_json(model.folder() / "config.json")
    room = config.get("max_position_embeddings", LONGEST) - FAMILY.get(config.get("model_type", ""), 0)
    file = model.folder() / "sentence_bert_config.json"
    said = read_json(file).get("max_seq_length") if file.is_file() else None
    return int(min(said or LONGEST, room))


def _means(model: Model) -> None:
    """That the vectors of a checkpoint are the mean over the tokens of an encoder, as far as its files say.

    Raises:
        ConfigError: they are something else, which would be near but wrong.
    """
    folder = model.folder()
    kind = read_json(folder / "config.json").get("model_type")
    if kind not in FAMILY:
        raise ConfigError(f"{model.repo} must hold an encoder of texts ({', '.join(FAMILY)}), got {kind}")
    file = folder / "1_Pooling" / "config.json"
    said = read_json(file) if file.is_file() else {"pooling_mode_mean_tokens": True}
    modes = [name for name, value in said.items() if name.startswith("pooling_mode") and value]
    if modes != ["pooling_mode_mean_tokens"]:
        raise ConfigError(f"{model.repo} must take the mean over its tokens, got {', '.join(modes) or 'no pooling'}")
    if more := sorted(path.name for path in folder.glob("[2-9]_*") if not path.name.endswith("_Normalize")):
        raise ConfigError(f"{model.repo} must end with the mean over its tokens, got {more[0]} behind it")
