"""Commands about what is written of a dataset."""

from pathlib import Path
from typing import Annotated

import typer

from hfds.commands.options import Json, Out, show


def card(
    dataset: Annotated[str, typer.Argument(help="A dataset that was built, such as image-to-prompt.")],
    out: Out = Path("dist"),
    as_json: Json = False,
) -> None:
    """Write a built dataset's card, changelog, Croissant document and plots anew, and what changed between releases."""
    from hfds.history import write_documents

    written = write_documents(dataset, out)
    if as_json:
        return show(written, True, [])
    return typer.echo("\n".join(f"{out / dataset}/{path}" for path in written))
