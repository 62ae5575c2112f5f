"""Files: a folder as img2dataset leaves it with `--output_format files`.

https://github.com/rom1504/img2dataset (writer.py, downloader.py): `00000/000000123.jpg|txt|json`, keys of a shard
number and a number in it; `00000.parquet` with a row for every sample, also for those without a picture, and
`00000_stats.json`. Here a shard is 10,000 rows, and a split is a folder of its own.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from hfds.place import Place
from hfds.record import json_objects
from hfds.trainers.folder import Beside, Export
from hfds.trainers.rows import Batch, free, textual

_NO_PICTURE = "no picture"
_MEASURED = ("width", "height", "original_width", "original_height")


@dataclass(frozen=True)
class Files:
    """Columns of the release keep their names, but for those that img2dataset has itself: these get a "_"."""

    NAME: ClassVar[str] = "files"
    KEEPS: ClassVar[frozenset[str]] = frozenset({"picture", "caption"})
    LISTS: ClassVar[bool] = False
    ABSOLUTE: ClassVar[bool] = False

    def columns(self, place: Place) -> Sequence[str]:
        """All but pictures and their sizes, which are measured; raises ConfigError where one holds bytes."""
        return textual(place, "image", "width", "height")

    def note(self, batch: Batch, beside: Beside, noted: Counter[str]) -> pa.Table:
        """Writes text and JSON beside each picture; the rows as they will be in the table."""
        there = pa.array([file is not None for file in batch.files], pa.bool_())
        sizes = [pa.array(batch.stored(name.rpartition("_")[2]), pa.int32()) for name in _MEASURED]
        ours = {
            "caption": batch.captions,
            "key": pa.array([f"{number:09d}" for number in batch.numbers], pa.string()),
            "status": pa.array(["success" if file else "failed_to_download" for file in batch.files], pa.string()),
            "error_message": pa.array([None if file else _NO_PICTURE for file in batch.files], pa.string()),
            **dict(zip(_MEASURED, sizes, strict=True)),
        }
        theirs = {name: batch.rows[name].combine_chunks() for name in batch.rows.column_names}
        names = {name: free(name, (*ours, *theirs)) if name in ours else name for name in theirs}
        table = pa.table({**{names[name]: values for name, values in theirs.items()}, **ours})
        shown = table.filter(there)
        said = json_objects(dict(zip(shown.column_names, shown.columns, strict=True))).storage if len(shown) else ()
        texts = shown["caption"].to_pylist()
        for key, text, line in zip(shown["key"].to_pylist(), texts, said, strict=True):
            (beside.pictures / f"{key}.txt").write_bytes((text or "").encode())
            (beside.pictures / f"{key}.json").write_bytes(line.as_py().encode())
        return table

    def finish(self, export: Export) -> None:
        """A table and its counts for each folder."""
        for split in export.splits:
            for block, note in export.notes(split):
                with export.whole(f"{split}/{block.name}.parquet") as aside:
                    pq.write_table(note.replace_schema_metadata(None), aside)
                status = Counter(note["status"].to_pylist())
                failed = {_NO_PICTURE: status["failed_to_download"]} if status["failed_to_download"] else {}
                stats = {
                    "count": len(note),
                    "successes": status["success"],
                    "failed_to_download": status["failed_to_download"],
                    "failed_to_resize": 0,
                    "status_dict": {"success": status["success"], **failed},
                }
                with export.text(f"{split}/{block.name}_stats.json") as file:
                    file.write(json.dumps(stats, indent=4) + "\n")
