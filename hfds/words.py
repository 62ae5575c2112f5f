"""Words: what `cards/` says of a dataset by hand."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import yaml

from hfds.errors import ConfigError


@dataclass(frozen=True)
class Words:
    """The hand-written part of a card: keys of its front matter, what the dataset is, further sections ("## ...")."""

    meta: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""
    sections: str = ""


def words_of(dataset: str) -> Words:
    """What `cards/<dataset>.md` says; nothing where there is no such file.

    Raises:
        ConfigError: its front matter is no YAML mapping.
    """
    there = {path.name: path for path in files("cards").iterdir()}
    path = there.get(f"{dataset}.md")
    if path is None or dataset.startswith("_"):
        return Words()
    meta, body = front_and_body(path.read_text(encoding="utf-8"), f"cards/{path.name}")
    about, _, sections = f"\n{body.strip()}".partition("\n## ")
    return Words(meta, about.strip(), f"## {sections}" if sections else "")


def template() -> str:
    """What every card is made from."""
    return files("cards").joinpath("_card.md").read_text(encoding="utf-8")


def front_and_body(card: str, where: str = "the card") -> tuple[dict[str, Any], str]:
    """The front matter of a card, and what is below it.

    Args:
        where: which card, for messages.

    Raises:
        ConfigError: the front matter is no YAML mapping.
    """
    found = re.fullmatch(r"\ufeff?(?:---\r?\n(.*?\r?\n)?---[ \t]*(?:\r?\n|$))?(.*)", card, re.DOTALL)
    assert found is not None  # everything is optional
    try:
        meta = yaml.safe_load(found[1] or "") or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2000-13-01
        why = " ".join(str(error).split())
        raise ConfigError(f"the front matter of {where} is no YAML ({why}): mend it there") from None
    if not isinstance(meta, dict):
        raise ConfigError(
            f"the front matter of {where} must be keys with values, got {type(meta).__name__}: mend it there"
        )
    return meta, found[2]
