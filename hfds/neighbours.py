"""Neighbours: what changed from the published release before one, and from it to the next."""

from pathlib import Path

from hfds.changelog import Diff, check_level
from hfds.diff import diff
from hfds.errors import HfdsError
from hfds.hub import Hub
from hfds.lock import release_order
from hfds.place import Place, place_of, published
from hfds.there import There


class Neighbours:
    """The releases next to one in a repository, in the order of names; each pair is compared once.

    Args:
        place: the release, where it was built.
        out: below which others may lie, too.
    """

    def __init__(self, place: Place, hub: Hub, out: Path):
        self.place, self.hub, self.out = place, hub, out
        self._diffs: dict[tuple[str, str], Diff] = {}  # by the digests of both releases

    def before(self, there: There) -> Diff | None:
        """What changed from the newest release that was published before this one in the order of names.

        Raises:
            ConfigError: that is more than the release's name says.
        """
        own = release_order(self.place.name)
        before = max((name for name in there.locks if release_order(name) < own), key=release_order, default=None)
        if before is None:
            return None
        found = self._compared(self._nearest(before, there), self.place)
        check_level(found)
        return found

    def after(self, there: There) -> Diff | None:
        """What changed from this one to the next, where that was published first and compared with an older one."""
        own = release_order(self.place.name)
        after = min((name for name in there.locks if release_order(name) > own), key=release_order, default=None)
        if after is None or release_order(there.changes.get(after, {}).get("old", "")) >= own:
            return None
        return self._compared(self.place, self._nearest(after, there))

    def _compared(self, old: Place, new: Place) -> Diff:
        key = (old.lock["digest"], new.lock["digest"])
        if key not in self._diffs:
            self._diffs[key] = diff(old, new)
        return self._diffs[key]

    def _nearest(self, name: str, there: There) -> Place:
        """A published release where it was built, if that still lies there, else on the Hub."""
        try:
            place = place_of(str(self.place.lock["dataset"]), name, self.out)
        except HfdsError:
            place = None
        if place is None or place.lock["digest"] != there.locks[name]["digest"]:
            place = published(self.hub, there.locks[name], there.head, there.tree)
        return place
