"""Explode: a step that makes further rows of the rows it gets, with ids that are derived from those of their parents.

The row itself stays where it is, with its id; the second row of "x" is "x~2", the third "x~3", and what another such
step behind this one makes of "x" is "x~~2". Rows that were made
stand behind all others, in the order of their parents, and say in `made` which step made them of which row. They have
all else from their parent: prompt, split, licence, input. So rows read and rows made are rows kept and rows dropped.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Value, concatenate_datasets
from datasets.table import MemoryMappedTable

from hfds.errors import HfdsError
from hfds.processor import BATCH, Step, beside, kept, scatter, whole
from hfds.record import struct
from hfds.run import Run

MADE = {"step": Value("string"), "parent": Value("string")}
MARK = "~"  # in front of the number of a row that was made
PICTURES = 100  # rows at a time where they may carry their pictures


@dataclass(frozen=True)
class Explode(Step):
    """One row to several; rows that were dropped before are left alone.

    A subclass says in `adds` which columns its rows have of their own, beside those of their parent; `id`, `dropped`
    and `made` are none of them.
    """

    @property
    def adds(self) -> Features:
        """No column, unless a subclass says otherwise."""
        return Features({})

    def exploded(self, table: pa.Table) -> pa.Table:
        """For a batch of kept rows with the columns in `needs` and `reads` all that become of them: a column `row`, the
        place of the parent in `table`, ascending and every place at least once, and the columns in `adds`. The first of
        a row is the row itself, the others are made. A pure function: it is asked twice."""
        raise NotImplementedError

    def __call__(self, rows: Dataset, run: Run | None = None) -> Dataset:
        """`rows` with this step's columns, and behind them the rows that it makes.

        Raises:
            HfdsError: `exploded` left a row out.
        """
        self._check(rows)
        adds = Features({**self.adds, "made": MADE})
        names = [*self._narrow(rows).column_names, *(name for name in rows.column_names if name == "made")]
        own = self._map(rows.select_columns(names), run, adds, self._itself, self._file(rows, run))
        old = beside(rows.remove_columns([name for name in adds if name in rows.column_names]), own)
        made = self._made(old, run, self._file(rows, run, "made"))
        return concatenate_datasets([old, made]) if len(made) else old

    def _itself(self, table: pa.Table, positions: np.ndarray) -> pa.Table:
        """The columns of the rows that were there."""
        alive = kept(table)
        found, number = self._numbered(table.filter(alive))
        first = found.filter(pa.array(number == 1))
        there = {name: table[name] for name in self.adds if name in table.column_names}
        columns = {name: scatter(alive, first[name], there.get(name)) for name in self.adds}
        schema = Features({**self.adds, "made": MADE}).arrow_schema
        made = table["made"] if "made" in table.column_names else pa.nulls(len(table), schema.field("made").type)
        return pa.table({**columns, "made": made}).cast(schema)

    def _numbered(self, table: pa.Table) -> tuple[pa.Table, np.ndarray]:
        """What `exploded` says, and the running number of each among those of its parent, from 1."""
        found = self.exploded(table)
        row = np.asarray(found["row"].combine_chunks(), np.int64)
        steps = np.diff(row, prepend=-1, append=len(table))
        if (steps < 0).any() or (steps > 1).any() or (len(row) and row[-1] != len(table) - 1):
            raise HfdsError(f"{self.name}.exploded must name each of its {len(table)} rows at least once, in order")
        starts = np.flatnonzero(steps[:-1] > 0)
        return found, np.arange(len(row)) - starts[row] + 1 if len(row) else row

    def _made(self, rows: Dataset, run: Run | None, file: str) -> Dataset:
        """The rows that are new, in a file of their own where there is a run."""
        schema = rows.features.arrow_schema
        if run is None:
            return Dataset(pa.concat_tables([schema.empty_table(), *self._children(rows)]))
        path = run.steps / f"{file}.arrow"
        with run.first():
            if not whole(run, file):
                aside = path.with_suffix(".part")
                with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
                    for table in self._children(rows):
                        writer.write_table(table)
                aside.rename(path)
        return Dataset(MemoryMappedTable.from_file(str(path)), fingerprint=file.rpartition("-")[2])

    def _children(self, rows: Dataset) -> Iterator[pa.Table]:
        pictures, mark = "image" in rows.column_names, _mark(rows)
        for table in rows.with_format("arrow").iter(PICTURES if pictures else BATCH):
            parents = table.filter(kept(table))
            found, number = self._numbered(parents)
            found, number = found.filter(pa.array(number > 1)), number[number > 1]
            made = parents.take(found["row"])
            ids = made["id"].combine_chunks()
            fields = {"step": self.name, "parent": ids}
            columns = {name: found[name] for name in self.adds} | {
                "id": pc.binary_join_element_wise(ids, pa.array(number).cast(pa.string()), mark),
                "made": struct(rows.features.arrow_schema.field("made").type, len(made), fields),
            }
            for name, values in columns.items():
                made = made.set_column(made.column_names.index(name), name, values)
            yield made.cast(rows.features.arrow_schema)


def _mark(rows: Dataset) -> str:
    """What stands before the numbers of new rows: longer than at the end of any id that such a step made before."""
    table = rows.select_columns(["id", "made"]).with_format("arrow")[:]
    made, mark = table["id"].filter(pc.struct_field(table["made"], "parent").is_valid()), MARK
    while pc.any(pc.match_substring_regex(made, f"{mark}[0-9]+$")).as_py():
        mark += MARK
    return mark
