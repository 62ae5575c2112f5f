"""The main job from start to end: real rows of three sources to a release, read back with plain `datasets`.

Run by `make demo`. Needs the light core only and no network; the sources lie in examples/sources (see PROVENANCE.md).
"""

import argparse
import textwrap
from pathlib import Path

from datasets import load_dataset

import hfds
from hfds.card import funnel_rows
from hfds.catalogue import find_release

ROOT = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("dist"), help="where the dataset is built")
    parser.add_argument("--workdir", type=Path, default=Path(".hfds"), help="where reusable work is kept")
    parser.add_argument("--num-proc", type=int, default=2)
    args = parser.parse_args()

    release = find_release("image-to-prompt", "demo")
    run = hfds.Run.here(args.workdir, args.num_proc)
    built = hfds.build(release, run, sources=ROOT / "sources", out=args.out)

    print("\nWhat happened to every row:\n")
    for label, rows, dropped, kept in funnel_rows(built.funnel):
        print(f"{label}: {rows} rows, kept {kept}")
        print(textwrap.fill(f"dropped {dropped}", initial_indent="    ", subsequent_indent="    ", width=110))

    rows = load_dataset(str(built.folder), "demo")
    print(f'\nload_dataset("{built.folder}", "demo"):\n')
    train = rows["train"]
    sources = train["source"][:]
    for row in (train[sources.index(source)] for source in dict.fromkeys(sources)):
        print(f"  {row['id']} ({row['license']})\n    prompt: {textwrap.shorten(row['prompt'], 90)}")
        if row["image"] is not None:
            print(f"    image: {row['image'].size[0]} x {row['image'].size[1]} {row['image'].format}")
    print(f"\n{ {split: len(part) for split, part in rows.items()} } rows, digest {built.digest}")


if __name__ == "__main__":
    main()
