"""Statistics: what can be measured of the columns of a release, from its Parquet files alone."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import floor, log10
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Features, Image

from hfds.columns import File, null_share, read

CATEGORIES = ("license", "source")  # counted value by value, like any text column with few values that come up often
LEVELS = 50  # are few values
OFTEN = 10  # times each, on average
SHORT = 200  # characters of a value that may name a category
QUANTILES = {"min": 0.0, "5%": 0.05, "25%": 0.25, "50%": 0.5, "75%": 0.75, "95%": 0.95, "max": 1.0}
BINS = 30  # of a histogram, about
ENDS = (0.005, 0.995)  # the quantiles that it reaches to: a few numbers far away would leave nothing to see
ROUND = 1e-6  # of a bin, by which a number may be below it: 0.3 / 0.1 is not 3
HUGE = 1e300  # numbers beyond it count as not finite: their sum would not be


def measured(files: Sequence[File], features: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured of a release, in JSON values that the same rows always give.

    - `columns`: for each column but lists and pictures, and for each field of a struct ("generation.seed"), what is
      measured `of` it, "value" or "length" (of a text, in characters); the share of `nulls`; of the finite numbers
      the mean, quantiles and a `histogram`; and the `counts` of its values where they are few.
    - `nulls`: the share of nulls of the other columns: the id, lists, pictures, JSON, and structs as a whole.
    - `pictures`: the same of their `megapixels` and their `aspect` (width by height), where those are known.

    A histogram has `rows` in bins of the width `step` from `start` on, and how many are `below` and `above` them.

    Args:
        features: of the columns in `files`.

    Raises:
        BadFile: one of the files cannot be read.
    """
    features = Features(features)
    columns = {leaf: {"of": of, **_column(files, leaf, of)} for leaf, of in _leaves(features).items()}
    sizes = {} if not {"width", "height"} <= columns.keys() else _pictures(files)
    others = [name for name in features if name not in columns]
    return {
        "columns": columns,
        "nulls": {name: _rounded(null_share(files, name)) for name in others},
        "pictures": {name: _numbers(values, False) for name, values in sizes.items()},
    }


def _leaves(features: Features) -> dict[str, str]:
    """What can be measured of columns and of fields of structs, by name: "length" or "value"."""
    found, fields = {}, [(field.name, field.type) for field in features.arrow_schema if field.name != "id"]
    for name, kind in fields:  # to which those of structs are added behind
        if pa.types.is_struct(kind) and not isinstance(features.get(name), Image):
            fields += [(f"{name}.{field.name}", field.type) for field in kind]
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            found[name] = "length"
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
            found[name] = "value"
    return found


def _column(files: Sequence[File], leaf: str, of: str) -> dict[str, Any]:
    """The share of nulls, what there is to say of numbers or lengths, and the counts of categories."""
    rows, nulls, numbers, counts, whole = 0, 0, [np.zeros(0)], Counter[str](), True
    for values in _values(files, leaf):
        rows, nulls = rows + len(values), nulls + values.null_count
        values = values.drop_null()
        if of == "length":
            if len(counts) <= LEVELS:
                few = values.value_counts()[: LEVELS + 1].to_pylist()
                counts.update({entry["values"]: entry["counts"] for entry in few})
            values = pc.utf8_length(values)
        whole = whole and not pa.types.is_floating(values.type)
        numbers.append(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    found = {"nulls": _rounded(nulls / rows), **_numbers(np.concatenate(numbers), whole)}
    short = leaf in CATEGORIES or (len(counts) * OFTEN <= rows and max(map(len, counts), default=0) <= SHORT)
    if of == "length" and len(counts) <= LEVELS and short:
        found["counts"] = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return found


def _values(files: Sequence[File], leaf: str) -> Iterator[pa.Array]:
    """A column, or a field of one, a row group at a time."""
    for table in read(files, [leaf]):
        values = table.column(0).combine_chunks()
        while isinstance(values, pa.StructArray):
            values = values.flatten()[0]
        yield values


def _pictures(files: Sequence[File]) -> dict[str, np.ndarray]:
    """Megapixels and aspect of the pictures whose width and height are known, as stored."""
    sides = [np.concatenate([_floats(values) for values in _values(files, side)]) for side in ("width", "height")]
    known = (sides[0] > 0) & (sides[1] > 0)
    width, height = (side[known] for side in sides)
    return {"megapixels": width * height / 1e6, "aspect": width / height}


def _floats(values: pa.Array) -> np.ndarray:
    found: np.ndarray = values.cast(pa.float64()).fill_null(0).to_numpy(zero_copy_only=False)
    return found


def _numbers(numbers: np.ndarray, whole: bool) -> dict[str, Any]:
    """Mean, quantiles and histogram of the finite ones; nothing where there is none."""
    known = numbers[np.abs(numbers) < HUGE]
    if not len(known):
        return {}
    values = [known.mean(), *np.quantile(known, [*QUANTILES.values()])]
    found = {name: _rounded(value) for name, value in zip(("mean", *QUANTILES), values, strict=True)}
    return {**found, "histogram": _histogram(known, whole)}


def _histogram(known: np.ndarray, whole: bool) -> dict[str, Any]:
    low, high = np.quantile(known, ENDS[0], method="lower"), np.quantile(known, ENDS[1], method="higher")
    step = _step(float(high - low) / BINS, whole)
    at = np.floor(known / step + ROUND)
    start, bins = at[known >= low].min(), int(np.ptp(at[(known >= low) & (known <= high)])) + 1
    at -= start
    inside = at[(at >= 0) & (at < bins)].astype(np.int64)
    return {
        "start": _rounded(start * step),
        "step": step,
        "rows": np.bincount(inside, minlength=bins).tolist(),
        "below": int((at < 0).sum()),
        "above": int((at >= bins).sum()),
    }


def _step(least: float, whole: bool) -> float:
    """The smallest of 1, 2, 5, 10, 20 ... and of 0.5, 0.2, 0.1 ... that is no less; a whole number where it must be."""
    if least <= 1 and (whole or least < 1 / HUGE):
        return 1
    power = floor(log10(least))
    step = next(step for step in (1, 2, 5, 10) if step * 10.0**power >= least)
    return float(f"{step}e{power}") if power < 0 else step * 10**power


def _rounded(number: float) -> float:
    return float(f"{number:.6g}")
