"""Commands about duplicates: thresholds to choose, leaks to find."""

from pathlib import Path
from textwrap import shorten
from typing import Annotated

import typer

from hfds.commands.options import Dataset, Json, Name, NumProc, Out, Rows, Sources, Store, Workdir, run_of, show


def tune(
    dataset: Dataset,
    release: Name,
    step: Annotated[str, typer.Argument(help="A MarkDuplicates step: its number, from 1, or its name.")],
    threshold: Annotated[str, typer.Option(help="From..to, such as 0.75..0.95, or 0.8,0.85; bits for hashes.")],
    points: Annotated[int, typer.Option(min=2, help="How many thresholds between from and to.")] = 5,
    sources: Sources = None,
    out: Out = Path("dist"),
    workdir: Workdir = Path(".hfds"),
    rows: Rows = None,
    num_proc: NumProc = 1,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Say how many rows a step that drops duplicates keeps at other thresholds, and show the pairs at the border."""
    from hfds.catalogue import find_release
    from hfds.record import printable
    from hfds.tune import thresholds_of
    from hfds.tune import tune as try_out

    tuned = try_out(
        find_release(dataset, release),
        step,
        thresholds_of(threshold, points),
        run_of(workdir, num_proc, store=store),
        sources=sources,
        out=out,
        rows=rows,
    )
    if as_json:
        return show(vars(tuned), True, [])
    typer.echo(f"step {tuned.step}")
    show(tuned.thresholds, False, ["threshold", "kept", "dropped", "pairs", "now"])
    for pair in tuned.border:
        typer.echo(f"\nat {pair['threshold']}: {pair['similarity']:.4f}")
        for name in ("row", "partner"):
            typer.echo(printable(f"  {pair[name]}: {shorten(pair[f'{name}_prompt'] or '-', 200)}"))
    return None


def leaks(
    dataset: Dataset,
    release: Name,
    against: Annotated[
        list[str] | None, typer.Option(help="Only this other release; again for more. Without it all that were built.")
    ] = None,
    check: Annotated[
        list[str] | None,
        typer.Option(help="prompt, image, words[=0.7], picture[=4] (bits) or meaning[=0.85]; again for more."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a report with the worst pairs: .json, or Markdown.")
    ] = None,
    out: Out = Path("dist"),
    workdir: Workdir = Path(".hfds"),
    store: Store = None,
    num_proc: NumProc = 1,
    as_json: Json = False,
) -> None:
    """Look for rows of one split that are like rows of another, in this and all other releases; exit code 1 if any."""
    from hfds.audit import checks_of, find_leaks
    from hfds.catalogue import annotators_of, dataset_name

    found = find_leaks(
        dataset_name(dataset, release, out),
        release,
        run_of(workdir, num_proc, store=store),
        out=out,
        against=against,
        checks=checks_of(check) if check else None,
        annotators=annotators_of(dataset, release),
    )
    if report:
        found.write(report)
    if as_json:
        show(vars(found), True, [])
    else:
        show(found.checked, False, ["check", "column", "limit", "rows"])
        for one in found.skipped:
            typer.echo(f"not checked: {one['check']} of {one['release']} ({one['because']})")
        if found.leaks:
            show(found.leaks, False, [*found.leaks[0]])
        where = f"{found.release} and {', '.join(found.against)}" if found.against else found.release
        typer.echo(f"{sum(leak['rows'] for leak in found.leaks):,} leaks between the splits of {where}")
    if found.leaks:
        raise typer.Exit(1)
