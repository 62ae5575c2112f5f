"""What the benchmarks share: one side of a comparison run as a process of its own, with its time and peak memory."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


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


def best(name: str, command: list[str] | str, times: int, cwd: Path | None = None, before: object = None) -> Side:
    """The run with the median wall time out of `times`; `before()` is called before each."""
    sides = []
    for _ in range(times):
        if callable(before):
            before()
        sides.append(run(name, command, cwd))
    return sorted(sides, key=lambda side: side.wall)[len(sides) // 2]


def report(sides: list[Side], against: Side) -> None:
    """A table of all sides, each with its ratio to `against`."""
    print(f"| {'side':44} | wall s | CPU s | peak MB | wall against {against.name} |")
    print("|---|---|---|---|---|")
    for side in sides:
        ratio = side.wall / against.wall
        print(f"| {side.name:44} | {side.wall:.2f} | {side.cpu:.2f} | {side.peak_mb:.0f} | {ratio:.2f} |")


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
