"""Reading through hfds: releases as `datasets` loads them, without what was withdrawn since."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from fixtures import dalle3
from hub import Fault, Hub
from huggingface_hub import snapshot_download

import hfds
from builders.dalle3 import Dalle3
from hfds import Input, Release, build
from hfds.errors import BadFile, ConfigError
from hfds.run import Run
from hfds.wanted import Wanted
from hfds.yank import yank
from processors.split import Split

PICTURES = Release("pictures", "v1", (Input(Dalle3),), (Split(0.4),))
GONE = "dalle3/three"
LOAD = """
import json, sys
import hfds
from hfds.errors import HfdsError
for asked in json.loads(sys.argv[1]):
    try:
        rows = hfds.load_release("org/pictures", **asked)
        print(json.dumps(sorted(row["id"] for part in rows.values() for row in part)))
    except HfdsError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pictures v1 and v1.0.1, from which one of eight rows was withdrawn."""
    folder = tmp_path_factory.mktemp("pictures")
    dalle3.clean(folder / "sources/dalle3")
    built = build(PICTURES, Run.here(folder / "work"), sources=folder / "sources", out=folder / "dist").folder
    yank("pictures", "v1", Wanted((GONE,)), "asked for", out=folder / "dist")
    return built


@pytest.fixture
def load(home: Path, tmp_path: Path) -> Any:
    def loaded(release: str, *place: Any, **more: Any) -> Any:
        return hfds.load_release(*(place or (home,)), release, cache_dir=str(tmp_path / "hf"), **more)

    return loaded


def ids(rows: Any) -> list[str]:
    parts = rows.values() if isinstance(rows, dict) else [rows]
    return sorted(row["id"] for part in parts for row in part)


def test_releases_of_before_are_without_it_too(load: Any, home: Path) -> None:
    every = load("v1")
    assert isinstance(every, DatasetDict)
    assert len(ids(every)) == 7
    assert GONE not in ids(every)
    assert ids(every) == ids(load("v1.0.1"))
    parts = {split: load("v1", str(home), split=split) for split in ("train", "validation")}
    assert all(isinstance(part, Dataset) for part in parts.values())
    assert ids(parts) == ids(every)
    assert next(iter(every["train"]))["image"].size == (64, 48)
    (short,) = [part for split, part in every.items() if part._indices is not None]
    assert short.cache_files, "mapped from where `datasets` put it, not copied"
    assert len(short.data) == len(short) + 1


def test_streaming(load: Any) -> None:
    every = load("v1", streaming=True)
    assert isinstance(every, IterableDatasetDict)
    assert ids(every) == ids(load("v1"))
    for split, part in load("v1").items():
        stream = load("v1", split=split, streaming=True)
        assert isinstance(stream, IterableDataset)
        assert (stream.features, stream.num_shards) == (part.features, 1)
        rows = [*stream]
        assert [row["id"] for row in rows] == part["id"]
        assert rows[0]["image"].size == part[0]["image"].size
        assert [row["prompt"] for row in rows] == part["prompt"]


def test_places_that_are_none(load: Any, home: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'nowhere' is neither the folder of a built dataset nor a repository such"):
        load("v1", "nowhere")
    with pytest.raises(ConfigError, match=r"release 'v9' is not built in .*: it is one of: v1, v1.0.1"):
        load("v9")
    with pytest.raises(ConfigError, match="ask for the column id, too"):
        load("v1", columns=["prompt"])


def test_without_tombstones_they_are_plain_rows(home: Path, load: Any, tmp_path: Path) -> None:
    stones = (home / "withdrawn.jsonl").rename(tmp_path / "stones")
    try:
        assert len(ids(load("v1"))) == 8
        (home / "withdrawn.jsonl").write_text("no list")
        with pytest.raises(BadFile, match="line 1 is no JSON object"):
            load("v1")
    finally:
        stones.rename(home / "withdrawn.jsonl")


def test_from_the_hub(hub: Hub, home: Path, tmp_path: Path) -> None:
    def loaded(*asked: dict[str, Any]) -> list[Any]:
        own = tmp_path / f"reader-{len([*tmp_path.iterdir()])}"
        command, environment = [sys.executable, "-c", LOAD, json.dumps(asked)], hub.environment(own, token="hf_read")
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    files = {path.relative_to(home).as_posix(): path.read_bytes() for path in home.rglob("*") if path.is_file()}
    stones = files.pop("withdrawn.jsonl")
    tag = hub.commit("org/pictures", files)
    assert [len(ids) for ids in loaded({"release": "v1"})] == [8]
    hub.commit("org/pictures", {**files, "withdrawn.jsonl": stones})
    hub.store.change("org/pictures", private=True)
    fetched = tmp_path / "fetched/pictures"
    ours: dict[str, Any] = {"repo_type": "dataset", "endpoint": hub.url, "token": "hf_read"}
    snapshot_download("org/pictures", local_dir=fetched, ignore_patterns=["*v1.0.1*", "withdrawn.jsonl"], **ours)
    assert yank("pictures", "v1", Wanted((GONE,)), "asked for", out=fetched.parent).patch == "v1.0.1"
    assert (fetched / "withdrawn.jsonl").read_bytes() == stones
    assert (fetched / "releases/v1.0.1.lock.json").read_bytes() == files["releases/v1.0.1.lock.json"]
    ways = ({"token": "hf_other"}, {}, {"revision": tag}, {"streaming": True}, {"revision": tag, "streaming": True})
    refused, *older, patched = loaded(*({"release": "v1", **way} for way in ways), {"release": "v1.0.1"})
    assert GONE not in patched
    assert older == [patched] * 4
    assert refused.startswith("org/pictures does not take this token: ")
    hub.faults = [Fault("HEAD .*withdrawn.jsonl", 403)]
    (unknown,) = loaded({"release": "v1.0.1"})
    assert unknown.startswith("org/pictures "), "which rows were withdrawn is not known"
