"""Made of: what two locks say differently of inputs, steps, earlier releases and packages."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import xxhash

from hfds.place import Place


def made_of(old: Place, new: Place) -> list[dict[str, Any]]:
    """What is not the same of inputs, steps, earlier releases and packages."""
    found = []
    for part, here, there in sides(_parts(old.lock), _parts(new.lock)):
        if here is None or there is None:
            here, there = ({"there": side is not None} for side in (here, there))
        found += [{"part": part, **entry} for entry in differing("what", here, there)]
    return found


def _parts(lock: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a release is made of, by name; the second step of a name is "step <name> 2"."""
    parts: dict[str, dict[str, Any]] = {}
    for source in lock["sources"]:
        files = xxhash.xxh3_64_hexdigest(json.dumps(source["files"]).encode())
        told = {name: source.get(name) for name in ("revision", "rows", "limit", "into", "options", "code")}
        told |= source.get("written", {})
        parts[f"input {source['input']}"] = {**told, "files": f"{len(source['files']):,} ({files})"}
    names: Counter[str] = Counter()
    for step in lock["steps"]:
        names[step["name"]] += 1
        number = f" {names[step['name']]}" if names[step["name"]] > 1 else ""
        parts[f"step {step['name']}{number}"] = {"version": step["version"], **step["parameters"]}
    return {**parts, "earlier releases": lock.get("earlier", {}), "packages": lock.get("packages", {})}


def types(place: Place) -> dict[str, str]:
    return {name: str(kind) for name, kind in place.features.items()}


def sides(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Names of either side, with what it has there; None where it has nothing."""
    for name in {**old, **new}:
        yield name, old.get(name), new.get(name)


def differing(title: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{title: name, "old": here, "new": there} for name, here, there in sides(old, new) if here != there]
