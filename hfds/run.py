"""Run: where a build happens. The only place that will know about devices, ranks and engines."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """A work folder for what can be computed again, and the number of processes.

    Everything below `workdir` may be deleted at any time: it only saves doing work twice.
    """

    workdir: Path
    num_proc: int = 1

    @classmethod
    def here(cls, workdir: str | Path = ".hfds", num_proc: int = 1) -> "Run":
        """This machine, with `num_proc` processes."""
        return cls(Path(workdir).absolute(), num_proc)

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
