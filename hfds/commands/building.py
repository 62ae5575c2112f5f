"""Commands that list, plan, build and explain releases."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hfds.commands.options import (
    BatchSize,
    Dataset,
    Json,
    MaxHours,
    Name,
    NumProc,
    Out,
    Rows,
    Sources,
    Store,
    Workdir,
    run_of,
    show,
    show_fields,
)

if TYPE_CHECKING:
    from hfds.run import Run


def sources(as_json: Json = False) -> None:
    """List the sources, their configs and where they come from."""
    from builders import BUILDERS

    listed = [
        {
            "source": builder.NAME,
            "configs": [config.name for config in builder.BUILDER_CONFIGS],
            "default": builder.default_config(),
            "license": builder.LICENSE,
            "from": builder.REPO or builder.OBTAIN,
        }
        for builder in BUILDERS
    ]
    show(listed, as_json, ["source", "configs", "license", "from"])


def releases(as_json: Json = False) -> None:
    """List the releases, with their inputs and steps."""
    from hfds.releases import RELEASES

    listed = [
        {
            "dataset": release.dataset,
            "release": release.name,
            "inputs": [input_.label for input_ in release.inputs],
            "steps": [step.name for step in release.steps],
            "description": release.description,
        }
        for release in RELEASES
    ]
    show(listed, as_json, ["dataset", "release", "inputs", "steps"])


def plan(
    dataset: Dataset,
    release: Name,
    sources: Sources = None,
    out: Out = Path("dist"),
    workdir: Workdir = Path(".hfds"),
    rows: Rows = None,
    num_proc: NumProc = 1,
    store: Store = None,
    batch_size: BatchSize = None,
    probe: Annotated[bool, typer.Option(help="Read the sources and show each model a few rows.")] = True,
    as_json: Json = False,
) -> None:
    """Check a release and say what a build would read and compute, and how long that takes, before it starts."""
    from hfds.catalogue import find_release
    from hfds.plan import plan as make_plan

    run = run_of(workdir, num_proc, store=store, batch_size=batch_size)
    planned = make_plan(find_release(dataset, release), run, sources=sources, out=out, rows=rows, probe=probe)
    if not run.main:
        return None
    if as_json:
        return show(planned, True, [])
    show(planned["inputs"], False, ["input", "files", "bytes", "pieces", "prepared"])
    show(planned["steps"], False, ["step", "needs", "adds"])
    if unknown := dict.fromkeys(name for entry in planned["steps"] for name in entry.get("not_looked_up", ())):
        typer.echo(f"not looked up on the Hub, which a build needs: the commit of {', '.join(unknown)}")
    models = [entry for entry in planned["steps"] if "known" in entry]
    if models:
        costs = ["cost"] if planned["cost"] else []
        show(models, False, ["step", "rows", "known", "missing", "rate", "hours", "store_bytes", *costs, "estimated"])
        typer.echo(
            f"{planned['hours']:.2f} hours of one {run.device_name}, {planned['store_bytes']:,} bytes for the store; "
            f"{planned['free_bytes']:,} bytes are free"
            + (f"; {planned['cost']:,.2f} in the money of the writers' prices" if costs else "")
        )
    if adding := [entry for entry in planned["steps"] if "requests" in entry]:
        show(adding, False, ["step", "rows", "requests", "new"])


def build(
    dataset: Dataset,
    release: Name,
    sources: Sources = None,
    out: Out = Path("dist"),
    workdir: Workdir = Path(".hfds"),
    rows: Rows = None,
    num_proc: NumProc = 1,
    store: Store = None,
    batch_size: BatchSize = None,
    max_hours: MaxHours = None,
    as_json: Json = False,
) -> None:
    """Build a release into <out>/<dataset>/; run again to go on where it stopped.

    Under `accelerate launch -m hfds.cli build ...` or torchrun all ranks share the work of models.
    """
    from hfds.catalogue import find_release

    run = run_of(workdir, num_proc, store=store, batch_size=batch_size, max_hours=max_hours)
    _build(find_release(dataset, release), run, sources, out, rows, as_json)


def retry(
    dataset: Dataset,
    release: Name,
    step: Annotated[str | None, typer.Option(help="Only this step.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only failures with this reason, as in the ledger.")] = None,
    sources: Sources = None,
    out: Out = Path("dist"),
    workdir: Workdir = Path(".hfds"),
    rows: Rows = None,
    num_proc: NumProc = 1,
    store: Store = None,
    batch_size: BatchSize = None,
    max_hours: MaxHours = None,
    as_json: Json = False,
) -> None:
    """Build again, showing models once more the rows on which they failed, and no others."""
    from hfds.catalogue import find_release
    from hfds.release import forget_failures

    found = find_release(dataset, release)
    run = run_of(workdir, num_proc, store=store, batch_size=batch_size, max_hours=max_hours)
    forgotten = run.agree(lambda: forget_failures(found, run, step, reason))
    if run.main and not as_json:
        counts = ", ".join(f"{rows:,} of {name}" for name, rows in forgotten.items())
        typer.echo(f"failures to try again: {counts or 'none, the release has no step with a model'}")
    _build(found, run, sources, out, rows, as_json, retried=forgotten)


def _build(
    release: Any, run: "Run", sources: Path | None, out: Path, rows: int | None, as_json: bool, **more: Any
) -> None:
    from hfds.ledger import funnel_rows
    from hfds.release import build as make

    built = make(release, run, sources=sources, out=out, rows=rows)
    if not run.main:
        return
    if as_json:
        return show({"folder": str(built.folder), "digest": built.digest, "funnel": built.funnel, **more}, True, [])
    header = ["input", "rows", "dropped", "kept"]
    show([dict(zip(header, row, strict=True)) for row in funnel_rows(built.funnel)], False, header)
    typer.echo(f"{built.folder}: {release.name}, digest {built.digest}")


def explain(
    dataset: Annotated[str, typer.Argument(help="A dataset, a Python file of your own, or org/name on the Hub.")],
    release: Name,
    row: Annotated[str, typer.Argument(metavar="ID", help="The id of a row, such as diffusiondb/<file name>.")],
    out: Out = Path("dist"),
    as_json: Json = False,
) -> None:
    """Say where a row of a release came from, what became of it in each release, and the row it was a duplicate of."""
    from hfds.catalogue import dataset_name
    from hfds.explain import explain as look_up

    found = look_up(dataset_name(dataset, release, out), release, row, out)
    if as_json:
        return show(found, True, [])
    (_, *partners), fates = found["chain"], {fate["release"]: _told(fate) for fate in found["releases"]}
    show_fields([{**found["row"], **found["source"]}, fates, *partners])
    return None


def _told(fate: dict[str, Any]) -> str:
    """What became of a row in a release, on one line."""
    if fate["fate"] == "not read":
        return "not read"
    what = f"kept in {fate['split']}" if fate["split"] else f"dropped by {fate['step']}: {fate['reason']}"
    for name in ("value", "threshold", "decision", "partner", "partner_in", "made_by", "parent"):
        what += f", {name} {fate[name]}" if fate[name] is not None else ""
    return what
