"""OpenPrompts from its CSV to a prepared dataset: rows a second and peak memory at two sizes, beside the plain way.

    python benchmarks/openprompts_csv.py 1k.csv --repeat 1000

The plain way is csv.DictReader and json.loads per row into Dataset.from_generator, on a slice; it does less (no ids, no
parameters out of messages, mentions stay).
"""

import argparse
import csv
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SLICE = 50_000


def main() -> None:
    """Measure, each side in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", type=Path, help="openprompts.csv or its excerpt 1k.csv")
    parser.add_argument("--repeat", type=int, default=100, help="how often each row is written, varied (default: 100)")
    parser.add_argument("--tmp", type=Path, help="where there is room for the larger file and its dataset")
    parser.add_argument("--side", choices=("hfds", "plain"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        print(json.dumps(measured(given.side, given.csv)))
        return
    csv.field_size_limit(1 << 30)
    with tempfile.TemporaryDirectory(dir=given.tmp) as folder:
        small, large = Path(folder, "small/openprompts.csv"), Path(folder, "large/openprompts.csv")
        enlarge(given.csv, small, max(1, given.repeat // 10))
        enlarge(given.csv, large, given.repeat)
        runs = {
            "plain": in_process("plain", large),
            "small": in_process("hfds", small),
            "large": in_process("hfds", large),
        }
        megabytes = large.stat().st_size / 1e6
    for name, run in runs.items():
        print(
            f"{name:6} {run['rows']:>10,} rows {run['seconds']:>7.1f} s ({run['cpu']:.1f} of CPU) "
            f"{run['speed']:>9,.0f} rows/s {run['peak'] / 1e6:>7,.0f} MB peak, {run['start'] / 1e6:,.0f} MB before"
        )
    faster = runs["large"]["speed"] / runs["plain"]["speed"]
    memory = runs["large"]["peak"] / runs["small"]["peak"]
    print(f"hfds: {megabytes / runs['large']['seconds']:.0f} MB/s of CSV, {faster:.1f} times the plain way's rows/s")
    print(f"ten times the rows take {memory:.2f} times the memory")


def enlarge(source: Path, target: Path, times: int) -> None:
    """Every row of `source` `times` times, with another prompt and another seed each time."""
    target.parent.mkdir()
    with (
        open(source, newline="", encoding="utf-8-sig") as read,
        open(target, "w", newline="", encoding="utf-8") as write,
    ):
        header, *rows = csv.reader(read)
        prompt, raw_data = header.index("prompt"), header.index("raw_data")
        writer = csv.writer(write, lineterminator="\n")
        writer.writerow(header)
        for number in range(times):
            seed = rf"\g<1>{1_000_000 + number}"
            for row in rows:
                row = list(row)
                row[prompt] += f", {number}" if row[prompt] else ""
                row[raw_data] = re.sub(r'("seed": |-S )\d+', seed, row[raw_data])
                writer.writerow(row)


def in_process(side: str, path: Path) -> dict[str, Any]:
    """One side's figures."""
    command = [sys.executable, __file__, str(path), "--side", side]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def measured(side: str, path: Path) -> dict[str, Any]:
    """Rows, seconds, seconds of CPU, rows a second, and bytes of memory: before the first row, and at the peak."""
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(dir=path.parent) as cache:
        prepare = prepare_plain if side == "plain" else prepare_hfds
        started, worked, before = time.perf_counter(), time.process_time(), peak()
        rows = prepare(path, cache)
        seconds, cpu = time.perf_counter() - started, time.process_time() - worked
    return {"rows": rows, "seconds": seconds, "cpu": cpu, "speed": rows / seconds, "start": before, "peak": peak()}


def prepare_hfds(path: Path, cache: str) -> int:
    """The builder, into a fresh cache."""
    from builders.openprompts import OpenPrompts

    builder = OpenPrompts(data_dir=path.parent, cache_dir=cache)
    builder.download_and_prepare()
    return int(builder.info.splits["train"].num_examples)


def prepare_plain(path: Path, cache: str) -> int:
    """What one would write: a dict per row."""
    import datasets

    def rows() -> Iterator[dict[str, Any]]:
        with open(path, newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file)):
                if number == SLICE:
                    return
                yield {"prompt": row["prompt"], "raw_data": json.loads(row["raw_data"])}

    return len(datasets.Dataset.from_generator(rows, cache_dir=cache))


def peak() -> int:
    """The most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
