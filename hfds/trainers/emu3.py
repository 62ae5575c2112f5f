"""Emu3: the JSON list of {name, text, image} that Emu3's `prepare_data.py` turns into visual tokens.

https://github.com/baaivision/Emu3 (emu3/train/prepare_data.py): `name` becomes a file name, so names are ours and no
two are the same; `image` is opened as it stands, so paths are absolute.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from hfds.place import Place
from hfds.trainers.folder import Beside, Export
from hfds.trainers.rows import Batch


@dataclass(frozen=True)
class Emu3:
    """`<split>.json`, what `--data-path` wants."""

    NAME: ClassVar[str] = "emu3"
    KEEPS: ClassVar[frozenset[str]] = frozenset()
    LISTS: ClassVar[bool] = False
    ABSOLUTE: ClassVar[bool] = True

    def columns(self, place: Place) -> Sequence[str]:
        """None."""
        return ()

    def note(self, batch: Batch, beside: Beside, noted: Counter[str]) -> pa.Table:
        """File and caption of every row."""
        return pa.table({"file": pa.array(batch.files, pa.string()), "text": batch.captions})

    def finish(self, export: Export) -> None:
        """A list for each split, an entry a line."""
        for split in export.splits:
            folder = export.to.absolute() / split
            with export.text(f"{split}.json") as file:
                before = "[\n"
                for _, note in export.notes(split):
                    for row in note.to_pylist():
                        name = f"{split}-{row['file'].rpartition('/')[2].partition('.')[0]}"
                        entry = {"name": name, "text": row["text"], "image": str(folder / row["file"])}
                        file.write(before + json.dumps(entry, ensure_ascii=False))
                        before = ",\n"
                file.write("\n]\n" if before == ",\n" else "[]\n")
