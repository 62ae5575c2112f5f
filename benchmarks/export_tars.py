"""Export of a built release as tars, against `cp` of the same bytes, webdataset's ShardWriter and Python's tarfile.

    python benchmarks/export_tars.py FOLDER RELEASE --scratch DIR

FOLDER is a dataset's folder, such as dist/image-to-prompt, and DIR lies on the same disk. Every side is a process of
its own, imports included. `hfds` measures the rows, writes tars, their sha256, indexes and a manifest; the peers write
tars of the same members from the same Parquet, with neither sums nor index; `cp` copies the tars that hfds wrote.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import side

OURS = """
import sys
from pathlib import Path
from hfds.tars import export
if __name__ == "__main__":
    out, dataset, release, num_proc, caption = sys.argv[1:]
    export(dataset, release, out=Path(out), num_proc=int(num_proc), caption=caption)
"""
IMPORTS = """
import hfds.tars
"""
ROWS = """
import io, json, sys
from pathlib import Path
import pyarrow.parquet as pq
def rows(folder, release):
    number = 0
    for path in sorted(Path(folder, "data", release).glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(16):
            for row in batch.to_pylist():
                picture = row.pop("image")["bytes"]
                extension = "jpg" if picture.startswith(b"\\xff\\xd8") else "png" if picture[1:4] == b"PNG" else "webp"
                yield f"{number:010d}", extension, picture, row["prompt"] or "", row
                number += 1
"""
SHARD_WRITER = f"""{ROWS}
import webdataset
folder, release, out = sys.argv[1:]
with webdataset.ShardWriter(out + "/%05d.tar", maxcount=1 << 40, maxsize=1e9, mtime=0, verbose=0) as sink:
    for key, extension, picture, caption, row in rows(folder, release):
        sink.write({{"__key__": key, extension: picture, "txt": caption, "json": row}})
"""
TARFILE = f"""{ROWS}
import tarfile
folder, release, out = sys.argv[1:]
archive, number = None, 0
for key, extension, picture, caption, row in rows(folder, release):
    if archive is None or archive.offset > 1e9:
        if archive:
            archive.close()
        archive = tarfile.open(f"{{out}}/{{number:05d}}.tar", "w", format=tarfile.USTAR_FORMAT)
        number += 1
    members = ((extension, picture), ("txt", caption.encode()), ("json", json.dumps(row).encode()))
    for end, data in members:
        info = tarfile.TarInfo(f"{{key}}.{{end}}")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
archive.close()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a dataset's folder")
    parser.add_argument("release", help="a release that was built there")
    parser.add_argument("--caption", default="prompt", help="the style of captions that hfds takes")
    parser.add_argument("--scratch", type=Path, required=True, help="an empty folder on the same disk")
    parser.add_argument("--times", type=int, default=3, help="rounds")
    args = parser.parse_args()
    args.scratch.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=args.scratch.resolve()))
    source = args.folder.resolve()
    home, copied = scratch / "dist" / source.name, scratch / "copied"
    home.mkdir(parents=True)
    for part in ("data", "ledger", "releases"):  # so that nothing is written into the release's own folder
        (home / part).symlink_to(source / part)

    def ours(num_proc: int) -> list[str]:
        words = (str(scratch / "dist"), source.name, args.release, str(num_proc), args.caption)
        return [sys.executable, "-c", OURS, *words]

    def peer(code: str) -> list[str]:
        return [sys.executable, "-c", code, str(source), args.release, str(copied)]

    side.run("hfds", ours(1))
    whole = scratch / "whole"
    (home / "wds" / args.release).rename(whole)

    def before() -> None:
        shutil.rmtree(home / "wds", ignore_errors=True)
        shutil.rmtree(copied, ignore_errors=True)
        copied.mkdir()

    rounds = side.turns(
        [
            ("cp", ["cp", "-r", str(whole), str(copied)], None),
            ("hfds", ours(1), None),
            ("hfds, 2 processes", ours(2), None),
            ("tarfile", peer(TARFILE), None),
            ("ShardWriter", peer(SHARD_WRITER), None),
            ("hfds, imports alone", [sys.executable, "-c", IMPORTS], None),
        ],
        args.times,
        before,
    )
    size = side.folder_bytes(whole)
    print(f"{size:,} bytes of tars and indexes\n")
    side.report(rounds)
    for number, one in enumerate(rounds, start=1):
        speeds = ", ".join(f"{entry.name} {size / entry.wall / 1e6:,.0f}" for entry in one[:-1])
        imports, own = one[-1], one[1]
        alone = f"{size / (own.wall - imports.wall) / 1e6:,.0f} MB/s in {own.peak_mb - imports.peak_mb:.0f} MB"
        print(f"round {number}, MB/s: {speeds}; hfds without imports {alone}")
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
