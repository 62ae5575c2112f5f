"""Equal texts: hashes and a sort against the `unique` of polars and the exact filter of text-dedup, same rows.

    python benchmarks/exact_text.py prompts.txt.gz [more.txt.gz] [-n 2000000] [--times 3] [--step]
        [--polars PYTHON] [--text-dedup PYTHON]

PYTHON is the interpreter of an environment that has the peer: polars, or text-dedup 0.4. The rows are real prompts, and
where these are too few, their words in another order; 43 % are distinct. Sides run in turn, each as a process that
reads a Parquet file. "core" is from the table in memory to the table of rows that stay; "partner" also has the id of
the row that stays: here for each row that is dropped, by polars for every row, which is its way. --step is
`MarkDuplicates("prompt")`, with its normalising, which makes more rows equal, and what it writes about each row.
"""

import argparse
import gzip
import random
import re
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import side

DISTINCT = 0.43

READ = """
import sys, time
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from hfds.record import hash_texts
from processors.duplicates.exact import components
table = pq.read_table(sys.argv[1])
start = time.perf_counter()
keys = hash_texts(table["prompt"])
hashed = time.perf_counter()
first = components(keys)
kept = first == np.arange(len(first))
"""

END = """
print("CORE", time.perf_counter() - start, "hashes", hashed - start)
pq.write_table(pa.table({"row": np.flatnonzero(kept)}), sys.argv[2])
"""

HFDS = READ + "rest = table.filter(pa.array(kept))" + END

HFDS_PARTNER = (
    READ
    + """
rest = table.filter(pa.array(kept))
partner = table["id"].combine_chunks().take(pa.array(first[~kept]))
"""
    + END
)

STEP = """
import sys, time
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from datasets import Dataset
from processors.dedup import MarkDuplicates
rows = Dataset(pq.read_table(sys.argv[1]))
start = time.perf_counter()
made = MarkDuplicates("prompt")(rows)
print("CORE", time.perf_counter() - start)
kept = np.asarray(made.with_format("arrow")["dropped"].is_null())
pq.write_table(pa.table({"row": np.flatnonzero(kept)}), sys.argv[2])
"""

POLARS = """
import sys, time
import polars as pl
table = pl.read_parquet(sys.argv[1])
start = time.perf_counter()
rest = table.unique("prompt", maintain_order=True, keep="first")
print("CORE", time.perf_counter() - start)
rest.select("row").write_parquet(sys.argv[2])
"""

POLARS_PARTNER = """
import sys, time
import polars as pl
table = pl.read_parquet(sys.argv[1])
start = time.perf_counter()
table = table.with_columns(partner=pl.col("id").first().over("prompt"))
rest = table.filter(pl.col("partner") == pl.col("id"))
print("CORE", time.perf_counter() - start)
rest.select("row").write_parquet(sys.argv[2])
"""

TEXT_DEDUP = """
import subprocess, sys, tempfile
from pathlib import Path
from datasets import load_from_disk
with tempfile.TemporaryDirectory(dir=Path(sys.argv[2]).parent) as folder:
    options = dict(path="parquet", data_files=sys.argv[1], split="train", column="prompt", hash_func="xxh3", num_proc=2)
    options |= dict(cache_dir=folder + "/cache", output=folder + "/kept")
    named = [part for name, value in options.items() for part in ("--" + name, str(value))]
    subprocess.run([sys.executable, "-m", "text_dedup.exact_hash", *named], check=True)
    load_from_disk(folder + "/kept").select_columns(["row"]).to_parquet(sys.argv[2])
"""


def write_rows(files: list[Path], count: int, target: Path) -> None:
    """`count` rows of id, prompt and row, DISTINCT of them distinct, always the same ones."""
    rng = random.Random(0)
    lines = [line.strip() for file in files for line in gzip.open(file, "rt", encoding="utf-8")]
    real = [line for line in dict.fromkeys(lines) if line]
    wanted = int(count * DISTINCT)
    distinct = dict.fromkeys(real[:wanted])
    while len(distinct) < wanted:
        words = rng.choice(real).split()
        rng.shuffle(words)
        distinct[" ".join(words)] = None
    prompts = [*distinct, *rng.choices([*distinct], k=count - wanted)]
    rng.shuffle(prompts)
    ids = [f"prompts/{number:08d}" for number in range(count)]
    pq.write_table(pa.table({"id": ids, "prompt": prompts, "row": np.arange(count)}), target)


def seconds(runs: list[side.Side]) -> float:
    """The median of what a side measured itself, or of the whole process where it does not."""
    cores = [re.search(r"CORE ([\d.]+)", one.output) for one in runs]
    return median(float(core[1]) if core else one.wall for core, one in zip(cores, runs, strict=True))


def report(name: str, runs: list[side.Side], rows: int, kept: int, base: float) -> str:
    """A row of the table, of medians; `base` is the seconds of the side that it is compared with."""
    hashes = [float(found[1]) for one in runs if (found := re.search(r"hashes ([\d.]+)", one.output))]
    wall, cpu, peak = (median(getattr(one, value) for one in runs) for value in ("wall", "cpu", "peak_mb"))
    core = seconds(runs)
    return (
        f"| {name} | {core:.2f} | {f'{median(hashes):.2f}' if hashes else '-'} | {rows / core:,.0f} "
        f"| {core / base:.2f} | {wall:.2f} | {cpu:.2f} | {peak:.0f} | {kept:,} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path, nargs="+")
    parser.add_argument("-n", "--rows", type=int, default=2_000_000)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--step", action="store_true")
    parser.add_argument("--polars", metavar="PYTHON")
    parser.add_argument("--text-dedup", metavar="PYTHON")
    parser.add_argument("--write", type=Path, help="write the rows to this file, and nothing else")
    args = parser.parse_args()
    if args.write:
        write_rows(args.prompts, args.rows, args.write)
        return
    scripts = {"hfds": (sys.executable, HFDS), "hfds, partner": (sys.executable, HFDS_PARTNER)}
    if args.polars:
        scripts |= {"polars": (args.polars, POLARS), "polars, partner": (args.polars, POLARS_PARTNER)}
    if args.step:
        scripts["hfds, step"] = (sys.executable, STEP)
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.parquet"
        # By a process of its own: every other one begins with the peak memory of this one.
        options = ["--rows", str(args.rows), "--write", str(rows)]
        side.run("rows", [sys.executable, __file__, *map(str, args.prompts), *options])
        kept = {name: Path(folder) / f"{name}.parquet" for name in [*scripts, "text-dedup"]}
        commands = [
            (name, [python, "-c", script, str(rows), str(kept[name])], None)
            for name, (python, script) in scripts.items()
        ]
        rounds = side.turns(commands, args.times, lambda: None)
        sides = dict(zip(scripts, map(list, zip(*rounds, strict=True)), strict=True))
        if args.text_dedup:
            command = [args.text_dedup, "-c", TEXT_DEDUP, str(rows), str(kept["text-dedup"])]
            sides["text-dedup"] = [side.run("text-dedup", command)]
        print(f"{args.rows:,} rows, {args.times} rounds\n")
        print(
            "| side | core s (or process) | of it hashes | rows/s | against hfds | process s | CPU s | peak MB | kept |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        found = {name: np.sort(pq.read_table(kept[name])["row"].to_numpy()) for name in sides}
    for name, runs in sides.items():
        print(report(name, runs, args.rows, len(found[name]), seconds(sides["hfds"])))
    different = [name for name in sides if name != "hfds, step" and not np.array_equal(found[name], found["hfds"])]
    print("\nall sides keep the same rows" if not different else f"\nother rows are kept by: {', '.join(different)}")


if __name__ == "__main__":
    main()
