"""Explain: one row's account, from the ledgers of a dataset's releases, below a folder or on the Hub.

A ledger is not sorted: of most of it nothing is read but ids, and the splits before the row, which say where it lies in
the shards. Of these a row group of one is read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from hfds.columns import File, broken, find, read, take
from hfds.errors import ConfigError
from hfds.ledger import LEDGER
from hfds.place import Place, datasets_in, named, place_of, places
from hfds.refused import AllowLicenses

SAID = ("prompt", "source", "source_revision", "license", "url")  # what a shard is asked of a row
FATE = [name for name in LEDGER if name != "id"]
KNOWN = ("id", "input", "split", "step", "reason", "made_by", "parent")  # what is told of a row that was withdrawn


def explain(dataset: str, name: str, id_: str, out: Path) -> dict[str, Any]:
    """Where a row came from, what became of it in each release of its dataset, and the row that this hangs on.

    - `row`: its id, the release, its split and its prompt, both None where it was dropped; and why it was `withdrawn`,
      None where it was not.
    - `source`: its source, input, repository, revision, homepage, licence and url, from the lock and the row itself.
    - `chain`: the ledger's row, that of its partner, that of its partner's partner, each with its `release`, also of
      earlier releases where they lie in the same folder or repository.
    - `releases`: for each release its `fate`, which is "kept", "dropped" or "not read", and the ledger's row.

    Of a row that was withdrawn only ids, inputs, splits, steps and reasons are told, also where a release keeps it.

    Args:
        dataset: a dataset, or a repository on the Hub; see `place_of`.
        name: one of its releases.

    Raises:
        ConfigError: there is no such release, or it read no row with that id; similar ids are named.
        BadFile: a file cannot be read, or does not fit the others.
        HubError: the repository cannot be read.
    """
    dataset, name = named(dataset, name)
    there = places(dataset, out)
    asked = there.get(name) or place_of(dataset, name, out)
    known = {place.label: place for place in there.values()}
    fates = {label: _fate(place, id_) for label, place in known.items()}
    own = fates[asked.label]
    if own is None:
        others = [label for label, fate in fates.items() if fate]
        raise ConfigError(
            f"no row {id_!r} in {asked.label}: " + (f"{', '.join(others)} read it" if others else _similar(asked, id_))
        )
    stone = asked.withdrawn.get(id_)
    held = _held(asked, own) if own["split"] and not stone else {}
    return {
        "row": {
            "release": asked.label,
            "id": id_,
            "split": own["split"],
            "prompt": held.get("prompt"),
            "withdrawn": stone and stone.reason,
        },
        "source": _source(asked, own, held),
        "chain": _chain(asked, own, known, None if "/" in dataset else out),
        "releases": [{"release": label, **_told(fate)} for label, fate in fates.items()],
    }


def _fate(place: Place, id_: str) -> dict[str, Any] | None:
    """The row of a release's ledger, and its place `at`; None where it has none."""
    at = find(place.ledger, "id", id_)
    if at is None:
        return None
    (row,) = take(place.ledger, [*LEDGER], np.array([at]))
    if id_ in place.withdrawn:
        row = {name: value if name in KNOWN else None for name, value in row.items()}
    return {**row, "at": at}


def _chain(place: Place, fate: Mapping[str, Any], known: Mapping[str, Place], out: Path | None) -> list[dict[str, Any]]:
    """A row, its partner, its partner's partner.

    Args:
        known: releases by label.
        out: where those of other datasets are built; None: they are not looked for.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    while (place.label, fate["id"]) not in found:
        found[place.label, fate["id"]] = {"release": place.label, **{name: fate[name] for name in LEDGER}}
        label, elsewhere, _ = (fate["partner_in"] or "").rpartition(":")
        beyond = _labelled(label, known, out) if elsewhere else place
        if not fate["partner"] or beyond is None:
            break
        partner = _fate(beyond, fate["partner"])
        if partner is None:
            raise broken(beyond.ledger[0], f"it has no row {fate['partner']!r}, which is a partner in {place.label}")
        place, fate = beyond, partner
    return [*found.values()]


def _labelled(label: str, known: Mapping[str, Place], out: Path | None) -> Place | None:
    """The release "<dataset>/<release>"; None where it is not there."""
    dataset = label.partition("/")[0]
    if label in known or out is None or dataset not in datasets_in(out):
        return known.get(label)
    return next((place for place in places(dataset, out).values() if place.label == label), None)


def _held(place: Place, fate: Mapping[str, Any]) -> dict[str, Any]:
    """What the shards have of a kept row: they hold the rows of a split in the order of the ledger."""
    before, left = 0, fate["at"]
    for table in read(place.ledger, ["split"]):
        before += pc.sum(pc.equal(table["split"][:left], fate["split"])).as_py() or 0
        left -= min(left, len(table))
        if not left:
            break
    file, at = _shard(place, fate["split"], before)
    row = take([file], ["id", *(name for name in SAID if name in place.features)], np.array([at]))
    if not row or row[0]["id"] != fate["id"]:
        raise broken(file, f"it does not hold {fate['id']!r} where the ledger has it")
    return row[0]


def _shard(place: Place, split: str, at: int) -> tuple[File, int]:
    """The shard that has a row of a split, and the row's place in it."""
    for shard in place.lock["splits"][split]["shards"]:
        if at < shard["rows"]:
            return place.at(shard["path"]), at
        at -= shard["rows"]
    raise broken(place.ledger[0], f"it has more rows in {split} than the lock")


def _source(place: Place, fate: Mapping[str, Any], held: Mapping[str, Any]) -> dict[str, Any]:
    """Where a row came from. Of a row that was dropped, the licence is known where that is why."""
    inputs: dict[str, Any] = {one["input"]: one for one in place.lock["sources"]}
    made_of = inputs.get(fate["input"], {})
    if held:
        license_ = held.get("license") or made_of.get("license")
    else:  # it may have another than its source
        license_ = fate["value"] if fate["step"] == AllowLicenses.__name__ else None
    return {
        "source": held.get("source") or fate["input"].partition("/")[0],
        "input": fate["input"],
        "repo": made_of.get("repo"),
        "revision": held.get("source_revision") or made_of.get("revision"),
        "homepage": made_of.get("homepage") or None,
        "license": license_,
        "url": held.get("url"),
    }


def _told(fate: Mapping[str, Any] | None) -> dict[str, Any]:
    """What became of a row, with all fields of a ledger."""
    if fate is None:
        return {"fate": "not read", **dict.fromkeys(FATE)}
    return {"fate": "kept" if fate["split"] else "dropped", **{name: fate[name] for name in FATE}}


def _similar(place: Place, id_: str) -> str:
    """What may have been meant."""
    key = id_.rpartition("/")[2]
    for table in read(place.ledger, ["id"]):
        found = table["id"].filter(pc.ends_with(table["id"], f"/{key}"))
        if len(found):
            return f"did you mean {found[0].as_py()!r}?"
    return "ids begin with the source's name, as in 'diffusiondb/<file name>'"
