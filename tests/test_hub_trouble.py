"""Sources read from a Hub where something is wrong: the rows all the same, or one sentence that says what to do."""

import errno
import hashlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.make import picture, zip_
from fixtures.reader import Reader, plain
from fixtures.sources import SOURCES, Source
from hub import Fault, Hub, Token

DALLE3, DIFFUSIONDB, GUSTAVOSTA, LAION = ONE_EACH = tuple(
    next(source for source in SOURCES if source.id == id_)
    for id_ in (
        "dalle3-short-tars",
        "diffusiondb-2m_all-images",
        "gustavosta-text-txt",
        "laion-high_resolution-metadata",
    )
)
SECRET = "hf_SecretThatMustNotShow"
# Where in the reading of a source something goes wrong.
PAGE = "GET /api/datasets/{repo}/revision/{branch}"
LIST = "GET /api/datasets/{repo}/tree/{commit}\\?recursive=true"
HEAD = "HEAD /datasets/{repo}/resolve/{commit}/"
FILE = "GET /datasets/{repo}/resolve/{commit}/"
ANY = "/resolve/{commit}/"
NOW = {"Retry-After": "0"}
# Trouble that passes.
BUSY = {
    "page-503": Fault(PAGE, 503, NOW, times=2),
    "page-429": Fault(PAGE, 429, NOW, times=1),
    "page-lost": Fault(PAGE, lost=True, times=1),
    "list-503": Fault(LIST, 503, NOW, times=1),
    "head-503": Fault(HEAD, 503, NOW, times=1),
    "file-503": Fault(FILE, 503, NOW, times=2),
    "file-429": Fault(FILE, 429, NOW, times=1),
    "file-cut": Fault(FILE, cut=300, times=1),
    "file-lost": Fault(FILE, lost=True, times=1),
}
# Trouble that does not, what is said of it, and whether the clients' patience with it is long.
GATED = "is gated: ask for access on its page on the Hub, then log in with: hf auth login"
PRIVATE = "is not on the Hub, or is private: log in as someone who may read it with: hf auth login"
NO_TOKEN = "is not for this token, the Hub answers {}: log in as someone who may read it with: hf auth login"
DOWN = "cannot be read now, the Hub answers {}: try again later"
LASTING = {
    "page-500": (Fault(PAGE, 500, NOW), DOWN.format(500), False),
    "page-429": (Fault(PAGE, 429, NOW), DOWN.format(429), False),
    "page-gated": (Fault(PAGE, 403, {"X-Error-Code": "GatedRepo"}), GATED, False),
    "page-portal": (
        Fault(PAGE, 200),
        "cannot be read from the Hub (Expecting value: line 1 column 1 (char 0)): ",
        False,
    ),
    "list-500": (Fault(LIST, 500, NOW), DOWN.format(500), True),
    "list-404": (
        Fault(LIST, 404, {"X-Error-Code": "RevisionNotFound"}),
        "has no revision '{branch}' on the Hub",
        False,
    ),
    "head-503": (Fault(HEAD, 503, NOW), DOWN.format(503), True),
    "file-500": (Fault(FILE, 500, NOW), DOWN.format(500), False),
    "file-403": (Fault(ANY, 403), NO_TOKEN.format(403), False),
    "file-401": (Fault(ANY, 401), NO_TOKEN.format(401), False),
    "file-missing": (
        Fault(ANY, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": "0" * 40}),
        "lists {file} at {commit} and does not give it: try again later, or give another revision",
        False,
    ),
    "file-cut": (Fault(FILE, cut=0), "cannot be read from the Hub (", True),
    "file-gated": (Fault(ANY, 403, {"X-Error-Code": "GatedRepo"}), GATED, False),
}
OTHER_FILES = ("README.md", "source_column_values.txt")  # that are not read
WAYS: dict[str, dict[str, Any]] = {
    "prepared": {},
    "pieces": {"pieces": "{home}/pieces"},
    "streaming": {"streaming": True},
    "two": {"num_proc": 2, "cache_dir": "{home}/two"},
}
Place = tuple[Hub, Reader, Path]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A Hub, who reads from it, and the folder of both."""
    folder = tmp_path_factory.mktemp("trouble")
    with Hub(folder / "hub") as hub:
        with Reader(hub.environment(folder / "home"), folder / "home") as read:
            yield hub, read, folder
        assert hub.unknown == []


def load_of(
    place: Place, source: Source, way: str, fault: Fault | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """How to read `source` at a commit of its own, which the fault befalls; and the words that `fault` is about."""
    hub, _, folder = place
    shutil.rmtree(folder / "home/hub", ignore_errors=True)  # where the client finds contents that it once had
    files = source.files(folder / source.name)
    branch = f"b{len(hub.store.refs(source.repo)) if hub.store.repo(source.repo) else 0}"
    words = {"repo": source.repo, "branch": branch, "commit": hub.commit(source.repo, files, branch)}
    hub.faults = [replace(fault, where=fault.where.format(**words))] if fault else []
    options = {k: v.format(home=folder / "home") if isinstance(v, str) else v for k, v in WAYS[way].items()}
    return {"source": source.name, "config": source.config, "revision": branch, **options}, words


def spread(troubles: dict[str, Any], slow: set[str]) -> list[Any]:
    """Every trouble with every source in every way; each that is not `slow` once in every run."""
    cases = []
    for number, trouble in enumerate(troubles):
        for at, source in enumerate(ONE_EACH):
            for order, way in enumerate(WAYS):
                usual = (
                    at == number % len(ONE_EACH)
                    and order == number // len(ONE_EACH) % len(WAYS)
                    and trouble not in slow
                )
                cases.append(
                    pytest.param(
                        trouble,
                        source,
                        way,
                        id=f"{trouble}-{source.name}-{way}",
                        marks=() if usual else pytest.mark.slow,
                    )
                )
    return cases


def expected(place: Place, source: Source) -> list[dict[str, Any]]:
    """The rows of the folder."""
    return plain(place[1](source=source.name, config=source.config, data_dir=str(place[2] / source.name)))


@pytest.mark.parametrize("trouble, source, way", spread(BUSY, set()))
def test_trouble_that_passes(place: Place, trouble: str, source: Source, way: str) -> None:
    hub, read, _ = place
    load, _ = load_of(place, source, way, BUSY[trouble])
    assert plain(read(**load)) == expected(place, source)
    if way != "streaming" or trouble != "head-503":  # streaming asks for no heads
        assert [fault.times for fault in hub.faults] == [0]


@pytest.mark.parametrize(
    "trouble, source, way", spread(LASTING, {name for name, (*_, long) in LASTING.items() if long})
)
def test_trouble_that_lasts(place: Place, trouble: str, source: Source, way: str) -> None:
    _, read, _ = place
    fault, sentence, _ = LASTING[trouble]
    load, words = load_of(place, source, way, fault)
    outcome = read(**load)
    assert {**outcome, "text": ""} == {"error": "SourceMissing", "text": "", "exit_code": 3}
    assert outcome["text"].startswith(f"{source.name}: {source.repo} ")
    said = sentence.partition("{file}")
    for part in (said[0], said[2]):
        assert part.format(**words) in outcome["text"]
    assert "\n" not in outcome["text"]


@pytest.mark.parametrize("source", ONE_EACH, ids=lambda source: source.name)
def test_what_is_not_there(place: Place, source: Source) -> None:
    hub, read, _ = place
    load, _ = load_of(place, source, "prepared")
    commit = hub.commit(source.repo, {"README.md": b"", "notes/readme.txt": b""}, "empty")
    start = f"{source.name}: {source.repo} "
    for options in ({}, {"streaming": True}):
        assert read(**{**load, "revision": "nope"}, **options) == {
            "error": "SourceMissing",
            "text": f"{start}has no revision 'nope' on the Hub: give a branch, tag or commit that it has",
            "exit_code": 3,
        }
        outcome = read(**{**load, "revision": commit}, **options)
        assert (outcome["error"], outcome["exit_code"]) == ("SourceMissing", 3)
        assert f" in {source.repo} at '{commit}', which holds README.md, notes/readme.txt; " in outcome["text"]
        hub.store.rename(source.repo, "org/elsewhere")
        gone = read(**load, **options)
        hub.store.rename("org/elsewhere", source.repo)
        assert gone == {"error": "SourceMissing", "text": f"{start}{PRIVATE}", "exit_code": 3}


@pytest.mark.parametrize("source", ONE_EACH, ids=lambda source: source.name)
def test_who_may_read(place: Place, source: Source) -> None:
    """Gated and private, with every kind of token; none of them is in any message or file."""
    hub, read, folder = place
    load, _ = load_of(place, source, "prepared")
    hub.store.add_token(SECRET, Token("owner", "read", (source.repo.split("/")[0],)))
    hub.store.add_token(f"{SECRET}-foreign", Token("foreign"))
    start, home = f"{source.name}: {source.repo} ", folder / "home"
    wrong = start + NO_TOKEN.format(401)
    try:
        for state, anonymous, foreign in (
            ({"gated": "auto"}, start + GATED, start + GATED),
            ({"private": True, "gated": ""}, start + PRIVATE, start + PRIVATE),
        ):
            hub.store.change(source.repo, **state)
            own = str(home / "-".join(state))
            for way in ({"streaming": True}, {"pieces": own}, {"cache_dir": own}):
                shutil.rmtree(home / "hub", ignore_errors=True)
                for token, text in (
                    ({}, anonymous),
                    ({"token": " "}, anonymous),
                    ({"token": f"{SECRET}-foreign"}, foreign),
                    ({"token": f"{SECRET}-unknown"}, wrong),
                ):
                    assert read(**load, **way, **token).get("text") == text, (state, way, token)
                rows = read(**load, **way, token=f" {SECRET}\n")
                assert plain(rows) == expected(place, source), (state, way)
    finally:
        hub.store.change(source.repo, gated="", private=False)
    outcome = read(**load, token=f"{SECRET}\n{SECRET}")
    text = f"{source.name}: the token holds a character that none has: copy it again, or leave it out"
    assert outcome == {"error": "ConfigError", "text": text, "exit_code": 2}
    shutil.rmtree(home / "hub")
    hub.faults = [Fault("/resolve/", 403), Fault("revision/down", 500, NOW)]
    for options in ({"streaming": True}, {"revision": "nope"}, {"revision": "down"}, {"cache_dir": str(home / "last")}):
        assert read(**{**load, **options}, token=SECRET)["error"] == "SourceMissing"
    hub.faults = []
    assert {SECRET, f"{SECRET}-foreign", f"{SECRET}-unknown"} <= hub.tokens
    written = [path for path in home.rglob("*") if path.is_file()]
    assert home / "printed" in written
    assert [path for path in written if SECRET in str(path) or SECRET.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("source", ONE_EACH, ids=lambda source: source.name)
def test_a_damaged_content_gives_no_rows(place: Place, source: Source) -> None:
    """A content that is other than the sum says, and one that is shorter: named, with what it is."""
    hub, read, folder = place
    load, words = load_of(place, source, "prepared")
    files = sorted(name for name in source.files(folder / source.name) if name not in OTHER_FILES)
    name, commit = files[0], words["commit"]
    blob = hub.blob(source.repo, name, commit)
    whole = blob.read_bytes()
    try:
        for damaged in (whole[:20] + bytes([whole[20] ^ 1]) + whole[21:], whole[:-20]):
            blob.write_bytes(damaged)
            shutil.rmtree(folder / "home/hub", ignore_errors=True)
            for way in ({}, {"pieces": str(folder / "home/damaged")}):
                outcome = read(**load, **way)
                assert outcome.get("exit_code") == 3, outcome
                assert "rows" not in outcome
                if len(damaged) == len(whole):
                    assert outcome["error"] == "BadFile"
                    assert outcome["text"].startswith(f"{name}: its ")
                    get = f"{source.repo} {name} --revision {commit} --force-download"
                    assert outcome["text"].endswith(f"fetch it again with: hf download --repo-type dataset {get}")
                elif outcome["error"] == "SourceMissing":
                    assert "Consistency check failed" in outcome["text"]
    finally:
        blob.write_bytes(whole)


def test_a_connection_that_ends_inside_a_zip_drops_no_row(place: Place) -> None:
    hub, read, folder = place
    members = [(f"{at:02}.png", picture("PNG", width=600, height=600, seed=at)) for at in range(9)]
    said = {name: {"p": "prompt", "se": 7, "c": 7.0, "st": 50, "sa": "k_lms"} for name, _ in members}
    members.append(("part-000001.json", json.dumps(said).encode()))
    for kind, compression in (("stored", 0), ("deflated", 8)):
        zip_(folder / kind / "part-000001.zip", members, compression)
        data = (folder / kind / "part-000001.zip").read_bytes()
        commit = hub.commit(DIFFUSIONDB.repo, {"images/part-000001.zip": data}, kind)
        load = {"source": "diffusiondb", "config": "2m_all", "revision": commit, "streaming": True}
        hub.faults = []
        hub.forget()
        assert len(read(**load)["rows"]) == 9
        asked = [request for request in hub.requests if request.startswith("GET") and f"resolve/{commit}" in request]
        hub.faults = [Fault(f"GET /datasets/{DIFFUSIONDB.repo}/resolve/{commit}", 403, after=len(asked) - 1)]
        text = f"diffusiondb: {DIFFUSIONDB.repo} {NO_TOKEN.format(403)}"
        assert read(**load) == {"error": "SourceMissing", "text": text, "exit_code": 3}


def test_the_advice_for_a_damaged_download_helps(place: Place) -> None:
    hub, read, folder = place
    load, _ = load_of(place, DALLE3, "prepared")
    files = {"data/data-1 of 2.tar": DALLE3.files(folder / "dalle3")["data/data-000000.tar"]}
    commit = hub.commit(DALLE3.repo, files, "one")
    blob = hub.blob(DALLE3.repo, "data/data-1 of 2.tar", commit)
    whole = blob.read_bytes()
    blob.write_bytes(whole[:700] + b"\0\0" + whole[702:])
    outcome = read(**{**load, "revision": commit})
    got, said = (hashlib.sha256(data).hexdigest() for data in (blob.read_bytes(), whole))
    blob.write_bytes(whole)
    assert f"its sha256 is {got}, upstream says {said}; " in outcome["text"]
    assert read(**{**load, "revision": commit}) == outcome, "the download is still there"
    command = shlex.split(outcome["text"].partition("fetch it again with: ")[2])
    environment = hub.environment(folder / "home")
    done = subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], env=environment, check=False)
    assert done.returncode == 0
    assert len(read(**{**load, "revision": commit})["rows"]) == 4


@pytest.mark.parametrize("way", ["offline", "refused"])
def test_nobody_is_asked_or_nobody_answers(place: Place, tmp_path: Path, way: str) -> None:
    hub, _, _ = place
    environment = hub.environment(tmp_path / "home")
    if way == "offline":
        environment["HF_HUB_OFFLINE"] = "1"
        said = "is not asked for while HF_HUB_OFFLINE is set: unset it, or give the folder that holds it"
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            environment["HF_ENDPOINT"] = f"http://127.0.0.1:{free.getsockname()[1]}"
        said = (
            f"cannot be read from the Hub ([Errno {errno.ECONNREFUSED}] Connection refused): check the network, and "
            "HF_ENDPOINT if it is set"
        )
    hub.forget()
    with Reader(environment, tmp_path / "home") as read:
        for source in ONE_EACH:
            outcome = {"error": "SourceMissing", "text": f"{source.name}: {source.repo} {said}", "exit_code": 3}
            for options in ({}, {"streaming": True}):
                assert read(source=source.name, config=source.config, **options) == outcome
    assert hub.requests == []


RELEASE = """
from builders.dalle3 import Dalle3
from builders.gustavosta import Gustavosta
from hfds import Input, Release

V1 = Release("mixed", "v1", (Input(Dalle3), Input(Gustavosta, into="train")), columns=("prompt", "image"))
"""


def test_a_build_goes_on_where_it_was_killed(hub: Hub, tmp_path: Path) -> None:
    """Killed while it downloads the last file, stopped by a Hub that is down, and then whole: each file comes once."""
    (tmp_path / "mixed.py").write_text(RELEASE)
    for source in (DALLE3, GUSTAVOSTA):
        hub.commit(source.repo, source.files(tmp_path / source.name))
    last = f"GET /datasets/{GUSTAVOSTA.repo}/resolve/.*/eval.txt"
    out = ["--workdir", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "hfds.cli", "build", str(tmp_path / "mixed.py"), "v1", *out]
    environment = {**hub.environment(tmp_path / "home"), "PYTHONPATH": os.pathsep.join(sys.path)}

    def downloads() -> list[str]:
        found = [request for request in hub.requests if request.startswith("GET /datasets/")]
        hub.forget()
        return found

    hub.faults = [Fault(last, delay=100)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as killed:
        until = time.monotonic() + 60
        while not any("eval.txt" in request for request in hub.requests if request.startswith("GET")):
            assert killed.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        killed.kill()
    assert len(downloads()) == 5
    hub.faults = [Fault(last, 500, NOW)]
    stopped = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert stopped.returncode == 3
    assert stopped.stderr.splitlines()[-1] == f"hfds: gustavosta: {GUSTAVOSTA.repo} {DOWN.format(500)}"
    assert {request.rpartition("/")[2] for request in downloads()} == {"eval.txt"}
    hub.faults = []
    whole = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr
    assert [request.rpartition("/")[2] for request in downloads()] == ["eval.txt"]
    lock = json.loads((tmp_path / "out/mixed/releases/v1.lock.json").read_text())
    sums = {file["name"]: file["sha256"] for source in lock["sources"] for file in source["files"]}
    files = {**DALLE3.files(tmp_path / "dalle3"), **GUSTAVOSTA.files(tmp_path / "gustavosta")}
    read = [name for name in files if name not in OTHER_FILES]
    assert sums == {name: hashlib.sha256(files[name]).hexdigest() for name in read}
