"""URLs: bytes of files behind one, through fsspec, asked for again while that may help."""

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

from huggingface_hub.errors import OfflineModeIsEnabled

from hfds.errors import BadFile, ConfigError, HfdsError, MissingExtra, NotAllowed, SourceMissing, causes
from hfds.tries import AGAIN, status_of, tried

T = TypeVar("T")
STALLED = 30.0  # seconds without a byte after which a connection is given up


class Files:
    """The files below a URL. Made again in every process, as connections do not survive a fork."""

    def __init__(self, place: str):
        self.place = place
        self._opened: tuple[int, Any] = (0, None)

    def __getstate__(self) -> dict[str, Any]:
        return {"place": self.place, "_opened": (0, None)}

    def _fs(self, url: str) -> tuple[Any, str]:
        import fsspec

        try:
            if self._opened[0] != os.getpid():
                self._opened = (os.getpid(), fsspec.url_to_fs(self.place, **_options(self.place))[0])
        except ImportError as error:
            if error.name == "aiohttp":
                raise MissingExtra(self.place, error.name, "remote") from None
            raise ConfigError(f"{self.place} cannot be opened: {error}") from None  # as fsspec says, what to install
        except ValueError as error:
            raise ConfigError(f"{self.place} cannot be opened: {error}") from None
        return self._opened[1], self._opened[1]._strip_protocol(url)

    def fetch(self, url: str) -> bytes:
        """All bytes of a file, which may also be a local path.

        Raises:
            SourceMissing: there is none.
            BadFile: it cannot be read.
        """
        return again(url, lambda: self._cat(url))

    def range(self, url: str, start: int, size: int) -> bytes:
        """`size` bytes of a file from `start` on; raises as `fetch`."""

        def read() -> bytes:
            data = self._cat(url, start=start, end=start + size)
            if len(data) > size:
                raise BadFile(
                    url, "its server gives the whole file where a part is asked for",
                    "put it behind one that knows ranges, or copy the folder",
                )  # fmt: skip
            if len(data) != size:
                raise EOFError(f"{len(data):,} bytes came of {size:,} from byte {start:,} on")
            return data

        return again(url, read)

    def _cat(self, url: str, **part: int) -> bytes:
        if "://" not in url:
            with open(url, "rb") as file:
                return file.read()
        fs, path = self._fs(url)
        exact = {"cache_type": "none"} if part and not fs.async_impl else {}  # else whole blocks of 5 MB are read
        return bytes(fs.cat_file(path, **part, **exact))


def _options(place: str) -> dict[str, Any]:
    """How a file system is opened: one of HTTP waits for an answer that has stopped no longer than for another."""
    if not place.startswith(("http://", "https://")):
        return {}
    import aiohttp

    return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=STALLED, sock_read=STALLED)}}


class Failed(RuntimeError):
    """A read that failed in one of the ways of a file system, with the answer where there was one."""

    def __init__(self, error: Exception):
        super().__init__(f"{type(error).__name__}: {error}")
        status, headers = getattr(error, "status", None), getattr(error, "headers", None)  # as aiohttp tells of one
        self.response = SimpleNamespace(status_code=status, headers=headers or {}) if isinstance(status, int) else None


def again(url: str, make: Callable[[], T]) -> T:
    """What `make` gives, tried again while that may help.

    Raises:
        SourceMissing: there is no such file.
        NotAllowed: it may not be read.
        BadFile: it cannot be read, now or at all.
    """

    def once() -> T:
        try:
            return make()
        except (FileNotFoundError, PermissionError, HfdsError):
            raise
        except Exception as error:
            raise Failed(error) from error

    try:
        return tried(once, lambda error: "://" in url and _may_pass(error))
    except FileNotFoundError:
        raise SourceMissing(f"{url} is not there: export the release to there, or look for the name") from None
    except (Failed, PermissionError) as error:
        status = status_of(error)
        what = f"the answer is {status}" if status else str(error)
        kind = NotAllowed if status == 403 or isinstance(error, PermissionError) else BadFile
        raise kind(url, f"it cannot be read ({what})", "try again, or look whether it is whole") from None


def _may_pass(error: BaseException) -> bool:
    """Whether the same read may succeed later: as `hfds.tries.may_pass`, and for whatever else a file system raises."""
    if not isinstance(error, Failed):
        return False
    offline = any(isinstance(cause, OfflineModeIsEnabled) for cause in causes(error))
    return status_of(error) in (0, *AGAIN) and not offline
