"""A model that is trained on a stream: killed, resumed with other workers, on several ranks."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import streamed, trained
from fixtures.launched import ended, launch

import hfds

SCRIPT = trained.__file__
STEPS = 20  # of four: more than an epoch of 53


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return streamed.toys(tmp_path_factory.mktemp("toys") / "v1", 53, 1)


def start(toys: Path, folder: Path, workers: int) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, SCRIPT, str(toys), str(folder), str(STEPS), str(workers)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def log(folder: Path) -> list[dict[str, Any]]:
    """The steps of the model that there is now: those behind the last checkpoint were taken again."""
    path = folder / "log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [*{(step := json.loads(line))["step"]: step for line in lines if line.endswith("}")}.values()]


def finished(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def killed_and_resumed(toys: Path, folder: Path, kills: int, chance: random.Random) -> list[dict[str, Any]]:
    for number in range(kills):
        process, before = start(toys, folder, 2 - number % 2), len(log(folder))
        while len(log(folder)) < before + chance.randint(1, STEPS // kills) and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -9, "it must be slower than this"
    finished(start(toys, folder, 0))
    return log(folder)


def test_a_training_that_is_killed_sees_what_it_would_have_seen(toys: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    trained.train(str(toys), tmp_path, STEPS, 0)
    torch.set_num_threads(threads)
    whole = log(tmp_path)
    ids = [id_ for step in whole for id_ in step["ids"]]
    assert len(set(ids[:53])) == 53, "an epoch"
    assert [step["step"] for step in whole] == [*range(1, STEPS + 1)]
    assert killed_and_resumed(toys, tmp_path / "killed", 1, random.Random(1)) == whole, "to the last bit of the loss"


@pytest.mark.slow
def test_a_training_that_is_killed_six_times(toys: Path, tmp_path: Path) -> None:
    finished(start(toys, tmp_path / "whole", 1))
    assert killed_and_resumed(toys, tmp_path / "killed", 6, random.Random(2)) == log(tmp_path / "whole")


def check_ranks(toys: Path, folder: Path) -> None:
    order = [sample["id"] for sample in hfds.stream(toys, "train", seed=3, size=16)]
    offsets = [sample["offset"] for sample in hfds.stream(toys, "train", seed=3, columns=["offset"])]
    given = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert [one["ranks"] for one in given] == [2, 2]

    def together(name: str) -> list[Any]:
        return [
            value for steps in zip(*(one[name] for one in given), strict=True) for batch in steps for value in batch
        ]

    assert together("loader") == order
    second = together("before") + together("after")
    assert sorted(second) == sorted(order)
    assert second != order
    assert given[0]["state"] == given[1]["state"]
    assert given[0]["state"]["at"] == 16
    assert given[0]["state"]["epoch"] == 1
    for dispatch in (False, True):
        found = together(f"dispatch {dispatch}")
        assert sorted(found[:48]) == sorted(offsets[:48]), "no sample twice, none lost"
        assert {*found} == {*offsets}, "accelerate fills its last step"
    assert together("dispatch False")[:48] == offsets[:48]


def test_two_ranks(toys: Path, tmp_path: Path) -> None:
    said = ended(launch(2, Path(SCRIPT), toys, tmp_path))
    assert [code for code, _, _ in said] == [0, 0], said
    check_ranks(toys, tmp_path)


@pytest.mark.slow
def test_two_ranks_of_a_launcher(toys: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", SCRIPT]
    done = subprocess.run([*command, str(toys), str(tmp_path)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    check_ranks(toys, tmp_path)


def test_ranks_that_are_not_known_are_refused(toys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(hfds.HfdsError, match="WORLD_SIZE says that this is one of several processes"):
        hfds.stream(toys, "train").loader(4)
    assert len(hfds.stream(toys, "train").loader(4, rank=1, ranks=2)) == 7
