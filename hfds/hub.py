"""Hub: a dataset repository on the Hugging Face Hub that releases are written to; its errors are one sentence."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_session, hf_hub_url
from huggingface_hub import errors as hub_errors
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the HTTP library that it uses
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # named there, but not exported to mypy
    build_hf_headers,
    hf_raise_for_status,
    validate_repo_id,
)

from hfds.errors import ConfigError, HubError, causes
from hfds.tries import AGAIN, FAILURES, answer_of, may_pass, status_of, tried
from hfds.upstream import clean_token

T = TypeVar("T")
PATIENCE = 60  # seconds without a byte of an answer


@dataclass(frozen=True)
class Stored:
    """A file in a repository: its size, the sha256 of what is kept in LFS, and the SHA-1 by which Git knows it."""

    path: str
    size: int
    sha256: str | None
    blob: str


class Moved(Exception):
    """The branch is not where it was: someone else has committed."""


class Hub:
    """A dataset repository.

    Args:
        repo: "org/name".
        token: of someone who may write there; the one that `hf auth login` keeps when None.

    Raises:
        ConfigError: no repository can have that name.
    """

    def __init__(self, repo: str, token: str | None = None):
        _must_name_one(repo)
        self.repo = repo
        self.token = clean_token(repo, token)
        self.api = HfApi(token=self.token, library_name="hfds")

    def create(self, private: bool) -> None:
        """Makes it, where it is not there."""
        self.call(lambda: self.api.create_repo(self.repo, repo_type="dataset", private=private, exist_ok=True))

    def head(self, revision: str = "main") -> tuple[str, bool] | None:
        """The commit that a branch or tag is at, and whether the repository is private; None where it is not there, or
        may not be seen."""
        try:
            info = self.call(lambda: self.api.repo_info(self.repo, revision=revision, repo_type="dataset"))
        except HubError as error:
            if any(isinstance(cause, hub_errors.RepositoryNotFoundError) for cause in causes(error)):
                return None
            raise
        return str(info.sha), bool(info.private)

    def tags(self) -> dict[str, str]:
        """The commits of all tags, by name."""
        refs = self.call(lambda: self.api.list_repo_refs(self.repo, repo_type="dataset"))
        return {tag.name: tag.target_commit for tag in refs.tags}

    def tree(self, revision: str = "main") -> dict[str, Stored]:
        """All files at a commit, by path."""
        listed = self.call(
            lambda: [*self.api.list_repo_tree(self.repo, recursive=True, revision=revision, repo_type="dataset")]
        )
        found = [entry for entry in listed if isinstance(entry, RepoFile)]
        return {one.path: Stored(one.path, one.size, one.lfs.sha256 if one.lfs else None, one.blob_id) for one in found}

    def part(self, path: str, revision: str, start: int, stop: int) -> bytes:
        """A file's bytes from one place to before another, in one request."""
        url = hf_hub_url(self.repo, path, repo_type="dataset", revision=revision)
        asked = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        headers = build_hf_headers(token=self.token, library_name="hfds", headers=asked)

        def get() -> bytes:
            answer = get_session().get(url, headers=headers, timeout=PATIENCE)
            hf_raise_for_status(answer)
            if len(answer.content) != stop - start:
                raise ConnectionError(f"{len(answer.content):,} bytes of {stop - start:,}")
            return bytes(answer.content)

        return self.call(get)

    def fetch(self, path: str, revision: str, folder: Path) -> Path:
        """A file, fetched into `folder`."""
        return Path(
            self.call(
                lambda: self.api.hf_hub_download(
                    self.repo, path, revision=revision, repo_type="dataset", local_dir=folder
                )
            )
        )

    def commit(
        self, message: str, files: Sequence[CommitOperationAdd], gone: Sequence[str] = (), parent: str | None = None
    ) -> str:
        """Adds files and removes others in one commit on main, which is that branch's next one after `parent`.

        Args:
            files: as `adding` gives them; what was sent of them once is not sent again with the next commit.

        Raises:
            Moved: main is not at `parent` any more.
            HubError: the Hub refuses it.
        """
        operations: list[Any] = [*files, *map(CommitOperationDelete, gone)]

        def send() -> str:
            made = self.api.create_commit(
                self.repo, operations, commit_message=message, parent_commit=parent, repo_type="dataset"
            )
            return str(made.oid)

        return self.call(send, lambda status: Moved() if status == 412 and parent else None)

    def tag(self, name: str, commit: str) -> None:
        """Sets a tag that is not there yet."""
        self.call(lambda: self.api.create_tag(self.repo, tag=name, revision=commit, repo_type="dataset", exist_ok=True))

    def call(self, make: Callable[[], T], instead: Callable[[int], Exception | None] = lambda status: None) -> T:
        """What `make` gives, tried again while that may help.

        Raises:
            HubError: it does not; in one sentence, without the token.
        """
        try:
            return tried(make, lambda error: may_pass(error) and not instead(status_of(error)))
        except FAILURES as error:
            if not any(isinstance(cause, FAILURES[:-1]) for cause in causes(error)):
                raise
            status = status_of(error)
            raise (instead(status) or HubError(f"{self.repo} {_problem(error, status)}")) from error


def adding(files: Mapping[str, bytes | Path], sums: Mapping[str, str] | None = None) -> list[CommitOperationAdd]:
    """Files to be committed, hashed now.

    Args:
        sums: the sha256 that files must have.

    Raises:
        ConfigError: a file is another one.
    """
    found = []
    for path, what in files.items():
        found.append(CommitOperationAdd(path, str(what) if isinstance(what, Path) else what))
        if sums and found[-1].upload_info.sha256.hex() != sums[path]:
            raise ConfigError(f"{what!s} has changed since it was built: build it again")
    return found


def _must_name_one(repo: str) -> None:
    """Raises ConfigError where no repository can have that name."""
    try:
        validate_repo_id(repo)
        named = "/" in repo
    except hub_errors.HFValidationError:
        named = False
    if not named:
        raise ConfigError(
            f"{repo!r} is no name of a repository on the Hub: give it as ORG/NAME, of letters, digits, '-', '_' and "
            "'.', which neither begins nor ends with one of these"
        )


def _local(error: BaseException) -> OSError | None:
    """What this machine refused, such as a full disk, where that is what an error is made of."""
    chain = causes(error)
    if any(isinstance(cause, HTTPError) for cause in chain):
        return None
    found = [cause for cause in chain if isinstance(cause, OSError) and cause.errno is not None]
    return next((cause for cause in found if not isinstance(cause, ConnectionError | TimeoutError)), None)


def _problem(error: BaseException, status: int) -> str:
    """What is wrong, and what to do."""
    chain = [*causes(error)]

    def found(kind: Any) -> bool:
        return any(isinstance(cause, kind) for cause in chain)

    response = answer_of(error)
    said = _line(next(filter(None, (getattr(cause, "server_message", None) for cause in chain)), ""))
    told = f" ({said})" if said else ""
    if found(hub_errors.OfflineModeIsEnabled):
        return "is not asked for while HF_HUB_OFFLINE is set: unset it"
    if found(hub_errors.GatedRepoError):
        return "is gated: ask for access on its page on the Hub, then log in with: hf auth login"
    if found(hub_errors.RepositoryNotFoundError):
        return "is not on the Hub, or is private: log in as someone who may see it with: hf auth login"
    if found(hub_errors.RevisionNotFoundError):
        return "has no such revision on the Hub"
    if found(hub_errors.DisabledRepoError):
        return "was disabled by the Hub: its page there says why, and whom to ask"
    if status == 401 and response is not None and "authorization" not in response.request.headers:
        return "is not to be had without a token: log in with: hf auth login, or set HF_TOKEN"
    if status == 401:
        return "does not take this token: log in again with: hf auth login"
    if status in (402, 507) or (status == 403 and ("storage" in said.lower() or response is None)):
        return (
            f"takes no more bytes{told or f' (status {status})'}: see https://huggingface.co/settings/billing for the "
            "storage that is left, make room or get more, then run again to go on"
        )
    if status == 403:
        new = str(response.request.url).endswith("/repos/create")
        what = "is not there or hidden, and may not be made" if new else "may not be written"
        return (
            f"{what} with this token{told}: take one with the write role, of someone who may write there, from "
            "https://huggingface.co/settings/tokens"
        )
    if status in AGAIN:
        return f"is not taken or given now, the Hub answers {status}{told}: run again later to go on"
    if status:
        return f"is refused, the Hub answers {status}{told}: mend what it says, then run again to go on"
    if refused := _local(error):
        return f"waits for this machine ({_line(refused)}): mend that, then run again to go on"
    if found(ValueError):
        return (
            f"got an answer that is none of the Hub's ({_line(chain[0])}): check HF_ENDPOINT if it is set, then run "
            "again to go on"
        )
    return f"cannot be reached ({type(chain[-1]).__name__}): check the network, and HF_ENDPOINT if it is set"


def _line(what: object) -> str:
    """The beginning of what somebody else said, on one line."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(what)).split())[:200]
