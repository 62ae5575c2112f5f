"""Ranks on one machine: how a model's work divides, how long it takes, and whether the scores are the same.

    python benchmarks/ranks.py --pictures FOLDER --scratch DIR [-n 800]

A random ViT of 10 M parameters over pictures that are parts of those in FOLDER, by one rank and by two, one thread
each, started by torchrun. Times are those of the pass over the pictures, without starting, importing and loading.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import side
from image_filters import make

RANK = """
import json, os, sys, time
import torch
from builders.laion import Laion
from hfds.annotate import annotate
from hfds.model import Model
from hfds.run import Run
from hfds.store import answers_folder
from processors.quality import ScoreNsfw
class Counted(ScoreNsfw):
    seen = 0
    def annotate(self, model, items):
        Counted.seen += len({id(item) for item in items})
        return super().annotate(model, items)
if __name__ == "__main__":
    tars, model, work, out = sys.argv[1:]
    torch.set_num_threads(1)
    run = Run.accelerated(work)
    with run.first():
        builder = Laion(data_dir=tars, cache_dir=f"{work}/cache")
        builder.download_and_prepare()
    rows = builder.as_dataset("train")
    step = Counted(Model(model))
    run.models[answers_folder(step.name, step.key())] = step.load("cpu")  # imports and weights, outside of the time
    run.gathered(None)
    start = time.perf_counter()
    annotate([step], rows, run)
    took = time.perf_counter() - start
    scores = step(rows, run)["nsfw"][:]
    with open(f"{out}/{run.ranks}-{run.rank}.json", "w") as file:
        json.dump({"seconds": took, "rows": Counted.seen, "scores": scores}, file)
"""


def checkpoint(folder: Path) -> None:
    """A random ViT classifier with as many parameters as DINO's smallest, at 224 pixels."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    labels = {0: "normal", 1: "nsfw"}
    config = ViTConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=6, intermediate_size=1536, id2label=labels,
        label2id={name: number for number, name in labels.items()},
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor().save_pretrained(folder)


def by(ranks: int, scratch: Path) -> list[dict[str, Any]]:
    """What each rank did, in a run that knows nothing."""
    script = scratch / "rank.py"
    script.write_text(RANK)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    arguments = [scratch / "tars", scratch / "vit", tempfile.mkdtemp(dir=scratch), scratch]
    side.run(f"{ranks} ranks", [*launch, str(script), *map(str, arguments)])
    return [json.loads((scratch / f"{ranks}-{rank}.json").read_text()) for rank in range(ranks)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, nargs="+", required=True, help="folders of pictures to take parts of")
    parser.add_argument("--scratch", type=Path, required=True, help="a folder in memory or on a fast disk")
    parser.add_argument("-n", type=int, default=800, help="pictures")
    parser.add_argument("--times", type=int, default=3, help="rounds")
    args = parser.parse_args()
    found = (path for folder in args.pictures for path in folder.rglob("*"))
    sources = sorted(path for path in found if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    args.scratch.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=args.scratch.resolve()))
    make(sources, args.n, scratch)
    checkpoint(scratch / "vit")
    print("| round | ranks | rows computed by each | s | pictures/s | faster | scores |\n|---|---|---|---|---|---|---|")
    for number in range(args.times):
        told = {ranks: by(ranks, scratch) for ranks in (1, 2)}
        same = "the same bits" if told[1][0]["scores"] == told[2][1]["scores"] else "other"
        for ranks, own in told.items():
            seconds = max(one["seconds"] for one in own)
            rows = " + ".join(str(one["rows"]) for one in own)
            faster = told[1][0]["seconds"] / seconds
            print(
                f"| {number + 1} | {ranks} | {rows} | {seconds:.1f} | {args.n / seconds:.0f} | {faster:.2f}x | {same} |"
            )
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
