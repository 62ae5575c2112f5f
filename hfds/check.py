"""Check: whether the files of a release, here or on the Hub, are what its lock says, and whether its card says so."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.utils import tqdm

from hfds.archive import sha256_of
from hfds.columns import read, schemas
from hfds.dist import documents_of
from hfds.documents import PLOTS
from hfds.errors import ConfigError, ConservationError
from hfds.ledger import check_conservation, funnel
from hfds.lock import digest_of
from hfds.place import Place, place_of, places
from hfds.shards import Written, digested, row_digests
from hfds.statistics import measured

Fetch = Callable[[str], AbstractContextManager[Path | None]]  # a file of a dataset's folder; None: it is not there


def differences(place: Place, fetch: Fetch, hashed: bool = True) -> list[dict[str, Any]]:
    """What differs between a release and its lock: `what`, `lock`, `found`.

    Rows are counted and hashed again and columns measured, and the ledger must account for all rows.

    Args:
        fetch: gives whole files, one at a time.
        hashed: whether every shard is hashed, which takes reading all of it.

    Raises:
        BadFile: a file that is said to be there cannot be read.
    """
    return [found for found in _compared(place, fetch, hashed) if found["lock"] != found["found"]]


def must_agree(place: Place, home: Path) -> None:
    """Raises ConfigError where a release in a dataset's folder is not what its lock says; its shards are not hashed."""
    for found in differences(place, local(home), hashed=False):
        raise ConfigError(
            f"{place.label} in {home.parent} is not what its lock says: {found['what']} is {_brief(found['found'])}, "
            f"not {_brief(found['lock'])}; build it again"
        )


def check(dataset: str, out: Path) -> list[dict[str, Any]]:
    """What differs between the releases of a dataset that was built below `out`, their locks, and the documents there.

    Plots are only looked for: their bytes depend on what drew them.

    Raises:
        ConfigError: no release of it was built there.
    """
    home = out / dataset
    found = []
    there = places(dataset, out) or {"": place_of(dataset, "", out)}
    for name, place in there.items():
        own = {shard["path"] for split in place.lock["splits"].values() for shard in split["shards"]}
        files = sorted(path.relative_to(home).as_posix() for path in home.glob(f"data/{name}/*"))
        more = [{"what": path, "lock": None, "found": "a file"} for path in files if path not in own]
        found += [{**one, "what": f"{name}: {one['what']}"} for one in [*more, *differences(place, local(home))]]
    if found:  # what is written from locks that are wrong need not be compared
        return found
    told = documents_of(home)
    missing = [path for path in told if path.startswith(PLOTS) and not (home / path).is_file()]
    plots = [{"what": path, "lock": "a plot", "found": None} for path in missing]
    return [*plots, *unlike({path: text for path, text in told.items() if not path.startswith(PLOTS)}, local(home))]


def local(home: Path) -> Fetch:
    """The files of a dataset's folder on this machine."""

    @contextmanager
    def fetch(path: str) -> Iterator[Path | None]:
        yield home / path if (home / path).is_file() else None

    return fetch


def unlike(documents: Mapping[str, bytes], fetch: Fetch) -> list[dict[str, Any]]:
    """Which documents of a dataset's folder are not as its locks have them, with the first line that differs."""
    found = []
    for path, wanted in documents.items():
        with fetch(path) as file:
            there = file.read_bytes() if file else None
        if there != wanted:
            told, said = (one.decode("utf-8", "replace").splitlines() for one in (wanted, there or b""))
            at = next((n for n, pair in enumerate(zip(told, said, strict=False)) if pair[0] != pair[1]), None)
            at = min(len(told), len(said)) if at is None else at
            lines = [(one[at : at + 1] or ["-"])[0] for one in (told, said)]
            where = f"{path}, line {at + 1}" if there else path
            found.append({"what": where, "lock": lines[0], "found": lines[1] if there else None})
    return found


def _brief(value: Any) -> str:
    return shorten(str(value), 80)


def _compared(place: Place, fetch: Fetch, hashed: bool) -> Iterator[dict[str, Any]]:
    """Everything that a lock says, with what was found."""
    lock = place.lock
    for split, entry in lock["splits"].items():
        for what in ("rows", "bytes"):
            total = sum(shard[what] for shard in entry["shards"])
            yield {"what": f"{what} of {split}", "lock": entry[what], "found": total}
    shards = [(split, shard) for split, entry in lock["splits"].items() for shard in entry["shards"]]
    written, whole = [], True
    for split, shard in (
        tqdm(
            shards,
            desc=f"Checking {place.name}",
            unit=" shards",
        )
        if hashed
        else ()
    ):
        path = shard["path"]
        with fetch(path) as file:
            if file is None:
                whole = False
                yield {"what": path, "lock": shard["sha256"], "found": None}
                continue
            found = _written(split, path, file)
        yield {"what": f"sha256 of {path}", "lock": shard["sha256"], "found": found.sha256}
        yield {"what": f"bytes of {path}", "lock": shard["bytes"], "found": found.bytes}
        yield {"what": f"rows of {path}", "lock": shard["rows"], "found": found.rows}
        whole = whole and found.sha256 == shard["sha256"]
        written.append(found)
    if hashed and whole:
        yield {"what": "digest", "lock": lock["digest"], "found": digest_of(written)}
    yield from _of_ledger(lock, fetch)
    if whole:
        yield from _of_columns(place)


def _of_ledger(lock: Mapping[str, Any], fetch: Fetch) -> Iterator[dict[str, Any]]:
    ledger = lock["ledger"]["path"]
    with fetch(ledger) as file:
        if file is None:
            yield {"what": ledger, "lock": lock["ledger"]["sha256"], "found": None}
            return
        yield {"what": f"sha256 of {ledger}", "lock": lock["ledger"]["sha256"], "found": (sum_ := sha256_of(str(file)))}
        if sum_ != lock["ledger"]["sha256"]:
            return
        yield {"what": "funnel of the ledger", "lock": lock["funnel"], "found": (counted := funnel(file))}
    inputs = {source["input"]: source["rows"] for source in lock["sources"]}
    try:
        check_conservation(counted, inputs, {split: entry["rows"] for split, entry in lock["splits"].items()})
    except ConservationError as error:
        yield {"what": "every row has a fate", "lock": None, "found": str(error)}


def _of_columns(place: Place) -> Iterator[dict[str, Any]]:
    """What a lock says of columns and of the values in them."""
    said = place.features.arrow_schema
    for schema in schemas(place.shards):
        if not schema.equals(said):  # which is not about what the items of lists are called: Parquet has its own name
            ours, theirs = ({field.name: str(field.type) for field in one} for one in (said, schema))
            yield {"what": "columns", "lock": ours, "found": theirs}
    if "license" in place.features:
        counts: Counter[str] = Counter()
        for table in read(place.shards, ["license"]):
            for one in table["license"].value_counts().to_pylist():
                counts[one["values"] or "unknown"] += one["counts"]
        yield {"what": "licences", "lock": place.lock["licenses"], "found": dict(counts)}
    said = place.lock.get("statistics", {})
    found = measured(place.shards, place.features) if said else {}
    for part, values in said.items():
        for name, value in values.items():
            yield {"what": f"statistics of {name}", "lock": value, "found": found.get(part, {}).get(name)}


def _written(split: str, path: str, file: Path) -> Written:
    """A shard as it is, hashed anew."""
    digests = [np.zeros((0, 2), np.uint64)]
    try:
        with pq.ParquetFile(file) as parquet:
            columns = digested(parquet.schema_arrow.names)
            for group in range(parquet.num_row_groups):
                digests.append(row_digests(parquet.read_row_group(group, columns), split))
            rows = parquet.metadata.num_rows
    except (pa.ArrowException, OSError):  # its sha256 says that it is another file
        rows = 0
    return Written(path, split, rows, file.stat().st_size, sha256_of(str(file)), np.concatenate(digests))
