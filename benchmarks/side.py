"""What the benchmarks share: one side of a comparison run as a process of its own, with its time and peak memory."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Side:
    """One finished run: wall and CPU seconds, and the peak resident memory of its largest process in MB."""

    name: str
    wall: float
    cpu: float
    peak_mb: float
    output: str


def run(name: str, command: list[str] | str, cwd: Path | None = None) -> Side:
    """Runs a command (a string goes through the shell) to its end; raises when it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, shell=isinstance(command, str), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{name} failed:\n{output}")
    return Side(name, time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, output)


def turns(
    commands: list[tuple[str, list[str] | str, Path | None]], times: int, before: Callable[[], None]
) -> list[list[Side]]:
    """All commands in turn, `times` rounds of them after one that does not count; `before` is called before each run.

    Side by side, because the speed of a disk and of a shared machine drifts.
    """
    rounds = []
    for _ in range(times + 1):
        sides = []
        for name, command, cwd in commands:
            before()
            sides.append(run(name, command, cwd))
        rounds.append(sides)
    return rounds[1:]


def report(rounds: list[list[Side]]) -> None:
    """A table of the medians, and of the median ratio to the first command of the same round."""
    print(f"| side | wall s | CPU s | peak MB | wall against {rounds[0][0].name}, round by round |")
    print("|---|---|---|---|---|")
    for column in zip(*rounds, strict=True):
        ratios = [one.wall / first.wall for one, (first, *_) in zip(column, rounds, strict=True)]
        wall, cpu, peak = (median(getattr(one, name) for one in column) for name in ("wall", "cpu", "peak_mb"))
        print(f"| {column[0].name} | {wall:.2f} | {cpu:.2f} | {peak:.0f} | {median(ratios):.2f} |")


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
