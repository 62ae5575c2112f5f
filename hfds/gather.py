"""The rows of a release's inputs: each piece of each source is prepared once, in parallel, and found again later."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock

import multiprocess
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Value, concatenate_datasets
from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, tqdm
from huggingface_hub.utils.tqdm import tqdm as hub_tqdm

from hfds import record
from hfds.builder import Builder
from hfds.processor import BATCH, Made, WholeDataset, kept, marked
from hfds.run import Run


def gather(builders: Iterable[Builder], run: Run, whole: bool) -> tuple[Dataset, list[int]]:
    """All rows of all builders, one after the other, with ids unique over all of them; and the rows of each.

    Args:
        builders: of one release, in order.
        run: where the pieces are kept, and how many processes prepare them.
        whole: false when the builders have a limit, which no piece could know alone.
    """
    with run.first():
        parts = [_pieces(builder, run) if whole else _limited(builder) for builder in builders]
    lengths = [sum(len(piece) for piece in part) for part in parts]
    rows = concatenate_datasets([piece for part in parts for piece in part])
    return unique(rows, run), lengths


def unique(rows: Dataset, run: Run) -> Dataset:
    """`rows`, with other ids for those that have one a second time; see `UniqueIds`."""
    return rows if bool(_grouped(rows)[1].all()) else UniqueIds()(rows, run)


def _pieces(builder: Builder, run: Run) -> list[Dataset]:
    pieces = builder.each_piece(run.sources)
    if len(pieces) > 1:
        with ExitStack() as stack:
            todo = (piece for _, piece in pieces)
            if run.num_proc > 1:
                done = stack.enter_context(multiprocess.Pool(run.num_proc, _alone)).imap(_prepare, todo)
            else:
                done = map(_prepare, todo)
            bar = tqdm(done, total=len(pieces), desc=f"Reading {builder.NAME}", unit=" files")
            stack.enter_context(no_further_bars())
            for _ in bar:
                pass
    return [_opened(piece, split) for split, piece in pieces]


def _alone() -> None:
    """A process that can be ended at any moment: a lock of tqdm that all share would stay taken for ever."""
    disable_progress_bars()
    for bars in (tqdm, hub_tqdm):
        bars.set_lock(RLock())


@contextmanager
def no_further_bars() -> Iterator[None]:
    """Shows progress by the bars that are there already, and by no others."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _opened(piece: Builder, split: str) -> Dataset:
    """The rows of a prepared piece; prepared once more where its cache was deleted in part, or cut."""
    _prepare(piece)
    try:
        return piece.as_dataset(split)
    except (OSError, pa.ArrowInvalid):
        shutil.rmtree(piece.cache_dir, ignore_errors=True)
        return _prepare(piece).as_dataset(split)


def _prepare(piece: Builder) -> Builder:
    piece.download_and_prepare()
    return piece


def _limited(builder: Builder) -> list[Dataset]:
    builder.download_and_prepare()
    return [builder.as_dataset(split) for split in builder.pieces()]


def _grouped(rows: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The positions of all rows with those of one id side by side, kept ones first, and where another id begins."""
    keys, gone = [np.zeros((0, 2), np.uint64)], [np.zeros(0, bool)]
    for table in rows.select_columns(["id", "dropped"]).with_format("arrow").iter(BATCH):
        keys.append(record.hash_texts(table["id"]))
        gone.append(~np.asarray(kept(table)))
    hashes = np.concatenate(keys)
    order = np.lexsort((np.concatenate(gone), hashes[:, 0], hashes[:, 1]))  # stable
    return order, record.begins(hashes, order)


class UniqueIds(WholeDataset):
    """Gives the second, third ... row of an id the ids "<id>#2", "<id>#3" ..., and drops them as "duplicate_key".

    The first is the first that its builder did not drop: a download that failed does not hide one that succeeded.
    """

    @property
    def needs(self) -> tuple[str, ...]:
        """The ids, and the source as the step that drops."""
        return "id", "source"

    @property
    def adds(self) -> Features:
        """Ids and marks."""
        return Features({"id": Value("string"), "dropped": record.FEATURES["dropped"]})

    def decide(self, rows: Dataset, earlier: Dataset | None = None, journal: Path | None = None) -> Made:
        """The running number of every row among those with its id."""
        order, new = _grouped(rows)
        starts = np.flatnonzero(new)
        number = np.empty(len(order), np.int64)
        number[order] = np.arange(len(order)) - starts[np.cumsum(new) - 1] + 1

        def made(table: pa.Table, positions: np.ndarray) -> pa.Table:
            ids, again = table["id"].combine_chunks(), pa.array(number[positions] > 1)
            numbered = pc.binary_join_element_wise(ids, pa.array(number[positions]).cast(pa.string()), "#")
            fields = {"step": table["source"], "reason": "duplicate_key", "partner": ids}
            verdicts = record.struct(record.DROPPED, len(table), fields, again)
            return marked(table, verdicts).add_column(0, "id", pc.if_else(again, numbered, ids))

        return made


@dataclass(frozen=True)
class Into(WholeDataset):
    """Adds `input` and `split`: the split that each input was read into, null where its rows are still to be split.

    Args:
        inputs: label, rows and split of every input, in order.
    """

    inputs: tuple[tuple[str, int, str | None], ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """Nothing but the number of rows."""
        return ("id",)

    @property
    def adds(self) -> Features:
        """Two columns."""
        return Features({"input": Value("string"), "split": Value("string")})

    def decide(self, rows: Dataset, earlier: Dataset | None = None, journal: Path | None = None) -> Made:
        """By position."""
        ends = np.cumsum([count for _, count, _ in self.inputs])
        labels = pa.array([label for label, _, _ in self.inputs], pa.string())
        splits = pa.array([into for _, _, into in self.inputs], pa.string())

        def made(table: pa.Table, positions: np.ndarray) -> pa.Table:
            which = pa.array(np.searchsorted(ends, positions, "right"))
            return pa.table({"input": labels.take(which), "split": splits.take(which)})

        return made
