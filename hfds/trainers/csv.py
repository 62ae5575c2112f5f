"""CSV: every row and every column of a release in one table a split, pictures as files beside it.

RFC 4180 in UTF-8, texts in quotes, lines ended by a line feed. Nothing is altered, so a text that a spreadsheet takes
for a formula still is one.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
from pyarrow import csv

from hfds.place import Place
from hfds.record import json_values
from hfds.trainers.folder import Beside, Export
from hfds.trainers.rows import Batch, free, textual

_PLAIN = (
    pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean,
    pa.types.is_timestamp, pa.types.is_date,
)  # fmt: skip


@dataclass(frozen=True)
class Csv:
    """`<split>.csv`: `file_name` (of the picture, empty where there is none), `caption`, then the release's columns.

    Lists, structs and JSON are JSON texts. Where a column of the release has one of our two names, ours gets a "_".
    """

    NAME: ClassVar[str] = "csv"
    KEEPS: ClassVar[frozenset[str]] = frozenset({"picture", "caption"})
    LISTS: ClassVar[bool] = True
    ABSOLUTE: ClassVar[bool] = False

    def columns(self, place: Place) -> Sequence[str]:
        """All but pictures; raises ConfigError where one holds bytes."""
        return textual(place, "image")

    def note(self, batch: Batch, beside: Beside, noted: Counter[str]) -> pa.Table:
        """The rows as they will be written."""
        files = pa.array([file and f"{beside.block.split}/{file}" for file in batch.files], pa.string())
        ours = {
            free("file_name", batch.rows.column_names): files,
            free("caption", batch.rows.column_names): _flat(batch.captions),
        }
        theirs = {name: _flat(batch.rows[name].combine_chunks()) for name in batch.rows.column_names}
        return pa.table({**ours, **theirs})

    def finish(self, export: Export) -> None:
        """The table of each split."""
        options = csv.WriteOptions(quoting_style="needed")  # that is: texts in quotes, nothing where nothing is
        for split in export.splits:
            with export.whole(f"{split}.csv") as aside:
                notes = export.notes(split)
                _, first = next(notes)
                with csv.CSVWriter(aside, first.schema, write_options=options) as writer:
                    writer.write_table(first)
                    for _, note in notes:
                        writer.write_table(note)


def _flat(values: pa.Array) -> pa.Array:
    """Values that a CSV file can hold."""
    kind = values.type
    if isinstance(kind, pa.BaseExtensionType) or not any(is_kind(kind) for is_kind in _PLAIN):
        return json_values(values)
    return values.cast(pa.float32()) if kind == pa.float16() else values
