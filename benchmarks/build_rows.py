"""A whole build of prompts at two sizes ten times apart: rows a second and peak memory.

    python benchmarks/build_rows.py metadata.parquet    # DiffusionDB's table; diffusiondb_metadata.py --make writes one

The release: read, clean, keep, mark duplicates, split, write, with ledger, lock and card.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import side
from diffusiondb_metadata import tenth

BUILD = """
import sys, time
from builders.diffusiondb import DiffusionDB
from hfds import Input, Release, Run, build
from processors.clean_prompt import CleanPrompt
from processors.dedup import MarkDuplicates
from processors.keep_prompt import KeepPrompt
from processors.split import Split
release = Release(
    "bench", "v1", (Input(DiffusionDB, "2m_text"),),
    (CleanPrompt(), KeepPrompt(), MarkDuplicates("prompt"), Split(0.05)), columns=("prompt", "source", "license"),
)
if __name__ == "__main__":
    start = time.perf_counter()
    built = build(release, Run.here(sys.argv[2], 2), sources=sys.argv[1], out=sys.argv[2])
    peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
    entry = built.funnel[0]
    print("BUILT", entry["rows"], sum(entry["kept"].values()), time.perf_counter() - start, peak / 1024)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--tmp", type=Path, help="where there is room for the release")
    args = parser.parse_args()
    print("| rows | kept | seconds | rows/s | peak MB |\n|---|---|---|---|---|")
    peaks = []
    with tempfile.TemporaryDirectory(dir=args.tmp) as folder:
        for name in ("small", "large"):
            source = Path(folder, name, "diffusiondb")
            source.mkdir(parents=True)
            if name == "small":
                tenth(args.table, source / "metadata.parquet")
            else:
                (source / "metadata.parquet").symlink_to(args.table.absolute())
            command = [sys.executable, "-c", BUILD, str(source.parent), str(Path(folder, f"out-{name}"))]
            said = side.run(name, command).output.split("BUILT")[1].split()
            rows, kept, seconds, peak = int(said[0]), int(said[1]), float(said[2]), float(said[3])
            peaks.append(peak)
            print(f"| {rows:,} | {kept:,} | {seconds:.1f} | {rows / seconds:,.0f} | {peak:.0f} |")
    print(f"\nten times the rows take {peaks[1] / peaks[0]:.2f} times the memory")


if __name__ == "__main__":
    main()
