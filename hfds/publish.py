"""Publish: a built release onto the Hub, so that it appears there whole or not at all, and is never changed again.

1. The shards, and the tars if they are asked for, in commits that no card lists yet. What is there already is not sent
   again.
2. They are read back: their sha256, their rows, their columns, and a row group of each split.
3. One commit with the card, the Croissant document, the changelog, the ledger and the lock: from then on
   `load_dataset(repo, release)` finds it.
4. The tag. A release that has one is never written again; tars may still come to lie beside it on main.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, get_origin

from hfds.errors import ConfigError
from hfds.pushing import Push, Pushing


def plan(
    dataset: str,
    name: str,
    repo: str,
    *,
    out: str | Path = "dist",
    token: str | None = None,
    private: bool = False,
    unknown_license: bool = False,
    tars: bool = False,
) -> Push:
    """What publishing a release that was built below `out`, as config and tag `name` of `repo`, is going to send.

    Args:
        repo: a dataset repository, "org/name".
        token: of someone who may write there; the one that `hf auth login` keeps when None.
        private: how the repository is made, where it is not there.
        unknown_license: publish rows whose licence is not known.
        tars: send the release's export as tars, too (`hfds.tars.export`).

    Raises:
        ConfigError: the release is not built, is not what its lock says, was published as something else, is more of a
            change than its name says, or holds rows of unknown licence; or its tars are not exported as it is now.
        HubError: the repository cannot be read.
    """
    return Pushing(dataset, name, repo, Path(out), token).plan(private, unknown_license, tars)


def push(
    dataset: str,
    name: str,
    repo: str,
    *,
    out: str | Path = "dist",
    token: str | None = None,
    private: bool = False,
    unknown_license: bool = False,
    tars: bool = False,
) -> Push:
    """Publishes a release; see `plan`. Running again goes on where a push was cut off, and sends nothing that is there.

    Raises:
        ConfigError: as `plan`.
        HubError: the Hub refuses it, cannot be reached, or has something else than was sent.
    """
    pushing = Pushing(dataset, name, repo, Path(out), token)
    return pushing.send(pushing.plan(private, unknown_license, tars))


def apply(planned: Push, token: str | None = None) -> Push:
    """Publishes what was planned, as `push` does.

    Raises:
        ConfigError: as `plan`, or the release was built anew, or the repository has other releases since.
    """
    pushing = Pushing(planned.dataset, planned.release, planned.repo, Path(planned.out), token)
    now = pushing.plan(planned.private, planned.unknown_license, planned.tars)
    if now.commit and not now.files and now.digest == planned.digest:
        return now
    if now.digest != planned.digest:
        raise ConfigError(f"{pushing.place.label} was built anew since the push was planned: plan it again")
    own = {planned.release: planned.digest}  # a push that was cut off may have listed it
    if {**now.listed, **own} != {**planned.listed, **own}:
        raise ConfigError(f"{now.repo} has other releases than when the push was planned: plan it again")
    return pushing.send(now)


def planned_in(file: Path) -> Push:
    """A push that was planned and kept as JSON.

    Raises:
        ConfigError: the file holds none.
    """
    try:
        told = json.loads(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}): plan the push first") from None
    except ValueError:
        told = None
    kinds: dict[str, Any] = {one.name: dict if get_origin(one.type) is dict else one.type for one in fields(Push)}
    if not (isinstance(told, dict) and told.keys() == kinds.keys()) or not all(
        isinstance(told[name], kind) for name, kind in kinds.items()
    ):
        raise ConfigError(f"{file} is no plan of a push: make one with hfds push ... --plan {file}")
    return Push(**told)
