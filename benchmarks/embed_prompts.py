"""EmbedPrompt beside the loop that anyone would write: rows a second after loading, peak memory, and the same vectors.

    python benchmarks/embed_prompts.py prompts.txt.gz [more.txt.gz] --model FOLDER [--dtype bfloat16] [-n 8192]

FOLDER holds a checkpoint of sentence-transformers. The loop tokenises all prompts, sorts them by length, and shows them
to the model 64 at a time; it keeps its vectors in memory. The step runs by hand with a store, which it ends up in. Each
side is a process of its own; OMP_NUM_THREADS counts for both. What the step says of some rows alone is compared, too.
"""

import argparse
import gzip
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import side
from datasets import Dataset

from hfds.model import Model
from hfds.run import Run
from processors.embed import EmbedPrompt

AT_ONCE = 64  # texts, of the loop
ALONE = 400  # rows that are embedded a second time, with others beside them


def prompts(files: list[Path], count: int) -> list[str]:
    """`count` distinct real prompts, drawn at random."""
    lines = [line.strip() for file in files for line in gzip.open(file, "rt", encoding="utf-8")]
    return random.Random(0).sample([line for line in dict.fromkeys(lines) if line], count)


class Seconds(NamedTuple):
    """What passed, and what was worked by all threads; the second says more where others use the machine."""

    wall: float
    cpu: float


def clock() -> Seconds:
    """Now."""
    return Seconds(time.perf_counter(), time.process_time())


def since(start: Seconds) -> Seconds:
    """From `start` to now."""
    return Seconds(*(now - then for now, then in zip(clock(), start, strict=True)))


def bare(texts: list[str], model: Model) -> tuple[Seconds, np.ndarray]:
    """What it takes without loading, and the vectors."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.repo)
    network = AutoModel.from_pretrained(model.repo, dtype=getattr(torch, model.dtype)).eval()
    found = np.empty((len(texts), network.config.hidden_size), np.float32)
    start = clock()
    tokens = tokenizer(texts, padding=False, truncation=True, max_length=256)["input_ids"]
    order = sorted(range(len(texts)), key=lambda row: len(tokens[row]))
    with torch.inference_mode():
        for at in range(0, len(order), AT_ONCE):
            rows = order[at : at + AT_ONCE]
            batch = tokenizer.pad({"input_ids": [tokens[row] for row in rows]}, padding=True, return_tensors="pt")
            hidden = network(**batch).last_hidden_state.float()
            mask = batch["attention_mask"][:, :, None]
            means = (hidden * mask).sum(1) / mask.sum(1)
            found[rows] = torch.nn.functional.normalize(means, dim=-1).numpy()
    return since(start), found


def embedded(step: EmbedPrompt, texts: list[str], run: Run) -> tuple[Seconds, np.ndarray]:
    """What the step takes, and the vectors."""
    rows = Dataset.from_dict({"prompt": texts})
    start = clock()
    made = step(rows, run)
    seconds = since(start)
    return seconds, made.with_format("numpy")["prompt_embedding"][:]


def by_step(texts: list[str], model: Model, scratch: Path) -> dict[str, float]:
    """Of the step: what it takes without loading; and the largest difference that other neighbours make."""
    config = json.loads((Path(model.repo) / "config.json").read_text())
    step, run = EmbedPrompt(model, config["hidden_size"]), Run.here(scratch / "work")
    embedded(step, ["a prompt that loads the model"], run)
    seconds, found = embedded(step, texts, run)
    np.save(scratch / "step.npy", found)
    some = random.Random(1).sample(range(len(texts)), min(ALONE, len(texts)))
    other = Run.here(scratch / "other")
    _, again = embedded(step, [texts[row] for row in some], other)
    return {**seconds._asdict(), "neighbours": float(np.abs(again - found[some]).max())}


def one(args: argparse.Namespace) -> None:
    """One side, in a process of its own."""
    texts, model = prompts(args.files, args.n), Model(str(args.model), dtype=args.dtype)
    if args.side == "step":
        print(json.dumps(by_step(texts, model, args.scratch)))
        return
    seconds, found = bare(texts, model)
    np.save(args.scratch / "bare.npy", found)
    print(json.dumps(seconds._asdict()))


def compare(args: argparse.Namespace) -> None:
    """Both sides in turn, and a table of medians."""
    rounds = []
    for _ in range(args.times):
        with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
            sides = {}
            for name in ("bare", "step"):
                words = [sys.executable, *sys.argv, "--side", name, "--scratch", scratch]
                ran = side.run(name, words)
                sides[name] = {**json.loads(ran.output.splitlines()[-1]), "peak": ran.peak_mb}
            vectors = [np.load(Path(scratch, f"{name}.npy")) for name in ("bare", "step")]
        rounds.append(sides)
    print("| side | rows/s | rows by CPU second | peak MB |\n|---|---|---|---|")
    for name in ("bare", "step"):
        wall, cpu, peak = (median(sides[name][what] for sides in rounds) for what in ("wall", "cpu", "peak"))
        print(f"| {name} | {args.n / wall:.0f} | {args.n / cpu:.0f} | {peak:.0f} |")
    for what in Seconds._fields:
        ratios = [f"{sides['bare'][what] / sides['step'][what]:.3f}" for sides in rounds]
        print(f"The step's rate by the loop's, {what} time, round by round: {', '.join(ratios)}")
    cosines = (vectors[0] * vectors[1]).sum(1)
    print(f"Cosine of both sides' vectors, smallest: {cosines.min():.7f}")
    print(f"Largest difference by other neighbours: {max(r['step']['neighbours'] for r in rounds)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="gzipped lists of prompts, one a line")
    parser.add_argument("--model", type=Path, required=True, help="a folder with a checkpoint")
    parser.add_argument("--dtype", default="float32", help="what both sides compute in")
    parser.add_argument("-n", type=int, default=8192, help="prompts")
    parser.add_argument("--times", type=int, default=3, help="rounds; medians are reported")
    parser.add_argument("--scratch", type=Path, help="a folder on a fast disk")
    parser.add_argument("--side", choices=("bare", "step"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        one(args)
    else:
        compare(args)


if __name__ == "__main__":
    main()
