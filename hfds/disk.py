"""The disk below a build: what it refuses, as one sentence, and one build of a release at a time."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hfds.errors import ConfigError, HfdsError, OutOfSpace, causes


@contextmanager
def alone(lock: Path, what: str = "build", option: str = "--out") -> Iterator[None]:
    """No second build of the same release into the same folder meanwhile, or none of `what` else is under way."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, blocking=False):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
    except Timeout:
        advice = f"wait for it, or choose another {option}"
        raise ConfigError(f"another {what} writes {lock.parent} now: {advice}") from None


@contextmanager
def disk_errors(options: str = "--workdir, --store or --out") -> Iterator[None]:
    """What a disk refuses, as one sentence; datasets and pyarrow wrap it in errors of their own.

    Args:
        options: what says where else to write.
    """
    try:
        yield
    except HfdsError:
        raise
    except Exception as error:
        for cause in causes(error):
            code = cause.errno if isinstance(cause, OSError) else None
            where = f" at {cause.filename}" if isinstance(cause, OSError) and cause.filename else ""
            if code in (errno.ENOSPC, errno.EDQUOT):
                advice = f"free some space or choose another {options}, and run again to go on"
                raise OutOfSpace(f"the disk is full{where}: {advice}") from error
            if code in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENOMEM):
                problem = f"{os.strerror(code)}{where}: what was finished is kept; run again when that is mended"
                raise HfdsError(problem) from error
            if code in (
                errno.EROFS,
                errno.EACCES,
                errno.EPERM,
                errno.ENOTDIR,
                errno.EEXIST,
                errno.EISDIR,
                errno.ENOENT,
            ):
                advice = f"choose another {options}"
                raise ConfigError(f"cannot write{where} ({os.strerror(code)}): {advice}") from error
        raise
