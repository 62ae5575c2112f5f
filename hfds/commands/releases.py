"""Commands about built releases."""

from pathlib import Path
from typing import Annotated

import typer

from hfds.commands.options import Dataset, Json, Out, show
from hfds.errors import ConfigError


def diff(
    dataset: Dataset,
    old: Annotated[str, typer.Argument(metavar="OLD", help="A built release of it, such as v2.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The built release to compare with that, such as v3.")],
    markdown: Annotated[bool, typer.Option("--md", help="Print Markdown that can stand in a card.")] = False,
    out: Out = Path("dist"),
    as_json: Json = False,
) -> None:
    """Say which rows, splits, values and columns changed from one release to another, why, and how much that is."""
    from hfds.catalogue import dataset_name
    from hfds.diff import diff as compare
    from hfds.place import place_of

    if markdown and as_json:
        raise ConfigError("--md and --json print the same in two ways: give one of them")
    name = dataset_name(dataset, new)
    found = compare(place_of(name, old, out), place_of(name, new, out))
    if as_json:
        return show(found.entry(), True, [])
    if markdown:
        return typer.echo(found.markdown())
    typer.echo(found.headline())
    for title, rows in found.tables().items():
        typer.echo(f"\n{title}")
        show(rows, False, [*rows[0]])
    return None
