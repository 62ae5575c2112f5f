"""Release: a value that says which inputs go through which steps; `build` makes the folder that is the Hub repository.

`build` keeps promises 1, 4, 6 and 7 of docs/design.md: conservation, pictures written once, the same release from the
same inputs, and never half of one.
"""

import functools
import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value

from hfds.add_rows import AddRows, Grown
from hfds.annotate import annotate
from hfds.annotator import ModelAnnotator, passes
from hfds.builder import Builder, code_version
from hfds.disk import alone, disk_errors
from hfds.dist import write_release
from hfds.earlier import digests, earlier_rows
from hfds.errors import ConfigError, SourceMissing, nearest
from hfds.explode import Explode
from hfds.gather import Into, gather, unique
from hfds.lock import NAME, file_sums, misnamed
from hfds.processor import Step, WholeDataset, label
from hfds.record import FEATURES
from hfds.refused import AllowLicenses, Withdraw
from hfds.run import Run
from hfds.store import Store
from hfds.withdrawn import read_withdrawn

COLUMNS = ("image", "prompt", "captions", "source", "license", "url", "width", "height", "image_hash", "generation")
GIVEN = Features({"input": Value("string"), "split": Value("string")})  # what every row has besides the schema
_SPLIT = re.compile(r"\w+(\.\w+)*")


@dataclass(frozen=True)
class Input:
    """One source of a release.

    Args:
        builder: the source's class.
        config: one of its configs; its default when None.
        into: the split that its rows are for, whatever their hash says.
        splits: only these of the source's own splits.
        folder: where it lies below the sources' folder; the builder's NAME when None.
        revision: branch, tag or commit on the Hub.
        options: the config's options, such as {"seed": 7}.
    """

    builder: type[Builder]
    config: str | None = None
    into: str | None = None
    splits: tuple[str, ...] | None = None
    folder: str | None = None
    revision: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def label(self) -> str:
        """The name under which the ledger and the lock know it: "diffusiondb/2m_text"."""
        config = self.config or self.builder.default_config()
        splits = "[" + ",".join(self.splits) + "]" if self.splits else ""
        return f"{self.builder.NAME}/{config}{splits}" + (f"@{self.folder}" if self.folder else "")

    def problems(self) -> list[str]:
        """What is wrong with it, one sentence each."""
        found: list[str] = []
        try:
            self.builder.check_names(self.config, self.splits, self.options)
        except ConfigError as error:
            found += error.problems
        if self.into is not None and (not _SPLIT.fullmatch(self.into) or self.into == "all"):
            found.append(
                f"{self.label}: {self.into!r} is no name for a split: letters, digits, _ and dots, but not 'all'"
            )
        return found

    def open(self, sources: Path | None, run: Run, rows: int | None) -> Builder:
        """Its builder, with the upstream files found.

        Raises:
            SourceMissing: they are not there.
        """
        folder = sources / (self.folder or self.builder.NAME) if sources else None
        return self.builder(
            self.config,
            data_dir=folder,
            revision=self.revision,
            splits=self.splits,
            limit=rows,
            cache_dir=run.sources,
            **self.options,
        )


@dataclass(frozen=True)
class Release:
    """Which inputs go through which steps, and which columns come out (`id` always does).

    Args:
        dataset, name: it is built into `<out>/<dataset>/`, beside the dataset's other releases.
        inputs: its sources, in order.
        steps: what rows go through, in order.
        columns: of the rows that come out.
        allow_licenses: rows of any other licence are dropped before all steps; see `hfds.refused.AllowLicenses`. A row
            that says none is "unknown". Every licence when None.
        description: stands on the card.
    """

    dataset: str
    name: str
    inputs: tuple[Input, ...] = field(repr=False)
    steps: tuple[Step, ...] = field(default=(), repr=False)
    columns: tuple[str, ...] = field(default=COLUMNS, repr=False)
    allow_licenses: tuple[str, ...] | None = field(default=None, repr=False)
    description: str = field(default="", repr=False)

    def __hash__(self) -> int:
        return hash((self.dataset, self.name))  # each step may hold all earlier releases, whose steps hold theirs

    def but(self, name: str, **changes: Any) -> "Release":
        """The release `name`, like this one but for `changes`."""
        return replace(self, name=name, **changes)

    def earlier(self) -> tuple["Release", ...]:
        """The releases whose rows its steps look at, each once."""
        whole = [step for step in self.steps if isinstance(step, WholeDataset)]
        return tuple(dict.fromkeys(release for step in whole for release in step.releases))

    def adding(self) -> tuple[AddRows, ...]:
        """Those of its steps that add rows, which are an input each."""
        return tuple(step for step in self.steps if isinstance(step, AddRows))

    def features(self) -> Features:
        """The features of the rows that come out."""
        known = self._known()
        return Features({name: known[name] for name in dict.fromkeys(("id", *self.columns))})

    def made_by(self) -> dict[str, dict[str, str]]:
        """Of each column that comes out and is not the sources' own: the `step` that made it, and what it `means`."""
        return {
            name: {"step": step.name, "means": step.means.get(name, "")}
            for step in self.steps
            for name in step.adds
            if name in self.columns
        }

    def _known(self) -> dict[str, Any]:
        known = {**FEATURES, **GIVEN}
        for step in self.steps:
            known.update(step.adds)
        return known

    def check(self) -> None:
        """Raises ConfigError with every problem of this release at once."""
        if wrong := self._wrong_types():
            raise ConfigError(*wrong)
        found = [problem for input_ in self.inputs for problem in input_.problems()]
        if not NAME.fullmatch(self.dataset):
            found.append(f"dataset name {self.dataset!r}: wanted letters, digits, '.', '_' and '-', 96 at most")
        if problem := misnamed(self.name):
            found.append(problem)
        if not self.inputs:
            found.append(f"release {self.name!r} has no inputs")
        labels = [*(input_.label for input_ in self.inputs), *(step.label for step in self.adding())]
        found += [f"input {label} is there twice" for label in sorted(set(labels)) if labels.count(label) > 1]
        found += [*self._misfits(), *self._refused()]
        for name in sorted({"dropped", "split", "decided", "input", "made"} & set(self.columns)):
            found.append(f"column {name!r} cannot be in a release: what became of rows is in its ledger")
        if label(self) in [label(release) for release in self.earlier()]:
            found.append("a release cannot be compared with itself: give the ones before it")
        if found:
            raise ConfigError(*(f"{self.dataset}/{self.name}: {problem}" for problem in found))

    def _misfits(self) -> list[str]:
        """Steps that cannot be, and columns that are not there when they are needed, or not of the type."""
        found = []
        there: dict[str, Any] = {**FEATURES, **GIVEN}
        for step in self.steps:
            problems = step.problems()
            for name in () if problems else (*step.needs, *step.reads):
                if name not in there:
                    near = nearest(name, there)
                    found.append(f"{step.name} needs the column {name!r} that no step before it adds: {near}")
            found += problems or step.misfits(there)
            there.update(step.adds)
        return found + [
            f"column {name!r} of the release does not exist: {nearest(name, there)}"
            for name in self.columns
            if name not in there
        ]

    def _refused(self) -> list[str]:
        """Rows that would be made, and paid for, only to be dropped."""
        if self.allow_licenses is None:
            return []
        allowed = AllowLicenses(self.allow_licenses)
        return [
            f"{step.name}: its rows are of the licence {license_!r}, which allow_licenses does not name"
            for step in self.adding()
            for license_ in step.licenses
            if isinstance(license_, str) and not allowed.allow(license_)
        ]

    def _wrong_types(self) -> list[str]:
        """What is not of the type that everything else builds on."""
        found = []
        for what, values, type_ in (("inputs", self.inputs, Input), ("steps", self.steps, Step)):
            if not isinstance(values, tuple):
                found.append(f"{what} must be a tuple, got {values!r}: a tuple of one is written (x,)")
            else:
                wrong = [value for value in values if not isinstance(value, type_)]
                found += [f"{what} must hold {type_.__name__}s, got {value!r}" for value in wrong]
        if not isinstance(self.columns, tuple) or not all(isinstance(name, str) for name in self.columns):
            found.append(f"columns must be a tuple of names, got {self.columns!r}")
        allowed = self.allow_licenses
        if allowed is not None and not (
            isinstance(allowed, tuple) and allowed and all(isinstance(one, str) and one.strip() for one in allowed)
        ):
            found.append(f"allow_licenses must be a tuple of licences such as ('CC0-1.0', 'MIT'), got {allowed!r}")
        if not isinstance(self.dataset, str) or not isinstance(self.name, str):
            found.append(f"dataset and name must be texts, got {self.dataset!r} and {self.name!r}")
        for input_ in self.inputs if isinstance(self.inputs, tuple) else ():
            builder = getattr(input_, "builder", None)
            if isinstance(input_, Input) and not (isinstance(builder, type) and issubclass(builder, Builder)):
                found.append(f"the builder of an Input must be a class such as builders.dalle3.Dalle3, got {builder!r}")
        return found


@dataclass(frozen=True)
class Built:
    """A release on disk: `folder` is the dataset's, with every release built into it."""

    folder: Path
    release: Release
    lock: dict[str, Any] = field(repr=False, hash=False)

    @property
    def digest(self) -> str:
        """The digest of its rows; see `hfds.lock.digest_of`."""
        return str(self.lock["digest"])

    @property
    def funnel(self) -> list[dict[str, Any]]:
        """Rows in, dropped and kept for each input; see `hfds.ledger.funnel`."""
        return list(self.lock["funnel"])


def build(
    release: Release,
    run: Run | None = None,
    *,
    sources: str | Path | None = None,
    out: str | Path = "dist",
    rows: int | None = None,
) -> Built:
    """Builds `release` into `<out>/<dataset>/`; running again goes on where a killed run stopped.

    Args:
        release: what to build.
        run: where; this machine and `.hfds` when None.
        sources: the folder that holds one folder per source; without it they come from the Hub.
        out: where the dataset's folder goes.
        rows: at most this many rows of every split of every input, for a try.

    Raises:
        ConfigError: every problem of the release.
        SourceError: a source is missing or one of its files cannot be read.
        ConservationError: a row appeared or vanished.
        OutOfSpace: a disk is full.
    """
    release.check()
    run = run or Run.here()
    home = Path(out) / release.dataset
    with disk_errors(), alone(home / f".building-{release.name}.lock") if run.main else nullcontext():
        builders = open_inputs(release, run, Path(sources) if sources else None, rows)
        table, lengths = gather(builders, run, whole=rows is None)
        counts = {input_.label: length for input_, length in zip(release.inputs, lengths, strict=True)}
        table = into(release, counts)(table, run)
        all_steps = (*refusals(release, Path(out), run), *release.steps)
        added: list[dict[str, Any]] = []
        for steps in passes(all_steps):
            if len(steps) > 1:
                annotate([step for step in steps if isinstance(step, ModelAnnotator)], table, run)
            for step in steps:
                if isinstance(step, AddRows):
                    table, source = grow(step, table, release, Path(out), run)
                    added.append(source)
                else:
                    table = apply(step, table, release, Path(out), run)

        def finish() -> dict[str, Any]:
            made_of = {
                "dataset": release.dataset,
                "release": release.name,
                "description": release.description,
                "sources": [
                    *(
                        _made_of(input_, builder, counts[input_.label], run, rows)
                        for input_, builder in zip(release.inputs, builders, strict=True)
                    ),
                    *added,
                ],
                "steps": [step.entry() for step in all_steps],
                "made_by": release.made_by(),
                "earlier": digests(release.earlier(), Path(out)),
            }
            return write_release(table, release.features(), counts, made_of, run, home)

        return Built(home, release, run.agree(finish))


def into(release: Release, counts: Mapping[str, int]) -> Into:
    """What says which input every row is from, by the rows of each."""
    return Into(tuple((input_.label, counts[input_.label], input_.into) for input_ in release.inputs))


def refusals(release: Release, out: Path, run: Run) -> tuple[Step, ...]:
    """What drops rows before any step of `release` sees them: those that were withdrawn from its dataset below `out`,
    and those of a licence that it does not allow."""
    withdraw = withdrawals(release, out, run)
    return withdraw if release.allow_licenses is None else (*withdraw, AllowLicenses(release.allow_licenses))


def withdrawals(release: Release, out: Path, run: Run) -> tuple[Step, ...]:
    """What drops the rows that were withdrawn from the dataset of `release` below `out`; nothing where none were."""
    stones = run.agree(lambda: read_withdrawn(out / release.dataset))
    return (Withdraw(stones),) if stones else ()


def apply(step: Step, rows: Dataset, release: Release, out: Path, run: Run) -> Dataset:
    """`rows` with the columns of a step of `release`, and the rows that it makes; earlier releases are looked for below
    `out`."""
    if isinstance(step, Explode):
        rows = unique(step(rows, run), run)
        return functools.reduce(lambda made, refuse: refuse(made, run), withdrawals(release, out, run), rows)
    if isinstance(step, AddRows):
        return grow(step, rows, release, out, run).rows
    if not isinstance(step, WholeDataset):
        return step(rows, run)
    before = release.steps[: release.steps.index(step)]
    return step(rows, run, earlier_rows(step, before, out, run))


def grow(step: AddRows, rows: Dataset, release: Release, out: Path, run: Run) -> Grown:
    """`rows` with those that a step of `release` adds, of which `refusals` drops what it drops of any source.

    It does so before the step's own rules, and once more where ids were there already.
    """
    before = (*release.steps[: release.steps.index(step)], *step.rules)
    refuse = refusals(release, out, run)
    grown, source = step.grow(rows, run, earlier_rows(step, before, out, run), refuse)
    refused = functools.reduce(lambda made, rule: rule(made, run), refuse, unique(grown, run))
    return Grown(refused, source)


def forget_failures(release: Release, run: Run, step: str | None = None, reason: str | None = None) -> dict[str, int]:
    """Lets the rows on which models failed be tried again by the next build; returns how many, by step.

    Args:
        step: only this step of the release.
        reason: only failures with this reason, as the ledger names it.
    """
    release.check()
    models = [each for each in release.steps if each.stored]
    if step is not None and step not in [each.name for each in models]:
        raise ConfigError(f"{step!r} is no step with a model: {nearest(step, [each.name for each in models])}")
    store = Store(run.annotations, run.workdir / "mirror")
    chosen = [each for each in models if step in (None, each.name)]
    return {
        each.name: sum(store.answers(name, key).forget_failed(reason) for name, key in each.stored) for each in chosen
    }


def open_inputs(release: Release, run: Run, sources: Path | None, rows: int | None) -> list[Builder]:
    """The builder of every input; all that are missing are named at once."""
    found, missing = [], []
    for input_ in release.inputs:
        try:
            found.append(input_.open(sources, run, rows))
        except SourceMissing as error:
            missing.append(str(error))
    if missing:
        raise SourceMissing("\n".join(missing))
    return found


def _made_of(input_: Input, builder: Builder, rows: int, run: Run, limit: int | None) -> dict[str, Any]:
    """What an input was: the revision, and every upstream file with its sha256 (not for a try of a few rows)."""
    files = builder.files()
    unknown = [file for file in files if limit is None and not file.sha256 and not file.name.endswith("/")]
    here = {file.name: (file.path, file.stamp) for file in builder.fetched(unknown)}
    sums = file_sums(here, run.journal / "files.json", run.num_proc)
    return {
        "input": input_.label,
        "into": input_.into,
        "options": dict(input_.options),
        "rows": rows,
        "limit": limit,
        "repo": builder.place.repo,
        "revision": builder.revision,
        "license": builder.LICENSE,
        "homepage": builder.HOMEPAGE,
        "citation": builder.CITATION,
        "code": code_version(type(builder)),
        "files": [{"name": f.name, "bytes": f.size, "sha256": f.sha256 or sums.get(f.name)} for f in files],
    }
