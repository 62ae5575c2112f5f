"""The command that withdraws rows."""

from pathlib import Path
from typing import Annotated

import typer

from hfds.commands.options import Dataset, Json, Name, Out, show


def yank(
    dataset: Dataset,
    release: Name,
    reason: Annotated[str, typer.Option(help="Why, in public; on one line.")],
    id_: Annotated[list[str] | None, typer.Option("--id", help="The id of a row; again for more.")] = None,
    url: Annotated[list[str] | None, typer.Option(help="Rows with this url; again for more.")] = None,
    sha256: Annotated[
        list[str] | None, typer.Option(help="Rows whose picture's bytes have this sha256; again for more.")
    ] = None,
    prompt_regex: Annotated[
        list[str] | None, typer.Option(help="Rows in whose prompt this RE2 expression is found; again for more.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="The patch release; v4.0.1 for v4 without it.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Also when that is more than 1 % of a release.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only say how many rows that is.")] = False,
    out: Out = Path("dist"),
    as_json: Json = False,
) -> None:
    """Withdraw rows: from this release in a patch of it, and from all that are built or loaded through hfds later.

    Works on what was built into <out>/<dataset>/, or fetched to there: hf download org/name --repo-type dataset
    --local-dir dist/name.
    """
    from hfds.catalogue import dataset_name
    from hfds.wanted import Wanted
    from hfds.yank import unlooked
    from hfds.yank import yank as withdraw

    asked = (tuple(values or ()) for values in (id_, url, sha256, prompt_regex))
    done = withdraw(
        dataset_name(dataset, release, out),
        release,
        Wanted(*asked),
        reason,
        out=out,
        name=name,
        force=force,
        dry_run=dry_run,
    )
    if as_json:
        return show(vars(done), True, [])
    show([{"release": one, "rows": rows} for one, rows in done.found.items()], False, ["release", "rows"])
    for clause in unlooked(done.unseen):
        typer.echo(clause)
    if done.alike:
        copies = "dropped for one of them, and kept by a later build in its place"
        show([{copies: id_} for id_ in done.alike], False, [copies])
    what = f"{done.patch}: {release} without {done.rows:,} rows" if done.patch else f"{release} keeps none of them"
    typer.echo(f"{what}; {len(done.withdrawn):,} rows {'would be' if dry_run else 'are'} new in withdrawn.jsonl")
    return None
