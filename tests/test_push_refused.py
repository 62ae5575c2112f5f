"""Pushes that cannot be: one sentence that says what to do, right for the case, and no token anywhere."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fixtures.pushed import REPO, Pusher, build_many_shards
from hub import Fault, Hub, Token

TOKENS = ("hf_write", "hf_read", "hf_else", "hf_wrong")
WRITE = "POST .*/preupload/"
ROOM = (
    ": see https://huggingface.co/settings/billing for the storage that is left, make room or get more, then run "
    "again to go on"
)
ROLE = ": take one with the write role, of someone who may write there, from https://huggingface.co/settings/tokens"
LOGIN = f"{REPO} is not to be had without a token: log in with: hf auth login, or set HF_TOKEN"
WRONG = f"{REPO} does not take this token: log in again with: hf auth login"
READS = "(This token may only read, a token with the write role is needed)"
CREATE = f"{REPO} is not there or hidden, and may not be made with this token "
OTHERS = CREATE + '(You don\'t have the rights to create a dataset under the namespace "org")' + ROLE
FULL = (
    f"{REPO} takes no more bytes (Private repository storage limit reached, please upgrade your plan to increase your "
    f"private storage limit, or make this repository public){ROOM}"
)
PATTERNS = "Your storage patterns tripped our internal systems! Please contact us at website@huggingface.co"
NAME = (
    " is no name of a repository on the Hub: give it as ORG/NAME, of letters, digits, '-', '_' and '.', which neither "
    "begins nor ends with one of these"
)


@dataclass(frozen=True)
class Case:
    """What is pushed by whom to what, with what going wrong, and what is said."""

    said: str
    token: str = "hf_write"
    repo: str = REPO
    there: bool = True
    settings: dict[str, Any] = field(default_factory=dict)  # of the repository
    faults: list[Fault] = field(default_factory=list)
    code: int = 3
    slept: float | None = None  # seconds, the longest time between two tries


FIRST = f"GET /api/datasets/{REPO}/revision/main$"


def answered(status: int, where: str = FIRST, said: str = "", **more: Any) -> list[Fault]:
    return [Fault(where, status, {"X-Error-Message": said, **more.pop("headers", {})}, **more)]


CASES = {
    "wrong token": Case(WRONG, "hf_wrong"),
    "wrong token, nothing there": Case(WRONG, "hf_wrong", there=False),
    "no token": Case(LOGIN, ""),
    "no token, nothing there": Case(LOGIN, "", there=False),
    "no token, private": Case(LOGIN, "", settings={"private": True}),
    "read-only token": Case(f"{REPO} may not be written with this token {READS}{ROLE}", "hf_read"),
    "read-only token, nothing there": Case(f"{CREATE}{READS}{ROLE}", "hf_read", there=False),
    "no member": Case(
        f"{REPO} may not be written with this token (You don't have the rights to write to {REPO}){ROLE}", "hf_else"
    ),
    "no member, gated": Case(
        f"{REPO} may not be written with this token (You don't have the rights to write to {REPO}){ROLE}",
        "hf_else", settings={"gated": "auto"},
    ),
    "no member, private": Case(OTHERS, "hf_else", settings={"private": True}),
    "no member, nothing there": Case(OTHERS, "hf_else", there=False),
    "full": Case(FULL, settings={"quota": 100_000}),
    "full, says the Hub": Case(
        f"{REPO} takes no more bytes ({PATTERNS}){ROOM}", faults=answered(403, WRITE, said=PATTERNS)
    ),
    "to be paid": Case(f"{REPO} takes no more bytes (status 402){ROOM}", faults=answered(402, WRITE)),
    "disabled": Case(
        f"{REPO} was disabled by the Hub: its page there says why, and whom to ask",
        faults=answered(403, WRITE, said="Access to this resource is disabled."),
    ),
    "offers nothing": Case(
        f"{REPO} is refused, the Hub answers 400 (no such thing): mend what it says, then run again to go on",
        faults=answered(400, WRITE, said="no such thing"),
    ),
    "never well": Case(
        f"{REPO} is not taken or given now, the Hub answers 500: run again later to go on", faults=answered(500)
    ),
    "a patience without end": Case(
        f"{REPO} is not taken or given now, the Hub answers 429: run again later to go on",
        faults=answered(429, headers={"Retry-After": "99999999"}), slept=60,
    ),
    "no number of seconds": Case(
        f"{REPO} is not taken or given now, the Hub answers 429: run again later to go on",
        faults=answered(429, headers={"Retry-After": "\u00b2"}),
    ),
    "a limit of its own": Case(
        f"{REPO} is not taken or given now, the Hub answers 429: run again later to go on",
        faults=answered(429, headers={"RateLimit": '"api";r=0;t=33'}), slept=34,
    ),
    "no Hub": Case(
        f"{REPO} got an answer that is none of the Hub's (Expecting value: line 1 column 1 (char 0)): "
        "check HF_ENDPOINT if it is set, then run again to go on",
        faults=answered(200, body="<html>Log in to this network</html>"),
    ),
    **{
        f"named {name!r}": Case(repr(name) + NAME, repo=name, code=2)
        for name in ("", "../x", "a/b/c", "pictures", "datasets/org/x", "http://localhost/org/x", "org/x y", "org/\n")
    },
}  # fmt: skip
BY_LFS = {
    "contents refused": Case(
        f"{REPO} may not be written with this token{ROLE}", faults=answered(403, "PUT /lfs/")
    ),
    "contents never taken": Case(
        f"{REPO} is not taken or given now, the Hub answers 500: run again later to go on",
        faults=answered(500, "PUT /lfs/"),
    ),
    "a content refused": Case(
        f"{REPO} got an answer that is none of the Hub's (LFS batch API returned errors: Encountered error "
        "for file with OID 0: `too large): check HF_ENDPOINT if it is set, then run again to go on",
        faults=answered(
            200, "POST .*/objects/batch",
            body='{"objects": [{"oid": "0", "size": 1, "error": {"code": 422, "message": "too large"}}]}',
        ),
    ),
}  # fmt: skip
BY_XET = {
    "contents refused": Case(f"{REPO} takes no more bytes (status 403){ROOM}", faults=answered(403, "/v1/xorbs/")),
    "no token for contents": Case(
        f"{REPO} takes no more bytes (status 403){ROOM}", faults=answered(403, "GET .*/xet-write-token/")
    ),
    "full": Case(FULL, settings={"quota": 100_000}),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        build_many_shards(folder, patch)
    return folder


@dataclass
class Scene:
    """A Hub, and a pusher to it that logs all it can."""

    hub: Hub
    pusher: Pusher
    folders: tuple[Path, ...]  # what is written on the pusher's machine
    pushes: int = 0

    def push(self, *words: str, **environment: str) -> tuple[int, str]:
        """A push of somebody who has sent nothing yet."""
        self.pushes += 1
        cache = self.folders[0] / f"cache-{self.pushes}"
        return self.pusher.push(*words, HF_XET_CACHE=str(cache), **environment)

    def check(self, case: Case) -> None:
        self.hub.faults = []
        self.hub.store.clear()
        if case.there:
            self.hub.commit(REPO, {"README.md": b""})
            self.hub.store.change(REPO, **case.settings)
        self.hub.faults = case.faults
        code, said = self.push("--to", case.repo, "--json", HF_TOKEN=case.token)
        assert json.loads(said) == {"error": case.said, "exit_code": case.code}
        assert code == case.code
        self.check_tokens()

    def check_tokens(self) -> None:
        """None is on the pusher's machine or in what was published."""
        files = [path for folder in self.folders for path in folder.rglob("*") if path.is_file()]
        for token in TOKENS:
            assert [path for path in files if token.encode() in path.read_bytes()] == []


@pytest.fixture(scope="module")
def scenes(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Scene, Scene]]:
    """By LFS and by Xet."""
    home, hubs = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("hub")
    more = {"HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug", "DATASETS_VERBOSITY": "debug"}
    with (
        Hub(hubs) as hub,
        Pusher(hub, built, home / "lfs", xet=False, more=more) as lfs,
        Pusher(hub, built, home / "xet", xet=True, more=more) as xet,
    ):
        hub.store.add_token("hf_else", Token("else"))
        folders = (home, built, hubs / "blobs")
        yield Scene(hub, lfs, folders), Scene(hub, xet, folders)
        assert hub.unknown == []


@pytest.mark.parametrize("case", [*CASES.values(), *BY_LFS.values()], ids=[*CASES, *BY_LFS])
def test_one_sentence_says_what_to_do(scenes: tuple[Scene, Scene], case: Case) -> None:
    scenes[0].check(case)
    slept = [float(seconds) for seconds in re.findall(r"^slept ([\d.]+)$", scenes[0].pusher.log, re.MULTILINE)]
    assert max(slept, default=0) <= 60
    assert case.slept in (None, max(slept, default=0))


@pytest.mark.parametrize("case", BY_XET.values(), ids=[*BY_XET])
def test_one_sentence_says_what_to_do_by_xet(scenes: tuple[Scene, Scene], case: Case) -> None:
    scenes[1].check(case)


def test_no_token_stays_where_a_push_succeeds(scenes: tuple[Scene, Scene]) -> None:
    for scene in scenes:
        scene.hub.faults = []
        scene.hub.store.clear()
        scene.hub.commit(REPO, {"README.md": b""})
        scene.hub.store.change(REPO, gated="auto")
        code, _ = scene.push("--to", REPO)
        assert code == 0, scene.pusher.log
        assert "hf_write" in scene.hub.tokens
        assert "Request" in scene.pusher.log, "it does log what it asks"
        scene.check_tokens()


def test_without_a_network(built: Path, tmp_path: Path) -> None:
    with Hub(tmp_path) as hub, Pusher(hub, built, tmp_path / "home", xet=False) as pusher:
        hub.kill()
        code, said = pusher.push("--to", REPO, "--json")
    assert code == 3
    assert json.loads(said)["error"] == (
        f"{REPO} cannot be reached (ConnectionRefusedError): check the network, and HF_ENDPOINT if it is set"
    )
