"""Image folder: pictures beside a `metadata.jsonl`, as `load_dataset("imagefolder")`, diffusers' examples and Kaggle's
image-to-prompt sets have it. https://huggingface.co/docs/datasets/image_dataset
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from hfds.errors import ConfigError
from hfds.place import Place
from hfds.record import json_objects
from hfds.trainers.folder import Beside, Export
from hfds.trainers.rows import Batch

_TAKEN = ("file_name", "id", "image")


@dataclass(frozen=True)
class ImageFolder:
    """`<split>/metadata.jsonl` with `file_name`, the caption under the name `text`, and `id`.

    `text` must stay the second column: diffusers' examples take that one where none is named.
    """

    NAME: ClassVar[str] = "imagefolder"
    KEEPS: ClassVar[frozenset[str]] = frozenset()
    LISTS: ClassVar[bool] = True
    ABSOLUTE: ClassVar[bool] = False
    text: str = "text"

    def __post_init__(self) -> None:
        """Raises ConfigError where the column cannot have that name."""
        if self.text in _TAKEN or self.text.endswith(("_file_name", "file_names")) or not self.text.isidentifier():
            raise ConfigError(
                f"a column of captions cannot be called {self.text!r}: text, prompt and caption are usual"
            )

    def columns(self, place: Place) -> Sequence[str]:
        """The id."""
        return ("id",)

    def note(self, batch: Batch, beside: Beside, noted: Counter[str]) -> pa.Table:
        """A line of JSON a row."""
        said = {"file_name": pa.array(batch.files, pa.string()), self.text: batch.captions, "id": batch.rows["id"]}
        return pa.table({"json": json_objects(said).storage if len(batch.files) else pa.array([], pa.string())})

    def finish(self, export: Export) -> None:
        """The lines of each split."""
        for split in export.splits:
            with export.text(f"{split}/metadata.jsonl") as file:
                for _, note in export.notes(split):
                    file.writelines(f"{line}\n" for line in note["json"].to_pylist())
