"""Near-duplicate prompts: exact Jaccard similarity against MinHash, checked and not, same prompts, same shingles.

    python benchmarks/near_prompts.py prompts.txt.gz [more.txt.gz] [--rows 50000] [--rensa PYTHON] [--text-dedup PYTHON]

PYTHON is the interpreter of an environment that has the peer: rensa 0.5 or text-dedup 0.4. Word 3-grams, threshold 0.7,
128 permutations. text-dedup counts empty words and folds nothing, so it is judged in its own shingles as well.

- recall: of all pairs from the threshold on, those of which a row is dropped
- false: rows that are dropped though no row at all is like them
- orphans: rows that are dropped though no kept row is like them
"""

import argparse
import gzip
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import side
import xxhash

from processors.duplicates.jaccard import drop_all, jaccard, keep_first
from processors.duplicates.pairs import alike
from processors.duplicates.shingles import Sets, shingles, unique

THRESHOLD = 0.7

OURS = """
import sys, time
import numpy, pyarrow
from processors.duplicates.jaccard import keep_first
from processors.duplicates.shingles import shingles
texts = pyarrow.array(open(sys.argv[1], encoding="utf-8").read().split("\\n"))
start = time.perf_counter()
sets = shingles(texts)
middle = time.perf_counter()
kept = keep_first(sets, 0.7).partner < 0
print("CORE", time.perf_counter() - start, "shingles", middle - start)
open(sys.argv[2], "wb").write(kept.astype("uint8").tobytes())
"""

MINHASH = """
import sys, time
import numpy, pyarrow
from processors.duplicates.minhash import Signed, keep_first, signatures
from processors.duplicates.shingles import shingles
texts = pyarrow.array(open(sys.argv[1], encoding="utf-8").read().split("\\n"))
start = time.perf_counter()
sets = shingles(texts)
middle = time.perf_counter()
values = Signed(signatures(sets), sets)
signed = time.perf_counter()
kept = keep_first(values, 0.7).partner < 0
print("CORE", time.perf_counter() - start, "shingles", middle - start, "signatures", signed - middle)
open(sys.argv[2], "wb").write(kept.astype("uint8").tobytes())
"""

RENSA = """
import re, sys, time
from rensa import RMinHashDeduplicator
texts = open(sys.argv[1], encoding="utf-8").read().split("\\n")
start = time.perf_counter()
word = re.compile(r"\\w+")
def grams(text):
    words = word.findall(text.lower())
    return {" ".join(words[n : n + 3]) for n in range(max(len(words) - 2, 1))}
rows = RMinHashDeduplicator(threshold=0.7, num_perm=128, use_lsh=True)
kept = rows.add_pairs((str(n), list(grams(text))) for n, text in enumerate(texts))
print("CORE", time.perf_counter() - start)
open(sys.argv[2], "wb").write(bytes(kept))
"""

TEXT_DEDUP = [
    *("-m", "text_dedup.minhash", "--path", "parquet", "--split", "train", "--column", "text", "--min_length", "1"),
    *(
        "--ngram",
        "3",
        "--num_perm",
        "128",
        "--threshold",
        str(THRESHOLD),
        "--num_proc",
        "2",
        "--use_auth_token",
        "false",
    ),
]


@dataclass(frozen=True)
class Result:
    """What one side kept, a mask, and what that took."""

    ran: side.Side
    kept: np.ndarray

    def row(self, name: str, sets: Sets) -> str:
        """A row of the table, judged in the shingles `sets`."""
        gone = np.flatnonzero(~self.kept)
        order = np.concatenate([np.flatnonzero(self.kept), gone])
        like_kept = keep_first(sets.take(order), THRESHOLD, fixed=len(order) - len(gone), among=False).partner >= 0
        false = np.count_nonzero(drop_all(sets, THRESHOLD).partner[gone] < 0)
        orphans = len(gone) - np.count_nonzero(like_kept)
        recall = 1 - pairs(sets.take(np.flatnonzero(self.kept))) / pairs(sets)
        core = re.search(r"CORE ([\d.]+)", self.ran.output)
        times = f"{float(core[1]):.2f}" if core else "-"
        speed = len(self.kept) / self.ran.wall
        return (
            f"| {name} | {self.ran.wall:.2f} | {times} | {self.ran.cpu:.1f} | {speed:,.0f} | {self.ran.peak_mb:.0f} "
            f"| {self.kept.sum():,} | {recall:.4f} | {false:,} | {orphans:,} |"
        )


def pairs(sets: Sets) -> int:
    """How many pairs are alike, rows with the same set among them."""
    measure = jaccard(sets, THRESHOLD)
    copies = np.bincount(measure.copy_of[measure.copy_of >= 0], minlength=len(measure.copy_of))[measure.distinct]
    unequal = sum(int((copies[block.later] * copies[block.earlier]).sum()) for block in alike(measure))
    return unequal + int((copies * (copies - 1) // 2).sum())


def text_dedup_shingles(texts: list[str]) -> Sets:
    """As text-dedup makes them: what lies between any two characters that are not of words, be it nothing."""
    rows = []
    for text in texts:
        words = re.split(r"\W", text.lower())
        grams = [" ".join(words[n : n + 3]).encode() for n in range(max(len(words) - 2, 1))]
        rows.append([xxhash.xxh3_64_intdigest(gram) for gram in grams])
    return unique(np.array([one for row in rows for one in row], np.uint64), np.array([len(row) for row in rows]))


def run_text_dedup(python: str, texts: list[str], scratch: Path) -> Result:
    """The peer as it is used: a command, from a Parquet file to a folder."""
    pq.write_table(pa.table({"text": texts, "row": np.arange(len(texts))}), scratch / "prompts.parquet")
    places = [
        "--data_files",
        scratch / "prompts.parquet",
        "--cache_dir",
        scratch / "cache",
        "--output",
        scratch / "out",
    ]
    ran = side.run("text-dedup", [python, *TEXT_DEDUP, *map(str, places)])
    kept = np.zeros(len(texts), bool)
    for file in sorted((scratch / "out").glob("*.arrow")):
        with pa.memory_map(str(file)) as source:
            kept[pa.ipc.open_stream(source).read_all()["row"].to_numpy()] = True
    return Result(ran, kept)


def run_script(name: str, python: str, script: str, scratch: Path) -> Result:
    """A side that reads lines and writes a byte for each."""
    ran = side.run(name, [python, "-c", script, str(scratch / "prompts.txt"), str(scratch / name)])
    return Result(ran, np.frombuffer((scratch / name).read_bytes(), bool))


def prompts(files: list[Path], count: int | None) -> list[str]:
    """The first distinct real prompts."""
    lines = [line.strip() for file in files for line in gzip.open(file, "rt", encoding="utf-8")]
    return [line for line in dict.fromkeys(lines) if line and "\r" not in line][:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path, nargs="+")
    parser.add_argument("--rows", type=int, help="default: all that are distinct")
    parser.add_argument("--rensa", metavar="PYTHON")
    parser.add_argument("--text-dedup", metavar="PYTHON")
    args = parser.parse_args()
    texts = prompts(args.prompts, args.rows)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        (scratch / "prompts.txt").write_text("\n".join(texts), encoding="utf-8")
        # All before anything is judged: a process begins with the peak memory of the one that starts it.
        results = {
            "hfds": run_script("hfds", sys.executable, OURS, scratch),
            "hfds, MinHash": run_script("hfds-minhash", sys.executable, MINHASH, scratch),
        }
        if args.rensa:
            results["rensa"] = run_script("rensa", args.rensa, RENSA, scratch)
        if args.text_dedup:
            results["text-dedup"] = run_text_dedup(args.text_dedup, texts, scratch)
    sets = shingles(pa.array(texts))
    print(f"{len(texts):,} prompts, {len(sets.hashes):,} shingles, {pairs(sets):,} pairs\n")
    print("| side | process s | core s | CPU s | rows/s | peak MB | kept | recall | false | orphans |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, result in results.items():
        print(result.row(name, sets))
    if args.text_dedup:
        print(results["text-dedup"].row("text-dedup, in its own shingles", text_dedup_shingles(texts)))


if __name__ == "__main__":
    main()
