"""DiffusionDB's metadata table to a prepared dataset: rows a second and peak memory at two sizes, beside the old way.

    python benchmarks/diffusiondb_metadata.py metadata.parquet
    python benchmarks/diffusiondb_metadata.py --make 2000000 metadata.parquet --prompts prompts.json

The old way is that of upstream's loading script: a dict per row out of pandas' itertuples, encoded one by one (here by
Dataset.from_generator); on a slice, in one process. It does less: eleven flat columns, no ids, no common schema.
"""

import argparse
import hashlib
import json
import resource
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from side import Side, run

PIECE = 100_000
SLICE = 100_000
TARGET = 300_000  # rows a second


def main() -> None:
    """Make a table, or measure one; each side in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="metadata.parquet")
    parser.add_argument("--make", type=int, metavar="ROWS", help="write a table of as many rows there first")
    parser.add_argument("--prompts", type=Path, help='for --make: a JSON list of {"text": ...}, or a prompt a line')
    parser.add_argument("--row-group", type=int, default=1 << 20, help="for --make: rows of a row group (1,048,576)")
    parser.add_argument("--times", type=int, default=3, help="runs, of which the median counts (3)")
    parser.add_argument("--tmp", type=Path, help="where there is room for the prepared dataset")
    parser.add_argument("--side", choices=("hfds", "old"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        result = {"hfds": hfds, "old": old}[given.side](given.table, given.tmp)
        print(json.dumps({**result, "peak_mb": peak() / 1e6}))
        return
    if given.make:
        make(given.make, given.table, prompts_of(given.prompts), given.row_group)
    with tempfile.TemporaryDirectory(dir=given.tmp) as folder:
        for name in ("small", "large"):
            Path(folder, name).mkdir()
        small, large = Path(folder, "small/metadata.parquet"), Path(folder, "large/metadata.parquet")
        large.symlink_to(given.table.absolute())
        tenth(given.table, small)
        report(
            measured("old", large, folder, given.times),
            measured("hfds", small, folder, given.times),
            measured("hfds", large, folder, given.times),
        )


def measured(side: str, table: Path, folder: str, times: int) -> tuple[Side, dict[str, float]]:
    """The run of median speed."""
    command = [sys.executable, __file__, str(table), "--side", side, "--tmp", folder]
    runs = [run(side, command) for _ in range(times)]
    results = [(one, json.loads(one.output.splitlines()[-1])) for one in runs]
    return sorted(results, key=lambda result: result[1]["seconds"])[times // 2]


def report(old: tuple[Side, dict[str, float]], *ours: tuple[Side, dict[str, float]]) -> None:
    """A line for each side, then the ratios."""
    speeds = []
    for name, (side, result) in zip(("old way", "hfds, a tenth", "hfds"), (old, *ours), strict=True):
        speeds.append(result["rows"] / result["seconds"])
        cpu = side.cpu / result["rows"] * 1e6
        print(
            f"{name:14} {result['rows']:>10,} rows {result['seconds']:>7.2f} s {speeds[-1]:>9,.0f} rows/s "
            f"{cpu:>7.2f} us CPU a row {result['peak_mb']:>6,.0f} MB peak"
        )
    print(f"{speeds[2] / speeds[0]:.1f} times the old way's rows a second; wanted {TARGET:,}: {speeds[2] >= TARGET}")
    print(f"ten times the rows take {ours[1][1]['peak_mb'] / ours[0][1]['peak_mb']:.2f} times the memory")


def hfds(table: Path, tmp: Path) -> dict[str, float]:
    """The text config with two processes, in a cache of its own."""
    import datasets

    from builders.diffusiondb import DiffusionDB

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(dir=tmp) as cache:
        start = time.perf_counter()
        builder = DiffusionDB("2m_text", data_dir=table.parent, cache_dir=cache)
        builder.download_and_prepare(num_proc=2)
        seconds = time.perf_counter() - start
        return {"rows": builder.info.splits["train"].num_examples, "seconds": seconds}


def old(table: Path, tmp: Path) -> dict[str, float]:
    """The first rows of the table, as the loading script did it."""
    import datasets
    from datasets import Value

    names = [
        "",
        "ddim",
        "plms",
        "k_euler",
        "k_euler_ancestral",
        "k_heun",
        "k_dpm_2",
        "k_dpm_2_ancestral",
        "k_lms",
        "others",
    ]
    types = {"prompt": "string", "seed": "uint32", "step": "uint16", "cfg": "float32", "sampler": "string"}
    types |= {"width": "uint16", "height": "uint16", "user_name": "string", "timestamp": "timestamp[us, tz=UTC]"}
    types |= {"image_nsfw": "float32", "prompt_nsfw": "float32"}

    def rows() -> Iterator[dict[str, Any]]:
        batches = islice(pq.ParquetFile(table).iter_batches(SLICE), 1)
        for row in pa.Table.from_batches(batches).to_pandas().itertuples():
            yield {name: names[row.sampler] if name == "sampler" else getattr(row, name) for name in types}

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(dir=tmp) as cache:
        start = time.perf_counter()
        features = datasets.Features({name: Value(type_) for name, type_ in types.items()})
        made = datasets.Dataset.from_generator(rows, features=features, cache_dir=cache)
        return {"rows": len(made), "seconds": time.perf_counter() - start}


def peak() -> int:
    """Bytes that this process or the largest of its workers had in memory at most.

    Not from getrusage(RUSAGE_SELF), which begins with what the process held that started this one.
    """
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024 * max(int(line.split()[1]), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def tenth(table: Path, target: Path) -> None:
    """The first tenth of the rows of a table, in row groups as large as they were."""
    with pq.ParquetFile(table) as file, pq.ParquetWriter(target, file.schema_arrow) as writer:
        left = file.metadata.num_rows // 10
        for batch in file.iter_batches(PIECE):
            writer.write_table(
                pa.Table.from_batches([batch[:left]]), row_group_size=file.metadata.row_group(0).num_rows
            )
            left -= len(batch)
            if left <= 0:
                return


def prompts_of(path: Path | None) -> list[str]:
    """The prompts of a file."""
    if path is None:
        sys.exit("--make needs --prompts FILE")
    if path.suffix == ".json":
        return [entry["text"] for entry in json.loads(path.read_text())]
    return path.read_text().splitlines()


def make(rows: int, path: Path, prompts: list[str], row_group: int) -> None:
    """A table of the published columns and dtypes: real prompts in turn, everything else drawn."""
    draw = np.random.default_rng(0)
    users = [hashlib.sha256(bytes([n % 256, n // 256])).hexdigest() for n in range(10_000)]
    pieces = []
    for start in range(0, rows, PIECE):
        count = min(PIECE, rows - start)
        numbers = np.arange(start, start + count)
        columns = {
            "image_name": [f"{uuid.UUID(bytes=draw.bytes(16))}.png" for _ in range(count)],
            "prompt": [prompts[n % len(prompts)] for n in numbers],
            "part_id": (numbers // 1000 % 65_535 + 1).astype(np.uint16),
            "seed": draw.integers(0, 2**32, count, np.uint32),
            "step": np.full(count, 50, np.uint16),
            "cfg": draw.choice([7.0, 7.5, 12.0], count).astype(np.float32),
            "sampler": draw.integers(1, 10, count, np.uint8),
            "width": draw.choice([512, 768], count).astype(np.uint16),
            "height": draw.choice([512, 640, 768], count).astype(np.uint16),
            "user_name": [users[n] for n in draw.integers(0, len(users), count)],
            "timestamp": pa.array(1_659_916_800 + 60 * draw.integers(0, 20_000, count), pa.timestamp("s", "UTC")),
            "image_nsfw": draw.random(count, np.float32),
            "prompt_nsfw": draw.random(count, np.float32),
        }
        piece = pa.table(columns)
        at = piece.schema.get_field_index("timestamp")
        pieces.append(piece.set_column(at, "timestamp", piece["timestamp"].cast(pa.timestamp("us", "UTC"))))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.concat_tables(pieces), path, row_group_size=row_group)


if __name__ == "__main__":
    main()
