"""Releases end to end: every row accounted for, the same bytes from the same inputs, and never half of one."""

import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from filelock import FileLock
from fixtures import dalle3, toy
from fixtures.make import picture, tar

from builders.dalle3 import Dalle3
from hfds.errors import BadFile, ConfigError, HfdsError, OutOfSpace, SourceChanged, SourceMissing
from hfds.plan import plan
from hfds.processor import Filter
from hfds.record import drops
from hfds.release import Input, Release, build
from hfds.run import Run
from processors.dedup import MarkDuplicates
from processors.split import Split

EIGHT = [f"dalle3/{n}" for n in ("one", "two.dotted.name", "three", "four", "five", "six", "seven", "dir/eight")]
V1 = Release("pictures", "v1", (Input(Dalle3),), (MarkDuplicates("prompt"), MarkDuplicates("image_hash"), Split(0.3)))
TOYS = Release("toys", "v1", (Input(toy.Toy),), (MarkDuplicates("prompt"), Split(0.3)), columns=("prompt", "license"))


def files_of(folder: Path) -> dict[str, str]:
    """Every file below a folder with its sha256."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """DALLE-3 with two clean tars and a hostile one."""
    dalle3.clean(tmp_path / "sources/dalle3")
    dalle3.hostile(tmp_path / "hostile")
    (tmp_path / "hostile/data/data-000000.tar").rename(tmp_path / "sources/dalle3/data/data-000002.tar")
    return tmp_path / "sources"


def test_the_folder_is_what_plain_datasets_loads(tmp_path: Path, sources: Path) -> None:
    built = build(V1, Run.here(tmp_path / "work"), sources=sources, out=tmp_path / "dist")
    assert [*files_of(built.folder)] == [
        "README.md",
        "croissant.json",
        "data/v1/train-00000-of-00001.parquet",
        "data/v1/validation-00000-of-00001.parquet",
        "ledger/v1.parquet",
        "plots/v1.png",
        "releases/v1.lock.json",
    ]
    rows = load_dataset(str(built.folder), "v1", cache_dir=str(tmp_path / "hf"))
    ids = {row["id"] for part in rows.values() for row in part}
    assert ids == set(EIGHT)
    by_id = {row["id"]: row for part in rows.values() for row in part.cast_column("image", part.features["image"])}
    assert by_id["dalle3/one"]["image"].size == (64, 48)
    raw = pq.read_table(next(built.folder.glob("data/v1/train-*")), columns=["id", "image"]).to_pylist()
    names = {row["id"]: (row["image"]["path"], row["image"]["bytes"]) for row in raw}
    if "dalle3/two.dotted.name" in names:
        assert names["dalle3/two.dotted.name"][0] == "two.dotted.name.png"
    for id_, (_, data) in names.items():
        PIL.Image.open(io.BytesIO(data)).load()
        assert hashlib.sha256(data).digest() in _published(sources), f"{id_}: not the bytes that were published"
    fate = load_dataset(str(built.folder), "v1-ledger", split="train", cache_dir=str(tmp_path / "hf"))
    assert len(fate) == 8 + 17


def _published(sources: Path) -> set[bytes]:
    import tarfile

    found = set()
    for path in (sources / "dalle3/data").glob("*.tar"):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and (file := archive.extractfile(member)):
                    found.add(hashlib.sha256(file.read()).digest())
    return found


def test_the_same_release_from_the_same_inputs(tmp_path: Path, sources: Path) -> None:
    one = build(V1, Run.here(tmp_path / "w1", 1), sources=sources, out=tmp_path / "d1")
    two = build(V1, Run.here(tmp_path / "w2", 2), sources=sources, out=tmp_path / "d2")
    again = build(V1, Run.here(tmp_path / "w1", 2), sources=sources, out=tmp_path / "d1")
    assert one.digest == two.digest == again.digest
    assert files_of(tmp_path / "d1") == files_of(tmp_path / "d2")


def test_the_digest_sees_every_value_and_split(tmp_path: Path) -> None:
    def digest(name: str, release: Release = TOYS, **files: list[tuple[str, str]]) -> str:
        sources = toy.write(tmp_path / name, **files)
        return build(release, Run.here(tmp_path / f"{name}-work"), sources=sources, out=tmp_path / f"{name}-out").digest

    base = digest("base", a=[("1", "a cat"), ("2", "a dog")])
    assert digest("files", a=[("1", "a cat")], b=[("2", "a dog")]) == base, "how rows lie in files is not content"
    assert digest("order", a=[("2", "a dog"), ("1", "a cat")]) == base, "nor is their order"
    assert digest("text", a=[("1", "a cat"), ("2", "a Dog")]) != base
    assert digest("id", a=[("1", "a cat"), ("3", "a dog")]) != base
    assert digest("less", a=[("1", "a cat")]) != base
    splits = {digest(f"seed{n}", TOYS.but("v1", steps=(Split(0.5, seed=n),)), a=[("1", "a cat")]) for n in range(8)}
    assert len(splits) == 2, "one row, in train or in validation"


def test_every_row_is_in_the_ledger_with_its_reason(tmp_path: Path) -> None:
    sources = toy.write(tmp_path / "s", a=[("1", "A cat"), ("2", "a  cat!"), ("1", "a dog")], b=[("3", "a bird")])
    release = TOYS.but(
        "v1", inputs=(Input(toy.Toy, "lines"), Input(toy.Toy, "halves", splits=("second",), into="test"))
    )
    built = build(release, Run.here(tmp_path / "w"), sources=sources, out=tmp_path / "d")
    ledger = pq.read_table(built.folder / "ledger/v1.parquet").to_pylist()
    fate = {row["id"]: (row["input"], row["step"], row["reason"], row["partner"]) for row in ledger}
    assert fate == {
        "toy/1": ("toy/lines", None, None, None),
        "toy/2": ("toy/lines", "MarkDuplicates", "duplicate_prompt", "toy/1"),
        "toy/1#2": ("toy/lines", "toy", "duplicate_key", "toy/1"),
        "toy/3": ("toy/lines", None, None, None),
        "toy/3#2": ("toy/halves[second]", "toy", "duplicate_key", "toy/3"),
    }
    assert [entry["rows"] for entry in built.funnel] == [4, 1]
    assert sum(entry["rows"] for entry in built.funnel) == len(ledger)


def test_an_input_decides_its_split(tmp_path: Path) -> None:
    sources = toy.write(tmp_path / "s", a=toy.many(60), b=[("v1", "a valid prompt"), ("v2", "A PROMPT, number 5")])
    inputs = (
        Input(toy.Toy, "halves", splits=("first",)),
        Input(toy.Toy, "halves", splits=("second",), into="validation"),
    )
    release = Release("toys", "v1", inputs, (Split(0.0),), columns=("prompt",))
    built = build(release, Run.here(tmp_path / "w"), sources=sources, out=tmp_path / "d")
    rows = load_dataset(str(built.folder), "v1", cache_dir=str(tmp_path / "hf"))
    assert set(rows["validation"]["id"]) == {"toy/v1", "toy/v2", "toy/000015", "toy/000016", "toy/000017"}
    assert len(rows["train"]) == 57


def test_releases_stand_beside_each_other(tmp_path: Path) -> None:
    sources = toy.write(tmp_path / "s", a=toy.many(30))
    run = Run.here(tmp_path / "w")
    for name in ("v10", "v2", "v2-a"):
        build(TOYS.but(name), run, sources=sources, out=tmp_path / "d")
    before = files_of(tmp_path / "d/toys")
    build(TOYS.but("v2", steps=()), run, sources=sources, out=tmp_path / "d")
    after = files_of(tmp_path / "d/toys")
    assert {name for name in before | after if before.get(name) != after.get(name)} == {
        "README.md",
        "croissant.json",
        "data/v2/train-00000-of-00001.parquet",
        "data/v2/validation-00000-of-00001.parquet",
        "ledger/v2.parquet",
        "plots/v2.png",
        "releases/v2.lock.json",
    }
    card = (tmp_path / "d/toys/README.md").read_text()
    assert [card.index(f"## {name}\n") for name in ("v10", "v2-a", "v2")] == sorted(
        card.index(f"## {name}\n") for name in ("v10", "v2-a", "v2")
    )
    assert len(load_dataset(str(tmp_path / "d/toys"), split="train", cache_dir=str(tmp_path / "hf"))) < 30, (
        "default: v10"
    )
    assert len(load_dataset(str(tmp_path / "d/toys"), "v2", split="train", cache_dir=str(tmp_path / "hf"))) == 30


def test_a_release_that_is_built_again_loads_anew(tmp_path: Path) -> None:
    for prompt in ("a cat", "a dog"):
        sources = toy.write(tmp_path / "s", a=[("1", prompt)])
        built = build(TOYS.but("v1", steps=()), Run.here(tmp_path / "w"), sources=sources, out=tmp_path / "d")
        rows = load_dataset(str(built.folder), "v1", split="train", cache_dir=str(tmp_path / "hf"))
        assert rows["prompt"][:] == [prompt]
    toy.write(tmp_path / "s", a=[("1", "a dog"), ("1", "a dog")])
    build(TOYS.but("v1", steps=()), Run.here(tmp_path / "w"), sources=sources, out=tmp_path / "d")
    assert len(load_dataset(str(built.folder), "v1-ledger", split="train", cache_dir=str(tmp_path / "hf"))) == 2


def test_a_release_that_keeps_no_row_says_why(tmp_path: Path) -> None:
    run, out = Run.here(tmp_path / "w"), tmp_path / "d"
    with pytest.raises(HfdsError, match=r"toys/v1 keeps no row.*no input has any"):
        build(TOYS, run, sources=toy.write(tmp_path / "empty", a=[]), out=out)
    sources = toy.write(tmp_path / "s", a=[("1", "a cat"), ("1", "a cat")], b=[])
    assert build(TOYS, run, sources=sources, out=out).funnel[0]["rows"] == 2
    release = TOYS.but("v2", steps=(Drop(), *TOYS.steps))
    with pytest.raises(HfdsError, match=r"toys/v2 keeps no row.*toy/lines: 2 rows, dropped all 1, duplicate_key 1"):
        build(release, run, sources=sources, out=out)


@dataclass(frozen=True)
class Drop(Filter):
    """Drops every row."""

    needs = ()

    def verdicts(self, table: pa.Table) -> pa.Array:
        return drops(self.name, len(table), "all")


def test_a_try_of_a_few_rows(tmp_path: Path, sources: Path) -> None:
    built = build(V1, Run.here(tmp_path / "w"), sources=sources, out=tmp_path / "d", rows=3)
    assert built.funnel[0]["rows"] == 3
    assert built.lock["sources"][0]["limit"] == 3


def test_the_lock_says_what_it_was_made_of(tmp_path: Path, sources: Path) -> None:
    built = build(V1, Run.here(tmp_path / "w"), sources=sources, out=tmp_path / "d")
    lock = json.loads((built.folder / "releases/v1.lock.json").read_text())
    assert lock == json.loads(json.dumps(built.lock)), "what is returned is what is written"
    tars = sorted((sources / "dalle3/data").glob("*.tar"))
    assert [(f["name"], f["bytes"], f["sha256"]) for f in lock["sources"][0]["files"]] == [
        (f"data/{t.name}", t.stat().st_size, hashlib.sha256(t.read_bytes()).hexdigest()) for t in tars
    ]
    assert [s["name"] for s in lock["steps"]] == ["MarkDuplicates", "MarkDuplicates", "Split"]
    shards = [shard for split in lock["splits"].values() for shard in split["shards"]]
    assert all(files_of(built.folder)[shard["path"]] == shard["sha256"] for shard in shards)
    assert lock["licenses"] == {"MIT": 8}
    assert str(tmp_path) not in json.dumps(lock), "no path of this machine"


def test_all_problems_at_once(tmp_path: Path) -> None:
    release = Release(
        "bad name!",
        "../v1",
        (Input(Dalle3, "shrot"), Input(Dalle3, splits=("valid",)), Input(Dalle3, options={"captoin": "x"}, into="a-b")),
        (MarkDuplicates("promt"), Split(2.0)),
        columns=("image", "promtp", "dropped"),
    )
    with pytest.raises(ConfigError) as raised:
        build(release, Run.here(tmp_path))
    problems = "\n".join(raised.value.problems)
    for part in (
        "dalle3 has no config 'shrot': did you mean 'short'?",
        "dalle3/short has no split 'valid': it is one of: train",
        "dalle3 has no option 'captoin': did you mean 'caption'?",
        "'a-b' is no name for a split",
        "dataset name 'bad name!'",
        "release name '../v1'",
        "MarkDuplicates needs the column 'promt'",
        "did you mean 'prompt'?",
        "Split: validation must be a number from 0 to 1, got 2.0",
        "column 'promtp' of the release does not exist",
        "column 'dropped' cannot be in a release",
    ):
        assert part in problems
    assert not any(tmp_path.iterdir()), "nothing was begun"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"inputs": (Dalle3,)}, "inputs must hold Inputs, got <class"),
        ({"inputs": Input(Dalle3)}, "inputs must be a tuple"),
        ({"inputs": (Input("dalle3"),)}, "the builder of an Input must be a class"),  # type: ignore[arg-type]
        ({"inputs": (Input(Dalle3, into="all"),)}, "'all' is no name for a split"),
        ({"inputs": (Input(Dalle3, "shrot", options={"seed": 1}),)}, "no config 'shrot'.*no option 'seed'"),
        ({"inputs": (Input(Dalle3, options={"files": {}}),)}, "no option 'files'"),
        ({"steps": (Split("x"),)}, "Split: validation must be a number from 0 to 1, got 'x'"),  # type: ignore[arg-type]
        ({"steps": (Split(of="prompt"),)}, "Split: of must be a tuple of names"),  # type: ignore[arg-type]
        ({"steps": (Split(of=("prmpt",)),)}, "Split needs the column 'prmpt'.*did you mean 'prompt'"),
        ({"steps": (Split(of=("captions",)),)}, "Split: column 'captions' is .*, wanted texts"),
        ({"steps": (MarkDuplicates(3),)}, "MarkDuplicates: of must be the name of a column"),  # type: ignore[arg-type]
        ({"steps": (MarkDuplicates("captions"),)}, "MarkDuplicates: column 'captions' is .*, wanted texts"),
        ({"name": "v1-ledger"}, "release name 'v1-ledger': wanted letters"),
        ({"name": "v1.lock"}, "release name 'v1.lock': wanted letters"),
        ({"name": "main"}, "release name 'main': wanted letters"),
        ({"columns": "prompt"}, "columns must be a tuple"),
    ],
)
def test_a_release_that_is_written_wrong(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        build(replace(V1, **changes), Run.here(tmp_path))
    assert not any(tmp_path.iterdir())


def test_an_input_may_have_a_split_of_its_own(tmp_path: Path) -> None:
    sources = toy.write(tmp_path / "s", a=toy.many(60), b=[("v1", "a tested prompt"), ("v2", "A PROMPT, number 5")])
    inputs = (Input(toy.Toy, "halves", splits=("first",)), Input(toy.Toy, "halves", splits=("second",), into="test"))
    release = Release("toys", "v1", inputs, (Split(0.3),), columns=("prompt",))
    built = build(release, Run.here(tmp_path / "w"), sources=sources, out=tmp_path / "d")
    rows = load_dataset(str(built.folder), "v1", cache_dir=str(tmp_path / "hf"))
    assert set(rows["test"]["id"]) == {"toy/v1", "toy/v2", "toy/000015", "toy/000016", "toy/000017"}
    assert set(rows) == {"train", "validation", "test"}


def test_a_work_folder_may_lose_any_file(tmp_path: Path, sources: Path) -> None:
    run = Run.here(tmp_path / "w")
    digest = build(V1, run, sources=sources, out=tmp_path / "d").digest
    for pattern in ("sources/**/*.arrow", "steps/*.arrow", "journal/**/*.json", "journal/**/*.npy"):
        for harm in (Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-9])):
            harmed = sorted((tmp_path / "w").glob(pattern))
            assert harmed, pattern
            for path in harmed:
                harm(path)
            assert build(V1, run, sources=sources, out=tmp_path / "d").digest == digest, pattern


def test_a_release_is_off_the_card_while_it_is_replaced(tmp_path: Path) -> None:
    sources = toy.write(tmp_path / "s", a=toy.many(30))
    run, home = Run.here(tmp_path / "w"), tmp_path / "d/toys"
    for name in ("v1", "v2"):
        build(TOYS.but(name), run, sources=sources, out=tmp_path / "d")
    (home / "ledger").rename(tmp_path / "ledger")
    (home / "ledger").write_text("in the way of the second thing that is moved")
    toy.write(tmp_path / "s", a=toy.many(60))
    with pytest.raises(ConfigError, match="cannot write"):
        build(TOYS.but("v2"), run, sources=sources, out=tmp_path / "d")
    card = (home / "README.md").read_text()
    assert "config_name: v1\n" in card
    assert "config_name: v2\n" not in card, "its data are the new ones already, its ledger is not"
    (home / "ledger").unlink()
    (tmp_path / "ledger").rename(home / "ledger")
    build(TOYS.but("v2"), run, sources=sources, out=tmp_path / "d")
    assert "config_name: v2\n" in (home / "README.md").read_text()


def test_two_builds_at_once(tmp_path: Path, sources: Path) -> None:
    home = tmp_path / "d/pictures"
    home.mkdir(parents=True)
    with FileLock(home / ".building-v1.lock"), pytest.raises(ConfigError, match="another build writes"):
        build(V1, Run.here(tmp_path / "w"), sources=sources, out=tmp_path / "d")
    build(V1, Run.here(tmp_path / "w"), sources=sources, out=tmp_path / "d")
    assert not (home / ".building-v1.lock").exists()


def test_all_missing_sources_at_once(tmp_path: Path) -> None:
    release = TOYS.but("v1", inputs=(Input(toy.Toy, folder="here"), Input(Dalle3, folder="there")))
    with pytest.raises(SourceMissing) as raised:
        build(release, Run.here(tmp_path / "w"), sources=tmp_path, out=tmp_path / "d")
    assert "toy: no folder" in str(raised.value)
    assert "make one with a text editor" in str(raised.value)
    assert "dalle3: no folder" in str(raised.value)
    assert "hf download" in str(raised.value)


def test_one_bad_file_stops_the_build_and_mending_it_goes_on(tmp_path: Path, sources: Path) -> None:
    path = sources / "dalle3/data/data-000003.tar"
    tar(path, dalle3.pair("extra"), end=False)
    run = Run.here(tmp_path / "w", 2)
    with pytest.raises(BadFile, match=r"data/data-000003\.tar: the tar is cut"):
        build(V1, run, sources=sources, out=tmp_path / "d")
    assert not (tmp_path / "d/pictures/README.md").exists()
    tar(path, dalle3.pair("extra"))
    assert build(V1, run, sources=sources, out=tmp_path / "d").funnel[0]["rows"] == 26


def test_an_archive_that_changed_after_it_was_indexed(tmp_path: Path) -> None:
    path = tmp_path / "s/dalle3/data/data-000000.tar"
    tar(path, dalle3.pair("one", seed=1))
    stat = path.stat()
    run = Run.here(tmp_path / "w")
    first = build(V1, run, sources=tmp_path / "s", out=tmp_path / "d")
    tar(path, [("one.jpg", picture(seed=1)[::-1]), dalle3.pair("one")[1]])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the same size and time: only its bytes tell
    with pytest.raises(SourceChanged, match=r"the picture of dalle3/one in .*data-000000\.tar is not what was indexed"):
        build(V1.but("v2"), run, sources=tmp_path / "s", out=tmp_path / "d")
    path.unlink()
    with pytest.raises(SourceMissing, match=r"no data/data-\*\.tar"):
        build(V1.but("v2"), run, sources=tmp_path / "s", out=tmp_path / "d")
    assert load_dataset(str(first.folder), "v1", split="train", cache_dir=str(tmp_path / "hf"))[0]["id"] == "dalle3/one"


def test_a_full_disk_is_one_sentence_and_nothing_is_lost(tmp_path: Path, sources: Path) -> None:
    aside = tmp_path / "d/pictures/.building-v1/data/v1/train-00000-of-00001.parquet.part"
    aside.parent.mkdir(parents=True)
    aside.symlink_to("/dev/full")
    with pytest.raises(OutOfSpace, match="the disk is full") as raised:
        build(V1, Run.here(tmp_path / "w"), sources=sources, out=tmp_path / "d")
    assert "run again to go on" in str(raised.value)
    assert not (tmp_path / "d/pictures/README.md").exists()
    aside.unlink(missing_ok=True)
    built = build(V1, Run.here(tmp_path / "w"), sources=sources, out=tmp_path / "d")
    assert sum(built.funnel[0]["kept"].values()) == 8


def test_killed_at_any_moment_and_run_again(tmp_path: Path) -> None:
    sources = toy.write(tmp_path / "s", **{f"f{n}": [(f"{n}-{k}", p) for k, p in toy.many(3_000)] for n in range(6)})
    mine = tmp_path / "mine.py"
    mine.write_text(toy.RELEASES.format(path=[str(Path(__file__).parent)]))
    expected = build(TOYS, Run.here(tmp_path / "w"), sources=sources, out=tmp_path / "d").digest
    command = [sys.executable, "-m", "hfds.cli", "build", str(mine), "v1", "--sources", str(sources), "--json"]
    command += ["--out", str(tmp_path / "d2"), "--workdir", str(tmp_path / "w2"), "--num-proc", "2"]
    moments = random.Random(0)
    for _ in range(4):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(moments.uniform(1.0, 3.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        readme = tmp_path / "d2/toys/README.md"
        if readme.exists() and "config_name: v1\n" in readme.read_text():  # while it is made again no card has it
            load_dataset(str(readme.parent), "v1", split="train", cache_dir=str(tmp_path / "hf"))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["digest"] == expected
    assert [*files_of(tmp_path / "d2/toys")] == [*files_of(tmp_path / "d/toys")]


def test_the_plan_says_what_will_be_read(tmp_path: Path, sources: Path) -> None:
    run = Run.here(tmp_path / "w")
    before = plan(V1, run, sources=sources)
    assert before["inputs"][0]["files"] == 3
    assert before["inputs"][0]["bytes"] == sum(t.stat().st_size for t in (sources / "dalle3/data").glob("*.tar"))
    assert (before["inputs"][0]["pieces"], before["inputs"][0]["prepared"]) == (3, 0)
    assert [step["step"] for step in before["steps"]] == ["MarkDuplicates", "MarkDuplicates", "Split"]
    build(V1, run, sources=sources, out=tmp_path / "d")
    assert plan(V1, run, sources=sources)["inputs"][0]["prepared"] == 3
