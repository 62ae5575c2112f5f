"""Several ranks: the work divides, the results are equal, any of them may be killed, and running again goes on."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from fixtures import launched, ranked, toy
from fixtures.launched import ended
from fixtures.voices import shown

from hfds.errors import ConfigError
from hfds.release import build
from hfds.run import Run

SCRIPT = Path(ranked.__file__)
ROWS = 1500


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    return toy.write(tmp_path / "sources", a=toy.many(ROWS))


def launch(ranks: int, sources: Path, work: Path, out: Path, seconds: float) -> list[subprocess.Popen[str]]:
    """The ranks of a build of toy prompts."""
    return launched.launch(ranks, SCRIPT, sources, work, out, seconds)


def stored(work: Path) -> dict[str, int]:
    """Answers in the store by step, those to one key counted as often as they were written."""
    counts: Counter[str] = Counter()
    for part in (work / "store").glob("*/answers/*.arrow"):
        counts[part.parts[-3].partition("-")[0]] += pa.ipc.open_file(part.read_bytes()).read_all().num_rows
    return dict(counts)


def alone(tmp_path: Path, sources: Path) -> str:
    """The digest of the same release, built in this process without ranks."""
    return build(
        ranked.release("", 0), Run.here(tmp_path / "alone"), sources=sources, out=tmp_path / "alone/dist"
    ).digest


def test_two_ranks_divide_the_work_and_give_the_same(tmp_path: Path, sources: Path) -> None:
    work = tmp_path / "work"
    done = ended(launch(2, sources, work, tmp_path / "dist", 0))
    assert [code for code, _, _ in done] == [0, 0], done
    assert done[0][1].split() == [alone(tmp_path, sources)]
    assert done[1][1] == "", "one of them writes the release"
    parts = [shown(work / f"shown-{rank}") for rank in range(2)]
    assert not set(parts[0]) & set(parts[1])
    assert len(parts[0]) + len(parts[1]) == ROWS // 3
    assert abs(len(parts[0]) - len(parts[1])) < ROWS // 3 * 0.2
    assert stored(work) == {"Loud": ROWS // 3, "Wide": ROWS // 3}


def kill_and_go_on(tmp_path: Path, kills: int, rows: int, seconds: float) -> None:
    """Kills runs of 2, 3 and 1 ranks at random moments, then lets one finish, and looks at what was computed."""
    sources = toy.write(tmp_path / "sources", a=toy.many(rows))
    chance, work = random.Random(kills), tmp_path / "work"
    for number in range(kills):
        processes = launch((2, 3, 1)[number % 3], sources, work, tmp_path / "dist", seconds)
        before = sum(stored(work).values())
        while sum(stored(work).values()) == before and processes[0].poll() is None:
            time.sleep(0.05)  # past the imports
        time.sleep(chance.random() * 1.5)
        alive = [process for process in processes if process.poll() is None]
        assert alive, f"the runs must be slower, or none is killed: {ended(processes)}"
        for process in alive if chance.random() < 0.5 else [chance.choice(alive)]:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.2)
        for process in processes:  # as a launcher does when one is gone
            process.terminate()
        for code, _, errors in ended(processes):
            assert code in (-9, -15) or "another rank of this run ended" in errors, errors
    done = ended(launch(3, sources, work, tmp_path / "dist", 0))
    assert done[0][1].split() == [alone(tmp_path, sources)], done
    assert stored(work) == {"Loud": rows // 3, "Wide": rows // 3}, "no finished row was computed again"
    assert len(Counter(text for log in work.glob("shown-?") for text in shown(log))) == rows // 3


def test_a_rank_that_dies_is_noticed_by_the_others(tmp_path: Path, sources: Path) -> None:
    processes = launch(2, sources, tmp_path / "work", tmp_path / "dist", 0.03)
    while not stored(tmp_path / "work"):
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGKILL)
    code, _, errors = ended(processes)[0]
    assert code != 0
    assert "another rank of this run ended" in errors
    assert "run the same command again to go on" in errors
    again = ended(launch(1, sources, tmp_path / "work", tmp_path / "dist", 0))
    assert again[0][1].split() == [alone(tmp_path, sources)]


def test_killed_and_run_with_other_numbers_of_ranks(tmp_path: Path) -> None:
    kill_and_go_on(tmp_path, kills=2, rows=1500, seconds=0.2)


@pytest.mark.slow
def test_killed_twenty_times(tmp_path: Path) -> None:
    kill_and_go_on(tmp_path, kills=20, rows=15_000, seconds=0.5)


@pytest.mark.slow
def test_a_launcher_ends_the_run_when_a_rank_dies(tmp_path: Path, sources: Path) -> None:
    work = tmp_path / "work"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT)]
    command += [str(sources), str(work), str(tmp_path / "dist")]
    process = subprocess.Popen([*command, "0.1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not any((work / "store").glob("*/answers/*.arrow")):
        time.sleep(0.1)
    rank = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()[
        -1
    ]
    os.kill(int(rank), signal.SIGKILL)
    _, errors = process.communicate(timeout=100)
    assert process.returncode != 0
    assert "Signal 9" in errors or "exitcode  : -9" in errors
    again = subprocess.run([*command, "0"], capture_output=True, text=True)
    assert again.stdout.split()[-1] == alone(tmp_path, sources), again.stderr


@pytest.mark.parametrize(
    "number, code, words", [(signal.SIGTERM, 143, "ended from outside"), (signal.SIGINT, 130, "stopped")]
)
def test_a_build_that_is_ended_keeps_what_it_has(
    tmp_path: Path, sources: Path, number: int, code: int, words: str
) -> None:
    mine = tmp_path / "mine.py"
    there, log = str(SCRIPT.parent.parent), str(tmp_path / "log")
    mine.write_text(
        f"import sys\nsys.path.insert(0, {there!r})\nfrom fixtures.ranked import release\nV1 = release({log!r}, 0.05)\n"
    )
    command = [sys.executable, "-m", "hfds.cli", "build", str(mine), "v1", "--sources", str(sources), "--num-proc", "2"]
    command += ["--workdir", str(tmp_path / "work"), "--out", str(tmp_path / "dist")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, start_new_session=True, **pipes)
    while len(shown(tmp_path / "log")) < 20:
        time.sleep(0.05)
    os.killpg(process.pid, number)  # all of its processes, as a terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert errors.count(words) == 1
    assert "Traceback" not in errors
    count = len(shown(tmp_path / "log"))
    assert stored(tmp_path / "work")["Loud"] >= count - 8, "all but the batch that was asked about"
    assert subprocess.run(command, capture_output=True, timeout=100).returncode == 0
    assert stored(tmp_path / "work") == {"Loud": ROWS // 3, "Wide": ROWS // 3}


def test_what_looks_like_ranks_but_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # accelerate sets them, and processes that later tests start would inherit it
        monkeypatch.delenv(name)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="WORLD_SIZE says that this is one of 2 processes, and each would build"):
        Run.here(tmp_path)
    with pytest.raises(ConfigError, match="WORLD_SIZE says that this is one of 2 processes, but they cannot be joined"):
        Run.accelerated(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(ConfigError, match="WORLD_SIZE must be the number of processes that were launched, got 'many'"):
        Run.accelerated(tmp_path)
    monkeypatch.delenv("WORLD_SIZE")
    assert Run.accelerated(tmp_path).ranks == 1
