"""The command line: one call into the library per command, a table for people and `--json` for programs.

Exit codes: 0 ok, 1 drift or leak, 2 wrong configuration, 3 source unavailable, 4 stopped by --max-hours.
"""

import json
import os
import signal
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hfds.errors import ConfigError, HfdsError

if TYPE_CHECKING:
    from hfds.run import Run

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, add_completion=False)

Dataset = Annotated[str, typer.Argument(help="A dataset, such as image-to-prompt, or a Python file of your own.")]
Name = Annotated[str, typer.Argument(metavar="RELEASE", help="A release of it, such as demo.")]
Sources = Annotated[
    Path | None, typer.Option(help="Folder with one folder per source; without it they come from the Hub.")
]
Out = Annotated[Path, typer.Option(help="Where datasets are built.")]
Workdir = Annotated[Path, typer.Option(help="Where unfinished and reusable work is kept.")]
Rows = Annotated[int | None, typer.Option(min=1, help="At most this many rows of every split, for a try.")]
NumProc = Annotated[int, typer.Option(min=1, help="Processes.")]
Store = Annotated[str | None, typer.Option(help="Folder or URL of the annotation store; <workdir>/store without it.")]
MaxHours = Annotated[float | None, typer.Option(min=0, help="Stop models after so many hours; run again to go on.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Rows that a model is shown at once.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

store = typer.Typer(help="What models said about rows, kept for every release.", no_args_is_help=True)
app.add_typer(store, name="store")


@app.command()
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
    _print(listed, as_json, ["source", "configs", "license", "from"])


@app.command()
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
    _print(listed, as_json, ["dataset", "release", "inputs", "steps"])


@app.command()
def plan(
    dataset: Dataset,
    release: Name,
    sources: Sources = None,
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

    run = _run(workdir, num_proc, store=store, batch_size=batch_size)
    planned = make_plan(find_release(dataset, release), run, sources=sources, rows=rows, probe=probe)
    if not run.main:
        return None
    if as_json:
        return _print(planned, True, [])
    _print(planned["inputs"], False, ["input", "files", "bytes", "pieces", "prepared"])
    _print(planned["steps"], False, ["step", "needs", "adds"])
    models = [entry for entry in planned["steps"] if "known" in entry]
    if models:
        _print(models, False, ["step", "rows", "known", "missing", "rate", "hours", "store_bytes", "estimated"])
        typer.echo(
            f"{planned['hours']:.2f} hours of one {run.device_name}, {planned['store_bytes']:,} bytes for the store; "
            f"{planned['free_bytes']:,} bytes are free"
        )


@app.command()
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

    run = _run(workdir, num_proc, store=store, batch_size=batch_size, max_hours=max_hours)
    _build(find_release(dataset, release), run, sources, out, rows, as_json)


@app.command()
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
    run = _run(workdir, num_proc, store=store, batch_size=batch_size, max_hours=max_hours)
    forgotten = run.agree(lambda: forget_failures(found, run, step, reason))
    if run.main and not as_json:
        counts = ", ".join(f"{rows:,} of {name}" for name, rows in forgotten.items())
        typer.echo(f"failures to try again: {counts or 'none, the release has no step with a model'}")
    _build(found, run, sources, out, rows, as_json, retried=forgotten)


def _build(
    release: Any, run: "Run", sources: Path | None, out: Path, rows: int | None, as_json: bool, **more: Any
) -> None:
    from hfds.card import funnel_rows
    from hfds.release import build as make

    built = make(release, run, sources=sources, out=out, rows=rows)
    if not run.main:
        return
    if as_json:
        return _print({"folder": str(built.folder), "digest": built.digest, "funnel": built.funnel, **more}, True, [])
    header = ["input", "rows", "dropped", "kept"]
    _print([dict(zip(header, row, strict=True)) for row in funnel_rows(built.funnel)], False, header)
    typer.echo(f"{built.folder}: {release.name}, digest {built.digest}")


def _run(workdir: Path, num_proc: int, **options: Any) -> "Run":
    """One process, or one rank of several where a launcher started them."""
    from hfds.run import Run

    if os.environ.get("WORLD_SIZE", "1") in ("", "1"):
        return Run.here(workdir, num_proc, **options)
    return Run.accelerated(workdir, num_proc, **options)


@store.command("ls")
def store_ls(workdir: Workdir = Path(".hfds"), store: Store = None, as_json: Json = False) -> None:
    """List the steps whose answers are in the store."""
    described = [answers.describe() for answers in _store(workdir, store).steps()]
    _print(described, as_json, ["step", "rows", "failed", "parts", "bytes", "key"])


@store.command("verify")
def store_verify(workdir: Workdir = Path(".hfds"), store: Store = None, as_json: Json = False) -> None:
    """Read everything in the store and name the parts that are damaged; exit code 1 when there is one."""
    damaged = [{"part": path} for answers in _store(workdir, store).steps() for path in answers.damaged()]
    if damaged or as_json:
        _print(damaged, as_json, ["part"])
    if damaged:
        raise typer.Exit(1)
    if not as_json:
        typer.echo("every part is whole")


@store.command("gc")
def store_gc(
    workdir: Workdir = Path(".hfds"),
    store: Store = None,
    unused: Annotated[
        Path | None, typer.Option(help="Also remove steps that no release built in this folder has.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove damaged and unfinished parts and merge small ones; not while a build runs."""
    from hfds.lock import answers_in_use

    used = answers_in_use(unused) if unused else None
    freed = [
        {"step": one.folder, "freed": one.tidy() if used is None or one.folder in used else one.remove()}
        for one in _store(workdir, store).steps()
    ]
    _print(freed, as_json, ["step", "freed"])


def _store(workdir: Path, store: str | None) -> Any:
    from hfds.run import Run
    from hfds.store import Store as AnnotationStore

    run = Run(workdir.absolute(), store=store)
    found = AnnotationStore(run.annotations, run.workdir / "mirror")
    if not found.fs.exists(found.root):
        raise ConfigError(f"there is no annotation store at {run.annotations}: name its --workdir or --store")
    return found


@app.command()
def explain(
    dataset: Dataset,
    release: Name,
    row: Annotated[str, typer.Argument(metavar="ID", help="The id of a row, such as diffusiondb/<file name>.")],
    out: Out = Path("dist"),
    as_json: Json = False,
) -> None:
    """Say what happened to a row of a built release, and to the row it was a duplicate of."""
    from hfds.catalogue import find_ledger
    from hfds.ledger import explain as look_up

    chain = look_up(find_ledger(dataset, release, out), row)
    _print(chain, as_json, [name for name in chain[0] if any(entry[name] is not None for entry in chain)])


def _print(value: Any, as_json: bool, columns: list[str]) -> None:
    if as_json:
        typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))
        return
    table = Table(box=None, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for entry in value:
        table.add_row(*(escape(_cell(entry[name])) for name in columns))
    Console().print(table)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={item!r}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value if value is not None else "-")


def main(arguments: list[str] | None = None) -> None:
    """The entry point: errors of ours are one sentence on stderr (or JSON on stdout), and an exit code."""
    given = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    before = signal.signal(signal.SIGTERM, partial(_terminated, os.getpid()))
    try:
        code = app(given, standalone_mode=False)
        if code == 130:  # what typer makes of Ctrl-C
            _fail("stopped; what was finished is kept, run again to go on", 130, given)
        sys.exit(code if isinstance(code, int) else 0)  # that of a typer.Exit
    except HfdsError as error:
        _fail(str(error), error.exit_code, given)
    except typer.TyperException as error:  # what was typed, where `app` does not print it itself
        _fail(getattr(error, "format_message", error.__str__)(), getattr(error, "exit_code", 2), given)
    except Exception as error:  # noqa: BLE001  a mistake of ours: never one of the codes that mean something
        traceback.print_exc()
        _fail(f"{type(error).__name__}: {error}; this is a bug of hfds", 70, given)
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminated(process: int, *_: object) -> NoReturn:
    """What a launcher sends to the ranks that are left when one has died; what was computed is committed on the way."""
    if os.getpid() != process:  # one of our background processes, which inherited this
        os._exit(143)
    message = "hfds: ended from outside, as by a launcher when another rank died; what was computed is kept, run again"
    typer.secho(message, err=True, fg="red")
    raise SystemExit(143)


def _fail(message: str, code: int, given: list[str]) -> NoReturn:
    if "--json" in given:
        typer.echo(json.dumps({"error": message, "exit_code": code}, ensure_ascii=False))
    else:
        typer.secho(f"hfds: {message}", err=True, fg="red")
    sys.exit(code)


if __name__ == "__main__":
    main()
