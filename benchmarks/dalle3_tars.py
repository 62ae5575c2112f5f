"""DALLE-3 tars in and out: to a loadable dataset against `cat` and the original recipe, to a release against `cp`.

    python benchmarks/dalle3_tars.py FOLDER            # FOLDER holds data/data-NNNNNN.tar, as published
    python benchmarks/dalle3_tars.py FOLDER --make 4   # first writes about 4 GB of realistic tars there

The original recipe is the one that SimpleTuner documents: extract, compile a Parquet table from the JSON files with
pandas, write one caption file per picture. Every side runs as a process of its own over a warm cache.
"""

import argparse
import io
import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import PIL.Image
import side

RECIPE = """
import glob, json, os
import pandas as pd
data = []
for file_path in glob.glob("data/*.json"):
    with open(file_path) as file:
        content = json.load(file)
    if "width" not in content:
        continue
    data.append({"width": int(content["width"]), "height": int(content["height"]),
                 "caption": content["short_caption"], "filename": content["image_name"]})
    with open("data/" + os.path.splitext(content["image_name"])[0] + ".txt", "w") as text_file:
        text_file.write(content["short_caption"])
pd.DataFrame(data, columns=["width", "height", "caption", "filename"]).to_parquet("dalle3.parquet", index=False)
print(len(data), "rows")
"""
PREPARE = """
import sys, time
from builders.dalle3 import Dalle3
if __name__ == "__main__":
    start = time.perf_counter()
    builder = Dalle3(data_dir=sys.argv[1], cache_dir=sys.argv[2])
    builder.download_and_prepare(num_proc=2)
    rows = builder.as_dataset("train")
    print("PREPARED", time.perf_counter() - start)
    print(len(rows), "rows,", sum(d is not None for d in rows["dropped"]), "of them dropped")
"""
RELEASE = """
import shutil, sys, time
from pathlib import Path
from builders.dalle3 import Dalle3
from hfds import Input, Release, Run, build, shards
release = Release("dalle3", "bench", (Input(Dalle3, folder="."),))
write, sha256_of = shards.write, shards.sha256_of
def timed(rows, plan, features, folder, journal, finished, threads):
    apart = Path(sys.argv[3], "apart")
    shards.sha256_of = lambda path: ""
    start = time.perf_counter()
    write(rows, plan, features, apart, apart / "journal", apart, threads)
    print("UNSUMMED", time.perf_counter() - start)
    shutil.rmtree(apart)
    shards.sha256_of = sha256_of
    start = time.perf_counter()
    written = write(rows, plan, features, folder, journal, finished, threads)
    print("WRITTEN", time.perf_counter() - start)
    return written
shards.write = timed
if __name__ == "__main__":
    built = build(release, Run.here(sys.argv[2], 2), sources=sys.argv[1], out=sys.argv[3])
    print(built.funnel)
"""


def make(folder: Path, gigabytes: float) -> None:
    """Tars of 1024 and 1792 x 1024 pictures, three quarters JPEG (about 280 kB), one quarter PNG (about 1.8 MB)."""
    rng = np.random.default_rng(0)
    pictures = [_picture(rng, "PNG" if n % 4 == 3 else "JPEG", 1792 if n % 3 == 0 else 1024) for n in range(48)]
    written, number, tar = 0, 0, 0
    while written < gigabytes * 1e9:
        path = folder / f"data/data-{tar:06d}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as archive:
            while archive.offset < 0.7e9 and written + archive.offset < gigabytes * 1e9:
                extension, data, size = pictures[number % len(pictures)]
                data += number.to_bytes(8, "big")  # behind the picture's end: every file has a hash of its own
                stem = f"{number:08x}-{rng.integers(1 << 62):x}"
                record = {
                    "image_name": f"{stem}.{extension}",
                    "md5_pil_hash": "0" * 32,
                    "md5_file_hash": "1" * 32,
                    "sha512_hash": "2" * 128,
                    "short_caption": "A short caption of one sentence about what the picture shows. " * 2,
                    "long_caption": "A long caption that goes on about composition, colours and mood. " * 12,
                    "resolution": f"{size[0]}x{size[1]}",
                    "url": f"https://example.com/{stem}",
                    **({"width": size[0], "height": size[1]} if number % 100 else {}),
                    "source": "dalle3",
                    "original_prompt": None,
                    "short_caption2": ["Another short caption, of the second model."],
                    "long_caption2": ["Another long caption. " * 30],
                }
                for name, content in ((f"{stem}.{extension}", data), (f"{stem}.json", json.dumps(record).encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
                number += 1
            written += archive.offset
        tar += 1


def _picture(rng: np.random.Generator, format_: str, width: int) -> tuple[str, bytes, tuple[int, int]]:
    """Smooth colours with noise on top, which encode to the sizes of real pictures."""
    coarse = PIL.Image.fromarray(rng.integers(0, 255, (16, width // 64, 3), np.uint8))
    pixels = np.asarray(coarse.resize((width, 1024), PIL.Image.Resampling.BICUBIC)).astype(np.int16)
    noise = 10 if format_ == "JPEG" else 3
    pixels = np.clip(pixels + rng.integers(-noise, noise + 1, pixels.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, format_, quality=88)
    return {"PNG": "png", "JPEG": "jpg"}[format_], buffer.getvalue(), (width, 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--make", type=float, metavar="GB", help="write about so many gigabytes of tars there first")
    parser.add_argument("--times", type=int, default=3, help="runs of each side; the median is reported")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    args = parser.parse_args()
    if args.make:
        make(args.folder, args.make)
    folder, scratch = args.folder.resolve(), Path(tempfile.mkdtemp(dir=args.scratch))
    tars = sorted(folder.glob("data/*.tar"))
    size = sum(tar.stat().st_size for tar in tars)
    print(f"{len(tars)} tars, {size / 1e9:.2f} GB\n")
    shell = " ".join(str(tar) for tar in tars)
    fresh = {name: scratch / name for name in ("recipe", "cache", "copy", "work", "out")}

    def clear() -> None:
        for path in fresh.values():
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()

    extract = f"mkdir data; for f in {shell}; do tar xf $f -C data; done; {sys.executable} -c '{RECIPE}'"
    script = [sys.executable, "-c", PREPARE, str(folder), str(fresh["cache"])]
    held = {}

    def into(rounds: list[list[side.Side]], word: str, number: int) -> float:
        """The median of the seconds that a side printed behind a word, as a ratio to the first side of its round."""
        lines = [(sides[0].wall, sides[number].output.split(word)[1].split()[0]) for sides in rounds]
        return median(float(seconds) / wall for wall, seconds in lines)

    def weigh() -> None:
        held.update({name: max(held.get(name, 0), side.folder_bytes(path)) for name, path in fresh.items()})
        clear()

    ways = [
        ("cat to nowhere", f"cat {shell} > /dev/null", None),
        ("original recipe", extract, fresh["recipe"]),
        ("hfds: loadable dataset, hashed and measured", script, None),
    ]
    rounds = side.turns(ways, args.times, weigh)
    side.report(rounds)
    faster = median(recipe.wall / ours.wall for _, recipe, ours in rounds)
    print(
        f"\nrecipe / hfds: {faster:.1f}x; disk {held['cache'] / 1e6:.1f} MB against {held['recipe'] / 1e6:.0f} MB:"
        f" {held['cache'] / held['recipe']:.2%}; without the start of Python and the import of datasets hfds takes"
        f" {into(rounds, 'PREPARED', 2):.2f} of cat\n"
        f"recipe: {rounds[0][1].output.strip()}; hfds: {rounds[0][2].output.splitlines()[-1]}\n"
    )
    out = [sys.executable, "-c", RELEASE, str(folder), str(fresh["work"]), str(fresh["out"])]
    ways = [("cp of the tars", f"cp {shell} {fresh['copy']}", None), ("hfds build", out, None)]
    rounds = side.turns(ways, args.times, clear)
    plain, summed = into(rounds, "UNSUMMED", 1), into(rounds, "WRITTEN", 1)
    copy = median(sides[0].wall for sides in rounds)
    print(
        f"cp of the tars: {copy:.2f} s. The release's Parquet from the same rows, every picture checked against its"
        f" hash: {plain:.2f} of cp; with the sha256 of every shard, which the lock wants: {summed:.2f} of cp."
        f" Peak of the build: {median(sides[1].peak_mb for sides in rounds):.0f} MB"
    )
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
