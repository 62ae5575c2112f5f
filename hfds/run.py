"""Run: where a build happens. The only place that knows about devices, ranks and engines.

A build on several ranks (`accelerate launch`, torchrun) is one program started several times. All ranks go through the
same steps; one per machine prepares what is cheap while the others wait, and all share the rows that models are shown.
"""

import atexit
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from hfds.errors import ConfigError, HfdsError, MissingExtra
from hfds.writer import Limited, Opened, Writer

T = TypeVar("T")
PATIENCE = timedelta(days=30)  # how long a rank waits for another that still works; one that died is noticed at once


@dataclass(frozen=True)
class Run:
    """A work folder, the annotation store, the processes, and the device.

    Everything below `workdir` may be deleted at any time: it only saves doing work twice. Where the store lies there
    too, so do the answers of models.

    Args:
        workdir: on the disk of each machine.
        num_proc: processes beside this one that read, decode and write; models run in this one.
        store: folder or fsspec URL of the annotation store, one for all machines; `<workdir>/store` when None.
        max_hours: stop models after this time; running again goes on.
        batch_size: rows that a model is shown at once, instead of what its step says.
        commit_seconds: how often answers are written to the store.
    """

    workdir: Path
    num_proc: int = 1
    store: str | None = None
    max_hours: float | None = None
    batch_size: int | None = None
    commit_seconds: float = 20
    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    models: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)  # what is loaded, by step key
    limits: list[tuple[Any, Any]] = field(default_factory=list, repr=False, compare=False)  # writers, with what is left
    _group: Any = field(default=None, repr=False, compare=False)
    _began: float = field(default_factory=time.monotonic, repr=False, compare=False)

    @classmethod
    def here(cls, workdir: str | Path = ".hfds", num_proc: int = 1, **options: Any) -> "Run":
        """This machine and one process that models run in, with `num_proc` others; options as in the class.

        Raises:
            ConfigError: this process is one of several that were started together.
        """
        if (ranks := _launched()) > 1:
            raise ConfigError(
                f"WORLD_SIZE says that this is one of {ranks} processes, and each would build alone and over the "
                "others: use Run.accelerated, or unset WORLD_SIZE"
            )
        return cls(Path(workdir).absolute(), num_proc, **options)

    @classmethod
    def accelerated(cls, workdir: str | Path = ".hfds", num_proc: int = 1, **options: Any) -> "Run":
        """One rank of `accelerate launch` or torchrun; alone when it was started without them.

        Raises:
            MissingExtra: accelerate is not installed.
            ConfigError: accelerate sees fewer processes than were launched.
        """
        try:
            import torch
            from accelerate import PartialState
        except ImportError:
            raise MissingExtra("Run.accelerated", "accelerate", "models") from None
        launched = _launched()
        if launched == 1:
            return cls(Path(workdir).absolute(), num_proc, **options)
        try:
            state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"WORLD_SIZE says that this is one of {launched} processes, but they cannot be joined "
                f"({str(error).splitlines()[0][:200]}): start them with `accelerate launch` or torchrun, or unset it"
            ) from None
        if state.num_processes != launched:
            raise ConfigError(
                f"{launched} processes were launched, but accelerate sees {state.num_processes}: all of them would do "
                "the same work and write the same files; start them with `accelerate launch` or torchrun"
            )
        # Of its own: waiting costs the device nothing, and a rank that dies is noticed.
        group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
        atexit.register(_leave)
        place = {"rank": state.process_index, "ranks": launched, "local_rank": state.local_process_index}
        return cls(Path(workdir).absolute(), num_proc, _group=group, **place, **options)

    @property
    def main(self) -> bool:
        """Whether this is the rank that writes the release."""
        return self.rank == 0

    @cached_property
    def device(self) -> str:
        """Where models run, as torch calls it."""
        if "torch" not in sys.modules:  # its threads would spin between two batches, where pictures are to be decoded
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        try:
            import torch
        except ImportError:
            return "cpu"
        if torch.cuda.is_available():
            return f"cuda:{self.local_rank % torch.cuda.device_count()}"
        return "cpu"

    @cached_property
    def device_name(self) -> str:
        """What kind of device that is."""
        if not self.device.startswith("cuda"):
            return self.device
        import torch

        return str(torch.cuda.get_device_name(self.device))

    @property
    def overdue(self) -> bool:
        """Whether `max_hours` are over."""
        return self.max_hours is not None and time.monotonic() - self._began > self.max_hours * 3600

    def agree(self, make: Callable[[], T]) -> T:
        """What `make` gives on the first rank, on every rank."""
        if self.ranks == 1:
            return make()
        import torch.distributed as dist

        box = [make() if self.main else None]
        with _together():
            dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]  # type: ignore[return-value]

    def gathered(self, value: T) -> list[T]:
        """`value` of every rank, by rank; waits for all of them."""
        if self.ranks == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.ranks
        with _together():
            dist.all_gather_object(values, value, group=self._group)
        return values

    @contextmanager
    def first(self) -> Iterator[None]:
        """The first rank of each machine goes through alone; the others follow, and find what it left in `workdir`."""
        if self.local_rank:
            self.gathered(None)
        yield
        if not self.local_rank:
            self.gathered(None)

    def opened(self, writer: Writer) -> Opened:
        """A writer, ready to write. All that the run has opened of equal ones, before or for another step, has its part
        in their limits."""
        if not isinstance(writer, Limited):
            return writer.open(self.device, self.ranks)
        limits = next((limits for known, limits in self.limits if known == writer), None)
        if limits is None:
            limits = writer.limits(self.ranks)
            self.limits.append((writer, limits))
        return writer.open(self.device, self.ranks, limits)

    @property
    def sources(self) -> Path:
        """Cache of the builders: one Arrow file per piece of a source."""
        return self.workdir / "sources"

    @property
    def steps(self) -> Path:
        """Columns that steps added, by fingerprint."""
        return self.workdir / "steps"

    @property
    def journal(self) -> Path:
        """What has been written or hashed already."""
        return self.workdir / "journal"

    @property
    def annotations(self) -> str:
        """Folder or URL of the annotation store."""
        return self.store or str(self.workdir / "store")


def _launched() -> int:
    """How many processes a launcher says it started.

    Raises:
        ConfigError: it says no number.
    """
    size = os.environ.get("WORLD_SIZE") or "1"
    if not size.isdecimal() or int(size) < 1:
        raise ConfigError(f"WORLD_SIZE must be the number of processes that were launched, got {size!r}")
    return int(size)


def _leave() -> None:
    """Ends the connection between ranks before their threads are torn down, which aborts when one of them is gone."""
    import torch.distributed as dist

    with suppress(RuntimeError, ValueError):
        dist.destroy_process_group()


@contextmanager
def _together() -> Iterator[None]:
    """What the ranks' connection raises when one of them is gone, as one sentence."""
    try:
        yield
    except RuntimeError as error:
        raise HfdsError(
            f"another rank of this run ended ({str(error).splitlines()[0][:200]}); what was computed is kept: "
            "find its message, and run the same command again to go on"
        ) from error
