"""A read-only stand-in for the Hub on loopback: what its clients ask for when they read a dataset, and no more.

with Hub() as hub:
    commit = hub.commit("org/name", {"data/train.csv": b"..."})
    ...  # clients with HF_ENDPOINT=hub.url
assert hub.unknown == []
"""

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LFS = (".tar", ".zip", ".parquet")


@dataclass
class Repo:
    """A dataset repository: files by commit, commits by branch."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    token: str | None = None  # asked for when it is private
    damaged: dict[str, bytes] = field(default_factory=dict)  # sent instead of a file's bytes


@dataclass
class Fault:
    """Requests whose "METHOD path" holds `what` are answered with `status`, `times` times, the first `after` apart."""

    what: str
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    times: int = 1_000_000
    after: int = 0


class Hub:
    """A Hub at `url`. It keeps every "METHOD path", those that got no answer, and the tokens that it was shown."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.unknown: list[str] = []
        self.tokens: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def commit(self, repo: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Makes `files` the whole content of `branch`; returns the commit."""
        there = self.repos.setdefault(repo, Repo())
        commit = hashlib.sha1(f"{repo} {branch} {len(there.commits)}".encode()).hexdigest()
        there.commits[commit] = dict(files)
        there.branches[branch] = commit
        return commit


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        request, hub = f"{self.command} {self.path}", self.hub
        hub.requests.append(request)
        if token := self.headers.get("authorization", "").removeprefix("Bearer "):
            hub.tokens.add(token)
        for fault in hub.faults:
            if fault.what in request and fault.after > 0:
                fault.after -= 1
            elif fault.what in request and fault.times > 0:
                fault.times -= 1
                return self._send(fault.status, fault.headers)
        match [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]:
            case ["api", "datasets", owner, name, "revision" | "tree" as what, revision, *folders]:
                self._answer(f"{owner}/{name}", token, what, revision, "".join(f"{part}/" for part in folders))
            case ["datasets", owner, name, "resolve", revision, *path]:
                self._answer(f"{owner}/{name}", token, "resolve", revision, "/".join(path))
            case ["api", "agent-harnesses"]:  # the hf command's first question in a new home
                self._json({"standardEnvVars": [], "harnesses": []})
            case _:
                self._unknown()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _answer(self, name: str, token: str, what: str, revision: str, path: str) -> None:
        """Errors as the Hub tells them: the clients make their exceptions of X-Error-Code."""
        repo = self.hub.repos.get(name)
        if token and token not in {known.token for known in self.hub.repos.values()}:
            return self._send(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        if repo is None or (repo.token and token != repo.token):
            return self._send(404 if token else 401, {"X-Error-Code": "RepoNotFound"})
        commit = repo.branches.get(revision, revision)
        if commit not in repo.commits:
            return self._send(404, {"X-Error-Code": "RevisionNotFound"})
        files, said = repo.commits[commit], {"X-Repo-Commit": commit}
        missing = path not in files if what == "resolve" else not any(file.startswith(path) for file in files)
        if missing:
            return self._send(404, said | {"X-Error-Code": "EntryNotFound"})
        match self.command, what:
            case "GET", "revision":
                self._json({"id": name, "sha": commit, "private": bool(repo.token), "siblings": []})
            case "GET", "tree":
                self._json(_tree(files, path, "recursive=true" in self.path.lower()))
            case "GET" | "HEAD", "resolve":
                self._file(repo.damaged.get(path, files[path]), said | {"ETag": f'"{_oid(path, files[path])}"'})
            case _:
                self._unknown()

    def _file(self, data: bytes, headers: Mapping[str, str]) -> None:
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        if not wanted:
            return self._send(200, headers, data)
        first, last = wanted.split("-")
        start, stop = int(first), int(last) + 1 if last else len(data)
        if start >= len(data):
            return self._send(416, {**headers, "Content-Range": f"bytes */{len(data)}"})
        part = data[start:stop]
        self._send(206, {**headers, "Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(data)}"}, part)

    def _unknown(self) -> None:
        self.hub.unknown.append(f"{self.command} {self.path}")
        self._send(501, {"Connection": "close"})  # what it sent with it is not read

    def _json(self, value: Any) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _send(self, status: int, headers: Mapping[str, str], data: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing: `Hub.requests` is the log."""


def _tree(files: Mapping[str, bytes], below: str, recursive: bool) -> list[dict[str, Any]]:
    folders = {path[:at] for path in files for at, letter in enumerate(path) if letter == "/"}
    entries: list[dict[str, Any]] = [{"type": "directory", "path": f, "oid": "0" * 40, "size": 0} for f in folders]
    for path, data in files.items():
        lfs = {"oid": _oid(path, data), "size": len(data), "pointerSize": 130} if path.endswith(LFS) else None
        entry = {"type": "file", "path": path, "size": len(data), "oid": _oid(f"{path}.git", data)}
        entries.append(entry | ({"lfs": lfs} if lfs else {}))
    inside = [entry for entry in entries if entry["path"].startswith(below)]
    return [entry for entry in inside if recursive or "/" not in entry["path"].removeprefix(below)]


def _oid(path: str, data: bytes) -> str:
    """The sha256 of what LFS holds, else what git calls it."""
    return (
        hashlib.sha256(data).hexdigest()
        if path.endswith(LFS)
        else hashlib.sha1(b"blob %d\0%b" % (len(data), data)).hexdigest()
    )
