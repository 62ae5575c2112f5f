"""The exceptions of hfds: each says in one sentence what was wrong, what was received, and what to do.

    HfdsError
    ├── ConfigError         the release, step or command cannot work as written; holds every problem found (exit 2)
    ├── MissingExtra        an optional package is not installed (exit 2)
    ├── SourceError         a source cannot be read (exit 3)
    │   ├── SourceMissing   the folder, the files or the repository are not there
    │   ├── BadFile         one upstream file cannot be read: it stops the build and is named
    │   │   └── NotAllowed  it may not be read, or is not there and its place does not say so
    │   └── SourceChanged   a file is not what it was when it was indexed
    ├── HubError            the Hub refuses a release or cannot be reached (exit 3)
    ├── WriterError         a language model's server refuses or cannot be reached (exit 3)
    ├── BadRow              one row cannot be used; a builder turns it into a dropped row with this reason
    ├── ConservationError   rows in are not rows kept plus rows dropped (exit 1)
    ├── OutOfSpace          a disk is full; running again goes on (exit 3)
    └── Stopped             the hours or the budget that were given are over; running again goes on (exit 4)

All arguments are plain strings, so that every exception survives the way back from a worker process.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class HfdsError(Exception):
    """Base of all exceptions that hfds raises on purpose."""

    exit_code = 2


class ConfigError(HfdsError):
    """Every problem found in a configuration, at once."""

    def __init__(self, *problems: str):
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


class MissingExtra(HfdsError):
    """An optional package is needed: names the caller, the package and the extra to install."""

    def __init__(self, who: str, package: str, extra: str):
        super().__init__(who, package, extra)
        self.package = package

    def __str__(self) -> str:
        who, package, extra = self.args
        return f"{who} needs {package}: pip install 'hfds[{extra}]'"


class SourceError(HfdsError):
    """A source cannot be read."""

    exit_code = 3


class SourceMissing(SourceError):
    """The folder, the files or the repository of a source are not there."""


class BadFile(SourceError):
    """One upstream file cannot be read. `file` is its name in the source, `problem` what is wrong with it."""

    def __init__(self, file: str, problem: str, advice: str = "fetch it again, or remove it to build without it"):
        super().__init__(file, problem, advice)

    def __str__(self) -> str:
        file, problem, advice = self.args
        return f"{file}: {problem}; {advice}"


class NotAllowed(BadFile):
    """A file that may not be read; or that is not there, in a bucket that does not let its files be listed."""


class SourceChanged(SourceError):
    """A file is not what it was when it was indexed."""


class HubError(HfdsError):
    """The Hub refuses a release, or cannot be reached; what was sent is there, and running again goes on."""

    exit_code = 3


class WriterError(HfdsError):
    """The server of a language model refuses, or is gone. What it answered is kept, and running again goes on."""

    exit_code = 3


class BadRow(HfdsError):
    """One row cannot be used: `reason` is a short name such as "truncated_image", `value` what was found."""

    def __init__(self, reason: str, value: str | None = None):
        super().__init__(reason, value)
        self.reason, self.value = reason, value


class ConservationError(HfdsError):
    """Rows in are not rows kept plus rows dropped."""

    exit_code = 1


class OutOfSpace(HfdsError):
    """A disk is full. What was finished is kept, and running again goes on."""

    exit_code = 3


class Stopped(HfdsError):
    """The hours or the budget that were given are over. What was computed is kept, and running again goes on."""

    exit_code = 4


def nearest(name: str, valid: Iterable[str]) -> str:
    """`did you mean 'x'?` when a valid name is close, else the list of all of them."""
    valid = list(valid)
    close = get_close_matches(name, valid, n=1)
    return f"did you mean {close[0]!r}?" if close else f"it is one of: {', '.join(valid) or 'none'}"


def causes(error: BaseException | None) -> list[BaseException]:
    """An error, what it was raised from, and so on."""
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
