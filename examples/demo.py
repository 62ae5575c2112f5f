"""The main job from start to end: real rows of three sources to a release, read back with plain `datasets`.

Run by `make demo`. Needs the light core only and no network; the sources lie in examples/sources (see PROVENANCE.md).
With `--meaning` and the extra `models` it builds the same release again by what prompts mean: by embeddings.
"""

import argparse
import textwrap
from pathlib import Path

from datasets import load_dataset

import hfds
from hfds.catalogue import find_release
from hfds.ledger import funnel_rows
from hfds.release import Built

ROOT = Path(__file__).resolve().parent
PAIRS = 4  # that are shown of a step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("dist"), help="where the dataset is built")
    parser.add_argument("--workdir", type=Path, default=Path(".hfds"), help="where reusable work is kept")
    parser.add_argument("--num-proc", type=int, default=2)
    parser.add_argument("--meaning", action="store_true", help="build demo-meaning too, with a sentence encoder")
    args = parser.parse_args()

    run = hfds.Run.here(args.workdir, args.num_proc)
    for release in [find_release("image-to-prompt", name) for name in ("demo", *["demo-meaning"] * args.meaning)]:
        built = hfds.build(release, run, sources=ROOT / "sources", out=args.out)
        print_fates(built)
        print_pairs(built)
        print_rows(built)
    if not args.meaning:
        print("\nBy what prompts mean instead of their words: pip install 'hfds[models]', make demo ARGS=--meaning")


def print_fates(built: Built) -> None:
    print(f"\nWhat happened to every row of {built.release.name}:\n")
    for label, rows, dropped, kept in funnel_rows(built.funnel):
        print(f"{label}: {rows} rows, kept {kept}")
        print(textwrap.fill(f"dropped {dropped}", initial_indent="    ", subsequent_indent="    ", width=110))


def print_pairs(built: Built) -> None:
    """Near duplicates, from just alike to nearly equal, each with the row that stays in its place."""
    ledger = load_dataset(str(built.folder), f"{built.release.name}-ledger", split="train").with_format("arrow")[:]
    rows = [row for row in ledger.to_pylist() if row["partner"] and row["threshold"] and float(row["value"]) < 1]
    rows.sort(key=lambda row: (float(row["value"]), row["id"]))
    prompts = {}
    for source, _, config in sorted({row["input"].partition("/") for row in rows}):
        read = hfds.load(source, config, data_dir=ROOT / "sources" / source, streaming=True)
        for split in read.values():
            prompts |= {row["id"]: row["prompt"] for row in split.select_columns(["id", "prompt"])}
    print(f"\n{len(rows):,} near duplicates; what was dropped, and what stays:\n")
    for row in rows[:: max(1, len(rows) // PAIRS)][:PAIRS]:
        print(f"  {float(row['value']):.2f}  {shown(prompts[row['id']])}")
        print(
            f"        {shown(prompts.get(row['partner']))}  ({row['partner']}, {row['partner_in'] or 'dropped later'})"
        )


def print_rows(built: Built) -> None:
    rows = load_dataset(str(built.folder), built.release.name)
    print(f'\nload_dataset("{built.folder}", "{built.release.name}"):\n')
    train = rows["train"]
    sources = train["source"][:]
    for row in (train[sources.index(source)] for source in dict.fromkeys(sources)):
        print(f"  {row['id']} ({row['license']})\n    prompt: {shown(row['prompt'])}")
        if row["image"] is not None:
            print(f"    image: {row['image'].size[0]} x {row['image'].size[1]} {row['image'].format}")
    print(f"\n{ {split: len(part) for split, part in rows.items()} } rows, digest {built.digest}")


def shown(prompt: str | None) -> str:
    return textwrap.shorten(prompt or "-", 96)


if __name__ == "__main__":
    main()
