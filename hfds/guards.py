"""Guards: what stops a push before anything is sent."""

from collections.abc import Sequence
from pathlib import Path

from hfds.documents import foreign
from hfds.errors import ConfigError
from hfds.hub import Hub
from hfds.place import Place, place_of
from hfds.record import printable
from hfds.there import There
from hfds.wanted import Wanted, find
from hfds.withdrawn import FILE as WITHDRAWN
from hfds.withdrawn import Tombstone

# Parts of locks that differ where the same was built twice, with other packages.
MAY_DIFFER = ("packages", "statistics", "made_by", "splits", "ledger")


def must_be_this_build(place: Place, hub: Hub, there: There) -> None:
    """Raises ConfigError where the repository has another build of that name."""
    theirs = there.locks.get(place.name)
    other = [part for part in place.lock if part not in MAY_DIFFER and place.lock[part] != (theirs or {}).get(part)]
    if theirs is None or not other:
        return
    said = [
        f"{one['digest'][:12]} with {sum(split['rows'] for split in one['splits'].values()):,} rows"
        for one in (theirs, place.lock)
    ]
    dataset = place.lock["dataset"]
    raise ConfigError(
        f"{hub.repo} has another build of {place.name} ({said[0]}; this one is {said[1]}; what differs: "
        f"{', '.join(other)}), and what is published is never changed: give this one a name of its own, or see "
        f"hfds diff {dataset} {hub.repo}@{place.name} {place.name}"
    )


def must_be_welcome(place: Place, hub: Hub, there: There, private: bool) -> None:
    """Raises ConfigError where the repository is another dataset's, or public and meant to be private."""
    repo, mine = hub.repo, place.lock["dataset"]
    if others := sorted({lock["dataset"] for lock in there.locks.values()} - {mine}):
        raise ConfigError(f"{repo} holds releases of {', '.join(others)}: give {mine} a repository of its own")
    if others := foreign(there.tree, there.locks, there.changes):
        raise ConfigError(f"{repo} has a {others[0]} of somebody else, where a push writes: move it away there")
    if private and there.head and not there.private:
        raise ConfigError(f"{repo} is there and public: make it private on its page, or leave out --private")


def tagged(place: Place, hub: Hub, there: There, out: Path) -> str | None:
    """The commit that the release's tag is at; None without one.

    Raises:
        ConfigError: there is a tag of that name for something else.
    """
    if place.name not in there.tags:
        return None
    try:
        theirs = place_of("", f"{hub.repo}@{place.name}", out).lock["digest"]
    except ConfigError:
        theirs = None
    if theirs != place.lock["digest"]:
        raise ConfigError(
            f"{hub.repo} has a tag {place.name!r} that is not of this release: remove it there, or give the "
            "release another name"
        )
    return there.tags[place.name]


def must_hold_none(place: Place, hub: Hub, home: Path, withdrawn: Sequence[Tombstone]) -> None:
    """Raises ConfigError where the release has rows that were withdrawn."""
    found = find(Wanted(ids=tuple(stone.id for stone in withdrawn)), home, place.lock, {}) if withdrawn else {}
    if found:
        raise ConfigError(
            f"{place.label} has {len(found):,} rows that were withdrawn from {hub.repo}, such as "
            f"{printable(next(iter(found)))}: copy {WITHDRAWN} from there into {home} and build it again, or "
            "withdraw them with hfds yank"
        )
