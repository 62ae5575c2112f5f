"""Tune: how many rows a step that drops duplicates keeps at other thresholds, and which pairs are at the border."""

from collections.abc import Sequence
from contextlib import suppress
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
from hfds.release import Release, apply, into, open_inputs, refusals
from hfds.run import Run
from processors.dedup import LinedUp, MarkDuplicates
from processors.duplicates.alike import Alike
from processors.duplicates.comparison import compare, present
from processors.duplicates.greedy import joined, replay
from processors.duplicates.pairs import Pairs, alike, merged

BORDER = 3  # pairs that are shown at each threshold
MOST = 30_000_000  # pairs that are held at once, 24 bytes each, and twice that while they are put in order


@dataclass(frozen=True)
class Tuned:
    """`thresholds` has a row for each: rows `kept` and `dropped` of those that reach the step, `pairs` of rows that are
    alike and not equal; `border` has the pairs that are just alike at each."""

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
        ConfigError: there is no such step, or it has no threshold; too many pairs are alike.
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
    earlier = earlier_rows(chosen, release.steps[:number], Path(out), run, ("prompt",))
    lined = chosen.line_up(table, earlier)
    widest = parts[-1] if chosen.within is not None else parts[0]
    reach = _Reach(chosen, table, earlier, lined, int(present(table, Alike("id")).sum()), run)
    tuned = Tuned(f"{number + 1} {chosen.name} {chosen.parts[0].of}", [], [])
    for part in parts:
        # Signatures are cut into other bands for every threshold.
        pairs, copy_of = reach.pairs(part if part.signed else widest)
        there = Pairs(*(values[pairs.similarity >= _similarity(part)] for values in pairs))
        dropped = len(copy_of) - int(_kept(chosen, there, copy_of, lined.fixed).sum())
        counts = {"kept": reach.rows - dropped, "dropped": dropped, "pairs": len(there.later)}
        tuned.thresholds.append({"threshold": part.limit, **counts, "now": part.limit == now})
        tuned.border.extend({"threshold": part.limit, **pair} for pair in reach.border(there, copy_of))
    return tuned


def find_step(release: Release, step: str) -> int:
    """The place of a step with a threshold among those of a release, by what was typed."""
    there = {
        number: one
        for number, one in enumerate(release.steps)
        if isinstance(one, MarkDuplicates)
        and len(one.parts) == 1
        and one.parts[0].limit is not None
        and one.text_dedup is None
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
    for step in (*refusals(release, out, run), *release.steps[:number]):
        table = apply(step, table, release, out, run)
    return table


@dataclass(frozen=True)
class _Reach:
    """The `rows` that reach a step, those of earlier releases beside them, and what of both is compared."""

    step: MarkDuplicates
    table: Dataset
    earlier: Dataset | None
    lined: LinedUp
    rows: int
    run: Run

    def pairs(self, part: Alike) -> tuple[Pairs, np.ndarray]:
        """The pairs of distinct rows that are alike, and for every row the first that holds the same."""
        file = self.run.steps / f"tune-{self._key(part)}.npz"
        with suppress(OSError, ValueError, KeyError, EOFError, BadZipFile), open(file, "rb") as opened:
            there = np.load(opened, allow_pickle=False)
            return Pairs(there["later"], there["earlier"], there["similarity"]), there["copy_of"]
        measure = compare(self.lined.table, part, self.lined.order, self.run.device).measured()
        known = int(np.searchsorted(measure.distinct, self.lined.fixed))
        blocks, count = [], 0
        for block in alike(measure, known, known if self.step.against else None):
            blocks.append(block)
            count += len(block.later)
            if count > MOST:
                raise ConfigError(f"more than {MOST:,} pairs are alike at {part.limit}: begin at a stricter one")
        pairs = merged(blocks)
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_suffix(".part.npz")
        np.savez(aside, **pairs._asdict(), copy_of=measure.copy_of)
        aside.replace(file)
        return pairs, measure.copy_of

    def _key(self, part: Alike) -> str:
        fingerprints = self.table._fingerprint, self.earlier and self.earlier._fingerprint
        digest = xxhash.xxh3_64(f"{self.step.key()}\0{part}\0{fingerprints}".encode())
        digest.update(self.lined.order.tobytes())
        return digest.hexdigest()

    def border(self, pairs: Pairs, copy_of: np.ndarray) -> list[dict[str, Any]]:
        """The pairs that are alike by the least, with their prompts."""
        distinct = self.lined.order[np.flatnonzero(copy_of == np.arange(len(copy_of)))]
        some = np.argsort(pairs.similarity, kind="stable")[:BORDER]
        rows, partners = distinct[pairs.later[some]].tolist(), distinct[pairs.earlier[some]].tolist()
        return [
            {"similarity": round(value, 6)}
            | {"row": self._text("id", row), "row_prompt": self._text("prompt", row)}
            | {"partner": self._text("id", partner), "partner_prompt": self._text("prompt", partner)}
            for value, row, partner in zip(pairs.similarity[some].tolist(), rows, partners, strict=True)
        ]

    def _text(self, column: str, position: int) -> str | None:
        """Of a row in the table that is lined up."""
        held = len(self.lined.table) - len(self.table)
        source = self.table if position >= held else self.earlier
        if source is None or column not in source.column_names:
            return None
        number = position - held if position >= held else position
        text: str | None = source.select_columns([column])[number][column]
        return text


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
