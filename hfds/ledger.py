"""Ledger: the fate of every row of a release, and the proof that none appeared or vanished.

A Parquet file with one row per row of every input, in input order; columns as in `LEDGER`. Dropped rows have `step`,
`reason`, `value`, `threshold` and, for duplicates, the `partner` that stayed; kept rows have `split`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Features, Value

from hfds.errors import ConfigError, ConservationError, HfdsError

_NAMES = ("id", "input", "split", "step", "reason", "value", "threshold", "partner")
LEDGER = Features({name: Value("string") for name in _NAMES})
BATCH = 50_000


def write_ledger(rows: Dataset, inputs: Mapping[str, int], path: Path) -> None:
    """Writes the ledger of `rows`, which are those of `inputs` (label to number of rows) one after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    with pq.ParquetWriter(aside, LEDGER.arrow_schema, compression="zstd", write_page_index=True) as writer:
        for table in _tables(rows, inputs):
            writer.write_table(table, row_group_size=BATCH)
    aside.rename(path)


def _tables(rows: Dataset, inputs: Mapping[str, int]) -> Iterator[pa.Table]:
    narrow = rows.select_columns([c for c in ("id", "split", "dropped") if c in rows.column_names]).with_format("arrow")
    at = 0
    for label, count in inputs.items():
        for start in range(at, at + count, BATCH):
            table = narrow[start : min(start + BATCH, at + count)]
            dropped = table["dropped"].combine_chunks()
            fate = dict(zip([field.name for field in dropped.type], dropped.flatten(), strict=True))
            columns = {**fate, "id": table["id"], "input": pa.repeat(label, len(table)), "split": kept_split(table)}
            yield pa.table([columns[name] for name in _NAMES], schema=LEDGER.arrow_schema)
        at += count


def kept_split(table: pa.Table) -> pa.Array:
    """The split of every kept row, "train" where no step chose one; null for dropped rows."""
    kept = table["dropped"].combine_chunks().is_null()
    split = pc.fill_null(table["split"].combine_chunks(), "train") if "split" in table.column_names else "train"
    return pc.if_else(kept, split, pa.scalar(None, pa.string()))


def funnel(path: Path) -> list[dict[str, Any]]:
    """Per input, in order: `input`, `rows`, `dropped` [{step, reason, rows}] most first, `kept` {split: rows}.

    Counted from the ledger's file alone.
    """
    counts: dict[str, dict[str, Any]] = {}
    for batch in pq.ParquetFile(path).iter_batches(columns=["input", "split", "step", "reason"]):
        keys = ["input", "split", "step", "reason"]
        grouped = pa.table(batch).group_by(keys).aggregate([([], "count_all")])
        for row in grouped.to_pylist():
            entry = counts.setdefault(row["input"], {"dropped": Counter(), "kept": Counter()})
            if row["reason"] is None:
                entry["kept"][row["split"]] += row["count_all"]
            else:
                entry["dropped"][row["step"], row["reason"]] += row["count_all"]
    return [
        {
            "input": label,
            "rows": entry["dropped"].total() + entry["kept"].total(),
            "dropped": [
                {"step": step, "reason": reason, "rows": rows}
                for (step, reason), rows in sorted(entry["dropped"].items(), key=lambda item: (-item[1], item[0]))
            ],
            "kept": dict(sorted(entry["kept"].items())),
        }
        for label, entry in counts.items()
    ]


def check_conservation(
    counted: Sequence[Mapping[str, Any]], inputs: Mapping[str, int], written: Mapping[str, int]
) -> None:
    """Compares three independent counts: what the builders gave, what the ledger says, what the shards hold.

    Args:
        counted: the funnel, from the ledger's file.
        inputs: rows that each input's builder gave.
        written: rows per split, from the shards' own footers.

    Raises:
        ConservationError: with the first number that does not fit.
    """
    seen = {entry["input"]: entry["rows"] for entry in counted}
    for label, rows in inputs.items():
        if seen.get(label, 0) != rows:
            raise ConservationError(f"{label} gave {rows:,} rows, the ledger accounts for {seen.get(label, 0):,}")
    kept: Counter[str] = Counter()
    for entry in counted:
        kept.update(entry["kept"])
    if kept != Counter(written):
        raise ConservationError(f"the ledger keeps {dict(kept)} rows, the shards hold {dict(written)}")


def explain(path: Path, id_: str) -> list[dict[str, Any]]:
    """The ledger's row for `id_`, followed by those of its partner and its partner's partner.

    Raises:
        ConfigError: no row has that id; similar ids are named.
    """
    if not path.exists():
        raise HfdsError(f"no ledger at {path}: build the release first")
    chain: list[dict[str, Any]] = []
    wanted: str | None = id_
    while wanted and wanted not in [row["id"] for row in chain]:
        rows = pq.read_table(path, filters=[("id", "=", wanted)]).to_pylist()
        if not rows:
            raise ConfigError(f"no row {wanted!r} in {path.name}: {_similar(path, wanted)}")
        chain.append(rows[0])
        wanted = rows[0]["partner"]
    return chain


def _similar(path: Path, id_: str) -> str:
    key = id_.rpartition("/")[2]
    for batch in pq.ParquetFile(path).iter_batches(columns=["id"]):
        ids = batch.column("id")
        found = ids.filter(pc.ends_with(ids, f"/{key}"))
        if len(found):
            return f"did you mean {found[0].as_py()!r}?"
    return "ids begin with the source's name, as in 'diffusiondb/<file name>'"
