"""Commands that write a built release in the formats that trainers read."""

import re
from pathlib import Path
from typing import Annotated

import typer

from hfds.commands.options import Dataset, Json, Name, NumProc, Out, show
from hfds.errors import ConfigError

LARGEST = 10**15  # bytes of a tar
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?(?:([KMGT])(I?))?B?")


def webdataset(
    dataset: Dataset,
    release: Name,
    max_shard: Annotated[str, typer.Option(help="Size of a tar at most, such as 500MB or 1GiB.")] = "1GB",
    caption: Annotated[
        str, typer.Option(metavar="STYLE", help="The style of its captions that is the text of a sample.")
    ] = "prompt",
    index: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="A further column for the indexes; may be given again.")
    ] = None,
    num_proc: NumProc = 1,
    out: Out = Path("dist"),
    as_json: Json = False,
) -> None:
    """Write a built release as WebDataset tars with an index beside each; run again to go on where it stopped."""
    from hfds.catalogue import dataset_name
    from hfds.tars import export

    name = dataset_name(dataset, release, out)
    size = _bytes(max_shard)
    made = export(name, release, out=out, caption=caption, index=index or (), max_shard=size, num_proc=num_proc)
    splits = [
        {
            "split": split,
            "samples": entry.rows,
            "tars": len(entry.shards),
            "bytes": sum(shard.bytes for shard in entry.shards),
            "left_out": dict(entry.left_out),
            "noted": dict(entry.noted),
        }
        for split, entry in made.manifest.splits.items()
    ]
    if as_json:
        told = {"folder": str(made.folder), "kept": made.kept, "instead": made.instead, "splits": splits}
        return show(told, True, [])
    show(splits, False, ["split", "samples", "tars", "bytes", "left_out", "noted"])
    if made.instead:
        typer.echo(f"the export that was there is replaced: {made.instead}")
    return typer.echo(f"{made.folder} {'was there already' if made.kept else 'is finished'}")


def _bytes(text: str) -> int:
    """A size as people write it, in bytes."""
    found = _SIZE.fullmatch(text.upper())
    size = int(float(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index(found[2] or " ")) if found else 0
    if not 1 <= size <= LARGEST:
        raise ConfigError(f"--max-shard is {text!r}, and a size is written such as 500MB or 1GiB, up to 1000TB")
    return size
