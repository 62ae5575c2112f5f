"""Batch: some rows as a step with a model is shown them, their pictures read and decoded once, when asked for."""

from functools import cached_property
from types import TracebackType

import pyarrow as pa

from hfds.archive import Reader
from hfds.embed import sizes, source_of
from hfds.pixels import Encoded
from hfds.slices import parse_slices


class Batch:
    """Rows of a dataset. Steps that work on the same rows see the same batch, so that a picture is decoded once.

    Args:
        table: the columns that the steps need, none of them null.
    """

    def __init__(self, table: pa.Table):
        self.table = table
        self._readers: dict[str, Reader] = {}

    def __len__(self) -> int:
        return len(self.table)

    def __enter__(self) -> "Batch":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def row(self, number: int) -> "Batch":
        """A batch of one of its rows, open as long as this one."""
        batch = Batch(self.table.slice(number, 1))
        batch._readers = self._readers
        return batch

    def texts(self, column: str) -> list[str]:
        """The values of a column of texts."""
        values: list[str] = self.table[column].to_pylist()
        return values

    @cached_property
    def pictures(self) -> list[Encoded]:
        """The pictures of the column `image`, to be read from where they lie while the batch is open.

        Raises:
            SourceChanged: a file that they lie in is gone or became shorter.
        """
        image = self.table["image"].combine_chunks()
        data, path = image.flatten()
        slices = parse_slices(path).to_pylist()
        found = []
        for row, size in enumerate(sizes(image).tolist()):
            if data[row].is_valid:
                found.append(Encoded.of(data[row].as_py()))
            else:
                part = slices[row] or {"file": path[row].as_py(), "offset": 0}
                found.append(Encoded(size, source_of(part["file"], part["offset"], size, self._readers)))
        return found
