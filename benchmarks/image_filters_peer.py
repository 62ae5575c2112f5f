"""data-juicer's side of image_filters.py: its filters over the pictures of a jsonl, in the environment that holds it.

Runs what `dj-process` runs, without its monitor and its export: operators made from a recipe, over a `NestedDataset`.
"""

import argparse
import json
import os
import time
from typing import Any

STATS = {
    "image_width": "width",
    "image_height": "height",
    "image_nsfw_score": "nsfw",
    "image_watermark_prob": "watermark",
    "image_aesthetics_scores": "aesthetic",
}


def now() -> tuple[float, float]:
    """Seconds on the clock, and of CPU by this process and those it has waited for."""
    return time.perf_counter(), sum(os.times()[:4])


def refuse(package: str, *_: object) -> None:
    """In place of data-juicer's own installer, which would run in the middle of a measurement."""
    raise ImportError(f"data-juicer would install {package} now: install it first")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", help="a jsonl with id and images")
    parser.add_argument("recipe", help="as JSON: a list of {operator: parameters}")
    parser.add_argument("cache", help="a folder that rows are cached in")
    parser.add_argument("--fuse", action="store_true", help="filters share the pictures that they load")
    args = parser.parse_args()
    recipe: list[dict[str, dict[str, Any]]] = json.loads(args.recipe)
    start = now()

    from data_juicer.utils.lazy_loader import LazyLoader

    LazyLoader._install_package = refuse
    from data_juicer.core.data import NestedDataset
    from data_juicer.ops import load_ops
    from data_juicer.ops.op_fusion import fuse_operators
    from datasets import Dataset
    from loguru import logger

    logger.remove()
    processes = {"auto_op_parallelism": False, "num_proc": 2}
    operators = load_ops([{name: given | processes} for one in recipe for name, given in one.items()])
    for operator in operators:
        if hasattr(operator, "model_key"):  # imports what the workers would each import when they load it
            operator.model_key(device="cpu")
    if args.fuse:
        operators = fuse_operators(operators)
        for operator in operators:  # 1,000 decoded pictures in each process, as it is in a recipe, take 6 GB and longer
            operator.batch_size = 1
    rows = NestedDataset(Dataset.from_json(args.rows, cache_dir=args.cache))
    loaded = now()
    kept = rows.process(operators, open_monitor=False)
    done = now()
    scores = [{STATS[name]: one[name][0] for name in STATS if name in one} for one in kept["__dj__stats__"]]
    spans = {"": [after - before for before, after in zip(loaded, done, strict=True)]}
    told = {"start": loaded[0] - start[0], "spans": spans, "rows": len(rows)}
    print("\nRESULT", json.dumps({**told, "kept": dict(zip(kept["id"], scores, strict=True))}))


if __name__ == "__main__":
    main()
