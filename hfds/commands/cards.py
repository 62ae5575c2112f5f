"""Commands about what is written of a dataset."""

from pathlib import Path
from typing import Annotated

import typer

from hfds.commands.options import Json, Out, show


def card(
    dataset: Annotated[str, typer.Argument(help="A dataset that was built, such as image-to-prompt.")],
    check: Annotated[
        bool, typer.Option(help="Write nothing: compare data, locks and card; exit code 1 where they differ.")
    ] = False,
    out: Out = Path("dist"),
    as_json: Json = False,
) -> None:
    """Write a built dataset's card, changelog, Croissant document and plots anew, and what changed between releases."""
    from hfds.check import check as compare
    from hfds.history import write_documents

    if check:
        differing = compare(dataset, out)
        if differing or as_json:
            show(differing, as_json, ["what", "lock", "found"])
        if differing:
            raise typer.Exit(1)
        return None if as_json else typer.echo(f"{out / dataset}: data, locks and card say the same")
    written = write_documents(dataset, out)
    if as_json:
        return show(written, True, [])
    return typer.echo("\n".join(f"{out / dataset}/{path}" for path in written))
