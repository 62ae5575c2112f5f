"""A Hub on localhost, in a process of its own, for the unmodified clients: repositories, commits, LFS and Xet.

with Hub(folder) as hub:
    commit = hub.commit("org/name", {"data/train.csv": b"..."})
    hub.faults = [Fault("POST .*/commit/", 503, times=1)]
    ...  # clients with hub.environment(home)
assert hub.unknown == []
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hub.blobs import by_lfs
from hub.faults import Fault
from hub.store import File, Store, Token

__all__ = ["Fault", "Hub", "Token"]

QUIET = ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_UPDATE_CHECK", "HF_HUB_DISABLE_PROGRESS_BARS")


class Hub:
    """A Hub that is kept in `folder`, and the test's hand on it.

    Tokens that it knows from the start: "hf_write" and "hf_read" of "me", who is in "org". `options` are those of
    `python -m hub`, such as "--page=2". Whatever was answered outlives `kill`; faults do not.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.store = Store(folder)
        self._options = options
        self._process: subprocess.Popen[str] | None = None
        self._seen = 0
        self.url = ""

    def __enter__(self) -> "Hub":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.store.close()

    def start(self) -> None:
        """Starts the server, on its port if it had one."""
        port = urlsplit(self.url).port or 0
        command = [sys.executable, "-m", "hub", str(self.folder), "--child", f"--port={port}", *self._options]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, "the Hub did not start"

    def kill(self) -> None:
        """Ends the server in the middle of whatever it does."""
        if self._process:
            with self._process:
                self._process.kill()
            self._process = None

    # What it holds

    def commit(self, repo: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Makes `files` the whole content of a branch, which is made where it is missing; returns the commit."""
        with self.store.transaction():
            if self.store.repo(repo) is None:
                self.store.insert_repo(repo)
            made = {path: self._file(path, data) for path, data in files.items()}
            return self.store.insert_commit(repo, f"refs/heads/{branch}", "by hand", made)

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a commit, by their paths."""
        commit = self.store.commit(repo, revision)
        assert commit is not None, (repo, revision)
        return {path: self.store.blobs.path(file.sha256).read_bytes() for path, file in commit.files.items()}

    def blob(self, repo: str, path: str, revision: str = "main") -> Path:
        """Where a file's content is kept; a test that writes there is a disk that rots."""
        commit = self.store.commit(repo, revision)
        assert commit is not None, (repo, revision)
        return self.store.blobs.path(commit.files[path].sha256)

    def _file(self, path: str, data: bytes) -> File:
        sha256 = self.store.blobs.add(data)
        return File.in_lfs(sha256, len(data)) if by_lfs(path, len(data)) else File.in_git(sha256, data)

    # What it was asked

    @property
    def requests(self) -> list[str]:
        """Every "METHOD path?query" since `forget`."""
        return [note["request"] for note in self._log(self._seen) if "request" in note]

    def received(self, where: str) -> int:
        """The bytes that came with the requests since `forget` in which `where` is found, as they said themselves."""
        notes = self._log(self._seen)
        return sum(int(note.get("bytes", 0)) for note in notes if where in note.get("request", ""))

    def forget(self) -> None:
        """Starts `requests` anew."""
        self._seen = (self.folder / "log.jsonl").stat().st_size

    @property
    def unknown(self) -> list[str]:
        """Requests that the server does not know, or failed at."""
        return [note["unknown"] for note in self._log() if "unknown" in note]

    @property
    def tokens(self) -> set[str]:
        """The tokens that it was shown."""
        return {note["token"] for note in self._log() if "token" in note}

    # What goes wrong

    @property
    def faults(self) -> list[Fault]:
        """The faults, with the `times` and `after` that are left of them."""
        return [Fault(**fault) for fault in self._control("GET")["faults"]]

    @faults.setter
    def faults(self, faults: Iterable[Fault]) -> None:
        self._control("PUT", json.dumps([asdict(fault) for fault in faults]))

    @property
    def held(self) -> list[str]:
        """The requests that are held by a fault, in the order of their coming; setting `faults` ends them."""
        return [*self._control("GET")["held"]]

    # Who asks

    def environment(self, home: Path, token: str = "", xet: bool = False) -> dict[str, str]:
        """The environment of a client that knows this Hub only; `home` is its own, by Xet or by LFS."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        ours = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_UPDATE_DOWNLOAD_COUNTS": "0", "HF_TOKEN": token}
        return {**clean, **ours, **dict.fromkeys(QUIET, "1"), "HF_HUB_DISABLE_XET": "0" if xet else "1"}

    def _log(self, start: int = 0) -> list[dict[str, str]]:
        """What the server noted, from a byte of its log on."""
        path = self.folder / "log.jsonl"
        return [json.loads(line) for line in path.read_bytes()[start:].splitlines()] if path.exists() else []

    def _control(self, method: str, body: str | None = None) -> Any:
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=10)
        try:
            connection.request(method, "/-/faults", body)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()
