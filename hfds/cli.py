"""The command line: one call into the library per command, a table for people and `--json` for programs.

Exit codes: 0 ok, 1 drift or leak, 2 wrong configuration, 3 source unavailable.
"""

import json
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hfds.errors import HfdsError

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)

Dataset = Annotated[str, typer.Argument(help="A dataset, such as image-to-prompt, or a Python file of your own.")]
Name = Annotated[str, typer.Argument(metavar="RELEASE", help="A release of it, such as demo.")]
Sources = Annotated[
    Path | None, typer.Option(help="Folder with one folder per source; without it they come from the Hub.")
]
Out = Annotated[Path, typer.Option(help="Where datasets are built.")]
Workdir = Annotated[Path, typer.Option(help="Where unfinished and reusable work is kept.")]
Rows = Annotated[int | None, typer.Option(min=1, help="At most this many rows of every split, for a try.")]
NumProc = Annotated[int, typer.Option(min=1, help="Processes.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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
    as_json: Json = False,
) -> None:
    """Check a release and say what a build would read, before it starts (--json has every parameter of every step)."""
    from hfds.catalogue import find_release
    from hfds.release import plan as make_plan
    from hfds.run import Run

    planned = make_plan(find_release(dataset, release), Run.here(workdir), sources=sources)
    if as_json:
        return _print(planned, True, [])
    _print(planned["inputs"], False, ["input", "files", "bytes", "pieces", "prepared"])
    _print(planned["steps"], False, ["step", "needs", "adds"])


@app.command()
def build(
    dataset: Dataset,
    release: Name,
    sources: Sources = None,
    out: Out = Path("dist"),
    workdir: Workdir = Path(".hfds"),
    rows: Rows = None,
    num_proc: NumProc = 1,
    as_json: Json = False,
) -> None:
    """Build a release into <out>/<dataset>/; run again to go on where it stopped."""
    from hfds.card import funnel_rows
    from hfds.catalogue import find_release
    from hfds.release import build as make
    from hfds.run import Run

    built = make(find_release(dataset, release), Run.here(workdir, num_proc), sources=sources, out=out, rows=rows)
    if as_json:
        return _print({"folder": str(built.folder), "digest": built.digest, "funnel": built.funnel}, True, [])
    header = ["input", "rows", "dropped", "kept"]
    _print([dict(zip(header, row, strict=True)) for row in funnel_rows(built.funnel)], False, header)
    typer.echo(f"{built.folder}: {release}, digest {built.digest}")


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
    return f"{value:,}" if isinstance(value, int) else str(value if value is not None else "-")


def main(arguments: list[str] | None = None) -> None:
    """The entry point: errors of ours are one sentence on stderr (or JSON on stdout), and an exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        app(given, standalone_mode="--json" not in given)
        sys.exit(0)
    except HfdsError as error:
        _fail(str(error), error.exit_code, given)
    except typer.Abort:
        _fail("stopped; run again to go on", 130, given)
    except typer.TyperException as error:  # what was typed, where `app` does not print it itself
        _fail(getattr(error, "format_message", error.__str__)(), getattr(error, "exit_code", 2), given)
    except Exception as error:  # noqa: BLE001  a mistake of ours: never one of the codes that mean something
        traceback.print_exc()
        _fail(f"{type(error).__name__}: {error}; this is a bug of hfds", 70, given)


def _fail(message: str, code: int, given: list[str]) -> NoReturn:
    if "--json" in given:
        typer.echo(json.dumps({"error": message, "exit_code": code}, ensure_ascii=False))
    else:
        typer.secho(f"hfds: {message}", err=True, fg="red")
    sys.exit(code)


if __name__ == "__main__":
    main()
