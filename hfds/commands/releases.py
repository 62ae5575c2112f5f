"""Commands about built releases."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from hfds.commands.options import Json, Name, Out, show
from hfds.errors import ConfigError


def diff(
    dataset: Annotated[str, typer.Argument(help="A dataset, a Python file of your own, or org/name on the Hub.")],
    old: Annotated[str, typer.Argument(metavar="OLD", help="A release of it, such as v2; or org/name@v2 of any.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The release to compare with that, such as v3.")],
    markdown: Annotated[bool, typer.Option("--md", help="Print Markdown that can stand in a card.")] = False,
    at_most: Annotated[
        Literal["patch", "minor", "major"] | None, typer.Option(help="Exit code 1 where more changed than that.")
    ] = None,
    out: Out = Path("dist"),
    as_json: Json = False,
) -> None:
    """Say which rows, splits, values and columns changed from one release to another, why, and how much that is."""
    from hfds.catalogue import dataset_name
    from hfds.changelog import LEVELS, level
    from hfds.diff import diff as compare
    from hfds.place import place_of

    if markdown and as_json:
        raise ConfigError("--md and --json print the same in two ways: give one of them")
    plain = [release for release in (new, old) if "@" not in release]
    name = dataset_name(dataset, plain[0], out) if plain else dataset
    found = compare(place_of(name, old, out), place_of(name, new, out))
    if as_json:
        show(found.entry(), True, [])
    elif markdown:
        typer.echo(found.markdown())
    else:
        typer.echo(found.headline())
        for title, rows in found.tables().items():
            typer.echo(f"\n{title}")
            show(rows, False, [*rows[0]])
    if at_most and LEVELS.index(level(found)[0]) > LEVELS.index(at_most):
        raise typer.Exit(1)


def push(
    dataset: Annotated[str | None, typer.Argument(help="A dataset, or a Python file of your own.")] = None,
    release: Annotated[str | None, typer.Argument(metavar="RELEASE", help="A built release of it.")] = None,
    to: Annotated[str | None, typer.Option(metavar="ORG/NAME", help="The dataset repository on the Hub.")] = None,
    private: Annotated[bool, typer.Option(help="Make a repository that is not there yet a private one.")] = False,
    unknown_license: Annotated[
        bool, typer.Option("--allow-unknown-license", help="Publish rows whose licence is not known.")
    ] = False,
    tars: Annotated[bool, typer.Option("--tars", help="Send what hfds export webdataset wrote, too.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be sent.")] = False,
    keep: Annotated[Path | None, typer.Option("--plan", help="Write what would be sent to this file instead.")] = None,
    kept: Annotated[Path | None, typer.Option("--apply", help="Send what this file plans, if it is still so.")] = None,
    out: Out = Path("dist"),
    as_json: Json = False,
) -> None:
    """Publish a built release on the Hub as a config and a tag, whole or not at all; run again to go on.

    The token is that of `hf auth login`, or HF_TOKEN.
    """
    from hfds import publish
    from hfds.catalogue import dataset_name

    if kept is not None:
        if any((dataset, release, to, private, unknown_license, tars, keep)) or dry_run:
            raise ConfigError(f"everything is in {kept}: give --apply alone")
        planned = publish.apply(publish.planned_in(kept))
    elif dataset is None or release is None or to is None:
        raise ConfigError("what, and where to? hfds push DATASET RELEASE --to org/name, or hfds push --apply FILE")
    else:
        make = publish.plan if dry_run or keep else publish.push
        name = dataset_name(dataset, release, out)
        planned = make(name, release, to, out=out, private=private, unknown_license=unknown_license, tars=tars)
    if keep is not None:
        try:
            keep.write_text(json.dumps(vars(planned), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{keep} cannot be written ({error.strerror}): name another file") from None
    if as_json:
        return show(vars(planned), True, [])
    what = "shards and tars" if planned.tars else "shards"
    sent, there = sum(planned.files.values()), f"{planned.there:,} bytes of {what} are there"
    if planned.commit and not planned.files:
        return typer.echo(f"{planned.repo}: {planned.release} is published already, at {planned.commit}")
    if dry_run or keep:
        show([{"file": path, "bytes": size} for path, size in planned.files.items()], False, ["file", "bytes"])
        first = "tars of a release that is published" if planned.commit else "the first release there"
        typer.echo(planned.changes or first)
        return typer.echo(f"{len(planned.files):,} files, {sent:,} bytes, {planned.commits} commits; {there}")
    return typer.echo(f"{planned.repo}: {planned.release} at {planned.commit}, {sent:,} bytes were sent, {there}")


def verify(
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="A dataset repository on the Hub.")],
    release: Name,
    as_json: Json = False,
) -> None:
    """Fetch a published release and compare every byte and count with its lock; exit code 1 where they differ."""
    from hfds.verify import verify as compare

    differing = compare(repo, release)
    if differing or as_json:
        show(differing, as_json, ["what", "lock", "found"])
    if differing:
        raise typer.Exit(1)
    if not as_json:
        typer.echo(f"{repo}: {release} is what its lock says")
