"""Sampling: which token comes next, by a seed of each row's own (Holtzman et al. 2020, arxiv.org/abs/1904.09751)."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def sampling_problems(temperature: Any, top_p: Any, max_tokens: Any) -> list[str]:
    """What is wrong with the parameters that all backends have, one sentence each."""
    found = []
    if not _number(temperature) or not 0 <= temperature <= 10:
        found.append(f"temperature must be a number from 0 (the likeliest token) to 10, got {temperature!r}")
    if not _number(top_p) or not 0 < top_p <= 1:
        found.append(f"top_p must be a number above 0 and up to 1, got {top_p!r}")
    if type(max_tokens) is not int or max_tokens < 1:
        found.append(f"max_tokens must be a whole number from 1, got {max_tokens!r}")
    return found


def sampling_entry(temperature: Any, top_p: Any, max_tokens: Any) -> dict[str, Any]:
    """What keys and locks say of the parameters that all backends have, the same for 1 and 1.0."""
    numbers = {"temperature": temperature, "top_p": top_p}
    same = {name: float(value) if type(value) is int else value for name, value in numbers.items()}
    return {**same, "max_tokens": max_tokens}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Chooser:
    """A logits processor of transformers that leaves one token of each row, which `generate` takes as the likeliest.

    Each row has numbers of its own, drawn from its seed before anything is written: which token it takes does not
    depend on how many others are written beside it, nor on the device.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float, max_tokens: int, device: Any):
        import torch

        drawn = np.stack([np.random.default_rng(seed).random(max_tokens) for seed in seeds])
        self.drawn, self.step = torch.from_numpy(drawn).to(device), 0
        self.temperature, self.top_p = temperature, top_p

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """The scores of a step, (rows, vocabulary), with all but the chosen token at minus infinity."""
        import torch

        tokens = chosen(scores, self.drawn[:, self.step], self.temperature, self.top_p)
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)


def numbers(input_ids: Any, scores: Any) -> Any:
    """The scores of a step as they are: a logits processor for the likeliest tokens.

    Raises:
        FloatingPointError: one is no number, of which the likeliest would be any token.
    """
    if scores.isnan().any():
        raise FloatingPointError("the model gave no number")
    return scores


def chosen(scores: Any, drawn: Any, temperature: float, top_p: float) -> Any:
    """The token at which the probabilities of each row, added up, go beyond the number that was drawn for it.

    Args:
        scores: logits, shape (rows, vocabulary).
        drawn: numbers from 0 to 1, shape (rows,), float64.
        temperature: above 0.
        top_p: the likeliest tokens that have this much probability together are chosen among.
    """
    import torch

    probabilities = torch.softmax(scores.float() / temperature, dim=-1)
    order = None
    if top_p < 1:
        probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
    reached = probabilities.double().cumsum(dim=-1)
    if not torch.isfinite(reached[:, -1]).all():
        raise FloatingPointError("the model gave no number")
    whole = reached[:, -1:]
    if order is not None:  # up to the first that reaches it
        last = (reached < top_p * whole).sum(dim=-1, keepdim=True).clamp(max=reached.shape[1] - 1)
        whole = reached.gather(1, last)
    places = torch.searchsorted(reached, drawn[:, None] * whole, right=True).clamp(max=reached.shape[1] - 1)
    return (places if order is None else order.gather(1, places))[:, 0]
