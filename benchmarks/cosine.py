"""Near duplicates by cosine: ours against computing every pair in float32, on embeddings.

    python benchmarks/cosine.py [VECTORS.npy] [--make 100000] [--threshold 0.85] [--skip-oracle] [--mapped]
        [--scratch DIR]

VECTORS.npy: normalised, float32, shape (rows, dimensions). `--make` makes more of them, with their spectrum; without a
file out of vectors that are drawn with the spectrum and the neighbours of a sentence model's prompts. Each side is a
process of its own; seconds are those of the decisions, without reading the file. With `--mapped` the file is not read
but mapped: what of it lies in memory counts for the peak, and not for the anonymous memory, which is what must be there
at least and is looked at every hundredth of a second. On a machine that others use, set
OMP_NUM_THREADS=1: two threads that wait for each other are slower there than one.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import side

from processors.duplicates.cosine import components, drop_all, keep_first

BLOCK = 2_048


def drawn(count: int, dimensions: int, random: np.random.Generator) -> np.ndarray:
    """Vectors around a common direction, with a variance that falls along the axes."""
    spectrum = np.arange(1, dimensions + 1) ** -0.5
    return random.standard_normal((count, dimensions), dtype=np.float32) * spectrum.astype(np.float32)


def made(real: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """`count` vectors: a real one each, moved along the difference of two others; most far away, some not at all."""
    vectors = np.empty((count, real.shape[1]), np.float32)
    for at in range(0, count, 65_536):
        part = vectors[at : at + 65_536]
        one, other, third = random.integers(0, len(real), (3, len(part)))
        moved = random.choice([0.0, 0.1, 0.25, 0.5, 0.9], (len(part), 1), p=[0.01, 0.07, 0.17, 0.25, 0.5])
        part[:] = real[one] + moved * (real[other] - real[third])
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def oracle(vectors: np.ndarray, threshold: float) -> np.ndarray:
    """The rows that stay, one block after another against all that did; what float32 cannot tell is told by float64."""
    stay, count = np.empty_like(vectors), 0
    kept = np.zeros(len(vectors), bool)
    for at in range(0, len(vectors), BLOCK):
        block = vectors[at : at + BLOCK]
        free = np.ones(len(block), bool)
        for start in range(0, count, BLOCK):
            free &= ~similar(block, stay[start : min(start + BLOCK, count)], threshold).any(axis=1)
        inner = similar(block, block, threshold)
        for row in range(len(block)):
            free[row] &= not (inner[row, :row] & free[:row]).any()
        new = block[free]
        stay[count : count + len(new)] = new
        count += len(new)
        kept[at : at + len(block)] = free
    return kept


def similar(rows: np.ndarray, columns: np.ndarray, threshold: float) -> np.ndarray:
    """Which pairs are at or above the threshold."""
    products = rows @ columns.T
    found = products >= threshold
    for row, column in zip(*np.nonzero(np.abs(products - threshold) < 1e-5), strict=True):
        found[row, column] = rows[row].astype(float) @ columns[column].astype(float) >= threshold
    return found


def anonymous_mb() -> float:
    """Memory of this process that is no file's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) / 1024


@contextmanager
def watched() -> Iterator[list[float]]:
    """The most anonymous memory so far, in MB, that there was inside."""
    most, done = [anonymous_mb()], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            most[0] = max(most[0], anonymous_mb())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


def one_side(name: str, file: Path, threshold: float, mapped: bool, out: Path) -> None:
    """Runs one of the functions, and prints how long it took, how long it computed, and its anonymous memory in MB."""
    vectors = np.load(file, mmap_mode="r" if mapped else None)
    if name != "oracle":
        import torch  # noqa: F401 - whoever has embeddings has it loaded

    start, worked = time.perf_counter(), time.process_time()
    with watched() as most:
        if name == "oracle":
            kept = oracle(vectors, threshold)
        elif name == "components":
            kept = components(vectors, threshold) == np.arange(len(vectors))
        else:
            kept = {"keep_first": keep_first, "drop_all": drop_all}[name](vectors, threshold).partner < 0
    print(json.dumps([time.perf_counter() - start, time.process_time() - worked, most[0]]))
    np.save(out, kept)


def compare(file: Path, threshold: float, names: list[str], mapped: bool, scratch: Path) -> None:
    """Prints a row for each side."""
    print("| side | rows | s | CPU s | rows/s | peak MB | anonymous MB | kept | differ from the oracle |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    expected = None
    for name in names:
        out = scratch / f"{name}.npy"
        options = ["--side", name, "--threshold", str(threshold), "--out", str(out), *(["--mapped"] if mapped else [])]
        done = side.run(name, [sys.executable, __file__, str(file), *options])
        (seconds, worked, anonymous), kept = json.loads(done.output.splitlines()[-1]), np.load(out)
        expected = kept if name == "oracle" else expected
        differ = f"{(kept != expected).sum():,}" if expected is not None and name == "keep_first" else "-"
        took = f"{seconds:.2f} | {worked:.2f} | {len(kept) / seconds:,.0f} | {done.peak_mb:,.0f} | {anonymous:,.0f}"
        print(f"| {name} | {len(kept):,} | {took} | {kept.sum():,} | {differ} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vectors", type=Path, nargs="?")
    parser.add_argument("--make", type=int, help="number of vectors to make of those in the file")
    parser.add_argument("--threshold", type=float, default=0.85)
    parser.add_argument("--skip-oracle", action="store_true", help="it takes hours for a million rows")
    parser.add_argument("--only", nargs="+", default=["keep_first", "drop_all", "components"], help="functions to run")
    parser.add_argument("--mapped", action="store_true", help="map the file instead of reading it")
    parser.add_argument("--scratch", type=Path, help="where there is room")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        one_side(args.side, args.vectors, args.threshold, args.mapped, args.out)
        return
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        file = args.vectors
        if args.make or file is None:
            random = np.random.default_rng(0)
            file = Path(folder, "made.npy")
            real = drawn(20_000, 384, random) if args.vectors is None else np.load(args.vectors)
            np.save(file, made(real, args.make or 100_000, random))
        compare(
            file, args.threshold, [*([] if args.skip_oracle else ["oracle"]), *args.only], args.mapped, Path(folder)
        )


if __name__ == "__main__":
    main()
