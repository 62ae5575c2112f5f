"""Width and height of pictures inside tars, from headers only, in one process: hfds against Pillow.

    python benchmarks/picture_headers.py FOLDER    # FOLDER holds data/*.tar, see dalle3_tars.py --make

Pillow's sides open (not decode) the same pictures: as files extracted beforehand, and inside the tars with `tarfile`.
"""

import argparse
import sys
import tarfile
import tempfile
from pathlib import Path

import side

OURS = """
import sys, time
from hfds.archive import Reader, tar_members
from hfds.picture import measure
start, count = time.perf_counter(), 0
for path in sys.argv[1:]:
    with Reader(path) as reader:
        for member in tar_members(reader, path):
            if not member.name.endswith(".json"):
                size = measure(member.head, member.size, lambda at, n: reader.read(member.offset + at, n))
                count += size.width > 0
print(count, time.perf_counter() - start)
"""
PILLOW_FILES = """
import sys, time, os
import PIL.Image
PIL.Image.init()
start, count = time.perf_counter(), 0
for entry in os.scandir(sys.argv[1]):
    with PIL.Image.open(entry.path) as image:
        count += image.size[0] > 0
print(count, time.perf_counter() - start)
"""
PILLOW_TARS = """
import sys, time, tarfile
import PIL.Image
PIL.Image.init()
start, count = time.perf_counter(), 0
for path in sys.argv[1:]:
    with tarfile.open(path) as archive:
        for member in archive:
            if not member.name.endswith(".json"):
                with PIL.Image.open(archive.extractfile(member)) as image:
                    count += image.size[0] > 0
print(count, time.perf_counter() - start)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--times", type=int, default=5, help="runs of each side; the median is reported")
    args = parser.parse_args()
    tars = [str(path) for path in sorted(args.folder.resolve().glob("data/*.tar"))]
    with tempfile.TemporaryDirectory() as files:
        for path in tars:
            with tarfile.open(path) as archive:
                archive.extractall(files, [m for m in archive if not m.name.endswith(".json")], filter="data")
        sides = {
            "hfds, inside tars": [sys.executable, "-c", OURS, *tars],
            "Pillow, extracted files": [sys.executable, "-c", PILLOW_FILES, files],
            "Pillow, inside tars": [sys.executable, "-c", PILLOW_TARS, *tars],
        }
        rates = {name: _rate(name, command, args.times) for name, command in sides.items()}
    print("| side | pictures | pictures/s | hfds is faster by |\n|---|---|---|---|")
    for name, (count, rate) in rates.items():
        print(f"| {name} | {count:,} | {rate:,.0f} | {rates['hfds, inside tars'][1] / rate:.1f}x |")


def _rate(name: str, command: list[str], times: int) -> tuple[int, float]:
    """Pictures, and pictures a second inside the process (its start left out), of the median of several runs."""
    outputs = [side.run(name, command).output.split() for _ in range(times + 1)][1:]
    count, seconds = sorted((int(count), float(seconds)) for count, seconds in outputs)[times // 2]
    return count, count / seconds


if __name__ == "__main__":
    main()
