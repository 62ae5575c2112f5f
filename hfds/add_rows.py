"""AddRows: a step that adds rows which are made of no single other one, such as prompts that a language model writes.

They stand behind all others, like those of `hfds.explode`, and say in `made` which step made them. They are an input of
their own, of which nothing was read: all its rows were made, and each of them is kept or dropped with a reason.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from datasets import Dataset, Features, concatenate_datasets
from datasets.table import MemoryMappedTable

from hfds.explode import MADE
from hfds.processor import Step, WholeDataset, beside, whole
from hfds.record import FEATURES, canonical, column, hash_texts, struct
from hfds.run import Run


class Grown(NamedTuple):
    """All rows, the new ones behind the others, and what the lock says of these as of any source."""

    rows: Dataset
    source: dict[str, Any]


@dataclass(frozen=True)
class AddRows(WholeDataset):
    """Adds rows behind all others. It may read all that are there, and those of earlier releases."""

    @property
    def label(self) -> str:
        """The input that the new rows are, as the ledger and the lock know it: "augmented/prompts"."""
        raise NotImplementedError

    @property
    def rules(self) -> tuple[Step, ...]:
        """The steps that the new rows go through before they are added."""
        return ()

    @property
    def licenses(self) -> tuple[str, ...]:
        """Those that the new rows will have, where that is known."""
        return ()

    def expects(self) -> dict[str, int]:
        """For a plan: `requests` to its model, and `rows` that will be kept of what it adds, both at least."""
        raise NotImplementedError

    def new_rows(
        self, rows: Dataset, run: Run, earlier: Dataset | None, refuse: tuple[Step, ...]
    ) -> tuple[Dataset, dict[str, Any]]:
        """The new rows, with `id`, `dropped` and whichever other columns of `rows` they have; and what the lock says of
        them: `revision`, `license`, `into`, `written`. Every rank of the run calls it, with the same rows. What drops
        new rows before anything else sees them is in `refuse`."""
        raise NotImplementedError

    def state(self, run: Run) -> str:
        """A text that changes when `new_rows` may give others for the same rows, the same on every rank."""
        return ""

    def __call__(self, rows: Dataset, run: Run | None = None, earlier: Dataset | None = None) -> Dataset:
        """The rows that `grow` gives."""
        return self.grow(rows, run, earlier).rows

    def grow(
        self,
        rows: Dataset,
        run: Run | None = None,
        earlier: Dataset | None = None,
        refuse: tuple[Step, ...] = (),
    ) -> Grown:
        """`rows` and those that it adds, found again where `run` has them.

        Args:
            rows, run, earlier: as of every `WholeDataset`.
            refuse: filters that new rows go through before `rules`, such as `hfds.refused.Withdraw`.

        Raises:
            ConfigError: also what `__call__` of a `WholeDataset` raises.
        """
        self._check_both(rows, earlier)
        rows = self.widened(rows, run)
        if run is None:
            with TemporaryDirectory() as folder:
                made, said = self.new_rows(rows, Run(Path(folder)), earlier, refuse)
            made = dataset_of(self._fitted(made, rows.features))
        else:
            made, said = self._kept(rows, run, earlier, refuse)
        source: dict[str, Any] = {
            "input": self.label,
            "into": None,
            "options": {},
            "rows": 0,
            "limit": None,
            "repo": None,
            "revision": None,
            "homepage": "",
            "citation": "",
            "code": f"{self.name} v{self.version}",
            "files": [],
            **said,
        }
        return Grown(concatenate_datasets([rows, made]) if len(rows) else made, source)

    def widened(self, rows: Dataset, run: Run | None = None) -> Dataset:
        """`rows` with the columns in `adds`, and `made`, where they lack them: all null."""
        adds = {**self.adds, "dropped": FEATURES["dropped"], "made": MADE}
        lacking = Features({name: kind for name, kind in adds.items() if name not in rows.column_names})
        if not lacking:
            return rows
        schema = lacking.arrow_schema

        def nulls(table: pa.Table, positions: np.ndarray) -> pa.Table:
            return pa.table([pa.nulls(len(table), field.type) for field in schema], schema=schema)

        narrow, file = rows.select_columns(["id"]), self._file(rows, run, "columns")
        return beside(rows, self._map(narrow, run, lacking, nulls, file))

    def _kept(
        self, rows: Dataset, run: Run, earlier: Dataset | None, refuse: tuple[Step, ...]
    ) -> tuple[Dataset, dict[str, Any]]:
        """The new rows from a file in `run`, which is written once on every machine."""
        seen = "\0".join((earlier._fingerprint if earlier is not None else "", *(rule.key() for rule in refuse)))

        def file() -> str:
            return self._file(rows, run, seen + self.state(run))

        found = _found(run, file())
        if not all(run.gathered(found is not None)) or found is None:
            new, said = self.new_rows(rows, run, earlier, refuse)
            name = file()
            with run.first():
                if _found(run, name) is None:
                    _write(run, name, self._fitted(new, rows.features), said)
            found = _found(run, name)
            assert found is not None
        return found

    def _fitted(self, new: Dataset, features: Features) -> pa.Table:
        """The columns in `features` of new rows, null where these have none."""
        table, schema = new.with_format("arrow")[:], features.arrow_schema
        made = struct(schema.field("made").type, len(table), {"step": self.name})
        there = {name: table[name] for name in table.column_names} | {"made": made}
        return pa.table([column(there.get(f.name), f.type, len(table)) for f in schema], schema=schema)


def _found(run: Run, file: str) -> tuple[Dataset, dict[str, Any]] | None:
    """What `_write` wrote; None where it did not, or not all of it."""
    note = run.steps / f"{file}.json"
    if not whole(run, file) or not note.exists():
        return None
    return dataset_of(MemoryMappedTable.from_file(str(run.steps / f"{file}.arrow"))), json.loads(note.read_text())


def _write(run: Run, file: str, made: pa.Table, said: dict[str, Any]) -> None:
    """Keeps new rows, and what is said of them, which is there first."""
    aside = run.steps / f"{file}.part"
    aside.write_text(json.dumps(said))
    aside.rename(run.steps / f"{file}.json")
    with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_stream(sink, made.schema) as writer:
        writer.write_table(made)
    aside.rename(run.steps / f"{file}.arrow")


def dataset_of(made: Any) -> Dataset:
    """New rows under the hash of what they say: what later steps keep of them holds for no others."""
    texts = canonical(made.select([name for name in made.column_names if name != "image"]))
    return Dataset(made, fingerprint=xxhash.xxh3_64_hexdigest(hash_texts(texts).tobytes()))
