"""Exported tars: what is in them, the same bytes however they were made, and read by the tools they are made for."""

import io
import json
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
from datasets import Features, Image, Json, Value, load_dataset
from fixtures import gallery
from fixtures.make import picture
from hub import Hub

from hfds.archive import Reader, sha256_of, tar_members
from hfds.commands.exporting import webdataset
from hfds.errors import BadFile, ConfigError, HfdsError, OutOfSpace
from hfds.lock import read_lock
from hfds.manifest import Manifest
from hfds.samples import Samples, exported
from hfds.tars import Export
from hfds.tars import export as export_release
from hfds.ustar import header
from hfds.withdrawn import Tombstone, text_of, write_withdrawn

REPO = "org/gallery"
SMALL = 60_000  # bytes of a tar, so that a few dozen pictures make several
Sample = dict[str, Any]


def export(folder: Path, **how: Any) -> Export:
    return export_release("gallery", "v1", out=folder / "dist", **how)


def released(folder: Path) -> dict[str, list[Sample]]:
    """The rows of a release, by split."""
    return {
        split: [
            row
            for shard in entry["shards"]
            for row in pq.read_table(folder / "dist/gallery" / shard["path"]).to_pylist()
        ]
        for split, entry in read_lock(folder / "dist/gallery", "v1")["splits"].items()
    }


def files(made: Export) -> dict[str, list[str]]:
    """Paths of tars by split."""
    return {
        split: [str(made.folder / shard.path) for shard in entry.shards]
        for split, entry in made.manifest.splits.items()
    }


def scores(row: Sample) -> Sample | None:
    """What JSON says of them: nothing that is null."""
    return {name: value for name, value in (row["source_scores"] or {}).items() if value is not None} or None


def sums(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of JPEGs of which only later rows have a score, exported with short captions."""
    folder = tmp_path_factory.mktemp("photos")
    gallery.made(folder, [gallery.row(n, ("JPEG",), **({"aesthetic": None} if n < 30 else {})) for n in range(60)])
    export(folder, caption="short", index=("source_scores", "license"), max_shard=SMALL)
    return folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of JPEG, PNG and WebP, exported."""
    folder = tmp_path_factory.mktemp("mixed")
    gallery.made(folder, [gallery.row(n) for n in range(60)])
    export(folder, max_shard=SMALL)
    return folder


def there(folder: Path, **how: Any) -> Export:
    """The export that the fixture made, found finished."""
    made = export(folder, max_shard=SMALL, **how)
    assert made.kept
    return made


def of_photos(folder: Path) -> Export:
    return there(folder, caption="short", index=("source_scores", "license"))


# What is in them


def test_every_row_is_a_sample_with_its_own_bytes(photos: Path, mixed: Path) -> None:
    for folder, made in ((photos, of_photos(photos)), (mixed, there(mixed))):
        for split, rows in released(folder).items():
            members: list[tuple[str, bytes]] = []
            for path in files(made)[split]:
                with tarfile.open(path, format=tarfile.USTAR_FORMAT) as tar:
                    for info in tar:
                        assert (info.mtime, info.uid, info.gid, info.mode, info.uname) == (0, 0, 0, 0o644, "")
                        members.append((info.name, tar.extractfile(info).read()))  # type: ignore[union-attr]
            assert len(members) == 3 * len(rows) == 3 * made.manifest.splits[split].rows
            for number, row in enumerate(rows):
                data = row["image"]["bytes"]
                extension = {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp"}[data[:2]]
                short = [caption["text"] for caption in row["captions"] if caption["style"] == "short"]
                caption = short[0] if short and made.manifest.caption == "short" else row["prompt"]
                image, text, other = members[3 * number : 3 * number + 3]
                assert image == (f"{number:010d}.{extension}", data)
                assert text == (f"{number:010d}.txt", caption.encode())
                assert other[0] == f"{number:010d}.json"
                told = json.loads(other[1])
                assert (told["id"], told["prompt"], told["width"]) == (row["id"], row["prompt"], row["width"])
                assert json.loads(told["extra"]) == json.loads(row["extra"])
                assert told.get("source_scores") == scores(row)


def test_the_index_says_where_everything_is(photos: Path) -> None:
    made = of_photos(photos)
    samples = Samples(made.folder)
    for split, rows in released(photos).items():
        at = 0
        for shard in made.manifest.splits[split].shards:
            index = samples.index_of(shard).to_pylist()
            reader = Reader(str(made.folder / shard.path))
            members = [*tar_members(reader, shard.path)]
            assert [entry["picture_offset"] for entry in index] == [member.offset for member in members[::3]]
            ends = [entry["offset"] + entry["size"] for entry in index]
            assert [0, *ends] == [*(entry["offset"] for entry in index), shard.bytes - 1024]
            for entry, row in zip(index, rows[at:], strict=False):
                assert reader.read(entry["picture_offset"], entry["picture_size"]) == row["image"]["bytes"]
                assert list(entry)[-2:] == ["source_scores", "license"]
                assert all(entry[name] == row[name] for name in ("id", "width", "height", "source_scores", "license"))
            reader.close()
            at += len(index)
        assert at == len(rows)


def test_rows_that_make_no_sample_are_counted(tmp_path: Path) -> None:
    rows = [gallery.row(n, width=None, height=None if n % 2 else 40) for n in range(40)]
    rows[3] = gallery.row(3, image=None)
    rows[4] = gallery.row(4, image=picture("GIF"))
    rows[5] = gallery.row(5, prompt=None, short=None)
    rows[6] = gallery.row(6, prompt=None, short="only short")
    rows[7] = gallery.row(7, image=picture("PNG")[:20], width=None)
    rows[8] = gallery.row(8, width=0)
    gallery.made(tmp_path, rows)
    made = export(tmp_path, caption="short").manifest
    left_out: Counter[str] = sum((Counter(split.left_out) for split in made.splits.values()), Counter())
    assert left_out == {"no_picture": 1, "other_format": 1, "no_caption": 1}
    assert {split: entry.rows + sum(entry.left_out.values()) for split, entry in made.splits.items()} == {
        split: len(rows) for split, rows in released(tmp_path).items()
    }
    assert sum(split.noted["by_prompt"] for split in made.splits.values()) == 20 - 2
    samples = Samples(tmp_path / "dist/gallery/wds/v1")
    tables = [samples.index_of(shard).to_pylist() for split in made.splits.values() for shard in split.shards]
    sizes = {entry["id"]: (entry["width"], entry["height"]) for table in tables for entry in table}
    assert sizes.pop("gallery/r.7") == (None, None), "it ends in its header"
    assert sizes == {f"gallery/r.{n}": (48 + n % 32, 40) for n in range(40) if n not in (3, 4, 5, 7)}


def test_rows_that_were_withdrawn_are_in_no_tar(tmp_path: Path) -> None:
    gallery.made(tmp_path, [gallery.row(n) for n in range(30)])
    whole = export(tmp_path)
    rows = released(tmp_path)["train"]
    gone = [row["id"] for row in rows[1:4]]
    write_withdrawn(
        [Tombstone(id_, "asked to", "id", "v2") for id_ in (*gone, "of/another")], tmp_path / "dist/gallery"
    )
    made = export(tmp_path)
    assert made.instead == "other rows are withdrawn now"
    assert made.manifest.splits["train"].left_out == {"withdrawn": 3}
    assert made.manifest.splits["validation"] == whole.manifest.splits["validation"]
    with tarfile.open(files(made)["train"][0]) as tar:
        kept = [number for number in range(len(rows)) if number not in (1, 2, 3)]
        assert [info.name for info in tar][2::3] == [f"{number:010d}.json" for number in kept], "by their own numbers"
    assert export(tmp_path).kept


def test_no_tar_is_larger_than_asked_but_for_one_sample(tmp_path: Path) -> None:
    rows = [gallery.row(n) for n in range(40)]
    rows[20] = gallery.row(20, image=picture("PNG", 200, 200))
    gallery.made(tmp_path, rows)
    shards = [shard for split in export(tmp_path, max_shard=30_000).manifest.splits.values() for shard in split.shards]
    assert [shard.rows for shard in shards if shard.bytes > 30_000] == [1]
    assert len(shards) < 20
    assert all(shard.path.startswith(("train-000", "validation-000")) for shard in shards)


def test_tars_end_anywhere_in_a_large_row_group(tmp_path: Path) -> None:
    gallery.made(tmp_path, [gallery.row(n % 97, key=str(n)) for n in range(5000)])
    assert (
        pq.ParquetFile(next((tmp_path / "dist/gallery/data/v1").glob("train*"))).metadata.row_group(0).num_rows > 3000
    )
    rows = released(tmp_path)["train"]
    made = export(tmp_path, max_shard=3_000_000)
    samples, split, at = Samples(made.folder), made.manifest.splits["train"], 0
    for shard in split.shards:
        assert 2_000_000 < shard.bytes <= 3_000_000
        index, data = samples.index_of(shard).to_pylist(), (made.folder / shard.path).read_bytes()
        for entry, row in zip(index, rows[at:], strict=False):
            assert entry["id"] == row["id"]
            start, picture_start = entry["offset"], entry["picture_offset"]
            assert data[start : start + 11] == b"%010d." % at
            assert data[picture_start : picture_start + entry["picture_size"]] == row["image"]["bytes"]
            at += 1
    assert at == len(rows) == split.rows


def test_tars_that_would_be_empty_leave_no_gap(tmp_path: Path) -> None:
    gallery.made(tmp_path, [gallery.row(n, **({"image": picture("GIF")} if n % 20 < 15 else {})) for n in range(40)])
    made = export(tmp_path, max_shard=9000)
    for split, entry in made.manifest.splits.items():
        assert [shard.path for shard in entry.shards] == [f"{split}-{n:05d}.tar" for n in range(len(entry.shards))]
        assert entry.left_out.get("other_format", 0) == len(released(tmp_path)[split]) - entry.rows
    assert {*made.manifest.files, "manifest.json"} == {*sums(made.folder)}
    assert sum(split.rows for split in made.manifest.splits.values()) == 10
    samples = Samples(made.folder)
    for shard in (shard for split in made.manifest.splits.values() for shard in split.shards):
        assert sha256_of(made.folder / shard.path) == shard.sha256
        assert len(samples.index_of(shard)) == shard.rows


def test_headers_are_those_of_python_and_sizes_have_no_limit() -> None:
    for size in (0, 1, 8**11 - 1):
        info = tarfile.TarInfo("0000000001.webp")
        info.size = size
        assert header(b"0000000001.webp", size) == info.tobuf(tarfile.USTAR_FORMAT)
    read = tarfile.TarInfo.frombuf(header(b"0000000001.png", 8**11), "ascii", "strict")
    assert (read.name, read.size, read.type) == ("0000000001.png", 8**11, tarfile.REGTYPE)


# How they are made


def test_any_number_of_processes_makes_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    made = of_photos(photos)
    other = tmp_path / "dist/gallery"
    other.mkdir(parents=True)
    for part in ("data", "ledger", "releases"):
        (other / part).symlink_to(photos / "dist/gallery" / part)
    again = export(tmp_path, caption="short", index=("source_scores", "license"), max_shard=SMALL, num_proc=3)
    assert sums(again.folder) == sums(made.folder)
    assert {name: sha256_of(path) for name, path in exported(other, "v1").items()} == {
        f"wds/v1/{name}": sum_ for name, sum_ in sums(made.folder).items()
    }
    said = {file: sum_ for split in made.manifest.splits.values() for shard in split.shards
            for file, sum_ in ((shard.path, shard.sha256), (shard.index, shard.index_sha256))}  # fmt: skip
    assert said == {name: sum_ for name, sum_ in sums(made.folder).items() if name != "manifest.json"}


def command(folder: Path, *more: str) -> list[str]:
    arguments = ["export", "webdataset", "gallery", "v1", "--out", str(folder / "dist"), "--json", *more]
    return [sys.executable, "-m", "hfds.cli", *arguments]


def test_killed_at_any_moment_and_run_again(tmp_path: Path) -> None:
    gallery.made(tmp_path, [gallery.row(n) for n in range(60)])
    home = tmp_path / "dist/gallery/wds"
    notes, size = home / ".exporting-v1/notes", ("--max-shard", "9000")
    whole = sums(export(tmp_path, max_shard=9000).folder)
    (home / "v1").rename(tmp_path / "whole")
    for number in (0, 1, 9):
        process = subprocess.Popen(command(tmp_path, *size), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len([*notes.glob("*.json")]) <= number:
            time.sleep(0.0005)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it was not finished"
        assert not (home / "v1").exists()
    done = {path.stem for path in notes.glob("*.json")}
    before = {
        path.name: path.stat().st_mtime_ns for path in (home / ".exporting-v1").glob("*.tar") if path.stem in done
    }
    assert 9 < len(before) < len(whole) // 2
    again = subprocess.check_output(command(tmp_path, *size, "--num-proc", "2"), stderr=subprocess.DEVNULL)
    assert json.loads(again)["folder"] == str(home / "v1")
    assert sums(home / "v1") == whole
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in (home / "v1").iterdir()}.items()
    assert [path.name for path in home.iterdir()] == ["v1"]
    stamps = {path.name: path.stat().st_mtime_ns for path in (home / "v1").iterdir()}
    (home / "v1").rename(home / ".exporting-v1")  # killed as it was put into its place
    assert not export(tmp_path, max_shard=9000).kept
    assert stamps == {path.name: path.stat().st_mtime_ns for path in (home / "v1").iterdir()}


def test_a_full_disk_is_one_sentence_and_nothing_is_lost(tmp_path: Path) -> None:
    gallery.made(tmp_path, [gallery.row(n) for n in range(30)])
    aside = tmp_path / "dist/gallery/wds/.exporting-v1"
    (aside / "notes").mkdir(parents=True)
    full = aside / "train-00001.tar.part"
    full.symlink_to("/dev/full")
    for num_proc in (1, 2):
        with pytest.raises(OutOfSpace, match=r"the disk is full.*run again to go on"):
            export(tmp_path, max_shard=SMALL, num_proc=num_proc)
        assert (aside / "train-00000.tar").exists()
    full.unlink()
    assert not export(tmp_path, max_shard=SMALL).kept
    assert exported(tmp_path / "dist/gallery", "v1")


def test_an_export_is_made_anew_when_it_must_be(tmp_path: Path) -> None:
    gallery.made(tmp_path, [gallery.row(n) for n in range(30)])
    first = export(tmp_path, max_shard=SMALL)
    assert (first.instead, first.kept) == (None, False)
    assert export(tmp_path, max_shard=SMALL) == Export(first.folder, first.manifest, None, kept=True)
    other = export(tmp_path, index=("license",), max_shard=SMALL)
    assert (other.instead, other.kept) == ("it was made with other options", False)
    (first.folder / "train-00000.tar").write_bytes(b"cut")
    assert export(tmp_path, index=("license",), max_shard=SMALL).instead == "it was damaged"
    gallery.made(tmp_path, [gallery.row(n) for n in range(20)], workdir="other")
    rebuilt = export(tmp_path, index=("license",), max_shard=SMALL)
    assert "v1 was built again since (digest " in str(rebuilt.instead)
    assert sum(split.rows for split in rebuilt.manifest.splits.values()) == 20
    assert {*rebuilt.manifest.files, "manifest.json"} == {path.name for path in rebuilt.folder.iterdir()}


def test_what_cannot_be_is_said_before(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        export(photos, index=("licence", "image", "width"))
    assert "'licence' cannot be put into an index of gallery/v1: did you mean 'license'?" in str(caught.value)
    assert [problem[:7] for problem in caught.value.problems] == ["'licenc", "'image'", "'width'"]
    with pytest.raises(ConfigError, match="no row of gallery/v1 has a caption of style 'shrot': did you mean 'short'"):
        export(photos, caption="shrot")
    gallery.made(tmp_path, [gallery.row(n) for n in range(8)], columns=("image",))
    with pytest.raises(ConfigError, match="gallery/v1 has no column `prompt`: name a style of its `captions`"):
        export(tmp_path)
    with pytest.raises(ConfigError, match="gallery/v1 has no column `captions` to take 'short' from"):
        export(tmp_path, caption="short")
    gallery.made(tmp_path, [gallery.row(n) for n in range(8)], columns=("prompt",), workdir="w2")
    with pytest.raises(ConfigError, match="gallery/v1 has no pictures"):
        export(tmp_path)
    gallery.made(tmp_path, [gallery.row(n, image=None) for n in range(8)], workdir="w3")
    with pytest.raises(HfdsError, match=r"no row of gallery/v1 has a picture and a caption \(.*'no_picture'"):
        export(tmp_path)


@pytest.mark.parametrize("size", ["big", "0", "-1GB", "1GBB", "1,5GB"])
def test_a_size_that_is_none_is_refused(photos: Path, size: str) -> None:
    with pytest.raises(ConfigError, match=f"--max-shard is '{size}', and a size is written such as 500MB or 1GiB"):
        webdataset("gallery", "v1", max_shard=size, out=photos / "dist")


def test_sizes_are_written_as_people_do(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for size in ("60000", "60kB", "0.06 MB"):
        webdataset("gallery", "v1", size, "short", ["source_scores", "license"], out=photos / "dist", as_json=True)
        assert json.loads(capsys.readouterr().out)["kept"], size
    made = of_photos(photos).manifest.splits
    webdataset("gallery", "v1", "60kB", "short", ["source_scores", "license"], out=photos / "dist")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["split", "samples", "tars", "bytes", "left_out", "noted"]
    assert [line.split()[:3] for line in lines[1:3]] == [
        [split, str(entry.rows), str(len(entry.shards))] for split, entry in made.items()
    ]
    assert lines[3] == f"{photos / 'dist/gallery/wds/v1'} was there already"


def test_a_release_that_is_damaged_is_named(tmp_path: Path) -> None:
    gallery.made(tmp_path, [gallery.row(n) for n in range(30)])
    row = released(tmp_path)["train"][7]
    shard = next((tmp_path / "dist/gallery/data/v1").glob("train*"))
    whole = shard.read_bytes()
    at = whole.index(row["image"]["bytes"])
    shard.write_bytes(whole[: at + 99] + bytes(9) + whole[at + 108 :])
    with pytest.raises(
        BadFile, match=f"{shard.name}: the picture of {row['id']} is not what its hash says; build that"
    ):
        export(tmp_path)
    shard.write_bytes(whole[:100] + np.random.default_rng(0).bytes(1900) + whole[2000:])
    with pytest.raises(BadFile, match=f"{shard.name}: it cannot be read .*build that release again"):
        export(tmp_path)
    assert not (tmp_path / "dist/gallery/wds/v1").exists()
    shard.write_bytes(whole)
    assert not export(tmp_path).kept


# Read by others


def plain(picture: PIL.Image.Image) -> tuple[tuple[int, int], str]:
    return picture.size, picture.mode


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves closing to the collector
@pytest.mark.parametrize("workers", [0, 2])
def test_webdataset_reads_them(mixed: Path, workers: int) -> None:
    wds = pytest.importorskip("webdataset")
    made = there(mixed)
    rows = released(mixed)["train"]
    dataset = wds.WebDataset(files(made)["train"], shardshuffle=False).decode("pil")
    loader = wds.WebLoader(dataset.to_tuple("jpg;png;webp", "txt", "json"), batch_size=None, num_workers=workers)
    found = {told["id"]: (plain(image), caption) for image, caption, told in loader}
    assert found == {row["id"]: (((row["width"], 40), "RGB"), row["prompt"]) for row in rows}


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves closing to the collector
def test_an_openclip_pipeline_reads_them(mixed: Path) -> None:
    """As its documentation describes training on `--train-data` of WebDataset."""
    wds = pytest.importorskip("webdataset")
    made = there(mixed)

    def both(sample: Sample) -> bool:
        return "txt" in sample and any(extension in sample for extension in ("png", "jpg", "jpeg", "webp"))

    pipeline = wds.DataPipeline(
        wds.SimpleShardList(files(made)["train"]),
        wds.split_by_node,
        wds.split_by_worker,
        wds.tarfile_to_samples(),
        wds.select(both),
        wds.decode("pilrgb"),
        wds.rename(image="jpg;png;jpeg;webp", text="txt"),
        wds.map_dict(image=np.array, text=str.split),
        wds.to_tuple("image", "text"),
        wds.batched(8, partial=True, collation_fn=list),
    )
    samples = [sample for batch in wds.WebLoader(pipeline, batch_size=None, num_workers=2) for sample in batch]
    rows = released(mixed)["train"]
    assert Counter((image.shape, *words) for image, words in samples) == Counter(
        ((40, row["width"], 3), *row["prompt"].split()) for row in rows
    )


def features(made: Export) -> Features:
    """Those of docs/streaming.md."""
    pictures = {name: Image() for name in made.manifest.extensions if name not in ("txt", "json")}
    texts = {name: Value("string") for name in ("txt", "__key__", "__url__")}
    return Features({**pictures, **texts, "json": Json()})


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_reads_them(photos: Path, mixed: Path, tmp_path: Path, streaming: bool) -> None:
    how = {"streaming": streaming, "cache_dir": str(tmp_path)}
    for split, rows in released(photos).items():
        loaded = [*load_dataset("webdataset", data_files=files(of_photos(photos)), split=split, **how)]
        assert [sample["json"]["id"] for sample in loaded] == [row["id"] for row in rows]
        assert [plain(sample["jpg"]) for sample in loaded] == [((row["width"], 40), "RGB") for row in rows]
    made = there(mixed)
    loaded = [*load_dataset("webdataset", data_files=files(made), split="train", features=features(made), **how)]
    rows = released(mixed)["train"]
    kinds = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
    for sample, row in zip(loaded, rows, strict=True):
        (image,) = [sample[name] for name in kinds if sample[name] is not None]
        assert plain(image) == plain(PIL.Image.open(io.BytesIO(row["image"]["bytes"])))
        assert (sample["txt"], sample["json"]["id"]) == (row["prompt"], row["id"])
        assert sample["json"].get("source_scores") == scores(row)


CLIENT = """
import json, sys
from datasets import load_dataset
from hfds.samples import Samples
place = sys.argv[1]
samples = Samples(place)
split = samples.manifest.splits["train"]
found = {"index": [id_ for shard in split.shards for id_ in samples.index_of(shard)["id"].to_pylist()]}
found["config"] = [row["id"] for row in load_dataset(sys.argv[2], "v1", split="train")]
listed = [f"{place}/{shard.path}" for shard in split.shards]
for name, data_files in (("listed", listed), ("glob", f"{place}/train-*.tar")):
    for streaming in (False, True):
        rows = load_dataset("webdataset", data_files={"train": data_files}, split="train", streaming=streaming)
        found[f"{name}, streaming {streaming}"] = [row["json"]["id"] for row in rows if row["jpg"].size[1] == 40]
try:
    Samples(place + "/nowhere")
except Exception as error:
    found["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


def push(hub: Hub, folder: Path, *more: str, code: int = 0) -> Any:
    """`hfds push` of what was built in a folder, gallery v1 or a plan; what it printed, or why it did not."""
    what = [] if "--apply" in more else ["gallery", "v1", "--to", REPO]
    command = [sys.executable, "-m", "hfds.cli", "push", *what, "--json", *more]
    environment = hub.environment(folder / "home", token="hf_write")
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code else json.loads(done.stdout)


def of_export(folder: Path) -> dict[str, bytes]:
    """The files that a push of tars sends beside all others."""
    return {name: path.read_bytes() for name, path in exported(folder / "dist/gallery", "v1").items()}


def below_wds(files: dict[str, Any]) -> dict[str, Any]:
    return {name: what for name, what in files.items() if name.startswith("wds/")}


def test_they_are_pushed_and_read_from_the_hub(hub: Hub, photos: Path, tmp_path: Path) -> None:
    planned = push(hub, photos, "--tars", "--dry-run")
    sent, whole = push(hub, photos, "--tars"), of_export(photos)
    assert below_wds(sent["files"]) == below_wds(planned["files"]) == {name: len(data) for name, data in whole.items()}
    assert below_wds(hub.files(REPO)) == below_wds(hub.files(REPO, "v1")) == whole
    assert "wds/" not in hub.files(REPO)["README.md"].decode().split("---")[1]
    again = push(hub, photos, "--tars")
    assert (again["files"], again["commits"], again["commit"]) == ({}, 0, sent["commit"])
    environment = hub.environment(tmp_path, token="hf_read")
    url = f"hf://datasets/{REPO}@main/wds/v1"
    done = subprocess.run([sys.executable, "-c", CLIENT, url, REPO], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("error").startswith(f"SourceMissing: {url}/nowhere/manifest.json is not there")
    ids = [row["id"] for row in released(photos)["train"]]
    assert found == dict.fromkeys(found, ids)
    assert len(found) == 6


def test_they_are_pushed_behind_a_tag_and_replaced(hub: Hub, tmp_path: Path) -> None:
    gallery.made(tmp_path, [gallery.row(n) for n in range(60)])
    assert "gallery/v1 has no finished export" in push(hub, tmp_path, "--tars", code=2)
    assert hub.store.repo(REPO) is None
    first = push(hub, tmp_path)
    export(tmp_path, max_shard=12_000)
    sent, parquet = push(hub, tmp_path, "--tars"), hub.files(REPO, "v1")
    assert (sent["files"], sent["commit"]) == (
        {name: len(data) for name, data in of_export(tmp_path).items()}, first["commit"]
    )  # fmt: skip
    assert sent["commits"] > 1
    assert hub.files(REPO) == parquet | of_export(tmp_path)
    assert not below_wds(hub.files(REPO, "v1")), "the tag has not moved"
    export(tmp_path, max_shard=14_000)
    planned = push(hub, tmp_path, "--tars", "--plan", "plan.json")["files"]
    assert push(hub, tmp_path, "--apply", "plan.json")["files"] == planned
    assert "wds/v1/manifest.json" in planned
    assert hub.files(REPO) == parquet | of_export(tmp_path)
    for commit in hub.store.history(REPO, hub.store.refs(REPO)["refs/heads/main"]):
        there = below_wds(dict(commit.files))
        if "wds/v1/manifest.json" in there:
            manifest = Manifest.of(hub.files(REPO, commit.id)["wds/v1/manifest.json"], "it")
            assert {name: file.size for name, file in there.items() if not name.endswith(".json")} == {
                f"wds/v1/{name}": size for name, size in manifest.files.items()
            }, "what has a manifest is whole"


def test_tars_of_something_else_are_not_pushed(hub: Hub, tmp_path: Path) -> None:
    gallery.made(tmp_path, [gallery.row(n) for n in range(20)])
    export(tmp_path)
    home = tmp_path / "dist/gallery"
    stones = [Tombstone("of/another", "asked to", "id", "v2")]
    hub.commit(REPO, {"withdrawn.jsonl": text_of(stones).encode()})
    assert "exported before other rows were withdrawn" in push(hub, tmp_path, "--tars", code=2)
    write_withdrawn(stones, home)
    export(tmp_path)
    assert below_wds(push(hub, tmp_path, "--tars", "--dry-run")["files"])
    gallery.made(tmp_path, [gallery.row(n) for n in range(24)], workdir="other")
    assert "is the export of another build of gallery/v1" in push(hub, tmp_path, "--tars", code=2)
    export(tmp_path)
    next((home / "wds/v1").glob("*.tar")).unlink()
    assert "it is gone; export the release again" in push(hub, tmp_path, "--tars", code=3)


def test_the_parquet_is_loaded_beside_them(photos: Path, tmp_path: Path) -> None:
    loaded = load_dataset(str(photos / "dist/gallery"), "v1", cache_dir=str(tmp_path))
    assert {split: part["id"] for split, part in loaded.items()} == {
        split: [row["id"] for row in rows] for split, rows in released(photos).items()
    }


def test_img2dataset_style_consumers_read_them(photos: Path) -> None:
    """Groups of one key, each with a picture, its text and an object that says its size."""
    made = of_photos(photos)
    groups: dict[str, dict[str, bytes]] = {}
    for path in files(made)["train"]:
        with tarfile.open(path, "r|") as tar:  # a stream, as they read from remote places
            for info in tar:
                key, extension = info.name.split(".")
                groups.setdefault(key, {})[extension] = tar.extractfile(info).read()  # type: ignore[union-attr]
    assert {frozenset(group) for group in groups.values()} == {frozenset({"jpg", "txt", "json"})}
    for group in groups.values():
        told = json.loads(group["json"])
        assert PIL.Image.open(io.BytesIO(group["jpg"])).size == (told["width"], told["height"])
        assert {"url", "license", "captions"} & {*told} == {"license", "captions"}


def test_gnu_tar_unpacks_them(mixed: Path, tmp_path: Path) -> None:
    rows, at = released(mixed)["train"], 0
    for path in files(there(mixed))["train"]:
        done = subprocess.run(["tar", "--extract", "--file", path, "-C", tmp_path], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    for at, row in enumerate(rows):
        (image,) = [path for path in tmp_path.glob(f"{at:010d}.*") if path.suffix not in (".txt", ".json")]
        assert image.read_bytes() == row["image"]["bytes"]
        assert (tmp_path / f"{at:010d}.txt").read_text(encoding="utf-8") == row["prompt"]
