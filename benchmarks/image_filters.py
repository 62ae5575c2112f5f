"""Filters of pictures, by headers and by models, against data-juicer's: speed, and whether both keep the same rows.

    python benchmarks/image_filters.py --pictures FOLDER --scratch DIR --peer-python PYTHON

PYTHON is that of an environment of data-juicer, see README.md. The pictures are parts of those in FOLDER, any JPEG and
PNG files, at 1024 pixels and more; they lie in DIR as img2dataset's tars for hfds, as files for data-juicer. The
checkpoints are the tests' tiny random ones, the same files for both, so nearly all time goes into pictures. Every side
runs as a process of its own, with two processes that work; what it takes to start, import and load is told apart.
"""

import argparse
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pyarrow as pa
import pyarrow.parquet as pq
import side
import xxhash

# Of twenty pictures: fourteen of the usual sizes, two on the edge of the rules, four that the rules drop.
SIZES = (
    *[(1024, 1024)] * 8,
    *[(1792, 1024)] * 4,
    *[(1024, 1792)] * 2,
    *[(2048, 1024), (1024, 2048)],
    *[(640, 640), (1023, 1536), (2304, 1024), (1024, 2304)],
)
SHARD = 200  # pictures
OURS = """
import json, os, sys, time
def now():
    return time.perf_counter(), sum(os.times()[:4])
start = now()
import pyarrow.parquet as pq
from builders.laion import Laion
from hfds.annotate import annotate
from hfds.model import Model
from hfds.release import Input, Release, build
from hfds.run import Run
from processors.keep import Keep
from processors.quality import MeasureImage, ScoreAesthetic, ScoreNsfw, ScoreWatermark
def spent(start, end):
    return [end[0] - start[0], end[1] - start[1]]
if __name__ == "__main__":
    how, decode, rules, tars, models, work = sys.argv[1:]
    asked = (MeasureImage(),)
    if decode:
        kinds = {"nsfw": ScoreNsfw, "watermark": ScoreWatermark, "aesthetic-v2-linear": ScoreAesthetic}
        asked = tuple(kind(Model(f"{models}/{name}"), decode) for name, kind in kinds.items())
        for step in asked:
            step.load("cpu")
    steps = (*asked, *map(Keep, rules.split(";")))
    run = Run.here(f"{work}/run", 2)
    loaded = now()
    if how == "build":
        release = Release("pictures", "bench", (Input(Laion, folder="."),), steps)
        built = build(release, run, sources=tars, out=f"{work}/out")
        spans = {": build": spent(loaded, now())}
        rows = pq.read_table(built.folder / "ledger/bench.parquet", columns=["id", "reason"]).to_pylist()
        kept = {row["id"]: {} for row in rows if row["reason"] is None}
    else:
        builder = Laion(data_dir=tars, cache_dir=f"{work}/cache")
        builder.download_and_prepare(num_proc=2)
        rows = builder.as_dataset("train")
        read = now()
        annotate(asked, rows, run)
        for step in steps:
            rows = step(rows, run)
        done = now()
        spans = {": filters": spent(read, done), ": reading, filters": spent(loaded, done)}
        stay = rows.select([n for n, fate in enumerate(rows["dropped"]) if fate is None])
        scores = stay.select_columns([name for step in asked for name in step.adds]).to_list()
        kept = dict(zip(stay["id"], scores, strict=True))
    print("RESULT", json.dumps({"start": spent(start, loaded)[0], "spans": spans, "rows": len(rows), "kept": kept}))
"""


def encoded(sources: list[Path], number: int) -> tuple[str, bytes, tuple[int, int]]:
    """Picture `number`: a part of one of the sources, mirrored or not; three of four are JPEG, the fourth is PNG."""
    rng = np.random.default_rng(number)
    size = SIZES[number % len(SIZES)]
    with PIL.Image.open(sources[rng.integers(len(sources))]) as whole:
        part = rng.uniform(0.6, 1) * min(whole.width / size[0], whole.height / size[1])
        width, height = size[0] * part, size[1] * part
        left, top = rng.uniform(0, whole.width - width), rng.uniform(0, whole.height - height)
        box = (left, top, left + width, top + height)
        picture = whole.convert("RGB").resize(size, PIL.Image.Resampling.BICUBIC, box=box)
    if rng.integers(2):
        picture = PIL.ImageOps.mirror(picture)
    buffer = io.BytesIO()
    if (number + number // len(SIZES)) % 4 == 3:
        picture.save(buffer, "PNG", compress_level=3)
        return "png", buffer.getvalue(), size
    picture.save(buffer, "JPEG", quality=95)
    return "jpg", buffer.getvalue(), size


def make_shard(sources: list[Path], numbers: range, folder: Path) -> list[dict[str, object]]:
    """A tar and its parquet as img2dataset writes them, the same pictures as files, and their rows for data-juicer."""
    shard = f"{numbers.start // SHARD:05d}"
    files = folder / "files" / shard
    files.mkdir(parents=True)
    listing: list[dict[str, object]] = []
    rows: list[dict[str, object]] = []
    with tarfile.open(folder / "tars" / f"{shard}.tar", "w") as tar:
        for number in numbers:
            extension, data, (width, height) = encoded(sources, number)
            key, url, text = f"{shard}{number % SHARD:04d}", f"https://example.com/{number}", f"Picture {number}"
            members = {extension: data, "txt": text.encode(), "json": json.dumps({"url": url, "key": key}).encode()}
            for end, content in members.items():
                info = tarfile.TarInfo(f"{key}.{end}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            picture = files / f"{key}.{extension}"
            picture.write_bytes(data)
            listing.append(
                {"url": url, "caption": text, "key": key, "status": "success", "error_message": None}
                | {"width": width, "height": height, "original_width": width, "original_height": height}
            )
            digest = xxhash.xxh3_128_hexdigest(f"{url}\0{text}".encode())  # the builder's id
            rows.append({"id": f"laion/{digest}", "images": [str(picture)], "text": text})
    pq.write_table(pa.Table.from_pylist(listing), folder / "tars" / f"{shard}.parquet")
    return rows


def make(sources: list[Path], number: int, folder: Path) -> None:
    """`number` pictures: tars/ for hfds, files/ and rows.jsonl for data-juicer."""
    (folder / "tars").mkdir(parents=True)
    runs = [range(start, min(start + SHARD, number)) for start in range(0, number, SHARD)]
    with ProcessPoolExecutor(2) as pool:
        made = [pool.submit(make_shard, sources, run, folder) for run in runs]
        rows = [row for one in made for row in one.result()]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_checkpoints(folder: Path) -> None:
    """The tests' tiny checkpoints at the usual 224 pixels, with a tokenizer, which data-juicer loads and never asks."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from fixtures import checkpoints

    checkpoints.nsfw(folder / "nsfw", 224)
    checkpoints.watermark(folder / "watermark", 224)
    predictor = checkpoints.aesthetic(folder / "aesthetic-v2-linear", 224)  # data-juicer finds the class by this name
    tokens = ("a", "a</w>", "<|startoftext|>", "<|endoftext|>")
    (predictor / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(tokens)}))
    (predictor / "merges.txt").write_text("#version: 0.2\n")
    (predictor / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))


def ours(how: str, decode: str, rules: str, tars: Path, scratch: Path) -> list[str]:
    """hfds on the tars of a folder, by "steps" or by "build"; `rules` are those of Keep, joined by semicolons."""
    arguments = (how, decode, rules, tars, scratch / "checkpoints", scratch / "fresh")
    return [sys.executable, "-c", OURS, *map(str, arguments)]


def theirs(python: Path, recipe: list[dict[str, Any]], rows: Path, scratch: Path, *more: str) -> list[str]:
    """data-juicer on the pictures of a jsonl."""
    arguments = (rows, json.dumps(recipe), scratch / "fresh", *more)
    return [str(python), str(Path(__file__).with_name("image_filters_peer.py")), *map(str, arguments)]


def result(one: side.Side) -> dict[str, Any]:
    """What a side told on its last line."""
    found: dict[str, Any] = json.loads(one.output.rpartition("RESULT ")[2].splitlines()[0])
    return found


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """How many rows only one side kept, and by how much its scores differ at most in rows that both did."""
    pairs = [(ours["kept"][id_], theirs["kept"][id_]) for id_ in ours["kept"].keys() & theirs["kept"].keys()]
    names = [name for name in pairs[0][0] if name in pairs[0][1]] if pairs else []
    most = "".join(f", {name} {max(abs(our[name] - their[name]) for our, their in pairs):.2g}" for name in names)
    return f"{len(ours['kept'].keys() ^ theirs['kept'].keys())} rows kept by one side only{most}"


def compare(title: str, sides: list[tuple[str, list[str]]], times: int, fresh: Path) -> None:
    """Runs all sides in turn and tells what each took; of the last two, data-juicer's, the faster is the peer."""

    def clear() -> None:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()

    rounds = side.turns([(name, command, None) for name, command in sides], times, clear)
    told = [[result(one) for one in sides] for sides in rounds]
    count, last = told[0][0]["rows"], told[0][-1]
    peers = [min(one["spans"][""] for one in sides[-2:]) for sides in told]
    print(f"\n{title}: {count} pictures, {len(last['kept'])} kept by data-juicer\n")
    print("| side | start-up s | s | pictures/s | faster than data-juicer | CPU ms a picture | less CPU | peak MB |")
    print("|---|---|---|---|---|---|---|---|")
    for number, (name, _) in enumerate(sides):
        start = median(sides[number]["start"] for sides in told)
        peak = median(sides[number].peak_mb for sides in rounds)
        for span in told[0][number]["spans"]:
            took = [sides[number]["spans"][span] for sides in told]
            wall, cpu = (median(one[n] for one in took) for n in (0, 1))
            faster, less = (median(peer[n] / one[n] for peer, one in zip(peers, took, strict=True)) for n in (0, 1))
            speed = f"{wall:.2f} | {count / wall:,.0f} | {faster:.1f}x | {cpu / count * 1e3:.2f} | {less:.1f}x"
            print(f"| {name}{span} | {start:.1f} | {speed} | {peak:.0f} |")
    print()
    for (name, _), one in zip(sides, told[0], strict=True):
        print(f"{name}: {differences(one, last)}")


def shapes(python: Path, scratch: Path, times: int) -> None:
    """At least 1024 x 1024, and no longer than two to one."""
    recipe: list[dict[str, Any]] = [
        {"image_shape_filter": {"min_width": 1024, "min_height": 1024}},
        {"image_aspect_ratio_filter": {"min_ratio": 0.5, "max_ratio": 2}},
    ]
    rules = "width >= 1024 and height >= 1024;0.5 <= aspect <= 2"
    sides = [
        ("hfds", ours("steps", "", rules, scratch / "tars", scratch)),
        ("hfds", ours("build", "", rules, scratch / "tars", scratch)),
        ("data-juicer", theirs(python, recipe, scratch / "rows.jsonl", scratch)),
        ("data-juicer, fused", theirs(python, recipe, scratch / "rows.jsonl", scratch, "--fuse")),
    ]
    compare("Shape and aspect", sides, times, scratch / "fresh")


def models(python: Path, scratch: Path, times: int, number: int) -> None:
    """NSFW, watermark and aesthetics over the first `number` pictures, rounded up to whole tars.

    First both sides score them all; the rules then drop three of ten by each score.
    """
    tars, rows, shards = scratch / "few", scratch / "few.jsonl", -(-number // SHARD)
    tars.mkdir()
    for path in sorted((scratch / "tars").iterdir())[: 2 * shards]:  # each with its parquet
        os.link(path, tars / path.name)
    with open(scratch / "rows.jsonl") as lines:
        rows.write_text("".join(islice(lines, shards * SHARD)))

    def both(nsfw: float, watermark: float, aesthetic: float) -> list[tuple[str, list[str]]]:
        rules = f"nsfw <= {nsfw};watermark <= {watermark};aesthetic >= {aesthetic}"
        folder = str(scratch / "checkpoints")
        predictor = f"{folder}/aesthetic-v2-linear"
        recipe: list[dict[str, Any]] = [
            {"image_nsfw_filter": {"hf_nsfw_model": f"{folder}/nsfw", "max_score": nsfw}},
            {"image_watermark_filter": {"hf_watermark_model": f"{folder}/watermark", "prob_threshold": watermark}},
            {"image_aesthetics_filter": {"hf_scorer_model": predictor, "min_score": aesthetic, "max_score": 100}},
        ]
        return [
            ("hfds", ours("steps", "fast", rules, tars, scratch)),
            ("hfds", ours("build", "fast", rules, tars, scratch)),
            ("hfds, decoding in full", ours("steps", "exact", rules, tars, scratch)),
            ("data-juicer", theirs(python, recipe, rows, scratch)),
            ("data-juicer, fused", theirs(python, recipe, rows, scratch, "--fuse")),
        ]

    told = []
    fast, _, full, _, peer = both(1, 1, -100)
    for name, command in (fast, full, peer):
        shutil.rmtree(scratch / "fresh", ignore_errors=True)
        (scratch / "fresh").mkdir()
        told.append(result(side.run(name, command)))
    scores = list(told[-1]["kept"].values())
    print(f"\nScores of data-juicer, all {len(scores)} pictures; below, by how much those of hfds differ at most:")
    tenths = {name: [round(cut, 7) for cut in quantiles([one[name] for one in scores], n=10)] for name in scores[0]}
    for name, cuts in tenths.items():
        print(f"{name}: eight of ten from {cuts[0]} to {cuts[-1]}")
    print(f"fast: {differences(told[0], told[-1])}\nin full: {differences(told[1], told[-1])}")
    rules = (tenths["nsfw"][6], tenths["watermark"][6], tenths["aesthetic"][2])
    compare("NSFW, watermark, aesthetics", both(*rules), times, scratch / "fresh")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, nargs="+", required=True, help="folders of pictures to take parts of")
    parser.add_argument("--scratch", type=Path, required=True, help="a folder in memory or on a fast disk")
    parser.add_argument("--peer-python", type=Path, required=True, help="the interpreter of data-juicer's environment")
    parser.add_argument("-n", type=int, default=3000, help="pictures whose headers are read; each takes 1.2 MB")
    parser.add_argument("--scored", type=int, default=800, help="pictures that models are shown")
    parser.add_argument("--times", type=int, default=3, help="runs of each side; medians are reported")
    args = parser.parse_args()
    found = (path for folder in args.pictures for path in folder.rglob("*"))
    sources = sorted(path for path in found if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    args.scratch.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=args.scratch.resolve()))
    make(sources, args.n, scratch)
    make_checkpoints(scratch / "checkpoints")
    size = side.folder_bytes(scratch / "files")
    print(f"{args.n} pictures made of parts of {len(sources)}, {size / args.n / 1e3:.0f} kB each")
    shapes(args.peer_python, scratch, args.times)
    models(args.peer_python, scratch, args.times, args.scored)
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
