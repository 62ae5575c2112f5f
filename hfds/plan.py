"""Plan: what a build would read and compute, and what that costs, before it starts."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from datasets import Dataset

from hfds import record
from hfds.add_rows import AddRows
from hfds.annotate import annotate
from hfds.annotator import ModelAnnotator, passes
from hfds.asked import Asked
from hfds.disk import disk_errors
from hfds.errors import SourceMissing
from hfds.gather import gather
from hfds.model import Model
from hfds.processor import BATCH, Step, beside, kept, marked
from hfds.release import Release, apply, into, open_inputs, refusals
from hfds.run import Run

PROBE = 64  # rows that a model is shown to measure its rate, and no more than two batches of a slow one
_WARM = 8  # rows before those, while whatever is loaded or compiled at first use still is


def plan(
    release: Release,
    run: Run | None = None,
    *,
    sources: str | Path | None = None,
    out: str | Path = "dist",
    rows: int | None = None,
    probe: bool = True,
) -> dict[str, Any]:
    """What a build of `release` would read, and what its models would have to compute.

    Per input: files, bytes, pieces, and how many of those are prepared. Per step what it needs and adds; of a step with
    a model also `known` and `missing` rows, and from a probe of at most `PROBE` rows `rate` (rows a second), `hours` of
    this device, `store_bytes`, and `cost` in the money of a writer's prices. For that the sources are read and the
    probe's answers kept, which the build finds. Behind a model whose answers are not all known, numbers are estimates
    from the rows that are known: `estimated`. Of a step that adds rows the `requests` to its model and the `new` rows,
    both at least; none is made.

    Args:
        release, run, sources, out, rows: as of `build`.
        probe: False reads nothing, asks no model, and goes without the Hub: a step whose models' commits cannot be
            looked up there has `not_looked_up`, the names of these models.

    Raises:
        What `build` raises.
    """
    release.check()
    run = run or Run.here()
    with disk_errors():
        builders = open_inputs(release, run, Path(sources) if sources else None, rows)
        found = [(builder.files(), builder.each_piece(run.sources)) for builder in builders]
        inputs = [
            {
                "input": input_.label,
                "into": input_.into,
                "revision": builder.revision,
                "files": len(files),
                "bytes": sum(file.size for file in files),
                "pieces": len(pieces),
                "prepared": sum(Path(piece.cache_dir).exists() for _, piece in pieces),
            }
            for input_, builder, (files, pieces) in zip(release.inputs, builders, found, strict=True)
        ]
        all_steps = (*refusals(release, Path(out), run), *release.steps)
        steps = [
            {"step": s.name, "needs": [*s.needs], "adds": [*s.adds], **_parameters(s, lenient=not probe)}
            for s in all_steps
        ]
        if probe and any(isinstance(step, ModelAnnotator | AddRows) for step in all_steps):
            table, lengths = gather(builders, run, whole=rows is None)
            counts = {input_.label: length for input_, length in zip(release.inputs, lengths, strict=True)}
            costs = _Costs(into(release, counts)(table, run), release, Path(out), run)
            for group in passes(all_steps):
                costs.of(group)
            steps = [{**step, **cost} for step, cost in zip(steps, costs.steps, strict=True)]
    free = shutil.disk_usage(next(p for p in (run.workdir, *run.workdir.parents) if p.exists())).free
    return {
        "dataset": release.dataset,
        "release": release.name,
        "inputs": inputs,
        "steps": steps,
        "hours": sum(step.get("hours") or 0 for step in steps),
        "store_bytes": sum(step.get("store_bytes") or 0 for step in steps),
        "cost": sum(step.get("cost") or 0 for step in steps),
        "free_bytes": free,
    }


@dataclass
class _Costs:
    """Goes through the steps with the rows that are known, each of them standing for `scale` rows, and `new` ones of
    which nothing is known: they are yet to be made, and missing for every model behind."""

    table: Dataset
    release: Release
    out: Path
    run: Run
    scale: float = 1.0
    new: float = 0.0
    steps: list[dict[str, Any]] = field(default_factory=list)

    def of(self, group: tuple[Step, ...]) -> None:
        if isinstance(group[0], AddRows):
            return self._adding(group[0])
        models = [step for step in group if isinstance(step, ModelAnnotator)]
        if models:
            self.steps += self._probed(models)
        else:
            self.steps += [{"rows": self._rows(), "estimated": self._estimated}]
        alive = _alive(self.table)
        for step in group:
            self.table = apply(step, self.table, self.release, self.out, self.run)
        self.new *= _alive(self.table) / alive if alive else 1.0

    def _adding(self, step: AddRows) -> None:
        """No model is asked for rows: that would be paid for. Behind it there are as many as it will add at least."""
        new, rows = step.expects(), self._rows()
        self.steps.append({"rows": rows, "estimated": self._estimated, "requests": new["requests"], "new": new["rows"]})
        self.table = step.widened(self.table, self.run)
        self.new += new["rows"]

    @property
    def _estimated(self) -> bool:
        return self.scale > 1 or self.new > 0

    def _rows(self) -> int:
        return round(_alive(self.table) * self.scale + self.new)

    def _probed(self, models: list[ModelAnnotator]) -> list[dict[str, Any]]:
        estimated = self._estimated
        before = annotate(models, self.table, self.run, limit=_WARM)
        limit = min(PROBE, 2 * max(step.batch_size for step in models))
        timed = annotate(models, self.table, self.run, limit=limit)
        costs = []
        for step, first, then in zip(models, before, timed, strict=True):
            asked = Asked(step, self.table, self.run)
            missing = round((first.computed + first.failed + first.left) * self.scale + self.new)
            rate = (then.computed + then.failed) / then.seconds if then.seconds > 0 else None
            costs.append(
                {
                    "rows": self._rows(),
                    "known": round(first.known * self.scale),
                    "missing": missing,
                    "rate": rate,
                    "hours": missing / rate / 3600 if rate else 0.0,
                    "store_bytes": round(missing * asked.answers.bytes_per_row()),
                    "cost": missing * asked.answers.mean(*step.paid) if step.paid else 0.0,
                    "estimated": estimated,
                }
            )
        unknown = np.zeros(len(self.table), bool)
        for step in models:
            asked = Asked(step, self.table, self.run)
            known, failed = asked.found()
            unknown |= asked.shown & (known.find(asked.keys) < 0) & (failed.find(asked.keys) < 0)
        alive = _alive(self.table)
        self.table = _without(self.table, unknown)
        left = _alive(self.table)
        self.scale *= alive / left if left else 1.0
        return costs


def _parameters(step: Step, lenient: bool) -> dict[str, Any]:
    """The parameters of a step; where it is `lenient`, with the models by name whose commits the Hub does not tell."""
    try:
        return {"parameters": step.parameters()}
    except SourceMissing:
        if not lenient:
            raise
    models: list[str] = []
    return {"parameters": _named(step, models), "not_looked_up": [*dict.fromkeys(models)]}


def _named(value: Any, models: list[str]) -> Any:
    """A value as plain data, the checkpoints in it by name; `models` gets those of which no commit is given."""
    if isinstance(value, Model):
        try:
            return value.identity
        except SourceMissing:
            models.append(f"{value.repo} at {value.revision}" if value.revision else value.repo)
            return f"{models[-1]} {value.dtype}, commit not looked up"
    if is_dataclass(value):
        return {each.name: _named(getattr(value, each.name), models) for each in fields(value)}
    if isinstance(value, Mapping):
        return {name: _named(each, models) for name, each in value.items()}
    return [_named(each, models) for each in value] if isinstance(value, tuple | list) else value


def _alive(table: Dataset) -> int:
    """Rows that are not dropped."""
    narrow = table.select_columns(["dropped"]).with_format("arrow")
    return int(sum(np.asarray(kept(part)).sum() for part in narrow.iter(BATCH)))


def _without(table: Dataset, rows: np.ndarray) -> Dataset:
    """`table` with these rows (a boolean array) marked, for the estimates behind a model that does not know them."""
    parts, at = [], 0
    for part in table.select_columns(["dropped"]).with_format("arrow").iter(BATCH):
        reason = pc.if_else(pa.array(rows[at : at + len(part)]), "not_yet", None)
        parts.append(marked(part, record.drops("plan", len(part), reason)))
        at += len(part)
    fingerprint = xxhash.xxh3_64_hexdigest(table._fingerprint.encode() + rows.tobytes())
    return beside(table.remove_columns(["dropped"]), Dataset(pa.concat_tables(parts), fingerprint=fingerprint))
