"""Documents: all that is written about a dataset, from its locks and the entries of what changed between them."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from hfds.card import Changes, merged, render
from hfds.changelog import changelog, fitting
from hfds.croissant import croissant
from hfds.front_matter import Locks
from hfds.plots import plot

CARD, CHANGELOG, CROISSANT, PLOTS = "README.md", "CHANGELOG.md", "croissant.json", "plots/"


def documents(
    locks: Locks, changes: Changes, withdrawn: int = 0, repo: str | None = None, old_card: str = "", where: str = ""
) -> dict[str, bytes]:
    """The card, CHANGELOG.md where there are changes, the Croissant document, and a plot of each release whose lock has
    statistics: path to bytes, the card last.

    Args:
        locks: by release, oldest first. Without any, nothing is left but what others wrote into the card.
        changes: entries of `hfds.changelog.Diff` by release; those that are not about these releases are left out.
        withdrawn: rows that were withdrawn.
        repo: "org/name" on the Hub; paths in the Croissant document are relative without it.
        old_card: whose hand-written parts stay.
        where: which card that is, for messages; without it, that of `repo`.

    Raises:
        ConfigError: what others wrote into `old_card` cannot be kept; see `hfds.card.merged`.
    """
    where = where or (f"{CARD} of {repo}" if repo else CARD)
    made: dict[str, bytes] = {}
    fit = fitting(changes, locks)
    if fit:
        made[CHANGELOG] = changelog(fit).encode()
    if locks:
        made[CROISSANT] = json.dumps(croissant(locks, repo), indent=2, ensure_ascii=False).encode()
    for name, lock in locks.items():
        if picture := plot(lock):
            made[f"{PLOTS}{name}.png"] = picture
    if old_card.strip():
        made[CARD] = merged(old_card, locks, fit, withdrawn, repo, where).encode()
    elif locks:
        made[CARD] = render(locks, fit, withdrawn, repo).encode()
    return made


def foreign(paths: Collection[str], locks: Locks, changes: Mapping[str, Any]) -> list[str]:
    """Which files of a repository a push would write over, though hfds did not write them.

    Args:
        paths: of all its files.
        locks, changes: those that it has, by release: with the first lock there is a Croissant document of ours, with
            the first change a changelog.
    """
    written = {CHANGELOG: changes, CROISSANT: locks}
    return [path for path, by in written.items() if path in paths and not by]
