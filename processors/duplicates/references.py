"""References: what rows are compared with in place of each other: releases, splits of releases, splits, inputs."""

from typing import Any

import numpy as np
from datasets import Dataset

from hfds import record
from hfds.errors import ConfigError, nearest
from hfds.processor import label
from hfds.release import Release
from processors.duplicates import exact
from processors.duplicates.columns import codes, narrow

USUAL = ("train", "validation", "test")  # splits that may have no rows in a small try
Reference = Release | tuple[Release, str] | str


def is_reference(one: Any) -> bool:
    """Whether it is one."""
    if isinstance(one, str):
        kind, _, name = one.partition(":")
        return kind in ("split", "input") and bool(name)
    if isinstance(one, tuple):
        return [type(part) for part in one] == [Release, str] and bool(one[1])
    return isinstance(one, Release)


def named(one: Reference) -> str:
    """What is compared with, as the lock names it: "image-to-prompt/v2", "image-to-prompt/v2:validation"."""
    if isinstance(one, tuple):
        return f"{label(one[0])}:{one[1]}"
    return one if isinstance(one, str) else label(one)


def among_earlier(earlier: Dataset, references: tuple[Reference, ...]) -> np.ndarray:
    """Which rows of earlier releases are in `references`: (earlier,) bool.

    Raises:
        ConfigError: a split of a name that is none of the usual ones has no rows.
    """
    wanted = {named(one) for one in references}
    releases, release = codes(earlier, "release")
    splits, split = codes(earlier, "split")
    for one in references:
        if isinstance(one, tuple) and one[1] not in (*splits, *USUAL):
            raise ConfigError(f"no row of {label(one[0])} is of the split {one[1]!r}: {nearest(one[1], splits)}")
    asked = np.zeros(len(earlier), bool)
    for number, name in enumerate(releases):
        chosen = [place for place, other in enumerate(splits) if {name, f"{name}:{other}"} & wanted]
        asked |= (release == number) & np.isin(split, chosen)
    return asked


def among_rows(rows: Dataset, references: tuple[Reference, ...]) -> np.ndarray:
    """Which rows of this release are those of a split or an input in `references`: (rows,) bool.

    Raises:
        ConfigError: there is no such input, no row has a split yet, or a split of a name that is none of the usual ones
            has no rows.
    """
    stays = np.zeros(len(rows), bool)
    for column, _, name in (one.partition(":") for one in references if isinstance(one, str)):
        names, which = codes(rows, column)
        if not names and len(rows):
            raise ConfigError(f"no row has a {column} yet: rows are compared with those of {name!r} after Split")
        if name in names:
            stays |= which == names.index(name)
        elif column == "input" or name not in USUAL:
            raise ConfigError(f"no row is of the {column} {name!r}: {nearest(name, names)}")
    return stays


def same_ids(table: Dataset, held: int, asked: np.ndarray) -> np.ndarray:
    """Which rows from `held` on have the id of one before it that is `asked`: (rows - held,) bool."""
    keys = np.concatenate([record.hash_texts(part["id"]) for part in narrow(table, ["id"])])
    keys = np.concatenate([keys[:held][asked], keys[held:]])
    count = int(asked.sum())
    same: np.ndarray = exact.components(keys)[count:] < count
    return same
