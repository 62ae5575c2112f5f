"""Pushes that are killed after any request: at no moment is a part of a release seen, and running again ends as if
nothing had happened, without sending twice what was there."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures.pushed import REPO, Pusher, build_many_shards
from hub import Fault, Hub
from hub.store import Commit

LOAD = """
import sys
from datasets import load_dataset
try:
    rows = load_dataset(sys.argv[1], "v4")
    pictures = {row["image"].tobytes() for row in rows["train"]}
    print({split: part.num_rows for split, part in rows.items()}, len(pictures))
except (ValueError, FileNotFoundError) as error:
    print(type(error).__name__, str(error).replace(chr(10), " "))
"""
NOT_FOUND = r"DatasetNotFoundError|ValueError BuilderConfig 'v4' not found|FileNotFoundError Couldn't find any data"
# By LFS and by Xet: what a push asks for at each of its stages, the first of them and the last.
STAGES = (
    "GET /api/datasets/[^/]+/[^/]+/revision/",
    "POST /api/repos/create",
    "POST .*/preupload/",
    "POST .*/objects/batch|GET .*/xet-write-token/",
    "PUT /lfs/|POST /cas/v1/xorbs/",
    "POST .*/lfs/verify|POST /cas/v1/shards",
    "POST .*/commit/",
    "GET .*/tree/",
    "GET .*/resolve/.*parquet",
    "POST .*/tag/",
)
CHANGES = "POST .*/(create|commit|tag|shards|xorbs)|PUT "  # what changes the Hub, if its answer comes or not


@dataclass
class Scene:
    """A Hub, a pusher of pictures/v4 to it, and what an undisturbed push asked and left."""

    hub: Hub
    pusher: Pusher
    lock: Mapping[str, Any]
    folder: Path
    asked: list[str] = field(default_factory=list)
    left: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    rounds: int = 0

    def start_anew(self) -> None:
        """An empty Hub, and a client that knows nothing of it."""
        self.hub.store.clear()
        self.rounds += 1

    def push(self) -> None:
        code, _ = self.pusher.push(HF_XET_CACHE=self.cache)
        assert code == 0, self.pusher.log

    @property
    def cache(self) -> str:
        """Where the Xet client of this round keeps what it sent, which outlives its kills."""
        return str(self.folder / f"xet-{self.rounds}")

    def cut_off(self, after: int, answered: bool = False) -> str:
        """Kills a push when one more request than `after` has come, before or after it is done; returns that request,
        or "" where it was over before."""
        times = 1 if answered else 1_000_000
        self.hub.faults = [Fault("", held=True, lost=answered, after=after, times=times)]
        process = self.pusher.start(HF_XET_CACHE=self.cache)
        while not (held := self.hub.held) and not self.pusher.ended:
            time.sleep(0.01)
        if held:
            os.kill(process, signal.SIGKILL)
        code, _ = self.pusher.wait()
        assert code == (-signal.SIGKILL if held else 0), self.pusher.log
        self.hub.faults = []
        return held[0] if held else ""

    def there(self) -> set[str]:
        """The sha256 of the contents that have come."""
        return {path.name for path in (self.hub.folder / "blobs").iterdir()}

    def check_history(self) -> bool:
        """Every commit holds the release with all its files, or no card that lists it; whether the last one does."""
        refs = self.hub.store.refs(REPO)
        if not refs:
            return False
        commits = self.hub.store.history(REPO, refs["refs/heads/main"])
        listed = {commit.id for commit in commits if self.lists(commit)}
        for commit in commits:
            if commit.id in listed:
                assert self.missing(commit) == set()
        assert refs.get("refs/tags/v4") in {None, *listed}
        return commits[0].id in listed

    def lists(self, commit: Commit) -> bool:
        """Whether its card has the config."""
        if "README.md" not in commit.files:
            return False
        card = self.hub.store.blobs.path(commit.files["README.md"].sha256).read_text()
        configs = yaml.safe_load(card.split("---")[1]).get("configs", [])
        return any(config["config_name"] == "v4" for config in configs)

    def missing(self, commit: Commit) -> set[str]:
        """The files of the release that a commit does not hold as the lock says."""
        text = json.dumps(self.lock, indent=2, ensure_ascii=False) + "\n"
        wanted = {"releases/v4.lock.json": hashlib.sha256(text.encode()).hexdigest()}
        wanted |= {self.lock["ledger"]["path"]: self.lock["ledger"]["sha256"]}
        for split in self.lock["splits"].values():
            wanted |= {shard["path"]: shard["sha256"] for shard in split["shards"]}
        found = {path: file.sha256 for path, file in commit.files.items()}
        return {path for path, sha256 in wanted.items() if found.get(path) != sha256}

    def seen(self) -> str:
        """What plain `load_dataset` gives somebody who comes now, for the first time."""
        home = self.folder / f"reader-{len(list(self.folder.glob('reader-*')))}"
        environment = self.hub.environment(home, token="hf_read")
        command = [sys.executable, "-c", LOAD, REPO]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def everything(self) -> str:
        """What `seen` gives of the whole release."""
        rows = {split: entry["rows"] for split, entry in self.lock["splits"].items()}
        return f"{rows} {rows['train']}"

    def run_again(self) -> None:
        """Goes on after a kill: the repository is in the end what it would have been, and nothing came twice."""
        before = self.there()
        kept = {file.sha256 for file in commit.files.values()} if (commit := self.main()) else set()
        self.hub.forget()
        self.push()
        shards = {one["sha256"]: one["bytes"] for split in self.lock["splits"].values() for one in split["shards"]}
        sent = [request.split("/")[2][:64] for request in self.hub.requests if request.startswith("PUT /lfs/")]
        assert not before & {*sent}
        assert len(sent) == len({*sent})
        missing = sum(size for sha256, size in shards.items() if sha256 not in kept)
        assert self.hub.received("POST /cas/v1/xorbs/") <= missing * 1.02 + SMALL
        self.check_end()

    def check_end(self) -> None:
        assert self.check_history()
        last = self.main()
        assert last is not None
        assert {path: (file.sha256, file.size) for path, file in last.files.items()} == self.left
        assert self.hub.store.refs(REPO)["refs/tags/v4"] == last.id

    def main(self) -> Commit | None:
        return self.hub.store.commit(REPO, "main")


SMALL = 50_000  # bytes of what a push sends besides shards


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """pictures/v4, with its lock."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        return folder, build_many_shards(folder, patch)


@pytest.fixture(scope="module", params=[pytest.param(False, marks=pytest.mark.slow), True], ids=["lfs", "xet"])
def scene(
    request: pytest.FixtureRequest, built: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("scene")
    with Hub(tmp_path_factory.mktemp("hub")) as hub, Pusher(hub, built[0], folder, request.param) as pusher:
        scene = Scene(hub, pusher, built[1], folder)
        scene.push()
        last = scene.main()
        assert last is not None
        scene.left = {path: (file.sha256, file.size) for path, file in last.files.items()}
        scene.asked = hub.requests
        yield scene
        assert hub.unknown == []


def test_the_release_is_one_that_can_be_cut_off(scene: Scene) -> None:
    shards = [shard for split in scene.lock["splits"].values() for shard in split["shards"]]
    assert [*scene.lock["splits"]] == ["train", "validation"]
    assert len(shards) > 50
    assert max(shard["rows"] for shard in shards) > 1
    assert "image" in scene.lock["columns"]
    assert len([request for request in scene.asked if re.search("POST .*/commit/", request)]) > 3
    assert scene.missing(Commit({}, "", "", "", "", "", "")) >= {shard["path"] for shard in shards}


def test_killed_at_every_stage_of_a_first_push(scene: Scene) -> None:
    for stage in STAGES:
        numbers = [number for number, request in enumerate(scene.asked) if re.search(stage, request)]
        assert numbers, stage
        first, last = numbers[0], numbers[-1]
        changes = re.search(CHANGES, scene.asked[first])
        for number, answered in sorted({(first, True), (last, False), (last, True)}) if changes else [(first, False)]:
            scene.start_anew()
            assert scene.cut_off(number, answered)
            whole = scene.check_history()
            if "commit" in stage and number == last:
                seen = scene.seen()
                assert seen == scene.everything() if whole else re.match(NOT_FOUND, seen), (number, seen)
            scene.run_again()


@pytest.mark.slow
def test_killed_after_every_request(scene: Scene) -> None:
    for answered in (False, True):  # before it is done; after, where that makes a difference
        for number, request in enumerate(scene.asked):
            if answered and not re.search(CHANGES, request):
                continue
            scene.start_anew()
            assert scene.cut_off(number, answered)
            scene.check_history()
            scene.run_again()


@pytest.mark.slow
def test_killed_again_and_again(scene: Scene) -> None:
    step = 7  # requests more for each push to the repository
    scene.start_anew()
    kills = 0
    while scene.cut_off(kills * step, answered=kills % 2 == 1):
        scene.check_history()
        kills += 1
    assert kills > 3
    scene.check_end()
