"""Commands that write a built release in the formats of trainers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hfds.commands.options import Dataset, Json, Name, NumProc, Out, show
from hfds.errors import ConfigError

if TYPE_CHECKING:
    from hfds.place import Place
    from hfds.trainers.folder import Format

Splits = Annotated[list[str] | None, typer.Option("--split", help="A split; all without it. May be given again.")]
Caption = Annotated[
    str, typer.Option(help="Which text: prompt, a style of the captions such as short, or all of them.")
]
To = Annotated[
    Path | None, typer.Option(help="Folder to write; <out>/<dataset>/exports/<release>/<format> without it.")
]


def simpletuner(
    dataset: Dataset,
    release: Name,
    split: Splits = None,
    caption: Caption = "prompt",
    text_files: Annotated[
        bool, typer.Option("--text-files", help="Captions also as .txt beside each picture.")
    ] = False,
    hub: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="Only the config, for the release published there.")
    ] = None,
    to: To = None,
    num_proc: NumProc = 4,
    out: Out = Path("dist"),
    as_json: Json = False,
) -> None:
    """Write what SimpleTuner reads: pictures, a Parquet table, boxes and masks, multidatabackend.json."""
    from hfds.trainers.simpletuner import SimpleTuner, export_config

    if hub is None:
        return _export(SimpleTuner(text_files), dataset, release, split, caption, to, num_proc, out, as_json)
    if text_files:
        raise ConfigError("--text-files are for a folder, and with --hub none is written: give one of them")
    home, place = _built(dataset, release, out)
    folder = to or home / "exports" / release / "simpletuner-hub"
    rows = export_config(place, hub, folder, splits=split or [], caption=caption)
    if as_json:
        return show({"to": folder, "splits": rows}, True, [])
    show(rows, False, ["split", "rows", "noted"])
    return typer.echo(str(folder))


def imagefolder(
    dataset: Dataset,
    release: Name,
    split: Splits = None,
    caption: Caption = "prompt",
    column: Annotated[str, typer.Option(help="Name of the column of captions.")] = "text",
    to: To = None,
    num_proc: NumProc = 4,
    out: Out = Path("dist"),
    as_json: Json = False,
) -> None:
    """Write pictures with a metadata.jsonl, as load_dataset("imagefolder"), diffusers' examples and Kaggle have it."""
    from hfds.trainers.imagefolder import ImageFolder

    _export(ImageFolder(column), dataset, release, split, caption, to, num_proc, out, as_json)


def coco(
    dataset: Dataset,
    release: Name,
    split: Splits = None,
    caption: Caption = "prompt",
    to: To = None,
    num_proc: NumProc = 4,
    out: Out = Path("dist"),
    as_json: Json = False,
) -> None:
    """Write captions, boxes and masks as COCO's JSON."""
    from hfds.trainers.coco import Coco

    _export(Coco(), dataset, release, split, caption, to, num_proc, out, as_json)


def emu3(
    dataset: Dataset,
    release: Name,
    split: Splits = None,
    caption: Caption = "prompt",
    to: To = None,
    num_proc: NumProc = 4,
    out: Out = Path("dist"),
    as_json: Json = False,
) -> None:
    """Write the list of {name, text, image} that Emu3 prepares its data from."""
    from hfds.trainers.emu3 import Emu3

    _export(Emu3(), dataset, release, split, caption, to, num_proc, out, as_json)


def files(
    dataset: Dataset,
    release: Name,
    split: Splits = None,
    caption: Caption = "prompt",
    to: To = None,
    num_proc: NumProc = 4,
    out: Out = Path("dist"),
    as_json: Json = False,
) -> None:
    """Write picture, .txt and .json files and a Parquet table, as img2dataset does."""
    from hfds.trainers.files import Files

    _export(Files(), dataset, release, split, caption, to, num_proc, out, as_json)


def csv(
    dataset: Dataset,
    release: Name,
    split: Splits = None,
    caption: Caption = "prompt",
    to: To = None,
    num_proc: NumProc = 4,
    out: Out = Path("dist"),
    as_json: Json = False,
) -> None:
    """Write every row and column as CSV, pictures as files beside it. Formulas in texts are left as they are."""
    from hfds.trainers.csv import Csv

    _export(Csv(), dataset, release, split, caption, to, num_proc, out, as_json)


def _built(dataset: str, release: str, out: Path) -> tuple[Path, "Place"]:
    """The folder of a dataset that was built, and where a release of it lies."""
    from hfds.catalogue import dataset_name
    from hfds.earlier import lock_of
    from hfds.place import Place

    name = dataset_name(dataset, release, out)
    return out / name, Place(lock_of(out, name, release), (out / name).joinpath)


def _export(
    format_: "Format",
    dataset: str,
    release: str,
    splits: list[str] | None,
    caption: str,
    to: Path | None,
    num_proc: int,
    out: Path,
    as_json: bool,
) -> None:
    from hfds.trainers.folder import export
    from hfds.withdrawn import read_withdrawn

    home, place = _built(dataset, release, out)
    folder = to or home / "exports" / release / format_.NAME
    gone = {stone.id for stone in read_withdrawn(home)}
    done = export(format_, place, folder, splits=splits or [], caption=caption, withdrawn=gone, threads=num_proc)
    if as_json:
        return show({"to": folder, **done}, True, [])
    show(
        [{"split": name, **split} for name, split in done["splits"].items()],
        False,
        ["split", "rows", "left_out", "noted"],
    )
    return typer.echo(str(folder))
