"""Quality of pictures: what their headers say, and what models think of them; rules decide what is kept.

The scores follow the image filters of data-juicer (github.com/datajuicer/data-juicer), as columns instead of verdicts.
Each is a number of its own scale, said below. Scores that a source already carries need no model: they are in the
record's `source_scores`, each on the source's own scale, and a rule reads them as `source_scores.aesthetic`.

Pictures are read as trainers see them (see `hfds.pixels`): the first frame, upright, in RGB.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Features, Value

from hfds.annotator import ModelAnnotator
from hfds.batch import Batch
from hfds.errors import BadRow
from hfds.model import Model
from hfds.pixels import Encoded
from hfds.properties import Properties, properties
from processors.models import Scorer
from processors.models.aesthetic import load_predictor
from processors.models.checkpoint import need
from processors.models.classifier import load_classifier
from processors.models.clip import load_clip
from processors.models.preprocessing import Preprocessing

NSFW = Model("Falconsai/nsfw_image_detection", "04367978d3474804ab1a00a9bd6548b741764069")
WATERMARK = Model("amrul-hzz/watermark_detector")
AESTHETIC = Model(
    "shunk031/aesthetics-predictor-v2-sac-logos-ava1-l14-linearMSE", "794ae5317a94087cc8e1fc7f8e3a718da12a35d3"
)
CLIP = Model("openai/clip-vit-large-patch14", "32bd64288804d66eefd0ccbe215aa642df71cc41")
CLIP_H = Model("laion/CLIP-ViT-H-14-laion2B-s32B-b79K")
DECODE = ("fast", "exact")
T = TypeVar("T")


@dataclass(frozen=True)
class MeasureImage(ModelAnnotator):
    """What a picture's headers say; no pixel is decoded.

    Adds `width` and `height` (int32, pixels as stored, in place of what the source said), `aspect` (float32, width by
    height of the upright picture: below 1 for a portrait, also one that is stored lying), `format` ("jpeg", "png" ...),
    `mode` (Pillow's: "RGB", "L", "CMYK", "P" ...) and `animated` (bool: more than one frame).
    """

    batch_size: ClassVar[int] = 1024

    @property
    def needs(self) -> tuple[str, ...]:
        return ("image",)

    @property
    def adds(self) -> Features:
        types = {"width": "int32", "height": "int32", "aspect": "float32", "format": "string", "mode": "string"}
        return Features({**{name: Value(of) for name, of in types.items()}, "animated": Value("bool")})

    @property
    def means(self) -> Mapping[str, str]:
        return {
            "aspect": "width by height of the upright picture, below 1 for a portrait",
            "format": '"jpeg", "png" ..., as its bytes say',
            "mode": 'Pillow\'s: "RGB", "L", "CMYK", "P" ...',
            "animated": "more than one frame",
        }

    def prepare(self, batch: Batch) -> list[Properties | BadRow]:
        return [_or_bad(properties, picture) for picture in batch.pictures]

    def annotate(self, model: None, items: list[Properties]) -> pa.Table:
        rows = [{**item._asdict(), "aspect": _aspect(item)} for item in items]
        return pa.Table.from_pylist(rows, self.adds.arrow_schema)


@dataclass(frozen=True)
class _Score(ModelAnnotator):
    """What the steps below share: pictures go in, a column of float32 comes out.

    Args:
        model: the checkpoint.
        decode: "fast" decodes large JPEGs at an eighth, a quarter or half of their size, and reduces other pictures by
            a whole number, where that leaves at least twice what the model sees: 0.3 to 0.8 of 255 grey levels beside
            "exact" in the mean.
    """

    column: ClassVar[str]
    meaning: ClassVar[str]

    model: Model
    decode: str = "fast"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("image",)

    @property
    def adds(self) -> Features:
        return Features({self.column: Value("float32")})

    @property
    def means(self) -> Mapping[str, str]:
        return {self.column: self.meaning}

    def problems(self) -> list[str]:
        if not isinstance(self.model, Model):
            return [f"{self.name}: model must be a hfds.model.Model, got {self.model!r}"]
        found = super().problems()
        if self.decode not in DECODE:
            found.append(f"{self.name}: decode must be one of {', '.join(DECODE)}, got {self.decode!r}")
        return found

    def load(self, device: str) -> Scorer:
        need(self.name, "torch", "transformers")
        return self._scorer(device)

    def prepare(self, batch: Batch) -> list[Any]:
        return [_or_bad(self._shown, picture) for picture in batch.pictures]

    def annotate(self, model: Scorer, items: list[Any]) -> pa.Table:
        scores = model.scores(items)
        if not np.isfinite(scores).all():
            raise FloatingPointError(f"{self.model.repo} in {self.model.dtype} gave no number")
        return pa.table({self.column: scores}, self.adds.arrow_schema)

    def cost(self, table: pa.Table) -> np.ndarray:
        """That of the model, which is the same for all, and of decoding, which takes about as long for 2 megapixels."""
        if not {"width", "height"} <= {*table.column_names}:
            return np.ones(len(table))
        width, height = (np.asarray(pc.fill_null(table[name], 1).cast("float64")) for name in ("width", "height"))
        costs: np.ndarray = 1 + width * height / 2e6
        return costs

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # without what is read from files

    def _scorer(self, device: str) -> Scorer:
        raise NotImplementedError

    def _shown(self, picture: Encoded) -> np.ndarray:
        return self._preprocessing.shown(picture, exact=self.decode == "exact")

    @cached_property
    def _preprocessing(self) -> Preprocessing:
        return Preprocessing.of(self.model)


@dataclass(frozen=True)
class _Classify(_Score):
    """`label` is the class whose probability is asked for, as the checkpoint names it, in upper or lower case."""

    label: str = ""

    def problems(self) -> list[str]:
        right = isinstance(self.label, str) and self.label.strip()
        wrong = [] if right else [f"{self.name}: label must be the name of a class, got {self.label!r}"]
        return super().problems() + wrong

    def parameters(self) -> dict[str, Any]:
        return {**super().parameters(), "label": self.label.casefold()}

    def _scorer(self, device: str) -> Scorer:
        return load_classifier(self.model, device, self.label)


@dataclass(frozen=True)
class ScoreNsfw(_Classify):
    """`nsfw`: how probable it is that a picture is not safe for work, float32, 0 to 1.

    The default is a ViT-B/16 at 224x224 with the labels normal and nsfw, in this order; data-juicer takes its second.
    """

    column: ClassVar[str] = "nsfw"
    meaning: ClassVar[str] = "probability that the picture is not safe for work, 0 to 1"

    model: Model = NSFW
    label: str = "nsfw"


@dataclass(frozen=True)
class ScoreWatermark(_Classify):
    """`watermark`: how probable it is that a picture bears a watermark, float32, 0 to 1.

    The default is a ViT-B/16 at 224x224, of which data-juicer takes the second label. It is a weak one: its own card
    reports an accuracy of 0.657, so look at pictures on both sides of a threshold before you trust it. The commit on
    the Hub's main branch is looked up when the step runs, and recorded; its weights are pickled, and read as data only.
    """

    column: ClassVar[str] = "watermark"
    meaning: ClassVar[str] = "probability that the picture bears a watermark, 0 to 1"

    model: Model = WATERMARK
    label: str = "watermark"


@dataclass(frozen=True)
class ScoreAesthetic(_Score):
    """`aesthetic`: how much people would like a picture, float32, on LAION's scale of about 1 to 10 (see
    `processors.models.aesthetic`).

    data-juicer gives a tenth of this when the name of the model holds "shunk031/aesthetics-predictor", and this when
    it is a local path: its thresholds of 0.5 and of 5 are the same.
    """

    column: ClassVar[str] = "aesthetic"
    meaning: ClassVar[str] = "how much people would like the picture, about 1 to 10"

    model: Model = AESTHETIC

    def _scorer(self, device: str) -> Scorer:
        return load_predictor(self.model, device)


@dataclass(frozen=True)
class ScoreSimilarity(_Score):
    """`similarity`: how well the prompt says what the picture shows, by CLIP: a cosine, float32, -1 to 1.

    Prompts are read up to the 75 tokens that CLIP has room for. LAION's own similarity is that of another CLIP,
    ViT-B/32, and the image-to-prompt sets were filtered by a third, `CLIP_H` (above 0.3): no two are on one scale. Of
    `CLIP_H` the commit on the Hub's main branch is looked up when the step runs, and recorded.
    """

    column: ClassVar[str] = "similarity"
    meaning: ClassVar[str] = "how well the prompt says what the picture shows: a cosine by CLIP, -1 to 1"

    model: Model = CLIP

    @property
    def needs(self) -> tuple[str, ...]:
        return ("image", "prompt")

    def prepare(self, batch: Batch) -> list[Any]:
        shown = super().prepare(batch)
        return [
            one if isinstance(one, BadRow) else (one, prompt)
            for one, prompt in zip(shown, batch.texts("prompt"), strict=True)
        ]

    def _scorer(self, device: str) -> Scorer:
        return load_clip(self.model, device)


def _aspect(found: Properties) -> float:
    """Width by height of the upright picture."""
    return found.height / found.width if found.rotated else found.width / found.height


def _or_bad(read: Callable[[Encoded], T], picture: Encoded) -> T | BadRow:
    """What `read` makes of a picture, or why it cannot."""
    try:
        return read(picture)
    except BadRow as bad:
        return bad
