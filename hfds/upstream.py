"""The files of a source where they are: in a folder, or in a dataset repository on the Hub at a commit."""

import shlex
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

import fsspec
from huggingface_hub import errors as hub_errors
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the HTTP library that it uses

from hfds.archive import sha256_of
from hfds.errors import BadFile, ConfigError, SourceMissing, causes

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


# The files that match the first of some patterns that matches any; SourceMissing for none, unless they are not needed.
Find = Callable[[tuple[str, ...], bool], list[File]]


@dataclass(frozen=True)
class Place:
    """Where a source is to be had: its name, its repository on the Hub, what to do without, and sums that are known."""

    source: str
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
            raise SourceMissing(f"{self.source} is not on the Hub and needs a local folder; {self.advice}")
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        try:
            commit = str(api.dataset_info(self.repo, revision=revision).sha)
            entries = api.list_repo_tree(self.repo, repo_type="dataset", revision=commit, recursive=True)
            listing = [self._remote(entry, commit) for entry in entries if hasattr(entry, "size")]
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            raise self.failed(error, revision) from None

        def find(patterns: tuple[str, ...], needed: bool) -> list[File]:
            for pattern in patterns:
                depth = pattern.count("/")
                at_depth = (file for file in listing if file.name.count("/") == depth)
                if found := sorted((f for f in at_depth if fnmatchcase(f.name, pattern)), key=lambda f: f.name):
                    return [_unchained(file) for file in found]
            where, there = f"{self.repo} at {revision!r}", [file.name for file in listing]
            return self._nothing(patterns, where, there, self.obtain or "give another revision") if needed else []

        return commit, find

    def _remote(self, entry: Any, commit: str) -> File:
        sha256 = entry.lfs.sha256 if entry.lfs else self.sums.get(entry.path)
        url = f"hf://datasets/{self.repo}@{commit}/{entry.path}"
        return File(entry.path, url, entry.size, f"{commit}:{entry.blob_id}", sha256)

    def _nothing(self, patterns: tuple[str, ...], where: str, there: list[str], advice: str) -> NoReturn:
        seen = ", ".join(there[:5]) + (" ..." if len(there) > 5 else "") if there else "nothing"
        raise SourceMissing(f"{self.source}: no {' or '.join(patterns)} in {where}, which holds {seen}; {advice}")

    def failed(self, error: BaseException, revision: str | None) -> SourceMissing:
        """The error to raise instead of one of the Hub's clients."""
        return SourceMissing(f"{self.source}: {self.repo} {_problem(error, revision)}")

    def fetch(self, dl_manager: Any, files: list[File], commit: str | None) -> list[File]:
        """The files where they can be opened now: downloaded from the Hub unless streaming, then checked where a sha256
        is known."""
        remote = [file.path for file in files if "://" in file.path]
        try:
            local = dict(zip(remote, dl_manager.download(remote), strict=True)) if remote else {}
        except (HTTPError, OSError) as error:
            if getattr(error, "errno", None) is not None:  # this machine's, such as a full disk
                raise
            raise self.failed(error, commit) from None
        here = [replace(file, path=local.get(file.path, file.path)) for file in files]
        for file, source in zip(here, files, strict=True):
            if file.sha256 and "://" not in file.path and (got := sha256_of(file.path)) != file.sha256:
                problem = f"its sha256 is {got}, upstream says {file.sha256}"
                if file.path == source.path:
                    raise BadFile(file.name, problem)
                get = f"{self.repo} {shlex.quote(file.name)} --revision {commit} --force-download"
                raise BadFile(file.name, problem, f"fetch it again with: hf download --repo-type dataset {get}")
        return here


def stamp_of(path: Path) -> str:
    """What changes when a local file does: its path, size and time."""
    stat = path.stat()
    return f"{path}:{stat.st_size}:{stat.st_mtime_ns}"


def _unchained(file: File) -> File:
    if "::" in file.name:
        raise BadFile(file.name, "fsspec reads the '::' in its name as a chain", "rename it")
    return file


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
    status = next((cause.response.status_code for cause in chain if isinstance(cause, hub_errors.HfHubHTTPError)), 0)
    if status in (401, 403):
        return f"is not for this token, the Hub answers {status}: log in as someone who may read it with: hf auth login"
    if status >= 500 or status == 429:
        return f"cannot be read now, the Hub answers {status}: try again later"
    why = " ".join(str(error).split())[:300] or type(error).__name__
    return f"cannot be read from the Hub ({why}): check the network, and HF_ENDPOINT if it is set"
