"""Paint beside the loop that anyone would write with diffusers: pictures a second, and the same pictures.

    python benchmarks/paint.py FOLDER [-n 64] [--steps 4] [--batch 8] [--dtype float32] [--rounds 3] [--greys]

FOLDER holds a checkpoint of diffusers; `examples/generate.py` makes a tiny one in <workdir>/tiny-painter. The loop
shows prompts to the pipeline in batches, with the same generators, and saves PNGs; the step runs with a store, in which
its pictures end up. Loading is in neither; each side is a process of its own. `--greys` also paints with other batch
sizes, and says by how many grey levels those pictures differ from the ones of `--batch`.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import side
from datasets import Dataset

from hfds.model import Pipeline
from hfds.run import Run
from processors.paint import Paint, seed_of


def prompts(count: int) -> Dataset:
    """Rows with ids and prompts of some twenty words."""
    text = "a painting of {} castles beside a quiet river, golden light, mist, a bridge of wood"
    texts = [text.format(n) for n in range(count)]
    return Dataset.from_dict({"id": [f"bench/{n}" for n in range(count)], "prompt": texts})


def bare(rows: Dataset, args: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of the loop, behind a batch that warms up."""
    import torch
    from diffusers import AutoPipelineForText2Image

    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = AutoPipelineForText2Image.from_pretrained(args.folder, dtype=getattr(torch, args.dtype)).to(device)
    pipeline.set_progress_bar_config(disable=True)

    def paint(batch: dict[str, list[str]]) -> list[Any]:
        noise = [torch.Generator("cpu").manual_seed(seed_of(0, id_)) for id_ in batch["id"]]
        found = pipeline(prompt=batch["prompt"], num_inference_steps=args.steps, guidance_scale=7.5, generator=noise)
        return list(found.images)

    paint(rows[: args.batch])
    wall, cpu = time.perf_counter(), time.process_time()
    for at in range(0, len(rows), args.batch):
        batch = rows[at : at + args.batch]
        for id_, picture in zip(batch["id"], paint(batch), strict=True):
            picture.save(folder / f"{id_.partition('/')[2]}.png")
    return time.perf_counter() - wall, time.process_time() - cpu


def ours(rows: Dataset, args: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """The same of the step, behind another batch, with which it is loaded."""
    step = Paint(Pipeline(str(args.folder), dtype=args.dtype), steps=args.steps)
    run = Run.here(folder / "work", batch_size=args.batch)
    step(prompts(args.batch).map(lambda row: {"id": f"another/{row['id']}"}), run)
    wall, cpu = time.perf_counter(), time.process_time()
    made = step(rows, run)
    took = time.perf_counter() - wall, time.process_time() - cpu
    for id_, picture in zip(made["id"], made["image"], strict=True):
        picture.save(folder / f"{id_.partition('/')[2]}.png")
    return took


def apart(one: Path, other: Path) -> tuple[int, float]:
    """By how many grey levels two folders of pictures differ at most, and in what share of all values."""
    import PIL.Image

    most, differ, values = 0, 0, 0
    for path in sorted(one.glob("*.png")):
        found = np.abs(np.subtract(*(np.asarray(PIL.Image.open(file), np.int16) for file in (path, other / path.name))))
        most, differ, values = max(most, int(found.max())), differ + int((found > 0).sum()), values + found.size
    return most, differ / values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-n", type=int, default=64, help="pictures")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--greys", action="store_true")
    parser.add_argument("--side", choices=["bare", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps({"bare": bare, "ours": ours}[args.side](prompts(args.n), args, args.into)))
        return

    def one(name: str, batch: int, into: Path) -> tuple[float, float]:
        into.mkdir(parents=True)
        given = [str(args.folder), "-n", args.n, "--steps", args.steps, "--batch", batch, "--dtype", args.dtype]
        command = [sys.executable, __file__, *map(str, given), "--side", name, "--into", str(into)]
        wall, cpu = json.loads(side.run(name, command).output.splitlines()[-1])
        return wall, cpu

    with tempfile.TemporaryDirectory() as scratch:
        rounds = []
        for number in range(args.rounds):
            home = Path(scratch, str(number))
            rounds.append({name: one(name, args.batch, home / name) for name in ("bare", "ours")})
            most, share = apart(home / "bare", home / "ours")
            print(f"round {number}: {rounds[-1]}; pictures differ by {most} at most, in {share:.4%} of values")
        print("| side | pictures/s | CPU s a picture |\n|---|---|---|")
        for name in ("bare", "ours"):
            wall, cpu = (median(each[name][n] for each in rounds) for n in range(2))
            print(f"| {name} | {args.n / wall:.2f} | {cpu / args.n:.3f} |")
        for n, what in enumerate(("wall", "CPU")):
            print(f"ours to bare, {what}, round by round: {median(r['bare'][n] / r['ours'][n] for r in rounds):.1%}")
        for batch in (1, 3, args.batch // 2) if args.greys else ():
            into = Path(scratch, f"batch-{batch}")
            one("ours", batch, into)
            most, share = apart(Path(scratch, "0", "ours"), into)
            print(f"batches of {batch}: differ by {most} at most, in {share:.4%} of values")


if __name__ == "__main__":
    main()
