"""Folder: a release as a folder that a trainer reads. Blocks of rows are written aside, several at once, and renamed;
then what the trainer reads first, from the notes of all blocks; the manifest last.

    <to>/<split>/00000/000000123.jpg    row 123 of the split, its picture's own bytes
    <to>/export.json                    the manifest: what this is, rows, and what was left out, by reason
    <to>/.export/                       while the export is under way
"""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import Any, ClassVar, Protocol, TextIO

import pyarrow as pa
from datasets.utils import tqdm

from hfds.disk import alone, disk_errors
from hfds.errors import ConfigError, nearest
from hfds.place import Place
from hfds.trainers.rows import ALL, Account, Batch, Block, Wanted, batches, blocks, caption_of
from hfds.withdrawn import ids_digest

FORMAT = 1
MANIFEST = "export.json"
_UNDER_WAY = ".export"
_SPLIT = re.compile(r"\w+(\.\w+)*")  # as `datasets` has it


class Format(Protocol):
    """What a trainer reads; a frozen dataclass of its options."""

    NAME: ClassVar[str]
    KEEPS: ClassVar[frozenset[str]]  # what a row may lack and is written all the same: "picture", "caption"
    LISTS: ClassVar[bool]  # whether a row may have several captions
    ABSOLUTE: ClassVar[bool]  # whether what it writes names the folder, which then cannot be moved

    def columns(self, place: Place) -> Sequence[str]:
        """Columns of the release that it needs beside pictures and captions."""

    def note(self, batch: Batch, beside: "Beside", noted: Counter[str]) -> pa.Table:
        """Writes what lies beside each picture; returns what `finish` needs of the rows.

        Args:
            noted: what is wrong with parts of rows is counted here.
        """

    def finish(self, export: "Export") -> None:
        """Writes what the trainer reads first."""


@dataclass(frozen=True)
class Beside:
    """Folders of a block: of its `pictures`, and others of the same name in folders beside that of the split."""

    aside: Path
    block: Block

    @property
    def pictures(self) -> Path:
        """Where its pictures are written; below the folder of the split when the block is whole."""
        return self.folder(self.block.split)

    def folder(self, name: str) -> Path:
        """Where files are written that will lie in `<to>/<name>/<block>/`."""
        found = self.aside / name / self.block.name
        found.mkdir(parents=True, exist_ok=True)
        return found


@dataclass(frozen=True)
class Export:
    """An export whose blocks are all written."""

    place: Place
    to: Path
    splits: tuple[str, ...]
    caption: str

    def notes(self, split: str) -> Iterator[tuple[Block, pa.Table]]:
        """What the format noted of every block, in order."""
        for block in blocks(self.place, split):
            with pa.ipc.open_file(_note(self.to, block)) as reader:
                yield block, reader.read_all()

    @contextmanager
    def text(self, name: str) -> Iterator[TextIO]:
        """A text file below the folder, written aside and renamed."""
        with self.whole(name) as aside, aside.open("w", encoding="utf-8", newline="\n") as file:
            yield file

    @contextmanager
    def whole(self, name: str) -> Iterator[Path]:
        """Where to write a file that is then renamed to `name` below the folder."""
        aside = self.to / _UNDER_WAY / "part"
        yield aside
        (self.to / name).parent.mkdir(parents=True, exist_ok=True)
        aside.rename(self.to / name)


def export(
    format_: Format,
    place: Place,
    to: Path,
    *,
    splits: Sequence[str] = (),
    caption: str = "prompt",
    withdrawn: AbstractSet[str] = frozenset(),
    threads: int = 1,
) -> dict[str, Any]:
    """Writes a built release into the folder `to` and returns the manifest. One that was cut off goes on.

    Args:
        splits: all of them when empty.
        caption: "prompt", a style of the column `captions`, or "all" for lists.
        withdrawn: ids of rows that are left out.

    Raises:
        ConfigError: there is no such split or caption, no picture, or something else in the folder.
        BadFile: a shard of the release cannot be read.
    """
    chosen = _splits(place, splits)
    if "picture" not in format_.KEEPS and "image" not in place.lock["columns"]:
        raise ConfigError(f"{place.name} has no pictures (no column image): `hfds export csv` takes it as it is")
    if caption == ALL and not format_.LISTS:
        raise ConfigError(f"{format_.NAME} has one caption a picture: choose another --caption than {ALL}")
    caption = caption_of(place, chosen, caption)
    columns = format_.columns(place)
    identity = {
        "format": FORMAT, "for": format_.NAME, "options": asdict(format_), "dataset": place.lock["dataset"],  # type: ignore[call-overload]
        "release": place.name, "digest": place.lock["digest"], "caption": caption, "withdrawn": ids_digest(withdrawn),
        "at": str(to.absolute()) if format_.ABSOLUTE else None,
    }  # fmt: skip
    if done := _claim(to, {**identity, "splits": chosen}):
        return done
    with disk_errors("--to"), alone(to / _UNDER_WAY / "lock", "export", "--to"):
        whole = Export(place, to, tuple(chosen), caption)
        counted = _blocks(format_, whole, Wanted(caption, columns, format_.KEEPS, withdrawn), threads)
        format_.finish(whole)
        manifest = {**identity, "splits": counted}
        with whole.text(MANIFEST) as file:
            file.write(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    shutil.rmtree(to / _UNDER_WAY)
    return manifest


def _splits(place: Place, asked: Sequence[str]) -> list[str]:
    there = place.lock["splits"]
    for split in asked:
        if split not in there:
            raise ConfigError(f"{place.name} has no split {split!r}: {nearest(split, there)}")
    chosen = [split for split in there if split in asked or not asked]
    for split in chosen:
        if not _SPLIT.fullmatch(split):
            raise ConfigError(f"the split {split!r} of {place.name} cannot be the name of a folder: build it again")
    return chosen


def _claim(to: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Makes the folder this export's, or finds it so; the manifest where all is done."""
    for name in (MANIFEST, f"{_UNDER_WAY}/{MANIFEST}"):
        if (to / name).is_file():
            try:
                found: dict[str, Any] = json.loads((to / name).read_text(encoding="utf-8"))
            except ValueError:
                found = {}
            if {**found, "splits": [*found.get("splits", ())]} != identity:
                raise ConfigError(f"{to} holds another export: choose another --to, or remove that folder")
            if name == MANIFEST:
                shutil.rmtree(to / _UNDER_WAY, ignore_errors=True)
                return found
            return None
    with disk_errors("--to"):
        if to.exists() and any(path.name != _UNDER_WAY for path in to.iterdir()):
            raise ConfigError(f"{to} is not empty, and what is there was not exported: choose another --to")
        (to / _UNDER_WAY).mkdir(parents=True, exist_ok=True)
        aside = to / _UNDER_WAY / "claim"
        aside.write_text(json.dumps(identity), encoding="utf-8")
        aside.rename(to / _UNDER_WAY / MANIFEST)
    return None


def _blocks(format_: Format, export: Export, wanted: Wanted, threads: int) -> dict[str, Any]:
    """Writes every block that is not there; rows and what is missing, by split."""
    todo = [block for split in export.splits for block in blocks(export.place, split)]
    counted: dict[str, Any] = {}
    stop = Event()
    pool = ThreadPoolExecutor(max(1, threads))
    progress = tqdm(total=sum(block.stop - block.start for block in todo), desc="Exporting", unit=" rows")
    try:
        results = pool.map(lambda block: _block(format_, export, block, wanted, stop), todo)
        for block, (rows, left_out, noted) in zip(todo, results, strict=True):
            progress.update(block.stop - block.start)
            split = counted.setdefault(block.split, {"rows": 0, "left_out": Counter(), "noted": Counter()})
            split["rows"] += rows
            split["left_out"].update(left_out)
            split["noted"].update(noted)
    finally:
        stop.set()  # where one failed, or Ctrl-C was pressed, the others do not write their blocks to the end
        pool.shutdown(cancel_futures=True)
        progress.close()
    return {
        split: {key: dict(sorted(value.items())) if isinstance(value, Counter) else value for key, value in one.items()}
        for split, one in counted.items()
    }


def _note(to: Path, block: Block) -> Path:
    return to / _UNDER_WAY / "notes" / f"{block.split}-{block.name}.arrow"


def _block(
    format_: Format, export: Export, block: Block, wanted: Wanted, stop: Event
) -> tuple[int, Mapping[str, int], Mapping[str, int]]:
    """Writes a block unless it is there; its rows, and what was left out and noted."""
    note = _note(export.to, block)
    if not note.exists():
        _write(format_, export, block, wanted, stop)
    with pa.ipc.open_file(note) as reader:
        said = {key.decode(): json.loads(value) for key, value in reader.schema.metadata.items()}
        rows = sum(reader.get_batch(number).num_rows for number in range(reader.num_record_batches))
    return rows, said["left_out"], said["noted"]


def _write(format_: Format, export: Export, block: Block, wanted: Wanted, stop: Event) -> None:
    """Writes the folders of a block aside, renames them, and its note last."""
    beside = Beside(export.to / _UNDER_WAY / "blocks" / f"{block.split}-{block.name}", block)
    shutil.rmtree(beside.aside, ignore_errors=True)
    account = Account()
    notes = []
    for batch in batches(block, wanted, beside.pictures if "image" in export.place.lock["columns"] else None, account):
        if stop.is_set():
            raise CancelledError
        notes.append(format_.note(batch, beside, account.noted))
    for folder in [*beside.aside.glob("*/*")]:
        target = export.to / folder.relative_to(beside.aside)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)
    shutil.rmtree(beside.aside, ignore_errors=True)
    table = pa.concat_tables(notes)
    counts = {"left_out": json.dumps(account.left_out), "noted": json.dumps(+account.noted)}
    note = _note(export.to, block)
    note.parent.mkdir(parents=True, exist_ok=True)
    aside = note.with_suffix(".part")
    with pa.ipc.new_file(aside, table.schema.with_metadata(counts)) as writer:
        writer.write_table(table)
    aside.rename(note)
