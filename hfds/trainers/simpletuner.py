"""SimpleTuner: pictures, a Parquet table of them, and a `multidatabackend.json`, in a folder or for the Hub.

https://github.com/bghira/SimpleTuner: documentation/DATALOADER.md, HUGGINGFACE_DATASETS.md, evaluation/EVAL_LOSS.md and
data_presets/preset_dalle3.md.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hfds import columns, entities
from hfds.disk import disk_errors
from hfds.documents import CARD
from hfds.errors import ConfigError, nearest
from hfds.front_matter import default_in
from hfds.hub import Hub
from hfds.place import Place
from hfds.trainers.folder import Beside, Export
from hfds.trainers.rows import ALL, Batch

CONFIG = "multidatabackend.json"
_TRAIN = "train"  # other splits are for evaluation
_SIZE = {"resolution": 1024, "resolution_type": "pixel_area", "crop": False}  # to be changed by hand


@dataclass(frozen=True)
class SimpleTuner:
    """`<split>.parquet` (filename, width, height, caption, and bbox where the release has entities) and the config.

    Sizes are those that are shown, as SimpleTuner turns pictures upright. Masks lie in `<split>-masks`, since every
    picture below the folder of a split is one to train on.

    Args:
        text_files: captions also as `.txt` beside each picture, from where SimpleTuner then takes them; with
            "all", one caption a line.
    """

    NAME: ClassVar[str] = "simpletuner"
    KEEPS: ClassVar[frozenset[str]] = frozenset()
    LISTS: ClassVar[bool] = True
    ABSOLUTE: ClassVar[bool] = True
    text_files: bool = False

    def columns(self, place: Place) -> Sequence[str]:
        """Entities, where there are any."""
        return [name for name in (entities.COLUMN,) if name in place.lock["columns"]]

    def note(self, batch: Batch, beside: Beside, noted: Counter[str]) -> pa.Table:
        """Writes captions, boxes and masks beside each picture; the rows of the table."""
        widths, heights = batch.shown("width"), batch.shown("height")
        table = pa.table(
            {
                "filename": pa.array(batch.files, pa.string()),
                "width": pa.array(widths, pa.int32()),
                "height": pa.array(heights, pa.int32()),
                "caption": batch.captions,
            }
        )
        stems = [str(file).rpartition("/")[2].partition(".")[0] for file in batch.files]
        if self.text_files:
            for stem, caption in zip(stems, batch.captions.to_pylist(), strict=True):
                (beside.pictures / f"{stem}.txt").write_bytes(_lines(caption, noted).encode())
        if entities.COLUMN in batch.rows.column_names:
            boxes = []
            for stem, said, width, height in zip(
                stems, batch.rows[entities.COLUMN].to_pylist(), widths, heights, strict=True
            ):
                found = entities.read(said, width or 0, height or 0, noted)
                boxes.append(json.dumps(_boxes(stem, found, width or 0, height or 0, beside), ensure_ascii=False))
                (beside.pictures / f"{stem}.bbox").write_bytes(boxes[-1].encode())
            table = table.append_column("bbox", pa.array(boxes, pa.string()))
        return table

    def finish(self, export: Export) -> None:
        """The tables, and the config."""
        for split in export.splits:
            with export.whole(f"{split}.parquet") as aside:
                notes = export.notes(split)
                _, first = next(notes)
                schema = first.schema.remove_metadata()
                with pq.ParquetWriter(aside, schema, compression="zstd") as writer:
                    writer.write_table(first.cast(schema))
                    for _, note in notes:
                        writer.write_table(note.cast(schema))
        with export.text(CONFIG) as file:
            file.write(_json(self.backends(export)))

    def backends(self, export: Export) -> list[dict[str, Any]]:
        """The config. Paths are absolute, as SimpleTuner cuts the folder's off a picture's to find its row."""
        root = export.to.absolute()
        images: list[dict[str, Any]] = []
        for split in export.splits:
            image = _image(export.place, split, root)
            image |= {
                "type": "local",
                "instance_data_dir": str(root / split),
                "caption_strategy": "textfile" if self.text_files else "parquet",
                "metadata_backend": "parquet",
                "parquet": {
                    "path": str(root / f"{split}.parquet"),
                    "filename_column": "filename",
                    "caption_column": "caption",
                    "width_column": "width",
                    "height_column": "height",
                    "identifier_includes_extension": True,
                },
            }
            if self.text_files and export.caption != ALL:
                image["disable_multiline_split"] = True
            if entities.COLUMN in export.place.lock["columns"]:
                image["parquet"]["bbox_column"] = "bbox"
                image["grounding"] = {"enabled": True}
            images.append(image)
        return [*images, _texts(export.place, root)]


def export_config(
    place: Place, repo: str, to: Path, *, splits: Sequence[str] = (), caption: str = "prompt"
) -> list[dict[str, Any]]:
    """Writes the config for a release that is published, of which SimpleTuner reads the Parquet files from the Hub.

    It names no config of a repository, so it reads the default one, at the tag of the release.

    Returns:
        of each split its rows, and how many lack a picture or a caption, which SimpleTuner then meets.

    Raises:
        ConfigError: the release is not the default config at its tag, or has no such split or column of texts.
        HubError: the Hub cannot be reached, or has no such repository or tag.
    """
    there = place.lock["columns"]
    for split in splits:
        if split not in place.lock["splits"]:
            raise ConfigError(f"{place.name} has no split {split!r}: {nearest(split, place.lock['splits'])}")
    if "image" not in there or there.get(caption, {}).get("_type") != "Value":
        raise ConfigError(
            "SimpleTuner reads pictures and one column of texts from the Hub, and "
            f"{place.name} has no columns image and {caption}: export it to a folder (without --hub)"
        )
    hub = Hub(repo)
    card = hub.tree(place.name).get(CARD)
    found = default_in(hub.part(CARD, place.name, 0, card.size).decode("utf-8", "replace")) if card else None
    if found != place.name:
        raise ConfigError(
            f"SimpleTuner reads the default config of a repository, and at the tag {place.name} of {repo} that is "
            f"{found}: export {place.name} to a folder (without --hub), or train on {found}"
        )
    sizes = {"width_column": "width", "height_column": "height"} if {"width", "height"} <= set(there) else {}
    images = [
        _image(place, split, Path())
        | {
            "type": "huggingface",
            "dataset_name": repo,
            "split": split,
            "revision": place.name,
            "caption_strategy": "huggingface",
            "metadata_backend": "huggingface",
            "image_column": "image",
            "huggingface": {"caption_column": caption, **sizes},
        }
        for split in splits or place.lock["splits"]
    ]
    with disk_errors("--to"):
        to.mkdir(parents=True, exist_ok=True)
        aside = to / f"{CONFIG}.part"
        aside.write_text(_json([*images, _texts(place, Path())]), encoding="utf-8")
        aside.rename(to / CONFIG)
    return [_rows(place, split, caption) for split in splits or place.lock["splits"]]


def _rows(place: Place, split: str, caption: str) -> dict[str, Any]:
    noted: Counter[str] = Counter()
    files = [place.at(shard["path"]) for shard in place.lock["splits"][split]["shards"]]
    for table in columns.read(files, ["image.path", caption]):
        noted["no_picture"] += pc.struct_field(table["image"], "path").null_count
        said = pc.utf8_trim_whitespace(pc.fill_null(table[caption], ""))
        noted["no_caption"] += pc.sum(pc.equal(said, "")).as_py() or 0
    return {"split": split, "rows": place.lock["splits"][split]["rows"], "noted": dict(+noted)}


def _image(place: Place, split: str, root: Path) -> dict[str, Any]:
    name = f"{place.lock['dataset']}-{place.name}-{split}"
    kind = "image" if split == _TRAIN else "eval"
    return {"id": name, "dataset_type": kind, "cache_dir_vae": str(root / "cache-vae" / name), **_SIZE}


def _texts(place: Place, root: Path) -> dict[str, Any]:
    return {
        "id": f"{place.lock['dataset']}-{place.name}-texts",
        "type": "local",
        "dataset_type": "text_embeds",
        "default": True,
        "cache_dir": str(root / "cache-text"),
    }


def _json(backends: list[dict[str, Any]]) -> str:
    return json.dumps(backends, indent=2, ensure_ascii=False) + "\n"


def _lines(caption: str | list[str], noted: Counter[str]) -> str:
    """A caption as it is; of several, each in a line of its own."""
    if isinstance(caption, str):
        return caption
    noted["line_break_made_a_blank"] += sum("\n" in text for text in caption)
    return "\n".join(text.replace("\n", " ") for text in caption)


def _boxes(
    stem: str, found: Sequence[entities.Entity], width: int, height: int, beside: Beside
) -> list[dict[str, Any]]:
    """What a `.bbox` file says; writes the masks, whose paths are relative to it."""
    boxes = []
    for number, entity in enumerate(found):
        box: dict[str, Any] = {"label": entity.name, "bbox": list(entity.box)}
        if entity.runs is not None:
            folder = beside.folder(f"{beside.block.split}-masks")
            (folder / f"{stem}-{number}.png").write_bytes(entities.png(entity.runs, width, height))
            box["mask"] = f"../../{folder.parent.name}/{folder.name}/{stem}-{number}.png"
        boxes.append(box)
    return boxes
