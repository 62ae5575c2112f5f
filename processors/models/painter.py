"""Painter: a text-to-image pipeline of diffusers on a device, that gives each picture a random generator of its own.

The noise is drawn on the CPU, so that it is the same on every device. The safety checker, where the checkpoint has one,
looks at pictures and changes none; diffusers would make black ones of them.
"""

import inspect
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from hfds.errors import ConfigError, nearest
from hfds.model import Lora, Model, Pipeline
from processors.models import Painted
from processors.models.checkpoint import load_from, quiet, read_json
from processors.models.parts import CHECKER, Parts, check_weights, networks, parts_of

_UNSEEDED = "that draws noise of its own, so that a picture would be another one each time"


@dataclass(frozen=True)
class Settings:
    """How pictures are painted; see `processors.paint.Paint`."""

    steps: int
    guidance: float
    negative_prompt: str | None
    size: tuple[int, int] | None
    scheduler: str | None
    lora: Lora | None
    lora_scale: float


class _Painter:
    def __init__(self, pipeline: Any, checker: Any, settings: Settings, model: Model):
        self.pipeline, self.checker, self.settings, self.model = pipeline, checker, settings, model
        self.sampler = type(pipeline.scheduler).__name__
        self._lock = threading.Lock()  # a pipeline holds the state of its sampler: one batch at a time
        self._cuts = _Cuts(pipeline)

    def paint(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Painted]:
        import torch

        how = self.settings
        given: dict[str, Any] = {"width": how.size[0], "height": how.size[1]} if how.size else {}
        if how.negative_prompt is not None:
            given["negative_prompt"] = [how.negative_prompt] * len(prompts)
        with self._lock, torch.inference_mode(), quiet(), quiet("diffusers"):
            found = self.pipeline(
                prompt=[*prompts],
                num_inference_steps=how.steps,
                guidance_scale=how.guidance,
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
                output_type="pt",
                **given,
            ).images
            pictures = found.float().cpu()
        if not torch.isfinite(pictures).all():
            raise FloatingPointError(f"{self.model.repo} in {self.model.dtype} gave no number")
        pixels = (pictures * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        unsafe = self._unsafe(pixels)
        return [Painted(*each) for each in zip(pixels, unsafe, self._cuts.of(prompts), strict=True)]

    def _unsafe(self, pixels: np.ndarray) -> Sequence[bool | None]:
        """What the checker says of each picture; None where there is none."""
        if self.checker is None:
            return [None] * len(pixels)
        import torch
        from PIL import Image

        extractor, network = self.checker
        shown = extractor([Image.fromarray(one) for one in pixels], return_tensors="pt").pixel_values
        with torch.inference_mode(), quiet("diffusers"):  # it blacks out what it is given
            _, unsafe = network(images=pixels.copy(), clip_input=shown.to(network.device, network.dtype))
        return [bool(one) for one in unsafe]


class _Cuts:
    """How many tokens of a prompt no text encoder of a pipeline has room for."""

    def __init__(self, pipeline: Any):
        longest = inspect.signature(pipeline.__call__).parameters.get("max_sequence_length")
        names = sorted(name for name in pipeline.components if name.startswith("tokenizer"))
        self._tokenizers = []
        for tokenizer in (getattr(pipeline, name) for name in names):
            if tokenizer is None:
                continue
            room = tokenizer.model_max_length
            if longest is not None and "CLIP" not in type(tokenizer).__name__:
                room = min(room, longest.default)
            self._tokenizers.append((tokenizer, room))

    def of(self, prompts: Sequence[str]) -> list[int]:
        """Tokens behind the last that any of them reads, by prompt."""
        cut = []
        with quiet():
            for tokenizer, room in self._tokenizers:
                found = tokenizer([*prompts], truncation=False, padding=False, verbose=False)["input_ids"]
                cut.append([max(0, len(ids) - room) for ids in found])
        return np.min(cut, axis=0).tolist() if cut else [0] * len(prompts)


def load_painter(model: Pipeline, device: str, settings: Settings) -> _Painter:
    """A pipeline that makes pictures of texts.

    Raises:
        ConfigError: a part of the checkpoint is missing, broken, or none of diffusers' or transformers'; the sampler
            does not go with it, or draws noise of its own; the adapter does not fit; or the pipeline knows no size,
            or does not heed a negative prompt.
    """
    import torch

    with quiet():
        from diffusers import AutoPipelineForText2Image

    folder = model.folder()
    parts = parts_of(model)
    known = networks(model, parts, device)
    if CHECKER in parts:
        known[CHECKER] = None
    if "requires_safety_checker" in read_json(folder / model.mark):
        known["requires_safety_checker"] = False
    with _as_config_error(f"the model {model.repo} cannot be loaded"):
        pipeline = AutoPipelineForText2Image.from_pretrained(
            folder,
            dtype=getattr(torch, model.dtype),
            local_files_only=True,
            use_safetensors=True,
            **known,
        )
    check_weights(pipeline, model)
    pipeline.set_progress_bar_config(disable=True)
    if settings.scheduler:
        pipeline.scheduler = _scheduler(pipeline, settings.scheduler, model)
    elif _unseeded(type(pipeline.scheduler)):
        raise ConfigError(
            f"{model.repo} has the sampler {type(pipeline.scheduler).__name__}, {_UNSEEDED}: give another scheduler"
        )
    if settings.lora:
        _adapt(pipeline, settings.lora, settings.lora_scale, model)
    pipeline.to(device)
    _check_call(pipeline, settings, model)
    return _Painter(pipeline, _checker(model, parts, device), settings, model)


def _checker(model: Model, parts: Parts, device: str) -> tuple[Any, Any] | None:
    """What prepares pictures for the safety checker, and the checker, where the checkpoint has them."""
    if not parts.get(CHECKER, (None, None))[1]:
        return None
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessor

    folder = model.folder()
    with quiet(), _as_config_error(f"the safety checker of {model.repo} cannot be loaded"):
        extractor = CLIPImageProcessor.from_pretrained(folder / "feature_extractor", local_files_only=True)
    return extractor, load_from(StableDiffusionSafetyChecker, folder / CHECKER, model, device, use_safetensors=True)


def _scheduler(pipeline: Any, name: str, model: Model) -> Any:
    kinds = {kind.__name__: kind for kind in (*pipeline.scheduler.compatibles, type(pipeline.scheduler))}
    there = sorted(each for each, kind in kinds.items() if not _unseeded(kind))
    if name in kinds and name not in there:
        raise ConfigError(f"{name!r} is a sampler {_UNSEEDED}: give one of {', '.join(there)}")
    if name not in there:
        raise ConfigError(f"{name!r} is no sampler that goes with {model.repo}: {nearest(name, there)}")
    with _as_config_error(f"the sampler {name} cannot be loaded"):
        return kinds[name].from_config(pipeline.scheduler.config)


def _unseeded(kind: Any) -> bool:
    """Whether a sampler has noise that the generators of the pictures do not decide: its `step` takes none, and it
    draws from a source of its own, as DPMSolverSDEScheduler from torchsde."""
    if "torchsde" in getattr(kind, "_backends", ()):  # diffusers' stand-in, where torchsde is not installed
        return True
    if "generator" in inspect.signature(kind.step).parameters:
        return False
    return "noise_sampler_seed" in inspect.signature(kind.__init__).parameters


def _adapt(pipeline: Any, lora: Lora, scale: float, model: Model) -> None:
    """Adds an adapter to the weights, once and for all."""
    folder = lora.folder()
    if not hasattr(pipeline, "load_lora_weights"):
        raise ConfigError(f"{model.repo} takes no LoRA: {type(pipeline).__name__} has no way to load one")
    with _as_config_error(f"the LoRA {lora.repo} does not fit {model.repo}"):
        with _warnings("diffusers.utils.peft_utils") as left_out:
            pipeline.load_lora_weights(folder, weight_name=lora.weights, local_files_only=True)
        if not pipeline.get_active_adapters():
            raise ValueError("none of its weights is for a part of it")
        if left_out:
            raise ValueError(left_out[0][:300])
        pipeline.fuse_lora(lora_scale=scale)
        pipeline.unload_lora_weights()


@contextmanager
def _warnings(name: str) -> Iterator[list[str]]:
    """What a logger warns of, which diffusers tells in no other way."""
    logger, said = logging.getLogger(name), list[str]()

    def hear(record: logging.LogRecord) -> bool:
        said.append(record.getMessage())
        return False

    level = logger.level
    logger.setLevel(logging.WARNING)  # also where what is above it is quiet
    logger.addFilter(hear)
    try:
        yield said
    finally:
        logger.removeFilter(hear)
        logger.setLevel(level)


def _check_call(pipeline: Any, settings: Settings, model: Model) -> None:
    takes = inspect.signature(pipeline.__call__).parameters
    wanted = {"negative_prompt": settings.negative_prompt, "width": settings.size, "guidance_scale": True}
    for name in (name for name, value in wanted.items() if value is not None and name not in takes):
        raise ConfigError(f"{model.repo} takes no {name}: {type(pipeline).__name__} has no such parameter")
    apart = takes.get("true_cfg_scale")  # of Flux, whose guidance is no classifier-free one
    if settings.negative_prompt and apart is not None and apart.default <= 1:
        raise ConfigError(
            f"{model.repo} heeds no negative_prompt: {type(pipeline).__name__} looks at one only with a true_cfg_scale"
        )


@contextmanager
def _as_config_error(what: str) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        with quiet(), quiet("diffusers"):
            yield
    except (
        ImportError,
        OSError,
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        SafetensorError,
    ) as error:
        lines = str(error).strip().splitlines()
        raise ConfigError(f"{what}: {lines[0][:300] if lines else type(error).__name__}") from None
