"""Commands about the annotation store."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hfds.commands.options import Json, Store, Workdir, show
from hfds.errors import ConfigError


def ls(workdir: Workdir = Path(".hfds"), store: Store = None, as_json: Json = False) -> None:
    """List the steps whose answers are in the store."""
    described = [answers.describe() for answers in _store(workdir, store).steps()]
    show(described, as_json, ["step", "rows", "failed", "parts", "bytes", "key"])


def verify(workdir: Workdir = Path(".hfds"), store: Store = None, as_json: Json = False) -> None:
    """Read everything in the store and name the parts that are damaged; exit code 1 when there is one."""
    damaged = [{"part": path} for answers in _store(workdir, store).steps() for path in answers.damaged()]
    if damaged or as_json:
        show(damaged, as_json, ["part"])
    if damaged:
        raise typer.Exit(1)
    if not as_json:
        typer.echo("every part is whole")


def gc(
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
    show(freed, as_json, ["step", "freed"])


def _store(workdir: Path, store: str | None) -> Any:
    from hfds.run import Run
    from hfds.store import Store as AnnotationStore

    run = Run(workdir.absolute(), store=store)
    found = AnnotationStore(run.annotations, run.workdir / "mirror")
    if not found.fs.exists(found.root):
        raise ConfigError(f"there is no annotation store at {run.annotations}: name its --workdir or --store")
    return found
