"""The files of a source where they are: in a folder, or in a dataset repository on the Hub at a commit."""

import errno
import hashlib
import re
import shlex
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

import fsspec
from huggingface_hub import errors as hub_errors
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the HTTP library that it uses

from hfds.archive import sha256_of, unsafe
from hfds.errors import BadFile, ConfigError, SourceMissing, causes
from hfds.record import printable
from hfds.tries import may_pass, status_of, tried

FAILURES = (HTTPError, OSError, RuntimeError, ValueError)  # what the Hub's clients raise
_AS_HUB_USER = threading.RLock()  # see `as_hub_user`


@dataclass(frozen=True)
class File:
    """One upstream file: its `name` in the source, and where it is. `stamp` changes when the file does.

    A folder of pictures that a list stands beside is one too, with a name that ends in "/".
    """

    name: str
    path: str  # absolute local path, or an hf:// URL at a commit
    size: int
    stamp: str
    sha256: str | None = None  # where upstream tells it
    oid: str | None = None  # git's sha1 of its content, where that is what the Hub tells


# The files that match the first of some patterns that matches any; SourceMissing for none, unless they are not needed.
Find = Callable[[tuple[str, ...], bool], list[File]]


@dataclass(frozen=True)
class Place:
    """Where a config of a source is to be had: its repository on the Hub, what to do without, sums that are known."""

    source: str
    config: str
    repo: str | None
    obtain: str
    sums: Mapping[str, str]

    @property
    def advice(self) -> str:
        """How to get what is not there."""
        if self.obtain or self.repo is None:
            return self.obtain or "give the folder that holds it as published"
        return f"get it with: hf download --repo-type dataset {self.repo} --local-dir FOLDER"

    def in_folder(self, root: Path) -> Find:
        """Finds files below a local folder."""
        if not root.is_dir():
            raise SourceMissing(f"{self.source}: no folder {root}; {self.advice}")
        root = root.resolve()
        if "::" in str(root):
            raise ConfigError(f"{self.source}: the folder {root} has '::' in its name, which fsspec reads as a chain")

        def find(patterns: tuple[str, ...], needed: bool) -> list[File]:
            for pattern in patterns:
                if found := sorted((p for p in root.glob(pattern) if p.is_file()), key=lambda p: p.as_posix()):
                    return [self._local(root, path) for path in found]
            there = sorted(path.name for path in root.iterdir())
            return self._nothing(patterns, f"the folder {root}", there, self.advice) if needed else []

        return find

    def _local(self, root: Path, path: Path) -> File:
        name = path.relative_to(root).as_posix()
        return _unchained(File(name, str(path), path.stat().st_size, stamp_of(path), self.sums.get(name)))

    def on_hub(self, revision: str, token: str | bool | None) -> tuple[str, Find]:
        """The commit that `revision` is now, and what finds files in it."""
        if self.repo is None:
            raise SourceMissing(
                f"{self.source}/{self.config} is not on the Hub, it needs a local folder: {self.advice}"
            )
        from huggingface_hub import HfApi

        repo, api = self.repo, HfApi(token=token)
        try:
            commit = str(tried(lambda: api.dataset_info(repo, revision=revision).sha, _is_there))
            entries = api.list_repo_tree(repo, repo_type="dataset", revision=commit, recursive=True)
            listing = [self._remote(entry, commit) for entry in entries if hasattr(entry, "size")]
        except FAILURES as error:
            raise self.failed(error, revision) from None

        def find(patterns: tuple[str, ...], needed: bool) -> list[File]:
            for pattern in patterns:
                depth = pattern.count("/")
                at_depth = (file for file in listing if file.name.count("/") == depth)
                if found := sorted((f for f in at_depth if fnmatchcase(f.name, pattern)), key=lambda f: f.name):
                    return [_inside(_unchained(file)) for file in found]
            where, there = f"{self.repo} at {revision!r}", [file.name for file in listing]
            return self._nothing(patterns, where, there, self.obtain or "give another revision") if needed else []

        return commit, find

    def _remote(self, entry: Any, commit: str) -> File:
        sha256 = entry.lfs.sha256 if entry.lfs else self.sums.get(entry.path)
        url = f"hf://datasets/{self.repo}@{commit}/{entry.path}"
        stamp, oid = f"{commit}:{entry.blob_id}", None if entry.lfs else entry.blob_id
        return File(entry.path, url, entry.size, stamp, sha256, oid)

    def _nothing(self, patterns: tuple[str, ...], where: str, there: list[str], advice: str) -> NoReturn:
        names = [printable(name) if len(name) <= 100 else f"{printable(name[:97])}..." for name in there[:5]]
        seen = ", ".join(names) + (" ..." if len(there) > 5 else "") if there else "nothing"
        raise SourceMissing(f"{self.source}: no {' or '.join(patterns)} in {where}, which holds {seen}; {advice}")

    def failed(self, error: BaseException, revision: str | None) -> SourceMissing:
        """The error to raise instead of one of the Hub's clients."""
        return SourceMissing(f"{self.source}: {self.repo} {_problem(error, revision)}")

    def fetch(self, dl_manager: Any, files: list[File], commit: str | None) -> list[File]:
        """The files where they can be opened now: downloaded from the Hub unless streaming, then checked where a sha256
        is known."""
        remote = [file.path for file in files if "://" in file.path]
        try:
            paths = tried(lambda: dl_manager.download(remote)) if remote else []
        except FAILURES as error:
            code = getattr(error, "errno", None)
            if code == errno.ENAMETOOLONG:
                longest = printable(max((file.name for file in files), key=len))
                raise BadFile(longest, "its name is too long for this disk", "read it by streaming") from None
            if code is not None:  # this machine's, such as a full disk
                raise
            raise self.failed(error, commit) from None
        local = dict(zip(remote, paths, strict=True))
        here = [replace(file, path=local.get(file.path, file.path)) for file in files]
        for file, source in zip(here, files, strict=True):
            if "://" in file.path or (problem := _difference(file)) is None:
                continue
            if file.path == source.path:
                raise BadFile(file.name, problem)
            get = f"{self.repo} {shlex.quote(file.name)} --revision {commit} --force-download"
            raise BadFile(file.name, problem, f"fetch it again with: hf download --repo-type dataset {get}")
        return here


def _difference(file: File) -> str | None:
    """What a local file's content is other than upstream says; None where it is the same, or upstream says nothing."""
    if file.sha256 and (got := sha256_of(file.path)) != file.sha256:
        return f"its sha256 is {got}, upstream says {file.sha256}"
    if not file.sha256 and file.oid and (got := _git_oid(Path(file.path))) != file.oid:
        return f"its content is {got} to git, upstream says {file.oid}"
    return None


def _git_oid(path: Path) -> str:
    """What git calls a file: such a one is small, and has no other sum."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0%b" % (len(data), data), usedforsecurity=False).hexdigest()


def stamp_of(path: Path) -> str:
    """What changes when a local file does: its path, size and time."""
    stat = path.stat()
    return f"{path}:{stat.st_size}:{stat.st_mtime_ns}"


def _unchained(file: File) -> File:
    if "::" in file.name:
        raise BadFile(file.name, "fsspec reads the '::' in its name as a chain", "rename it")
    return file


def _inside(file: File) -> File:
    """The file, once its name cannot lead out of the folder that a download of it goes to."""
    if unsafe(file.name):
        raise BadFile(printable(file.name), "no file can have that name here", "tell those who publish it")
    return file


def _is_there(error: BaseException) -> bool:
    """Whether the Hub answers at all, and may do so better."""
    nobody = (ConnectionRefusedError, socket.gaierror)
    return may_pass(error) and not any(isinstance(cause, nobody) for cause in causes(error))


def clean_token(source: str, token: str | bool | None) -> str | bool | None:
    """The token without the blanks around it, None when nothing is left; no error shows it.

    The clients' own errors do, where it holds a newline: one that was read from a file.
    """
    if not isinstance(token, str):
        return token
    token = token.strip()
    if not all("!" <= letter <= "~" for letter in token):
        raise ConfigError(f"{source}: the token holds a character that none has: copy it again, or leave it out")
    return token or None


@contextmanager
def as_hub_user(token: str | bool) -> Iterator[None]:
    """Opens every hf:// URL with `token` meanwhile: the URL cannot carry it, the configuration of fsspec can."""
    with _AS_HUB_USER:
        before = fsspec.config.conf.get("hf")
        fsspec.config.conf["hf"] = {**(before or {}), "token": token}
        try:
            yield
        finally:
            del fsspec.config.conf["hf"]
            if before is not None:
                fsspec.config.conf["hf"] = before


def _problem(error: BaseException, revision: str | None) -> str:
    """What is wrong between here and a repository on the Hub, and what to do."""
    chain = [*causes(error)]

    def found(kind: type[BaseException]) -> bool:
        return any(isinstance(cause, kind) for cause in chain)

    if found(hub_errors.OfflineModeIsEnabled):
        return "is not asked for while HF_HUB_OFFLINE is set: unset it, or give the folder that holds it"
    if found(hub_errors.GatedRepoError) or "access gated repo" in str(error):  # a pool keeps the text alone
        return "is gated: ask for access on its page on the Hub, then log in with: hf auth login"
    if found(hub_errors.RepositoryNotFoundError):
        return "is not on the Hub, or is private: log in as someone who may read it with: hf auth login"
    if found(hub_errors.RevisionNotFoundError):
        return f"has no revision {revision!r} on the Hub: give a branch, tag or commit that it has"
    told = re.search(rf"Entry Not Found for url: \S+/{re.escape(str(revision))}/(\S+)", " ".join(map(str, chain)))
    if told:  # of a pool the text alone, once more
        name = printable(unquote(told[1].rstrip(".")))
        return f"lists {name} at {revision} and does not give it: try again later, or give another revision"
    status = status_of(error)
    if status in (401, 403):
        return f"is not for this token, the Hub answers {status}: log in as someone who may read it with: hf auth login"
    if status >= 500 or status == 429:
        return f"cannot be read now, the Hub answers {status}: try again later"
    why = " ".join(str(error).split())[:300] or type(error).__name__
    return f"cannot be read from the Hub ({why}): check the network, and HF_ENDPOINT if it is set"
