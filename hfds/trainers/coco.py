"""COCO: boxes, masks and captions as COCO's JSON. https://cocodataset.org/#format-data

Masks are run lengths with `iscrowd` 0: the API reads these, though COCO's own single objects are polygons.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from hfds import entities
from hfds.place import Place
from hfds.trainers.folder import Beside, Export
from hfds.trainers.rows import Batch


@dataclass(frozen=True)
class Coco:
    """`annotations/captions_<split>.json`, and `annotations/instances_<split>.json` where the release has entities.

    The id of a picture is the number in its file name, which is relative to the folder of the split.
    """

    NAME: ClassVar[str] = "coco"
    KEEPS: ClassVar[frozenset[str]] = frozenset({"caption"})
    LISTS: ClassVar[bool] = True
    ABSOLUTE: ClassVar[bool] = False

    def columns(self, place: Place) -> Sequence[str]:
        """Licence and entities, where there are any."""
        return [name for name in ("license", entities.COLUMN) if name in place.lock["columns"]]

    def note(self, batch: Batch, beside: Beside, noted: Counter[str]) -> pa.Table:
        """Every picture with its captions and what is in it, sizes as they are shown."""
        rows = {name: batch.rows[name].to_pylist() for name in batch.rows.column_names}
        blank = [None] * len(batch.files)
        widths, heights = batch.shown("width"), batch.shown("height")
        found = [
            [_instance(one, width or 0, height or 0) for one in entities.read(said, width or 0, height or 0, noted)]
            for said, width, height in zip(rows.get(entities.COLUMN, blank), widths, heights, strict=True)
        ]
        captions = [[text] if isinstance(text, str) else text for text in batch.captions.to_pylist()]
        return pa.table(
            {
                "id": pa.array(batch.numbers, pa.int64()),
                "file_name": pa.array(batch.files, pa.string()),
                "width": pa.array(widths, pa.int64()),
                "height": pa.array(heights, pa.int64()),
                "license": pa.array(rows.get("license", blank), pa.string()),
                "captions": pa.array(captions, pa.list_(pa.string())),
                "instances": pa.array([json.dumps(one) for one in found], pa.string()),
            }
        )

    def finish(self, export: Export) -> None:
        """Both files of each split; categories have the same numbers in all."""
        for split in export.splits:
            captions = (
                {"image_id": row["id"], "caption": text} for row in _rows(export, split) for text in row["captions"]
            )
            _write(export, split, "captions", {}, captions)
        if entities.COLUMN not in export.place.lock["columns"]:
            return
        names = {one["name"] for split in export.splits for row in _rows(export, split) for one in row["instances"]}
        categories = {name: number for number, name in enumerate(sorted(names), start=1)}
        listed = [{"id": number, "name": name, "supercategory": ""} for name, number in categories.items()]
        for split in export.splits:
            instances = (
                {"image_id": row["id"], "category_id": categories[one.pop("name")], **one}
                for row in _rows(export, split)
                for one in row["instances"]
            )
            _write(export, split, "instances", {"categories": listed}, instances)


def _instance(entity: entities.Entity, width: int, height: int) -> dict[str, Any]:
    left, top, right, bottom = entity.box
    box = [left * width, top * height, (right - left) * width, (bottom - top) * height]
    area = box[2] * box[3] if entity.pixels is None else entity.pixels
    mask = {} if entity.mask is None else {"segmentation": entity.mask}
    return {"name": entity.name, "bbox": box, "area": area, "iscrowd": 0, **mask}


def _rows(export: Export, split: str) -> Iterator[dict[str, Any]]:
    for _, note in export.notes(split):
        for row in note.to_pylist():
            yield {**row, "instances": json.loads(row["instances"]), "captions": row["captions"] or []}


def _write(
    export: Export, split: str, kind: str, more: Mapping[str, Any], annotations: Iterator[dict[str, Any]]
) -> None:
    """One file, entry after entry; annotations are numbered from 1, as the API takes 0 for none."""
    lock = export.place.lock
    licenses = {name: number for number, name in enumerate(sorted(lock["licenses"]), start=1)}
    images = (
        {name: row[name] for name in ("id", "width", "height", "file_name")}
        | ({"license": licenses[row["license"]]} if row["license"] in licenses else {})
        for row in _rows(export, split)
    )
    head = {
        "info": {"description": f"{lock['dataset']} {lock['release']} {split}", "version": lock["digest"]},
        "licenses": [{"id": number, "name": name, "url": ""} for name, number in licenses.items()],
        **more,
    }
    numbered = ({"id": number, **one} for number, one in enumerate(annotations, start=1))
    with export.text(f"annotations/{kind}_{split}.json") as file:
        file.write(json.dumps(head)[:-1])
        for name, entries in (("images", images), ("annotations", numbered)):
            file.write(f',\n"{name}": [')
            file.writelines((",\n" if at else "\n") + json.dumps(entry) for at, entry in enumerate(entries))
            file.write("]")
        file.write("}\n")
