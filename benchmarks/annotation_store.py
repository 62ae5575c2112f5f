"""The annotation store: what it costs beside a model, and how fast known rows come back.

    python benchmarks/annotation_store.py prompts.txt.gz [more.txt.gz] [--scratch DIR]

1. A model that takes 10 ms a row (it sleeps): a bare loop over the rows against a build with store, ledger and lock.
2. A million rows that are all known: joined back by a fresh process, with its peak memory.
"""

import argparse
import gzip
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import side
from datasets import Dataset, Features, Value

from builders.gustavosta import Gustavosta
from hfds import Input, Release, Run, build
from hfds.annotator import ModelAnnotator
from hfds.batch import Batch

BATCH = 64


@dataclass(frozen=True)
class Score(ModelAnnotator):
    """A score of a prompt, by a model that takes `seconds` a row."""

    seconds: float = 0
    batch_size = BATCH
    needs = ("prompt",)
    adds = Features({"score": Value("float32"), "other": Value("float32")})

    def load(self, device: str) -> str:
        return device

    def prepare(self, batch: Batch) -> list[Any]:
        return batch.texts("prompt")

    def annotate(self, model: Any, items: list[Any]) -> pa.Table:
        time.sleep(self.seconds * len(items))
        length = np.array([len(text) for text in items], np.float32)
        return pa.table({"score": length / 1000, "other": length})


def prompts(files: list[Path], count: int) -> list[str]:
    """`count` distinct real prompts; numbered from the second time round."""
    lines = [line.strip() for file in files for line in gzip.open(file, "rt", encoding="utf-8")]
    real = [line for line in dict.fromkeys(lines) if line]
    return [real[n % len(real)] + (f" {n // len(real)}" if n >= len(real) else "") for n in range(count)]


def bare(texts: list[str], seconds: float) -> float:
    """Seconds of the loop that anyone would write."""
    model = Score(seconds)
    start = time.perf_counter()
    for at in range(0, len(texts), BATCH):
        model.annotate("cpu", texts[at : at + BATCH])
    return time.perf_counter() - start


def overhead(texts: list[str], scratch: Path) -> None:
    """Prints the first comparison; the build's start-up is that of a build of one row."""
    features = Features({"Prompt": Value("string")})
    for name, part in (("one", texts[:1]), ("all", texts)):
        (scratch / name / "gustavosta/data").mkdir(parents=True)
        made = Dataset.from_dict({"Prompt": part}, features)
        made.to_parquet(scratch / name / "gustavosta/data/train.parquet")
        made.select(range(1)).to_parquet(scratch / name / "gustavosta/data/eval.parquet")
    release = Release(
        "bench", "v1", (Input(Gustavosta, splits=("train",)),), (Score(0.01),), columns=("prompt", "score")
    )
    took = []
    for name in ("one", "all"):
        start = time.perf_counter()
        build(release, Run.here(scratch / name / "work"), sources=scratch / name, out=scratch / name / "dist")
        took.append(time.perf_counter() - start)
    loop, whole = bare(texts, 0.01), took[1]
    print(f"| {len(texts):,} rows at 100 rows/s | seconds | |\n|---|---|---|\n| bare loop | {loop:.2f} | |")
    print(f"| build: store, ledger, lock, release | {whole:.2f} | +{100 * (whole / loop - 1):.1f} % |")
    print(f"| of it a build of one row | {took[0]:.2f} | |\n")


JOIN = """
import sys, time
sys.path.insert(0, sys.argv[1])
from annotation_store import Score
from datasets import load_from_disk
from hfds import Run
rows = load_from_disk(sys.argv[2] + "/rows")
start = time.perf_counter()
made = Score(0)(rows, Run.here(sys.argv[2] + "/work"))
took = time.perf_counter() - start
assert made["score"][len(made) - 1] is not None
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print("JOINED", len(made), took, peak / 1024)
"""


def join(texts: list[str], scratch: Path) -> None:
    """Prints the second measurement."""
    Dataset.from_dict({"prompt": texts}).save_to_disk(str(scratch / "rows"))
    command = [sys.executable, "-c", JOIN, str(Path(__file__).parent), str(scratch)]
    print("| | rows | seconds | peak MB |\n|---|---|---|---|")
    for what in ("computed and stored", "joined back"):
        for file in (scratch / "work/steps").glob("*"):
            file.unlink()
        rows, seconds, peak = side.run(what, command).output.split("JOINED")[1].split()
        print(f"| {what} | {int(rows):,} | {float(seconds):.1f} | {float(peak):.0f} |")
    parts = [path.stat().st_size for path in (scratch / "work/store").rglob("*.arrow")]
    print(f"\n{len(parts)} parts, {sum(parts) / 1e6:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path, nargs="+")
    parser.add_argument("--scratch", type=Path, help="where there is room")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the join")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        overhead(prompts(args.prompts, 3000), Path(folder, "overhead"))
        join(prompts(args.prompts, args.rows), Path(folder))


if __name__ == "__main__":
    main()
