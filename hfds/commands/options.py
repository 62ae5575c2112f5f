"""What the commands share: their options, and what they print."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from hfds.run import Run

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


def run_of(workdir: Path, num_proc: int, **options: Any) -> "Run":
    """One process, or one rank of several where a launcher started them."""
    from hfds.run import Run

    if os.environ.get("WORLD_SIZE", "1") in ("", "1"):
        return Run.here(workdir, num_proc, **options)
    return Run.accelerated(workdir, num_proc, **options)


def show(value: Any, as_json: bool, columns: list[str]) -> None:
    """Prints a value as JSON, or those columns of a list of rows as a table."""
    if as_json:
        typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))
        return
    table = Table(box=None, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for entry in value:
        table.add_row(*(escape(_cell(entry[name])) for name in columns))
    Console().print(table)


def show_fields(rows: list[dict[str, Any]]) -> None:
    """Prints rows one below the other, a line for each value that there is; what can be copied is never broken."""
    for row in rows:
        there = {name: value for name, value in row.items() if value is not None}
        typer.echo("\n".join(f"{name:<11} {_cell(value)}" for name, value in there.items()) + "\n")


def _cell(value: Any) -> str:
    from hfds.record import printable

    return printable(_text(value))


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{key}={item!r}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
