"""Drift: what can be measured of the columns of two releases, side by side."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Image

from hfds.columns import read
from hfds.made_of import sides
from hfds.place import Place

CATEGORIES = ("license", "source")  # counted value by value, like any text column with few values that come up often
LEVELS = 50  # are few values
OFTEN = 10  # times each, on average
QUANTILES = {"5%": 0.05, "25%": 0.25, "50%": 0.5, "75%": 0.75, "95%": 0.95}


def drift(old: Place, new: Place) -> list[dict[str, Any]]:
    """What was measured of every column, or field of one, that can be measured."""
    found = []
    for leaf, here, there in sides(_leaves(old), _leaves(new)):
        both = [_measured(place, leaf, of) if of else None for place, of in ((old, here), (new, there))]
        of = "counts" if all(side is None or "counts" in side for side in both) else there or here
        wanted = ("nulls", "counts") if of == "counts" else ("nulls", "mean", *QUANTILES)
        told = [side and {name: side[name] for name in wanted if name in side} for side in both]
        found.append({"column": leaf, "of": of, "old": told[0], "new": told[1]})
    return found


def _leaves(place: Place) -> dict[str, str]:
    """What can be measured of columns and of fields of structs, by name: "length" or "value"."""
    found, fields = {}, [(field.name, field.type) for field in place.features.arrow_schema]
    for name, kind in fields:  # to which those of structs are added behind
        if pa.types.is_struct(kind) and not isinstance(place.features.get(name), Image):
            fields += [(f"{name}.{field.name}", field.type) for field in kind]
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            found[name] = "length"
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
            found[name] = "value"
    found.pop("id")
    return found


def _measured(place: Place, leaf: str, of: str) -> dict[str, Any]:
    """The share of nulls, mean and quantiles of the finite numbers or of lengths, and the counts of categories."""
    rows, nulls, numbers, counts = 0, 0, [np.zeros(0)], Counter[str]()
    for table in read(place.shards, [leaf]):
        values = table.column(0).combine_chunks()
        while isinstance(values, pa.StructArray):
            values = values.flatten()[0]
        rows, nulls = rows + len(values), nulls + values.null_count
        values = values.drop_null()
        if of == "length":
            if len(counts) <= LEVELS:
                few = values.value_counts()[: LEVELS + 1].to_pylist()
                counts.update({entry["values"]: entry["counts"] for entry in few})
            values = pc.utf8_length(values)
        numbers.append(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    known = np.concatenate(numbers)
    known = known[np.isfinite(known)]
    found: dict[str, Any] = {"nulls": _rounded(nulls / rows)}
    if len(known):
        values = [known.mean(), *np.quantile(known, [*QUANTILES.values()])]
        found |= {name: _rounded(value) for name, value in zip(("mean", *QUANTILES), values, strict=True)}
    if of == "length" and len(counts) <= LEVELS and (leaf in CATEGORIES or len(counts) * OFTEN <= rows):
        found["counts"] = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return found


def _rounded(number: float) -> float:
    return float(f"{number:.6g}")
