"""Releases on the Hub are compared and explained as those in a folder are, in few requests, whatever goes wrong."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fixtures.toy import Toy, many, write
from hub import Fault, Hub, Token

from hfds import Input, Release, build
from hfds.diff import diff
from hfds.explain import explain
from hfds.place import place_of
from hfds.run import Run
from processors.dedup import MarkDuplicates
from processors.split import Split

REPO = "org/toys"
HALVES = Input(Toy, "halves")
V1 = Release("toys", "v1", (Input(Toy, "halves", splits=("first",)),), (Split(0.3),), columns=("prompt", "license"))
V2 = V1.but("v2", inputs=(HALVES,), steps=(MarkDuplicates(against=(V1,)), Split(0.6)))
CLIENT = """
import contextlib, io, json, os, sys
from hfds.cli import main
for line in sys.stdin:
    os.environ["HF_TOKEN"], arguments = json.loads(line)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            main(arguments)
        except SystemExit as ended:
            code = int(ended.code or 0)
    print(json.dumps([code, out.getvalue()]), flush=True)
"""


@dataclass
class Published:
    """toys v1 and v2 in `dist`, on a Hub under their tags, and a client of that in a process of its own."""

    hub: Hub
    folder: Path
    client: subprocess.Popen[str]

    @property
    def dist(self) -> Path:
        return self.folder / "dist"

    def call(self, *arguments: str, token: str = "hf_read") -> tuple[int, Any]:
        """Exit code and output of the command line."""
        assert self.client.stdin
        assert self.client.stdout
        self.client.stdin.write(json.dumps([token, [*arguments, "--json"]]) + "\n")
        self.client.stdin.flush()
        code, said = json.loads(self.client.stdout.readline())
        assert token not in said
        return code, json.loads(said)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("published")
    write(folder / "sources", a=many(60), b=[(f"n{n}", f"a prompt NUMBER {n // 3}?") for n in range(40, 90)])
    for release in (V1, V2):
        build(release, Run.here(folder / "work"), sources=folder / "sources", out=folder / "dist")
    command = [sys.executable, "-c", CLIENT]
    with Hub(folder / "hub") as hub:
        hub.store.add_token("hf_other", Token("other"))
        environment = hub.environment(folder / "home")
        pipe = subprocess.PIPE
        with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as client:
            found = Published(hub, folder, client)
            for name in ("v1", "v2"):
                sent = found.call("push", "toys", name, "--to", REPO, "--out", str(found.dist), token="hf_write")
                assert sent[0] == 0, sent
            yield found
        assert hub.unknown == []


@pytest.fixture
def shelf(published: Published) -> Iterator[Published]:
    """The same, without a log and without faults before and behind."""
    published.hub.forget()
    yield published
    published.hub.faults = []
    published.hub.store.change(REPO, private=False, gated="")


def entry(dist: Path) -> Any:
    return json.loads(json.dumps(diff(place_of("toys", "v1", dist), place_of("toys", "v2", dist)).entry()))


def test_a_diff_is_that_of_the_folders(shelf: Published) -> None:
    wanted = entry(shelf.dist)
    assert wanted["rows"]["added"] > 5
    assert wanted["rows"]["moved"] + wanted["rows"]["removed"] > 5
    assert shelf.call("diff", REPO, "v1", "v2") == (0, wanted)
    resolved = [request for request in shelf.hub.requests if "/resolve/" in request]
    files = [request.partition("/resolve/")[2].partition("/")[2] for request in resolved]
    locks = [json.loads((shelf.dist / f"toys/releases/{name}.lock.json").read_text()) for name in ("v1", "v2")]
    shards = [shard["path"] for lock in locks for split in lock["splits"].values() for shard in split["shards"]]
    once = [*shards, *(f"{kind}/{name}" for name in ("v1", "v2") for kind in ("ledger", "releases"))]
    assert [files.pop(files.index("withdrawn.jsonl")) for _ in ("v1", "v2")], "whatever was withdrawn since"
    assert sorted(files) == sorted(
        f"{path}.lock.json" if path.startswith("rel") else f"{path}.parquet" if path.startswith("led") else path
        for path in once
    ), "every file once"
    assert len(shelf.hub.requests) == len(once) + 2 * len(("refs", "tree", "withdrawn"))


def test_a_folder_against_the_hub_and_any_other_way_to_say_it(shelf: Published) -> None:
    out = ("--out", str(shelf.dist))
    wanted = entry(shelf.dist)
    for arguments in (
        ("toys", "v1", f"{REPO}@v2"), ("toys", f"{REPO}@v1", "v2"), ("whatever", f"{REPO}@v1", f"{REPO}@v2")
    ):  # fmt: skip
        assert shelf.call("diff", *arguments, *out) == (0, wanted)
    assert shelf.call("diff", REPO, "v2", "toys@v2", *out)[1]["level"] == "none"


def test_reads_that_are_cut_or_refused_are_tried_again(shelf: Published) -> None:
    shelf.hub.faults = [
        Fault("GET .*resolve/.*data/v1/", 503, times=1),
        Fault("GET .*resolve/.*data/v2/", cut=100, times=1),
        Fault("GET .*resolve/.*ledger/", lost=True, times=1),
        Fault("GET .*resolve/.*lock", 429, headers={"Retry-After": "0"}, times=1),
        Fault("GET .*/refs", 502, times=1),
    ]
    assert shelf.call("diff", REPO, "v1", "v2") == (0, entry(shelf.dist))
    assert all(fault.times == 0 for fault in shelf.hub.faults), "they did happen"


def test_what_is_not_there_is_one_sentence(shelf: Published) -> None:
    hub, files = shelf.hub, shelf.hub.files(REPO)
    hub.commit("org/half", {path: data for path, data in files.items() if "v2" not in path or "data" in path})
    hub.store.set_ref("org/half", "refs/tags/v3", hub.commit("org/half", hub.files("org/half")))
    shard = next(path for path in files if path.startswith("data/v1"))
    for repo, changed in (
        ("org/cut", {shard: files[shard][:-1]}), ("org/odd", {shard: files[shard][::-1]}),
        ("org/gone", {}), ("org/lock", {"releases/v1.lock.json": b"[1]"}),
        ("org/name", {"releases/v1.lock.json": files["releases/v2.lock.json"]}),
    ):  # fmt: skip
        kept = {path: data for path, data in files.items() if path != shard}
        hub.store.set_ref(repo, "refs/tags/v1", hub.commit(repo, {**kept, **changed}))
    calls = (
        ("diff", REPO, "v1", "v3"),
        ("diff", "org/half", "v1", "v1"),
        ("diff", "org/half", "v2", "v2"),
        ("diff", "org/half", "v3", "v4"),
        ("diff", "org/to/ys", "v1", "v2"),
        ("diff", "org/none", "v1", "v2"),
        ("diff", "toys", "v1", "org/none@v2", "--out", str(shelf.dist)),
        *(("diff", f"org/{name}", "v1", "v1") for name in ("cut", "odd", "gone", "lock", "name")),
        ("explain", REPO, "v3", "toy/000001"),
        ("explain", REPO, "v1", "toys/000001"),
    )
    other = f"{shard} of v1 in org/{{0}} has another size or sha256 than its lock says: see hfds verify org/{{0}} v1"
    absent = "org/none is not on the Hub, or is private: log in as someone who may see it with: hf auth login"
    said = [shelf.call(*arguments) for arguments in calls]
    assert [(code, found["error"]) for code, found in said] == [
        (2, "org/toys has no release 'v3': it is one of: v1, v2"),
        (2, "org/half has no tag 'v1': that release is not published whole, push it again"),
        (2, "org/half has no tag 'v2': that release is not published whole, push it again"),
        (2, "org/half has no release 'v3': it is one of: none"),
        (
            2,
            "'org/to/ys' is no name of a repository on the Hub: give it as ORG/NAME, of letters, digits, '-', '_' and "
            "'.', which neither begins nor ends with one of these",
        ),
        (3, absent),
        (3, absent),
        (3, other.format("cut")),
        (3, other.format("odd")),
        (3, f"{shard} of v1 in org/gone is gone: see hfds verify org/gone v1"),
        (3, "releases/v1.lock.json in org/lock is no lock of a release: push that release again"),
        (3, "releases/v1.lock.json in org/name is no lock of a release: push that release again"),
        (2, "org/toys has no release 'v3': it is one of: v1, v2"),
        (2, "no row 'toys/000001' in toys/v1: did you mean 'toy/000001'?"),
    ]


@pytest.mark.parametrize(
    "token, change, message",
    [
        ("hf_wrong", {}, "org/toys does not take this token: log in again with: hf auth login"),
        ("hf_other", {"private": True}, "org/toys is not on the Hub, or is private: log in as someone who may see it"),
        ("hf_other", {"gated": "auto"}, "org/toys is gated: ask for access on its page on the Hub, then log in with"),
    ],
)
def test_who_may_not_read_is_told_so(shelf: Published, token: str, change: dict[str, Any], message: str) -> None:
    shelf.hub.store.change(REPO, **change)
    for arguments in (("diff", REPO, "v1", "v2"), ("explain", REPO, "v1", "toy/000001")):
        code, said = shelf.call(*arguments, token=token)
        assert code == 3
        assert said["error"].startswith(message)
        assert "\n" not in said["error"]


def test_a_row_is_explained_as_in_the_folder(shelf: Published) -> None:
    ids = ("toy/n45", "toy/000001", "toy/n89")
    wanted = [json.loads(json.dumps(explain("toys", "v2", id_, shelf.dist))) for id_ in ids]
    assert [[link["release"] for link in one["chain"]] for one in wanted[:1]] == [["toys/v2", "toys/v1"]]
    assert shelf.call("explain", REPO, "v2", ids[0]) == (0, wanted[0])
    once = len(("refs", "withdrawn"))
    assert len(shelf.hub.requests) == once + 2 * len(("tree", "lock", "ledger")), "of what is dropped no shard is asked"
    shelf.hub.forget()
    assert shelf.call("explain", "whatever", f"{REPO}@v2", ids[1]) == (0, wanted[1])
    assert len(shelf.hub.requests) == once + 2 * len(("tree", "lock", "ledger")) + len(("shard",))
    assert shelf.call("explain", REPO, "v2", ids[2]) == (0, wanted[2])


def test_what_was_withdrawn_there_is_not_told(shelf: Published) -> None:
    hub, files = shelf.hub, shelf.hub.files(REPO)
    for name in ("v1", "v2"):
        hub.store.set_ref("org/gone", f"refs/tags/{name}", hub.commit("org/gone", files))
    added = shelf.call("diff", "org/gone", "v1", "v2")[1]["added"][0]["samples"][0]
    hub.commit("org/gone", {**files, "withdrawn.jsonl": stone(added["id"]).encode()})
    said = shelf.call("diff", "org/gone", "v1", "v2")[1]
    assert said["added"][0]["samples"][0] == {"id": added["id"]}
    explained = shelf.call("explain", "org/gone", "v2", added["id"])[1]
    assert explained["row"]["withdrawn"] == "who asked"
    assert added["prompt"] not in json.dumps(explained)


def stone(id_: str) -> str:
    return json.dumps({"id": id_, "reason": "who asked", "by": "id", "release": "v3"}) + "\n"


def test_a_release_that_lies_in_another_dataset_ends_the_chain(shelf: Published, tmp_path: Path) -> None:
    shutil.copytree(shelf.dist, tmp_path / "dist")
    for name in ("releases/v1.lock.json", "ledger/v1.parquet"):
        (tmp_path / "dist/toys" / name).unlink()
    found = explain("toys", "v2", "toy/n45", tmp_path / "dist")
    assert [link["release"] for link in found["chain"]] == ["toys/v2"]
    assert [one["release"] for one in found["releases"]] == ["toys/v2"]
