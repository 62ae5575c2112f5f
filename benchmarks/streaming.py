"""Streaming: samples a second from an export, side by side with webdataset, datasets, LitData and MosaicML streaming.

    python benchmarks/streaming.py dist/image-to-prompt/wds/v4 [--scratch DIR] [--litdata PYTHON] [--mosaicml PYTHON]

The same rows for all: webdataset and datasets read the export's tars, LitData and MosaicML formats of their own that
are written from them first. PYTHON is that of an environment of theirs. Every side is a process of its own; its first
eighth, in which workers start, does not count. Decoded is to squares of 512 pixels; what decodes in full is said.
Resume: the time from opening to the first batch behind the middle of `--rows` small samples.
"""

import argparse
import io
import json
import sys
import tarfile
import tempfile
from pathlib import Path

import side

COMMON = """
import io, json, os, sys, time
import numpy as np
place, how, workers, limit = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
BATCH = 8

def decoded(data):
    import PIL.Image, torch
    image = PIL.Image.open(io.BytesIO(data))
    if how == "pixels":
        image.draft("RGB", (512, 512))  # which is of JPEGs alone
    image = image.convert("RGB")
    times = 512 / min(image.size)
    size = max(512, round(image.width * times)), max(512, round(image.height * times))
    image = image.resize(size, PIL.Image.BICUBIC)
    left, top = (image.width - 512) // 2, (image.height - 512) // 2
    image = image.crop((left, top, left + 512, top + 512))
    return torch.from_numpy(np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)))

def made(data):
    return bytes(data) if how == "bytes" else decoded(bytes(data))

def together(samples):
    import torch
    return samples if how == "bytes" else torch.stack(samples)

def timed(batches):
    count, warm, start = 0, 0, 0.0
    for batch in batches:
        count += len(batch)
        if not start and count >= limit // 8:  # workers are there, and pages are cached
            start, warm = time.perf_counter(), count
        if count >= limit:
            break
    print("RESULT", json.dumps({"rate": (count - warm) / (time.perf_counter() - start)}))
"""
HFDS = """
import hfds
stream = hfds.stream(place, "train", columns=["image"], decode={"bytes": None, "pixels": "fast", "full": "exact"}[how])
loader = stream.loader(BATCH, num_workers=workers)
timed(batch["image"] for _ in range(1000) for batch in loader)
"""
HFDS_PLAIN = """
import hfds
from torch.utils.data import DataLoader
stream = hfds.stream(place, "train", columns=["image"], decode=None, run=BATCH)
loader = DataLoader(stream, BATCH, num_workers=workers)
timed(batch["image"] for _ in range(1000) for batch in loader)
"""
WEBDATASET = """
import glob, webdataset as wds
def picture(sample):
    return made(next(sample[name] for name in ("jpg", "png", "webp") if name in sample))
tars = sorted(glob.glob(place + "/train-*.tar"))
dataset = wds.WebDataset(tars, shardshuffle=len(tars), seed=1).shuffle(100).map(picture)
dataset = dataset.batched(BATCH, collation_fn=together)
loader = wds.WebLoader(dataset, batch_size=None, num_workers=workers)
timed(batch for _ in range(1000) for batch in loader)
"""
DATASETS = """
import glob
from datasets import Features, Image, Json, Value, load_dataset
from torch.utils.data import DataLoader
manifest = json.load(open(place + "/manifest.json"))
kinds = {"txt": Value("string"), "json": Json(), "__key__": Value("string"), "__url__": Value("string")}
pictures = [name for name in manifest["extensions"] if name not in ("txt", "json")]
features = Features({**{name: Image(decode=False) for name in pictures}, **kinds})
tars = {"train": sorted(glob.glob(place + "/train-*.tar"))}
rows = load_dataset("webdataset", data_files=tars, split="train", streaming=True, features=features)
rows = rows.shuffle(1, buffer_size=100)
def collate(samples):
    return together([made(next(one[name] for name in pictures if one[name])["bytes"]) for one in samples])
loader = DataLoader(rows, BATCH, num_workers=workers, collate_fn=collate)
timed(batch for _ in range(1000) for batch in loader)
"""
LITDATA = """
import torch
from litdata import StreamingDataLoader, StreamingDataset
class Rows(StreamingDataset):
    def __getitem__(self, index):
        return made(super().__getitem__(index)["image"])
if __name__ == "__main__":
    rows = Rows(place, shuffle=True, seed=1)
    loader = StreamingDataLoader(rows, batch_size=BATCH, num_workers=workers, collate_fn=together)
    timed(batch for _ in range(1000) for batch in loader)
"""
# It imports torchvision, of which a build for CUDA does not import beside torch for the CPU without these.
TORCHVISION = """
import torch
try:
    import torchvision
except RuntimeError:
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
MOSAICML = """
from streaming import StreamingDataset
from torch.utils.data import DataLoader
class Rows(StreamingDataset):
    def __getitem__(self, index):
        return made(super().__getitem__(index)["image"])
if __name__ == "__main__":
    loader = DataLoader(Rows(local=place, shuffle=True, shuffle_seed=1, batch_size=BATCH), BATCH, num_workers=workers,
                        collate_fn=together)
    timed(batch for _ in range(1000) for batch in loader)
"""
WRITE = """
import glob, sys, tarfile
def rows(place):
    for path in sorted(glob.glob(place + "/train-*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith((".jpg", ".png", ".webp")):
                    yield {"id": member.name.partition(".")[0], "image": tar.extractfile(member).read()}
place, out = sys.argv[1:]
"""
WRITE_LITDATA = """
from litdata.streaming import Cache
if __name__ == "__main__":
    import os
    os.makedirs(out)
    cache = Cache(out, chunk_bytes="256MB")
    for number, row in enumerate(rows(place)):
        cache[number] = row
    cache.done()
    cache.merge()
"""
WRITE_MOSAICML = """
from streaming import MDSWriter
with MDSWriter(out=out, columns={"id": "str", "image": "bytes"}, size_limit=256 << 20) as writer:
    for row in rows(place):
        writer.write(row)
"""
# Each goes on from the middle, twice: the first time imports and page caches are warmed.
RESUME_HFDS = """
import hfds
def resume():
    start = time.perf_counter()
    loader = hfds.stream(place, "train", columns=["id", "text"], decode=None).loader(BATCH, num_workers=workers)
    loader.load_state_dict({**loader.state_dict(), "at": limit // 2})
    next(iter(loader))
    return time.perf_counter() - start
state = len(json.dumps(hfds.stream(place, "train").state_dict()))
print("RESULT", json.dumps({"seconds": [resume(), resume()][1], "state": state}))
"""
# Where the first batch behind the middle lies, without its bytes: of an export that has indexes alone.
RESUME_INDEX = """
import hfds, numpy as np
def resume():
    start = time.perf_counter()
    stream = hfds.stream(place, "train", columns=["image"], decode=None)
    stream.load_state_dict({**stream.state_dict(), "at": limit // 2})
    some = stream.course.at(np.arange(limit // 2, limit // 2 + BATCH), 0)
    stream.rows[0].spots(some.rows, (), False)
    return time.perf_counter() - start
print("RESULT", json.dumps({"seconds": [resume(), resume()][1]}))
"""
RESUME_WEBDATASET = """
import glob, itertools, webdataset as wds
def resume():
    start = time.perf_counter()
    dataset = wds.WebDataset(sorted(glob.glob(place + "/train-*.tar")), shardshuffle=False)
    dataset = dataset.batched(BATCH, collation_fn=list)
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=workers)
    next(itertools.islice(loader, limit // 2 // BATCH, None))
    return time.perf_counter() - start
print("RESULT", json.dumps({"seconds": [resume(), resume()][1]}))
"""


def command(scratch: Path, python: str, code: str, *arguments: object) -> list[str]:
    """A side; its code is a file, as some of them start processes by importing it again."""
    file = Path(tempfile.mkdtemp(dir=scratch)) / "side.py"
    file.write_text(code)
    return [python, str(file), *map(str, arguments)]


def result(one: side.Side) -> dict[str, float]:
    """What a side told."""
    found: dict[str, float] = json.loads(one.output.rpartition("RESULT ")[2].splitlines()[0])
    return found


def small(folder: Path, rows: int) -> Path:
    """An export of `rows` tiny pictures, in ten tars."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from fixtures import streamed

    kinds = [streamed.sample(number, (8, 8)) for number in range(4)]
    made = []
    for number in range(rows):
        members, row = kinds[number % 4]
        row = {**row, "id": f"toy/{number}"}
        made.append(({**members, "json": json.dumps({"id": row["id"]}).encode()}, row))
    return streamed.write(folder, made, 10)


def kinds_of(place: Path) -> str:
    """How many pictures of which kind there are in the first tar, and their mean size."""
    sizes: dict[str, list[int]] = {}
    with tarfile.open(next(iter(sorted(place.glob("train-*.tar"))))) as tar:
        for member in tar:
            sizes.setdefault(member.name.rpartition(".")[2], []).append(member.size)
    told = io.StringIO()
    for kind in ("jpg", "png", "webp"):
        if kind in sizes:
            print(
                f"{len(sizes[kind])} {kind} of {sum(sizes[kind]) / len(sizes[kind]) / 1e3:.0f} kB", end=" ", file=told
            )
    return told.getvalue()


def rates(
    scratch: Path, sides: list[tuple[str, str, str, Path, str]], workers: list[int], limits: dict[str, int], times: int
) -> None:
    """Every side with every number of workers, `times` rounds in turn."""
    print("| side | workers | samples/s | of all rounds | peak MB of a process |")
    print("|---|---|---|---|---|")
    told: dict[tuple[str, int], list[side.Side]] = {}
    for _ in range(times):
        for name, python, code, place, how in sides:
            for count in workers:
                asked = command(scratch, python, COMMON + code, place, how, count, limits[how])
                told.setdefault((name, count), []).append(side.run(name, asked))
    for (name, count), runs in told.items():
        found = sorted(result(one)["rate"] for one in runs)
        each = ", ".join(f"{rate:,.0f}" for rate in found)
        print(f"| {name} | {count} | {found[len(found) // 2]:,.0f} | {each} | {max(one.peak_mb for one in runs):.0f} |")


def compare(args: argparse.Namespace, scratch: Path) -> None:
    """All sides; see the module."""
    here, place = sys.executable, args.place.resolve()
    print(f"{place.name}: {kinds_of(place)}in the first tar\n")
    peers = [("webdataset", here, WEBDATASET, place), ("datasets streaming, tars", here, DATASETS, place)]
    for name, python, code, write in (
        ("LitData", args.litdata, LITDATA, WRITE_LITDATA),
        ("MosaicML streaming", args.mosaicml, TORCHVISION + MOSAICML, TORCHVISION + WRITE_MOSAICML),
    ):
        if python is not None:
            out = scratch / name.partition(" ")[0]
            wrote = side.run(f"{name} writes", command(scratch, python, WRITE + write, place, out))
            print(f"{name}: its format written in {wrote.wall:.1f} s, {side.folder_bytes(out) / 1e6:,.0f} MB\n")
            peers.append((name, python, code, out))
    limits = {"bytes": args.undecoded, "pixels": args.decoded, "full": args.decoded}
    print("Undecoded\n")
    ours = [("hfds", here, HFDS, place, "bytes"), ("hfds, a plain DataLoader", here, HFDS_PLAIN, place, "bytes")]
    rates(scratch, [*ours, *((*peer, "bytes") for peer in peers)], args.workers, limits, args.times)
    print("\nDecoded to 512 pixels, with Pillow\n")
    ours = [("hfds", here, HFDS, place, "pixels"), ("hfds, in full", here, HFDS, place, "full")]
    ours += [("webdataset, with Pillow's draft", here, WEBDATASET, place, "pixels")]
    rates(
        scratch,
        [*ours, *((f"{name}, in full", *peer, "full") for name, *peer in peers)],
        args.workers,
        limits,
        args.times,
    )
    if args.rows:
        tiny = small(scratch / "tiny", args.rows)
        print(f"\nThe first batch after resuming in the middle of {args.rows:,} samples\n")
        for name, code in (("hfds", RESUME_HFDS), ("webdataset, reading on", RESUME_WEBDATASET)):
            for workers in args.workers:
                found = result(side.run(name, command(scratch, here, COMMON + code, tiny, "bytes", workers, args.rows)))
                state = f", state of {found['state']} bytes" if "state" in found else ""
                print(f"{name}, {workers} workers: {found['seconds']:.3f} s{state}")
    if args.indexed:
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
        from fixtures import streamed

        bare = streamed.bare_index(scratch / "bare", args.indexed, 10_000)
        found = result(side.run("hfds", command(scratch, here, COMMON + RESUME_INDEX, bare, "bytes", 0, args.indexed)))
        print(f"\nhfds, where the samples behind the middle of {args.indexed:,} lie: {found['seconds']:.3f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path, help="the folder of an export, with a split train")
    parser.add_argument("--scratch", type=Path, default=Path("/dev/shm"), help="a folder for what the others write")
    parser.add_argument("--litdata", metavar="PYTHON", help="of an environment with litdata")
    parser.add_argument("--mosaicml", metavar="PYTHON", help="of an environment with mosaicml-streaming")
    parser.add_argument("--decoded", type=int, default=1600, help="samples of a decoded run")
    parser.add_argument("--undecoded", type=int, default=16_000, help="samples of an undecoded run")
    parser.add_argument(
        "--rows", type=int, default=100_000, help="small samples to resume in the middle of; 0 for none"
    )
    parser.add_argument("--indexed", type=int, default=10_000_000, help="rows of an index to resume in the middle of")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--times", type=int, default=3, help="rounds; the medians count")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        compare(args, Path(scratch))


if __name__ == "__main__":
    main()
