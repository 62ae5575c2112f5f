"""Ledger: the fate of every row of a release, and the proof that none appeared or vanished.

A Parquet file with one row per row of every input, in input order, and behind them one for each row that a step made of
others; columns as in `LEDGER`. Dropped rows have `step`, `reason`, `value`, `threshold` and, for duplicates, the
`partner` that stayed and the split or the earlier release that it is in (`partner_in`, empty where the partner was
dropped later). Kept rows have `split` and, where that was not left to chance, the `decision` that led to it and the
partner that it hangs on. Made rows have the step in `made_by`, and the id of the row that they were made of in
`parent`; their input is that of their parent.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Features, Value

from hfds.columns import read
from hfds.errors import ConservationError
from hfds.record import hash_texts

_FATE = ("step", "reason", "value", "threshold", "partner", "partner_in", "decision")
_NAMES = ("id", "input", "split", *_FATE, "made_by", "parent")
LEDGER = Features({name: Value("string") for name in _NAMES})
BATCH = 50_000


def write_ledger(rows: Dataset, inputs: Mapping[str, int], path: Path) -> None:
    """Writes the ledger of `rows`, which are those of `inputs` (label to number of rows) one after the other, and then
    those that steps made of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    with pq.ParquetWriter(aside, LEDGER.arrow_schema, compression="zstd", write_page_index=True) as writer:
        for table in _tables(rows, inputs):
            writer.write_table(table, row_group_size=BATCH)
    aside.rename(path)


def _tables(rows: Dataset, inputs: Mapping[str, int]) -> Iterator[pa.Table]:
    names = [name for name in ("id", "input", "split", "dropped", "decided", "made") if name in rows.column_names]
    narrow = rows.select_columns(names).with_format("arrow")
    partners = _Partners(narrow)
    at = 0
    for label, count in [*inputs.items(), (None, len(rows) - sum(inputs.values()))]:
        for start in range(at, at + count, BATCH):
            table = narrow[start : min(start + BATCH, at + count)]
            dropped, decided = _fields(table, "dropped"), _fields(table, "decided")
            kept = table["dropped"].combine_chunks().is_null()  # of what was decided of others nothing is left
            decided = {name: pc.if_else(kept, values, None) for name, values in decided.items()}
            shared = {name: pc.coalesce(dropped[name], decided[name]) for name in dropped if name in decided}
            columns = {**decided, **dropped, **shared}
            columns["partner_in"] = pc.coalesce(columns["partner_in"], partners.splits(columns["partner"]))
            input_ = table["input"] if label is None else pa.repeat(label, len(table))
            columns |= {"id": table["id"], "input": input_, "split": kept_split(table)}
            made = _fields(table, "made")
            columns |= {"made_by": made["step"], "parent": made["parent"]} if made else {}
            empty = pa.nulls(len(table), pa.string())
            yield pa.table([columns.get(name, empty) for name in _NAMES], schema=LEDGER.arrow_schema)
        at += count


def _fields(table: pa.Table, column: str) -> dict[str, pa.Array]:
    """The fields of a struct column, if it is there."""
    if column not in table.column_names:
        return {}
    struct = table[column].combine_chunks()
    return dict(zip([field.name for field in struct.type], struct.flatten(), strict=True))


class _Partners:
    """The splits of all rows that are partners, by the hash of their ids."""

    def __init__(self, rows: Dataset):
        keys, splits = [np.zeros((0, 2), np.uint64)], [pa.array([], pa.string())]
        for table in rows.iter(BATCH):
            there = np.asarray(table["dropped"].is_null())
            keys.append(hash_texts(table["id"].filter(pa.array(there))))
            splits.append(kept_split(table).filter(pa.array(there)))
        hashes = np.concatenate(keys)
        order = np.lexsort((hashes[:, 0], hashes[:, 1]))
        self._keys = hashes[order]
        self._splits = pa.concat_arrays(splits).take(pa.array(order))

    def splits(self, ids: pa.Array) -> pa.Array:
        """The split of the row with each of these ids; null where none was kept, and where there is no id."""
        keys = hash_texts(ids)
        at = np.minimum(np.searchsorted(self._keys[:, 1], keys[:, 1]), max(len(self._keys) - 1, 0))
        known = np.asarray(ids.is_valid()) & bool(len(self._keys))
        if len(self._keys):  # of two ids with the same 64 bits the second is not found
            known &= (self._keys[at] == keys).all(axis=1)
        return self._splits.take(pa.array(at, mask=~known))


def kept_split(table: pa.Table) -> pa.Array:
    """The split of every kept row, "train" where no step chose one; null for dropped rows."""
    kept = table["dropped"].combine_chunks().is_null()
    split = pc.fill_null(table["split"].combine_chunks(), "train") if "split" in table.column_names else "train"
    return pc.if_else(kept, split, pa.scalar(None, pa.string()))


def funnel(path: Path) -> list[dict[str, Any]]:
    """Per input, in order: `input`, `rows` that were read, `dropped` [{step, reason, rows}] most first, `kept`
    {split: rows}, and where steps made further rows of them `made` {step: rows}.

    Rows read and made are those dropped and kept. Counted from the ledger's file alone.
    """
    counts: dict[str, dict[str, Any]] = {}
    keys = ["input", "split", "step", "reason", "made_by"]
    for table in read([path], keys):
        grouped = table.group_by(keys).aggregate([([], "count_all")])
        for row in grouped.to_pylist():
            entry = counts.setdefault(row["input"], {"dropped": Counter(), "kept": Counter(), "made": Counter()})
            if row["made_by"] is not None:
                entry["made"][row["made_by"]] += row["count_all"]
            if row["reason"] is None:
                entry["kept"][row["split"]] += row["count_all"]
            else:
                entry["dropped"][row["step"], row["reason"]] += row["count_all"]
    return [
        {
            "input": label,
            "rows": entry["dropped"].total() + entry["kept"].total() - entry["made"].total(),
            "dropped": [
                {"step": step, "reason": reason, "rows": rows}
                for (step, reason), rows in sorted(entry["dropped"].items(), key=lambda item: (-item[1], item[0]))
            ],
            "kept": dict(sorted(entry["kept"].items())),
            **({"made": dict(sorted(entry["made"].items()))} if entry["made"] else {}),
        }
        for label, entry in counts.items()
    ]


def funnel_rows(funnel: list[dict[str, Any]]) -> list[list[str]]:
    """The funnel as table rows: input, rows in and made, dropped by reason, kept by split."""
    return [
        [
            entry["input"],
            " + ".join([f"{entry['rows']:,}", *(f"{step} {rows:,}" for step, rows in entry.get("made", {}).items())]),
            ", ".join(f"{drop['reason']} {drop['rows']:,}" for drop in entry["dropped"]) or "-",
            ", ".join(f"{split} {rows:,}" for split, rows in entry["kept"].items()) or "-",
        ]
        for entry in funnel
    ]


def check_conservation(
    counted: Sequence[Mapping[str, Any]],
    inputs: Mapping[str, int],
    written: Mapping[str, int],
    made: int | None = None,
) -> None:
    """Compares independent counts: what builders gave and steps made, what the ledger says, what the shards hold.

    Args:
        counted: the funnel, from the ledger's file.
        inputs: rows that each input's builder gave.
        written: rows per split, from the shards' own footers.
        made: rows that steps made of others; None where nothing but the ledger says it.

    Raises:
        ConservationError: with the first number that does not fit.
    """
    seen = {entry["input"]: entry["rows"] for entry in counted}
    for label, rows in {**dict.fromkeys(seen, 0), **inputs}.items():
        if seen.get(label, 0) != rows:
            raise ConservationError(f"{label} gave {rows:,} rows, the ledger accounts for {seen.get(label, 0):,}")
    told = sum(sum(entry.get("made", {}).values()) for entry in counted)
    if made is not None and made != told:
        raise ConservationError(f"steps made {made:,} rows of others, the ledger accounts for {told:,}")
    kept: Counter[str] = Counter()
    for entry in counted:
        kept.update(entry["kept"])
    if kept != Counter(written):
        raise ConservationError(f"the ledger keeps {dict(kept)} rows, the shards hold {dict(written)}")
