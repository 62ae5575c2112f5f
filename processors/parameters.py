"""What the parameters of a step may be, as one sentence for each that is not."""

import re
from collections.abc import Callable
from typing import Any

from hfds.processor import Step

KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "switch": ("True or False", lambda v: isinstance(v, bool)),
    "phrases": (
        "a tuple of phrases that are not blank",
        lambda v: isinstance(v, tuple) and all(isinstance(phrase, str) and phrase.strip() for phrase in v),
    ),
    "names": (
        "a tuple of phrases that begin and end with a letter or a digit",
        lambda v: isinstance(v, tuple) and all(isinstance(n, str) and re.fullmatch(r"[^\W_](.*[^\W_])?", n) for n in v),
    ),
    "range": (
        "None or two whole numbers (least, most)",
        lambda v: v is None or (isinstance(v, tuple) and [type(n) for n in v] == [int, int] and 0 <= v[0] <= v[1]),
    ),
    "number": ("a whole number from 1", lambda v: type(v) is int and v >= 1),
    "natural": ("a whole number from 0", lambda v: type(v) is int and v >= 0),
    "count": ("None or a whole number from 0", lambda v: v is None or (type(v) is int and v >= 0)),
    "share": ("None or a number from 0 to 1", lambda v: v is None or (type(v) in (int, float) and 0 <= v <= 1)),
    "length": ("None or a number from 0", lambda v: v is None or (type(v) in (int, float) and 0 <= v < float("inf"))),
    "column": ("the name of a column", lambda v: isinstance(v, str) and bool(v)),
    "columns": (
        "a tuple of names of columns",
        lambda v: isinstance(v, tuple) and all(isinstance(name, str) and name for name in v),
    ),
    "seed": ("a whole number", lambda v: type(v) is int),
    "fraction": ("a number from 0 to 1", lambda v: type(v) in (int, float) and 0 <= v <= 1),
    "language": ("None or a code such as 'en'", lambda v: v is None or (isinstance(v, str) and len(v.strip()) > 1)),
}


def wrong_parameters(step: Step, kinds: dict[str, str]) -> list[str]:
    values = {name: getattr(step, name) for name in kinds}
    return [
        f"{step.name}: {name} must be {KINDS[kind][0]}, got {values[name]!r}"
        for name, kind in kinds.items()
        if not KINDS[kind][1](values[name])
    ]
