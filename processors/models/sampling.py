"""Sampling: which token comes next, by a seed of each row's own (Holtzman et al. 2020, arxiv.org/abs/1904.09751)."""

from typing import Any


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


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
