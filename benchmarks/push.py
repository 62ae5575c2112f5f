"""Publishing: bytes and requests of a second release against `push_to_hub`, time of a first against `upload_folder`.

    python benchmarks/push.py FOLDER               # FOLDER holds data/data-NNNNNN.tar of DALLE-3, as published
    python benchmarks/push.py FOLDER --make 4000   # first writes about so many pictures there, no two alike

Two releases are built from those rows, and the second shares 90 % of its rows with the first; what it has not stands
all over it, as after a filter. Both go to a Hub on localhost (that of the tests, with LFS and with Xet), by hfds and by
`Dataset.push_to_hub`, and the server counts what the second took. Then the first release is pushed to new repositories
in turn with `upload_folder` of the same files. Every side is a process of its own.
"""

import argparse
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import PIL.Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from hub import Hub

BUILD = """
import sys
from dataclasses import dataclass
import numpy as np
import pyarrow as pa
import xxhash
from builders.dalle3 import Dalle3
from hfds import Filter, Input, Release, Run, build
from hfds.record import drops
@dataclass(frozen=True)
class Without(Filter):
    part: int
    needs = ("id",)
    def verdicts(self, rows):
        hashes = np.array([xxhash.xxh3_64_intdigest(one.encode()) % 11 for one in rows["id"].to_pylist()])
        return drops(self.name, len(rows), pa.array(np.where(hashes == self.part, "left out", None), pa.string()))
for part, name in enumerate(("v1", "v2")):
    release = Release("bench", name, (Input(Dalle3, folder="."),), (Without(part),))
    built = build(release, Run.here(sys.argv[2], 2), sources=sys.argv[1], out=sys.argv[3])
    print(name, sum(split["rows"] for split in built.lock["splits"].values()), "rows")
"""
THEIRS = """
import sys
from datasets import load_dataset
rows = load_dataset(sys.argv[1], sys.argv[2])
rows.push_to_hub(sys.argv[3], sys.argv[2])
"""
PLAIN = """
import sys
from huggingface_hub import HfApi
api = HfApi()
api.create_repo(sys.argv[2], repo_type="dataset", exist_ok=True)
api.upload_folder(repo_id=sys.argv[2], repo_type="dataset", folder_path=sys.argv[1])
"""


def make(folder: Path, pictures: int) -> None:
    """Tars of 512 x 512 JPEGs of noise over smooth colours, about 120 kB each."""
    rng = np.random.default_rng(0)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for tar in range(0, pictures, 1000):
        with tarfile.open(folder / f"data/data-{tar // 1000:06d}.tar", "w") as archive:
            for number in range(tar, min(tar + 1000, pictures)):
                coarse = PIL.Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8))
                pixels = np.asarray(coarse.resize((512, 512), PIL.Image.Resampling.BICUBIC)).astype(np.int16)
                pixels = np.clip(pixels + rng.integers(-14, 15, pixels.shape), 0, 255).astype(np.uint8)
                buffer = io.BytesIO()
                PIL.Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
                stem = f"{number:08x}"
                told = {"image_name": f"{stem}.jpg", "short_caption": f"Picture number {number}.", "width": 512}
                told |= {"height": 512, "long_caption": f"A long caption about the colours of number {number}. " * 9}
                for name, data in ((f"{stem}.jpg", buffer.getvalue()), (f"{stem}.json", json.dumps(told).encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))


def ours(out: Path, name: str, repo: str) -> list[str]:
    """The command that pushes with hfds."""
    return [sys.executable, "-m", "hfds.cli", "push", "bench", name, "--to", repo, "--out", str(out), *UNKNOWN]


UNKNOWN = ("--allow-unknown-license",)


def run(command: list[str], hub: Hub, home: Path, xet: bool) -> float:
    """Seconds of a client in a process of its own."""
    environment = hub.environment(home, token="hf_write", xet=xet)
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return time.perf_counter() - start


def second_release(out: Path, scratch: Path, xet: bool) -> None:
    """What the second release takes after the first."""
    total = sum(file.stat().st_size for file in (out / "bench/data/v2").iterdir())
    sides = {
        "push_to_hub": lambda name: [sys.executable, "-c", THEIRS, str(out / "bench"), name, "org/theirs"],
        "hfds push": lambda name: ours(out, name, "org/ours"),
    }
    for side, command in sides.items():
        with Hub(scratch / f"hub-{side}") as hub:
            run(command("v1"), hub, scratch / side, xet)
            hub.forget()
            seconds = run(command("v2"), hub, scratch / side, xet)
            asked, sent = len(hub.requests), hub.received("")
        how = "Xet" if xet else "LFS"
        print(f"| {side}, {how} | {sent / 1e6:.1f} | {sent / total:.1%} | {asked} | {seconds:.1f} |", flush=True)
        shutil.rmtree(scratch / side, ignore_errors=True)
        shutil.rmtree(scratch / f"hub-{side}")


def first_release(out: Path, scratch: Path, xet: bool, times: int) -> None:
    """What the first release takes, against the same files as they are."""
    alone = scratch / "alone"
    shutil.copytree(out / "bench", alone / "bench", ignore=shutil.ignore_patterns("v2*", ".*"))
    ratios, walls = [], []
    for number in range(times + 1):
        with Hub(scratch / "hub") as hub:
            plain = [sys.executable, "-c", PLAIN, str(alone / "bench"), "org/plain"]
            commands = [plain, ours(alone, "v1", "org/ours")]
            seconds = []
            for command in commands:
                seconds.append(run(command, hub, scratch / f"home-{command is plain}", xet))
                hub.store.clear()
        shutil.rmtree(scratch / "hub")
        for home in scratch.glob("home-*"):
            shutil.rmtree(home)
        if number:
            ratios.append(seconds[1] / seconds[0])
            walls.append(seconds)
    middle = [median(wall[side] for wall in walls) for side in (0, 1)]
    print(f"| {'Xet' if xet else 'LFS'} | {middle[0]:.2f} | {middle[1]:.2f} | {median(ratios):.2f} |", flush=True)
    shutil.rmtree(alone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--make", type=int, metavar="PICTURES", help="write about so many pictures there first")
    parser.add_argument("--times", type=int, default=5, help="runs of each side that count")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    args = parser.parse_args()
    if args.make:
        make(args.folder, args.make)
    scratch = Path(tempfile.mkdtemp(dir=args.scratch))
    out = scratch / "out"
    built = [sys.executable, "-c", BUILD, str(args.folder.resolve()), str(scratch / "work"), str(out)]
    print(subprocess.run(built, check=True, capture_output=True, text=True).stdout)
    print("| second release | MB sent | of its shards | requests | s |\n|---|---|---|---|---|")
    for xet in (False, True):
        second_release(out, scratch, xet)
    print("\n| first release | upload_folder s | hfds push s | ratio, round by round |\n|---|---|---|---|")
    for xet in (False, True):
        first_release(out, scratch, xet, args.times)
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
