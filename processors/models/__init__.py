"""Models, one file per family: checkpoints (each file has a function that loads one and gives a Scorer, an encoder or a
Painter), and the backends of language models (see `hfds.writer`)."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np


class Scorer(Protocol):
    """A checkpoint on a device."""

    def scores(self, shown: list[Any]) -> np.ndarray:
        """One number for each of `shown`: shape (len(shown),), float32."""
        ...


class Painted(NamedTuple):
    """A picture: its `pixels`, shape (height, width, 3), uint8; whether it is `unsafe`, None where nothing looked; and
    how many tokens of the prompt were not read."""

    pixels: np.ndarray
    unsafe: bool | None
    tokens_cut: int


class Painter(Protocol):
    """A checkpoint on a device, with the name of its `sampler`."""

    sampler: str

    def paint(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Painted]:
        """A picture for each prompt, from the noise of its own seed."""
        ...
