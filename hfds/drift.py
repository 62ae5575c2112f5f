"""Drift: what was measured of the columns of two releases, side by side."""

from typing import Any

from hfds.made_of import sides
from hfds.place import Place
from hfds.statistics import measured

NUMBERS = ("nulls", "mean", "5%", "25%", "50%", "75%", "95%")


def drift(old: Place, new: Place) -> list[dict[str, Any]]:
    """What was measured of every column, or field of one, that can be measured."""
    found = []
    for leaf, here, there in sides(_columns(old), _columns(new)):
        both = (here, there)
        of = "counts" if all(side is None or "counts" in side for side in both) else (there or here)["of"]
        wanted = ("nulls", "counts") if of == "counts" else NUMBERS
        told = [side and {name: side[name] for name in wanted if name in side} for side in both]
        found.append({"column": leaf, "of": of, "old": told[0], "new": told[1]})
    return found


def _columns(place: Place) -> dict[str, Any]:
    """What its lock says of them; locks of before say nothing."""
    known = place.lock.get("statistics") or measured(place.shards, place.features)
    return dict(known["columns"])
