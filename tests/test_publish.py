"""Releases on the Hub: whole or not at all, never sent twice, never changed, whatever goes wrong on the way."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures import toy
from hub import Fault, Hub

from hfds import build
from hfds.catalogue import find_release
from hfds.run import Run

REPO = "org/toys"
SOMEBODYS = {"README.md": b"---\nconfigs:\n- config_name: mine\n  data_files: a.csv\n---\n", "a.csv": b"a\n1\n"}
LOAD = """
import json, sys
from datasets import load_dataset
try:
    rows = load_dataset(sys.argv[1], json.loads(sys.argv[2]), **json.loads(sys.argv[3]))
    print(json.dumps({split: sorted(part["prompt"]) for split, part in rows.items()}))
except (ValueError, FileNotFoundError) as error:
    print(json.dumps(str(error)[-120:]))
"""


@pytest.fixture
def toys(tmp_path: Path) -> Path:
    """toys v1 and v2, built in tmp_path/dist."""
    toy.write(tmp_path / "sources", a=toy.many(90))
    (tmp_path / "releases.py").write_text(toy.RELEASES.format(path=[str(Path(toy.__file__).parent.parent)]))
    made(tmp_path, "v1")
    made(tmp_path, "v2")
    return tmp_path


def made(folder: Path, name: str) -> dict[str, Any]:
    release = find_release(str(folder / "releases.py"), name)
    return build(release, Run.here(folder / "work"), sources=folder / "sources", out=folder / "dist").lock


def command(folder: Path, name: str, dataset: str = "") -> list[str]:
    places = [dataset or str(folder / "releases.py"), name, "--to", REPO, "--out", str(folder / "dist")]
    return [sys.executable, "-m", "hfds.cli", "push", *places]


def push(
    hub: Hub,
    folder: Path,
    name: str,
    *more: str,
    token: str = "hf_write",
    xet: bool = False,
    code: int = 0,
    dataset: str = "",
) -> Any:
    """`hfds push` in a process of its own; what it printed as JSON."""
    environment = hub.environment(folder / "home", token=token, xet=xet)
    asked = [*command(folder, name, dataset), "--json", *more]
    done = subprocess.run(asked, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    assert token not in done.stdout + done.stderr
    return json.loads(done.stdout)


def loaded(hub: Hub, folder: Path, config: str | None, **more: Any) -> Any:
    """What plain `load_dataset` gives, with a cache of its own."""
    home = folder / f"reader-{len(list(folder.glob('reader-*')))}"
    command = [sys.executable, "-c", LOAD, REPO, json.dumps(config), json.dumps(more)]
    done = subprocess.run(
        command, env=hub.environment(home, token="hf_read"), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("xet", [False, True], ids=["lfs", "xet"])
def test_a_release_comes_back_as_it_was_built(hub: Hub, toys: Path, xet: bool) -> None:
    planned = push(hub, toys, "v1", "--dry-run")
    assert hub.store.repo(REPO) is None, "nothing was made"
    sent = push(hub, toys, "v1", xet=xet)
    assert sent["files"] == planned["files"]
    files = hub.files(REPO)
    for path in ("releases/v1.lock.json", "ledger/v1.parquet", *(p for p in planned["files"] if p.startswith("data/"))):
        assert files[path] == (toys / "dist/toys" / path).read_bytes()
    lock = json.loads(files["releases/v1.lock.json"])
    told = {one.get("sha256") for one in json.loads(files["croissant.json"])["distribution"]}
    assert {shard["sha256"] for split in lock["splits"].values() for shard in split["shards"]} <= told
    rows = loaded(hub, toys, "v1")
    assert {split: len(part) for split, part in rows.items()} == {
        name: split["rows"] for name, split in lock["splits"].items()
    }
    assert rows == loaded(hub, toys, "v1", revision="v1")
    hub.forget()
    again = push(hub, toys, "v1", xet=xet)
    assert (again["files"], again["commit"]) == ({}, sent["commit"])
    assert not [request for request in hub.requests if not request.startswith(("GET", "HEAD"))], "nothing is sent again"


def test_other_releases_and_words_by_hand_stay(hub: Hub, toys: Path) -> None:
    front = "pretty_name: Toys\nlicense: mit\nconfigs:\n- config_name: mine\n  data_files: mine.csv\n  default: true\n"
    mine = f"---\n{front}---\n\n# Mine\n"
    hub.commit(REPO, {"README.md": mine.encode(), "mine.csv": b"a\n1\n"})
    for name in ("v1", "v2"):
        push(hub, toys, name)
    card = hub.files(REPO)["README.md"].decode()
    meta = yaml.safe_load(card.split("---")[1])
    assert [config["config_name"] for config in meta["configs"]] == ["v1", "v2", "v1-ledger", "v2-ledger", "mine"]
    assert [config["config_name"] for config in meta["configs"] if config.get("default")] == ["v2"]
    assert meta["pretty_name"] == "Toys"
    assert card.count("# Mine") == 1
    assert card.count("hfds: written by") == 1
    assert hub.files(REPO)["mine.csv"] == b"a\n1\n"
    edited = card.replace("# Mine", "# Mine, edited") + "\nBelow.\n"
    hub.commit(REPO, {**hub.files(REPO), "README.md": edited.encode()})
    toy.write(toys / "sources", a=toy.many(60))
    made(toys, "v1")
    said = push(hub, toys, "v1", code=2)["error"]
    assert "org/toys has another build of v1 (" in said
    assert "with 30 rows; this one is" in said
    assert "never changed: give this one a name of its own" in said


@pytest.mark.parametrize(
    "faults",
    [
        [Fault("POST .*/commit/", 503, times=2)],
        [Fault("POST .*/commit/", 429, headers={"Retry-After": "1"}, times=1)],
        [Fault("POST .*/commit/", lost=True, times=1, after=1)],
        [Fault("POST .*/tag/", 500, times=1)],
        [Fault("POST .*/commit/", lost=True, times=2)],
        [Fault("GET .*/tree/", 502, times=3), Fault("GET .*resolve", cut=10, times=1)],
    ],
    ids=["busy", "slow down", "an answer lost", "no tag", "two answers lost", "reading"],
)
def test_what_goes_wrong_on_the_way_is_tried_again(hub: Hub, toys: Path, faults: list[Fault]) -> None:
    hub.commit(REPO, {"README.md": b""})
    hub.faults = faults
    push(hub, toys, "v1")
    assert loaded(hub, toys, "v1", revision="v1")["train"]
    assert all(fault.times == 0 for fault in hub.faults), "they did happen"


def test_four_releases_at_the_same_time(hub: Hub, toys: Path) -> None:
    text = (toys / "releases.py").read_text()
    (toys / "releases.py").write_text(text + "V3 = V1.but('v3')\nV4 = V2.but('v4')\n")
    for name in ("v3", "v4"):
        made(toys, name)
    hub.commit(REPO, {"README.md": b""})
    runs = []
    for name in ("v1", "v2", "v3", "v4"):
        environment = hub.environment(toys / f"home-{name}", token="hf_write")
        pipe = subprocess.PIPE
        runs.append(subprocess.Popen(command(toys, name), env=environment, stdout=pipe, stderr=subprocess.STDOUT))
    for run in runs:
        said, _ = run.communicate(timeout=120)
        assert run.returncode == 0, said.decode()
    meta = yaml.safe_load(hub.files(REPO)["README.md"].decode().split("---")[1])
    assert [config["config_name"] for config in meta["configs"]][:4] == ["v1", "v2", "v3", "v4"]
    assert len(loaded(hub, toys, "v3")["train"]) == len(loaded(hub, toys, "v1")["train"])


def test_what_is_published_and_changed_on_main_is_found(hub: Hub, toys: Path) -> None:
    push(hub, toys, "v1")
    files = hub.files(REPO)
    shard = next(path for path in files if path.startswith("data/v1/train"))
    card = files["README.md"]
    for changed, what in (
        ({shard: None}, f"{shard} on main"),
        ({"data/v1/train-00009-of-00009.parquet": files[shard]}, "data/v1/train-00009-of-00009.parquet on main"),
        ({"README.md": card.replace(b"num_examples: ", b"num_examples: 1")}, "dataset_info of the card on main"),
        ({"README.md": card.replace(b"data/v1/train-", b"data/v1/brain-")}, "configs of the card on main"),
        ({"croissant.json": b"{}"}, "croissant.json on main"),
    ):
        hub.commit(REPO, {path: data for path, data in {**files, **changed}.items() if data is not None})
        code, differing = verified(hub, toys, "v1")
        assert (code, [one["what"] for one in differing]) == (1, [what])
    hub.commit(REPO, {path: data for path, data in files.items() if path != shard})
    assert push(hub, toys, "v1")["files"] == {shard: len(files[shard])}, "what main has lost comes back"
    assert verified(hub, toys, "v1") == (0, [])


def test_what_is_somebody_elses_stops_a_push(hub: Hub, toys: Path) -> None:
    hub.commit(
        REPO, {"README.md": b"---\nconfigs:\n- config_name: mine\n  data_files: a.csv\n---\n", "a.csv": b"a\n1\n"}
    )
    assert "is there and public" in push(hub, toys, "v1", "--private", code=2)["error"]
    head = hub.store.refs(REPO)["refs/heads/main"]
    with hub.store.transaction():
        hub.store.set_ref(REPO, "refs/tags/v1", head)
    assert "has a tag 'v1' that is not of this release" in push(hub, toys, "v1", code=2)["error"]
    with hub.store.transaction():
        hub.store.delete_ref(REPO, "refs/tags/v1")
    hub.commit(REPO, {**SOMEBODYS, "data/v1/mine.csv": b"a\n1\n"})
    push(hub, toys, "v1")
    assert hub.files(REPO)["data/v1/mine.csv"] == b"a\n1\n"
    assert verified(hub, toys, "v1") == (0, [])
    text = (toys / "releases.py").read_text()
    (toys / "releases.py").write_text(text.replace('Release("toys"', 'Release("boys"'))
    made(toys, "v2")
    assert (
        "org/toys holds releases of toys: give boys a repository of its own" in push(hub, toys, "v2", code=2)["error"]
    )
    (toys / "releases.py").write_text(text)
    hub.commit(REPO, {**hub.files(REPO), "releases/v0.lock.json": b"[]"})
    assert "releases/v0.lock.json in org/toys is not what a push writes there" in push(hub, toys, "v2", code=3)["error"]


def test_the_same_rows_from_other_sources_are_another_build(hub: Hub, toys: Path) -> None:
    push(hub, toys, "v1")
    toy.write(toys / "sources", a=toy.many(90), b=[("again", "A prompt, number 1")])
    made(toys, "v1")
    said = push(hub, toys, "v1", code=2)["error"]
    assert "has another build of v1" in said
    assert "what differs: sources, funnel)" in said


def test_another_build_that_is_faster_is_not_overwritten(hub: Hub, toys: Path) -> None:
    hub.commit(
        REPO, {"README.md": b"---\nconfigs:\n- config_name: mine\n  data_files: a.csv\n---\n", "a.csv": b"a\n1\n"}
    )
    hub.faults = [Fault("POST .*/commit/", held=True, times=1)]
    slow = subprocess.Popen(command(toys, "v1"), env=hub.environment(toys / "slow", token="hf_write"), cwd=toys)
    while not hub.held:
        time.sleep(0.05)
    other = toys / "other"
    other.mkdir()
    (other / "releases.py").write_text((toys / "releases.py").read_text())
    toy.write(other / "sources", a=toy.many(120))
    made(other, "v1")
    push(hub, other, "v1")
    files = hub.files(REPO)
    hub.faults = []  # which closes the connection of the slow one, and it tries again
    assert slow.wait(timeout=60) == 2
    assert hub.files(REPO) == files
    assert verified(hub, toys, "v1") == (0, [])


def verified(hub: Hub, folder: Path, name: str) -> tuple[int, Any]:
    asked = [sys.executable, "-m", "hfds.cli", "verify", REPO, name, "--json"]
    environment = hub.environment(folder / "verifier", token="hf_read")
    done = subprocess.run(asked, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, json.loads(done.stdout)


def test_what_is_published_can_be_verified(hub: Hub, toys: Path) -> None:
    text = (toys / "releases.py").read_text()
    (toys / "releases.py").write_text(text.replace('columns=("prompt",', 'columns=("prompt", "image_hash",'))
    made(toys, "v1")
    push(hub, toys, "v1")
    assert verified(hub, toys, "v1") == (0, [])
    code, said = verified(hub, toys, "v3")
    assert (code, said["error"]) == (2, "org/toys has no release 'v3': it is one of: v1")
    shard = next(path for path in hub.files(REPO) if path.startswith("data/v1/train"))
    blob = hub.blob(REPO, shard)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    code, differing = verified(hub, toys, "v1")
    assert code == 1
    assert f"sha256 of {shard}" in [one["what"] for one in differing]


def test_rows_of_unknown_licence_are_published_on_purpose_only(hub: Hub, toys: Path) -> None:
    toy.write(toys / "sources", a=[*toy.many(90)[:-3], ("x", "nobody knows whose this is\tunknown")])
    made(toys, "v1")
    said = push(hub, toys, "v1", code=2)["error"]
    assert "toys/v1 holds 1 rows of unknown licence" in said
    push(hub, toys, "v1", "--allow-unknown-license")


def test_a_push_is_planned_and_applied_later(hub: Hub, toys: Path) -> None:
    push(hub, toys, "v1", "--plan", "plan.json")
    assert hub.store.repo(REPO) is None, "nothing was made"
    plan = json.loads((toys / "plan.json").read_text())
    assert (plan["release"], plan["repo"], plan["listed"]) == ("v1", REPO, {})
    assert applied(hub, toys)["files"] == plan["files"]
    assert len(loaded(hub, toys, "v1", revision="v1")["train"]) > 10
    assert applied(hub, toys)["files"] == {}, "it is there"
    hub.store.change(REPO, private=True)
    push(hub, toys, "v2", "--plan", "plan.json")
    toy.write(toys / "sources", a=toy.many(91))
    made(toys, "v2")
    assert "was built anew since the push was planned" in applied(hub, toys, code=2)["error"]
    push(hub, toys, "v2", "--plan", "plan.json")
    (toys / "releases.py").write_text((toys / "releases.py").read_text() + "V3 = V1.but('v3')\n")
    made(toys, "v3")
    push(hub, toys, "v3")
    assert "has other releases than when the push was planned" in applied(hub, toys, code=2)["error"]
    for text in ("{}", "no JSON", json.dumps({**plan, "files": 3}), json.dumps({**plan, "more": 3})):
        (toys / "plan.json").write_text(text)
        assert "is no plan of a push: make one with" in applied(hub, toys, code=2)["error"]


def applied(hub: Hub, folder: Path, code: int = 0) -> Any:
    asked = [sys.executable, "-m", "hfds.cli", "push", "--apply", "plan.json", "--json"]
    environment = hub.environment(folder / "home", token="hf_write")
    done = subprocess.run(asked, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_the_changelog_comes_with_the_release_and_must_fit_its_name(hub: Hub, toys: Path) -> None:
    more = "V1_0_1 = V1.but('v1.0.1', steps=(Split(0.3),))\nV1_1 = V1_0_1.but('v1.1')\nV3 = V1.but('v3')\n"
    (toys / "releases.py").write_text((toys / "releases.py").read_text() + more)
    for name in ("v1.0.1", "v1.1", "v3"):
        made(toys, name)
    push(hub, toys, "v1")
    assert "CHANGELOG.md" not in hub.files(REPO)
    said = push(hub, toys, "v1.0.1", code=2)["error"]
    assert "v1.0.1 is named as a patch of v1, but is minor (60 rows were added): name it v1.1" in said
    assert push(hub, toys, "v1.1")["changes"].startswith("minor (60 rows were added): 30 rows became 90")
    assert push(hub, toys, "v3")["changes"].startswith("minor (60 rows were removed): 90 rows became 30")
    files = hub.files(REPO)
    told = files["CHANGELOG.md"].decode()
    assert told.index("v3 after v1.1") < told.index("v1.1 after v1")
    assert json.loads(files["releases/v3.diff.json"])["rows"]["removed"] == 60
    assert "60 rows were removed" in files["README.md"].decode()
    assert files["plots/v3.png"].startswith(b"\x89PNG")


def test_what_is_not_as_its_lock_says_is_not_published(hub: Hub, toys: Path) -> None:
    path = toys / "dist/toys/releases/v1.lock.json"
    lock = json.loads(path.read_text())
    path.write_text(json.dumps({**lock, "licenses": {"mit": 30}}))
    said = push(hub, toys, "v1", code=2)["error"]
    assert "is not what its lock says: licences is {'CC0-1.0': 30}, not {'mit': 30}" in said
    path.write_text(json.dumps(lock))
    shard = toys / "dist/toys" / lock["splits"]["train"]["shards"][0]["path"]
    data = bytearray(shard.read_bytes())
    data[8] ^= 1
    shard.write_bytes(data)
    said = push(hub, toys, "v1", code=2)["error"]
    assert f"{shard} has changed since it was built: build it again" in said


def test_withdrawn_rows_are_not_published_and_not_told_of(hub: Hub, toys: Path) -> None:
    secret = "A prompt, number 0"
    push(hub, toys, "v1")
    push(hub, toys, "v2")
    assert secret in hub.files(REPO)["CHANGELOG.md"].decode(), "a sample of what was added"
    yank = [sys.executable, "-m", "hfds.cli", "yank", "toys", "v1", "--prompt-regex", secret, "--reason", "a wish"]
    subprocess.run([*yank, "--force"], cwd=toys, check=True, capture_output=True)
    push(hub, toys, "v1.0.1", dataset="toys")
    files = hub.files(REPO)
    stones = [json.loads(line) for line in files["withdrawn.jsonl"].splitlines()]
    assert {stone["id"] for stone in stones} == {f"toy/{n:06d}" for n in range(3)}
    for path in ("CHANGELOG.md", "README.md", "releases/v2.diff.json", "releases/v1.0.1.diff.json"):
        assert secret not in files[path].decode()
    (toys / "dist/toys/withdrawn.jsonl").unlink()
    (toys / "releases.py").write_text((toys / "releases.py").read_text() + "V3 = V1.but('v3')\n")
    made(toys, "v3")
    said = push(hub, toys, "v3", code=2)["error"]
    assert "toys/v3 has 1 rows that were withdrawn from org/toys, such as toy/000000: copy withdrawn.jsonl from" in said


def test_before_the_first_release_is_whole_nothing_can_be_loaded(hub: Hub, toys: Path) -> None:
    hub.faults = [Fault("POST .*/commit/", 400, after=2)]
    push(hub, toys, "v1", code=3)
    assert any(path.startswith("data/v1/") for path in hub.files(REPO))
    for config in (None, "default", "v1"):
        said = loaded(hub, toys, config)
        assert isinstance(said, str), "an error, no rows"
