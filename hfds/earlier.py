"""Earlier: the rows of releases that were built before, with the columns that a later one compares them by."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from datasets import Dataset, Features, Value, concatenate_datasets
from datasets.table import MemoryMappedTable

from hfds.errors import BadFile, ConfigError, SourceMissing, nearest
from hfds.lock import read_lock, release_names
from hfds.processor import Annotator, Step, WholeDataset, beside, label, whole
from hfds.record import FEATURES
from hfds.run import Run

BATCH = 10_000
_log = logging.getLogger(__name__)


def earlier_rows(step: Step, before: Sequence[Step], out: Path, run: Run, more: Sequence[str] = ()) -> Dataset | None:
    """The rows of all earlier releases that `step` looks at: `id`, `release`, `split`, and what it compares.

    What the releases themselves do not hold is made by the annotators among the steps `before` it, and so is what they
    hold as another annotator made it, or another model: what models said of these rows is found in the store.

    Args:
        out: the folder that datasets were built in.
        more: further columns of texts; null in releases that do not have them.

    Raises:
        ConfigError: a release was not built there, or one of the columns cannot be made of it.
        SourceMissing: its files are gone or have changed.
        BadFile: one of them cannot be read.
    """
    if not isinstance(step, WholeDataset) or not step.releases:
        return None
    optional = (*step.optional, *more)
    columns = tuple(dict.fromkeys((*step.compares, *more)))
    parts = [rows_of(out, one.dataset, one.name, columns, run, before, optional) for one in step.releases]
    return concatenate_datasets(parts)


def rows_of(
    out: Path,
    dataset: str,
    name: str,
    columns: Sequence[str],
    run: Run,
    annotators: Sequence[Step] = (),
    optional: Sequence[str] = (),
) -> Dataset:
    """The rows of one release built below `out`: `id`, `release`, `split`, and `columns`; see `earlier_rows`.

    Texts that are `optional` may be missing and are null then, unless all that is wanted is missing.
    """
    lock, columns = lock_of(out, dataset, name), list(dict.fromkeys(columns))
    there = Features.from_dict(lock["columns"])
    for column in [column for column in columns if column in there and column not in FEATURES]:
        maker = next((step for step in reversed(annotators) if column in step.adds), None)
        if maker is not None and json.loads(json.dumps(maker.entry(), default=str)) not in lock["steps"]:
            del there[column]
    makeable = {column for step in annotators for column in step.adds}
    missing = [column for column in optional if column not in there and column not in makeable]
    if len(missing) == len(columns):
        missing = []  # an error, below
    makers, read = _makers(f"{dataset}/{name}", [name for name in columns if name not in missing], there, annotators)
    rows = _read(out / dataset, lock, Features({column: there[column] for column in read}), run)
    for step in makers:
        rows = step(rows, run)
    if missing:
        _log.warning("%s/%s has no column %s: its rows are compared without", dataset, name, ", ".join(missing))
        rows = beside(rows, Dataset(pa.table({column: pa.nulls(len(rows), pa.string()) for column in missing})))
    return rows.select_columns(["id", "release", "split", *columns])


def lock_of(out: Path, dataset: str, name: str) -> dict[str, Any]:
    """The lock of a release that was built below `out`, whose shards are there.

    Raises:
        ConfigError: it was not built there.
        SourceMissing: a shard is gone, or has another size.
    """
    home = out / dataset
    if name not in (built := release_names(home)):
        raise ConfigError(
            f"release {dataset}/{name} is not built in {out}: {nearest(name, built)}; build it there first: "
            f"hfds build {dataset} {name}"
        )
    lock = read_lock(home, name)
    for shard in (shard for split in lock["splits"].values() for shard in split["shards"]):
        path = home / shard["path"]
        if not path.is_file() or path.stat().st_size != shard["bytes"]:
            what = "has another size than its lock says" if path.is_file() else "is gone"
            raise SourceMissing(f"{path} of release {dataset}/{name} {what}: build that release again")
    return lock


def digests(releases: Sequence[Any], out: Path) -> dict[str, str]:
    """The digest of each of these releases, by label."""
    return {label(one): read_lock(out / one.dataset, one.name)["digest"] for one in releases}


def _makers(
    name: str, columns: Sequence[str], there: Features, annotators: Sequence[Step]
) -> tuple[list[Annotator], list[str]]:
    """The annotators that make what a release does not hold, in order, and the columns to read of it."""
    read = [column for column in columns if column in there]
    wanted = [column for column in columns if column not in there]
    makers: list[Annotator] = []
    for step in reversed(annotators):
        if isinstance(step, Annotator) and set(wanted) & set(step.adds):
            makers.insert(0, step)
            wanted = [column for column in wanted if column not in step.adds]
            hashed = ("image_hash",) if "image" in step.needs and "image_hash" in there else ()
            for column in (*step.needs, *hashed):
                (read if column in there else wanted).append(column)
    if wanted:
        raise ConfigError(
            f"{name} has no column {wanted[0]!r}, and no annotator that comes before can make it of what it has: build "
            f"it with {wanted[0]!r} among its columns"
        )
    return makers, list(dict.fromkeys(read))


def _read(home: Path, lock: dict[str, Any], features: Features, run: Run) -> Dataset:
    """`id`, `release`, `split` and `features` of a release, read once and kept as an Arrow file."""
    features = Features({"id": Value("string"), "release": Value("string"), "split": Value("string"), **features})
    name = f"{lock['dataset']}/{lock['release']}"
    key = xxhash.xxh3_64_hexdigest(f"{name}\0{lock['digest']}\0{sorted(features)}".encode())
    file = run.steps / f"earlier-{key}.arrow"
    with run.first():
        run.steps.mkdir(parents=True, exist_ok=True)
        if not whole(run, f"earlier-{key}"):
            aside = file.with_suffix(".part")
            with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_stream(sink, features.arrow_schema) as writer:
                for split, entry in lock["splits"].items():
                    for shard in entry["shards"]:
                        _copy(home / shard["path"], name, split, features, writer)
            aside.rename(file)
    return Dataset(MemoryMappedTable.from_file(str(file)), fingerprint=key)


def _copy(shard: Path, name: str, split: str, features: Features, writer: pa.RecordBatchStreamWriter) -> None:
    wanted = [column for column in features if column not in ("release", "split")]
    try:
        for batch in pq.ParquetFile(shard).iter_batches(BATCH, columns=wanted):
            table = pa.table(batch)
            said = {"release": pa.repeat(name, len(table)), "split": pa.repeat(split, len(table))}
            columns = [said.get(column, table[column] if column in wanted else None) for column in features]
            writer.write_table(pa.table(columns, names=[*features]).cast(features.arrow_schema))
    except (pa.ArrowInvalid, OSError) as error:
        raise BadFile(str(shard), f"it cannot be read ({error})", f"build release {name} again") from None
