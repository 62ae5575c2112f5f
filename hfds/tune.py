"""Tune: how many rows a step that drops duplicates keeps at other thresholds, and which pairs are at the border."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import xxhash
from datasets import Dataset

from hfds.earlier import earlier_rows
from hfds.errors import ConfigError
from hfds.gather import gather
from hfds.release import Release, apply, into, open_inputs
from hfds.run import Run
from processors.dedup import LinedUp, MarkDuplicates
from processors.duplicates.alike import Alike
from processors.duplicates.columns import take
from processors.duplicates.comparison import compare
from processors.duplicates.greedy import joined, replay
from processors.duplicates.pairs import Pairs, alike, merged

BORDER = 3  # pairs that are shown at each threshold


@dataclass(frozen=True)
class Tuned:
    """`thresholds` has a row for each: `kept`, `dropped`, `pairs`; `border` the pairs that are just alike at each."""

    step: str
    thresholds: list[dict[str, Any]]
    border: list[dict[str, Any]]


def tune(
    release: Release,
    step: str,
    thresholds: Sequence[float],
    run: Run,
    *,
    sources: str | Path | None = None,
    out: str | Path = "dist",
    rows: int | None = None,
) -> Tuned:
    """What `step` would do at each of `thresholds`, with the rows that reach it in a build of `release`.

    The steps before it are found in the work folder where the release was built; what is missing is made. All pairs
    from the lowest threshold on are looked for once, and kept there too.

    Args:
        step: its number among the release's steps, from 1, or its name where no other can be meant.
        thresholds: similarities, or bits where the step has `within`; its own is added where it lies between them.
        run, sources, out, rows: as of `hfds.build`.

    Raises:
        ConfigError: there is no such step, or it has no threshold.
    """
    release.check()
    number = find_step(release, step)
    chosen = release.steps[number]
    assert isinstance(chosen, MarkDuplicates)
    now = chosen.parts[0].limit
    own = {now} if now is not None and min(thresholds) <= now <= max(thresholds) else set()
    parts = [at(chosen.parts[0], threshold) for threshold in sorted({*thresholds, *own})]
    if problems := [problem for part in parts for problem in part.problems()]:
        raise ConfigError(*problems)
    table = _reached(release, number, run, sources, Path(out), rows)
    lined = chosen.line_up(table, earlier_rows(chosen, release.steps[:number], Path(out), run))
    widest = parts[-1] if chosen.within is not None else parts[0]
    file = run.steps / f"tune-{_key(chosen, widest, table, lined)}.npz"
    pairs, copy_of = _pairs(file, lined, widest, run.device, among=not chosen.against)
    found: dict[str, list[dict[str, Any]]] = {"thresholds": [], "border": []}
    for part in parts:
        limit = _similarity(part)
        there = Pairs(*(values[pairs.similarity >= limit] for values in pairs))
        kept = int(_kept(chosen, there, copy_of, lined.fixed).sum())
        compared = len(lined.order) - lined.fixed
        counts = {"kept": kept - lined.fixed, "dropped": compared - kept + lined.fixed, "pairs": len(there.later)}
        found["thresholds"].append({"threshold": part.limit, **counts, "now": part.limit == now})
        found["border"] += [{"threshold": part.limit, **pair} for pair in _border(table, lined, there, copy_of)]
    return Tuned(f"{number + 1} {chosen.name} {chosen.parts[0].of}", **found)


def find_step(release: Release, step: str) -> int:
    """The place of a step with a threshold among those of a release, by what was typed."""
    there = {
        number: one
        for number, one in enumerate(release.steps)
        if isinstance(one, MarkDuplicates) and len(one.parts) == 1 and one.parts[0].limit is not None
    }
    if step.isdigit() and int(step) - 1 in there:
        return int(step) - 1
    named = [number for number, one in there.items() if one.name == step]
    if len(named) == 1:
        return named[0]
    listed = ", ".join(f"{number + 1} ({one.name} {one.parts[0].of})" for number, one in there.items())
    advice = f"give one of {listed}" if listed else "it has no MarkDuplicates over one column with above or within"
    raise ConfigError(f"{step!r} is no step of {release.name} whose threshold can be tuned: {advice}")


def thresholds_of(typed: str, count: int = 5) -> list[float]:
    """The numbers in "0.75..0.95", `count` of them at equal distances, or in "0.8,0.85".

    Raises:
        ConfigError: they are none.
    """
    low, found, high = typed.partition("..")
    try:
        if found:
            return [round(float(number), 6) for number in np.linspace(float(low), float(high), count)]
        return [float(number) for number in typed.split(",")]
    except ValueError:
        raise ConfigError(f"thresholds are written 0.75..0.95 or 0.8,0.85,0.9, got {typed!r}") from None


def at(part: Alike, threshold: float) -> Alike:
    """The same comparison at another threshold."""
    if part.within is None:
        return replace(part, above=float(threshold))
    return replace(part, within=int(threshold) if float(threshold).is_integer() else threshold)  # type: ignore[arg-type]


def _similarity(part: Alike) -> float:
    return part.above if part.above is not None else 1 - (part.within or 0) / 64


def _reached(
    release: Release, number: int, run: Run, sources: str | Path | None, out: Path, rows: int | None
) -> Dataset:
    """The rows as the step before this one left them."""
    builders = open_inputs(release, run, Path(sources) if sources else None, rows)
    table, lengths = gather(builders, run, whole=rows is None)
    counts = {input_.label: length for input_, length in zip(release.inputs, lengths, strict=True)}
    table = into(release, counts)(table, run)
    for step in release.steps[:number]:
        table = apply(step, table, release, out, run)
    return table


def _key(step: MarkDuplicates, widest: Alike, table: Dataset, lined: LinedUp) -> str:
    digest = xxhash.xxh3_64(f"{step.key()}\0{widest}\0{table._fingerprint}\0{len(lined.table)}".encode())
    digest.update(lined.order.tobytes())
    return digest.hexdigest()


def _pairs(file: Path, lined: LinedUp, part: Alike, device: str, among: bool) -> tuple[Pairs, np.ndarray]:
    """The pairs of distinct rows that are alike, and for every row the first that holds the same."""
    try:
        with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as there:
            return Pairs(there["later"], there["earlier"], there["similarity"]), there["copy_of"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        pass
    try:
        measure = compare(lined.table, part, lined.order, device).measured()
        known = int(np.searchsorted(measure.distinct, lined.fixed))
        pairs = merged(list(alike(measure, known, None if among else known)))
    except ValueError as error:
        raise ConfigError(f"{part.of}: {error}") from None
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".part.npz")
    np.savez(aside, **pairs._asdict(), copy_of=measure.copy_of)
    aside.replace(file)
    return pairs, measure.copy_of


def _kept(step: MarkDuplicates, pairs: Pairs, copy_of: np.ndarray, fixed: int) -> np.ndarray:
    """The rows that the step keeps when these are all pairs of distinct rows that are alike: (rows,) bool."""
    if step.keep in ("first", "best"):
        return replay(pairs, copy_of, -1, fixed=fixed, among=not step.against)
    distinct = np.flatnonzero(copy_of == np.arange(len(copy_of)))
    if step.keep == "cluster":
        label = joined(np.arange(len(distinct)), pairs.later, pairs.earlier)
        kept = np.zeros(len(copy_of), bool)
        kept[distinct[np.unique(label)]] = True
        kept[copy_of < 0] = True
        return kept
    held = np.bincount(copy_of[copy_of >= 0], minlength=len(copy_of))  # rows that hold the same
    alone = np.equal(held, 1)
    alone[distinct[pairs.later]] = alone[distinct[pairs.earlier]] = False
    alone[copy_of < 0] = True
    return alone


def _border(table: Dataset, lined: LinedUp, pairs: Pairs, copy_of: np.ndarray) -> list[dict[str, Any]]:
    """The pairs that are alike by the least, with their prompts."""
    distinct = lined.order[np.flatnonzero(copy_of == np.arange(len(copy_of)))]
    some = np.argsort(pairs.similarity, kind="stable")[:BORDER]
    held = len(lined.table) - len(table)
    rows = {"row": distinct[pairs.later[some]], "partner": distinct[pairs.earlier[some]]}
    found: list[dict[str, Any]] = [{"similarity": round(value, 6)} for value in pairs.similarity[some].tolist()]
    for name, positions in rows.items():
        for place, position in zip(found, positions.tolist(), strict=True):
            place[name] = take(lined.table, "id", np.array([position]))[0].as_py()
            own = np.array([position - held]) if position >= held else np.zeros(0, np.int64)
            text = take(table, "prompt", own) if "prompt" in table.column_names else []
            place[f"{name}_prompt"] = text[0].as_py() if len(text) else None
    return found
