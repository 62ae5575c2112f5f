"""The Hub of the tests, as its unmodified clients see it: what is pushed comes back, by LFS and by Xet, and what goes
wrong is what goes wrong at the real one.

The clients read their settings when they are imported, so this file is also the program that uses them, in a process of
its own: see `client`.
"""

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hub import Fault, Hub, Token
from hub.xet import chunks_of, unpacked

REPO = "org/name"
SENT = ("PUT /lfs/", "POST /cas/v1/xorbs/")  # contents that came
SIZES = {"a.parquet": 250_000, "data/b c.bin": 100_001, "data/deep/d.txt": 5, "empty.txt": 0}


# In a process of its own


def push_and_load() -> Any:
    """Two releases of a config under two tags, read in every way."""
    from datasets import Dataset, load_dataset
    from huggingface_hub import HfApi

    for tag, count in (("v1", 30), ("v2", 40)):
        rows = Dataset.from_dict({"n": range(count), "noise": [noise(1000, seed) for seed in range(count)]})
        rows.push_to_hub(REPO, "main", split="train", num_shards=2)
        rows.select(range(3)).push_to_hub(REPO, "main", split="test")
        HfApi().create_tag(REPO, tag=tag, repo_type="dataset")
    loaded = load_dataset(REPO, "main")
    found = {
        "train": loaded["train"],
        "test": loaded["test"],
        "v1": load_dataset(REPO, "main", split="train", revision="v1"),
        "streamed": load_dataset(REPO, "main", split="train", streaming=True),
    }
    return {name: [[row["n"], sha256(row["noise"])] for row in rows] for name, rows in found.items()}


def upload_and_list(folder: str) -> Any:
    """A folder uploaded twice, listed, read and changed; the same names by every way."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, HfFileSystem

    api, files = HfApi(), HfFileSystem()
    api.create_repo(REPO, repo_type="dataset", private=True)
    api.create_repo(REPO, repo_type="dataset", exist_ok=True)
    first, again = (api.upload_folder(repo_id=REPO, folder_path=folder, repo_type="dataset") for _ in "ab")
    tree = {file.path: file for file in api.list_repo_tree(REPO, repo_type="dataset", recursive=True, expand=True)}
    paths = api.get_paths_info(REPO, ["data", "a.parquet", "none"], repo_type="dataset", expand=True)
    got = Path(api.snapshot_download(REPO, repo_type="dataset"))
    found = {
        "again": again.oid == first.oid,
        "tree": sorted(path for path, file in tree.items() if hasattr(file, "blob_id")),
        "brought": [file.last_commit.oid == first.oid for file in paths],
        "globbed": files.glob(f"datasets/{REPO}/data/**/*.*"),
        "range": files.read_block(f"datasets/{REPO}/a.parquet", 1000, 20).hex(),
        "got": {path: sha256((got / path).read_bytes()) for path in SIZES},
    }
    operations = [
        CommitOperationAdd("a.parquet", b"other"),
        CommitOperationAdd("new.txt", b"new"),
        CommitOperationDelete("data/", is_folder=True),
    ]
    api.create_commit(REPO, operations, commit_message="change", repo_type="dataset", parent_commit=first.oid)
    found["after"] = api.list_repo_files(REPO, repo_type="dataset")
    found["commits"] = [(commit.title, commit.authors) for commit in api.list_repo_commits(REPO, repo_type="dataset")]
    return found


def refs() -> Any:
    """Branches and tags made, listed, and deleted."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    first = api.dataset_info(REPO).sha
    api.create_branch(REPO, branch="dev", repo_type="dataset")
    api.create_branch(REPO, branch="dev", repo_type="dataset", exist_ok=True)
    api.upload_file(repo_id=REPO, path_or_fileobj=b"2", path_in_repo="a.txt", revision="dev", repo_type="dataset")
    api.create_tag(REPO, tag="release/1", revision="dev", tag_message="one", repo_type="dataset")
    dev = api.dataset_info(REPO, revision="dev").sha
    listed = api.list_repo_refs(REPO, repo_type="dataset")
    there = {ref.name: ref.target_commit for ref in (*listed.branches, *listed.tags)}
    api.delete_tag(REPO, tag="release/1", repo_type="dataset")
    api.delete_branch(REPO, branch="dev", repo_type="dataset")
    left = api.list_repo_refs(REPO, repo_type="dataset")
    refused = []
    for name in ("v1.lock", "v1.", "v1..2", "a b", "a~b", "-v1", ".v1", "v1/", "a@{b"):
        try:
            api.create_tag(REPO, tag=name, repo_type="dataset")
        except HfHubHTTPError as error:
            refused.append(error.response.status_code)
    assert refused == [400] * 9
    return [there == {"main": first, "dev": dev, "release/1": dev}, [ref.name for ref in left.branches], left.tags]


def commit_at_once(parent: str | None) -> Any:
    """Four commits at a time; the words that were answered, in order."""
    from huggingface_hub import HfApi

    answers = []

    def commit(number: int) -> None:
        answers.append(said(lambda: upload(f"{number}.txt", b"text", parent_commit=parent)))

    threads = [threading.Thread(target=commit, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [sorted(answers), HfApi().list_repo_files(REPO, repo_type="dataset")]


def upload_one(path: str, size: int) -> Any:
    return said(lambda: upload(path, noise(size)))


def download(path: str) -> Any:
    from huggingface_hub import hf_hub_download

    return said(lambda: sha256(Path(hf_hub_download(REPO, path, repo_type="dataset")).read_bytes()))


def ask(*tokens: str) -> Any:
    """What each token is told when it reads and writes what is public, private, gated, full, or not there."""
    return {token: {what: said(partial(call, token or False)) for what, call in ASKED.items()} for token in tokens}


def whoami(token: Any) -> str:
    from huggingface_hub import HfApi

    return said(lambda: HfApi(token=token).whoami()["name"])


def create(token: Any) -> str:
    from huggingface_hub import HfApi

    return HfApi(token=token).create_repo("org/other", repo_type="dataset", exist_ok=True).repo_id


def load(token: Any, repo: str, **options: Any) -> str:
    from datasets import load_dataset

    return next(iter(load_dataset(repo, split="train", streaming=True, token=token, **options)))["text"]


def read(token: Any, repo: str) -> str:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repo, "a.txt", repo_type="dataset", token=token)).read_text()


def write(token: Any, repo: str) -> str:
    return upload("b.bin", repo.encode(), repo_id=repo, token=token)


ASKED: dict[str, Callable[[Any], str]] = {
    "whoami": whoami,
    "create": create,
    "load missing": partial(load, repo="org/missing"),
    "load revision": partial(load, repo="org/public", revision="nope"),
    "load private": partial(load, repo="org/private"),
    "load gated": partial(load, repo="org/gated"),
    **{
        f"{call.__name__} {repo}": partial(call, repo=f"org/{repo}")
        for repo in ("public", "private", "gated", "full")
        for call in (read, write)
    },
}


def likers() -> Any:
    from huggingface_hub import HfApi

    return said(lambda: len([*HfApi().list_repo_likers(REPO, repo_type="dataset")]))


def upload(path: str, data: bytes, **options: Any) -> str:
    from huggingface_hub import HfApi

    options = {"repo_id": REPO, "repo_type": "dataset", **options}
    HfApi().upload_file(path_or_fileobj=data, path_in_repo=path, **options)
    return "done"


def said(call: Callable[[], Any]) -> Any:
    """What the call returns, or the name and the text of what it raises."""
    import httpx2

    try:
        return call()
    except (OSError, ValueError, httpx2.HTTPError) as error:
        return f"{type(error).__name__}: {error}"


# In both


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that nothing compresses."""
    return hashlib.shake_128(b"%d" % seed).digest(size)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# In the process of the tests


def client(hub: Hub, home: Path, what: str, *words: Any, token: str = "hf_write", xet: bool = False) -> Any:
    """What the function of that name returns in a process of its own."""
    command = [sys.executable, __file__, what, json.dumps(words)]
    environment = hub.environment(home, token, xet)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


by_transport = pytest.mark.parametrize("xet", [False, True], ids=["lfs", "xet"])


@by_transport
def test_what_is_pushed_is_loaded(hub: Hub, tmp_path: Path, xet: bool) -> None:
    found = client(hub, tmp_path, "push_and_load", xet=xet)
    rows = [[n, sha256(noise(1000, n))] for n in range(40)]
    assert found == {"train": rows, "test": rows[:3], "v1": rows[:30], "streamed": rows}
    ways = {way for way in ("PUT /lfs/", "/cas/v1/xorbs/", "/cas/v1/reconstructions/") if way in str(hub.requests)}
    assert ways == ({"/cas/v1/xorbs/", "/cas/v1/reconstructions/"} if xet else {"PUT /lfs/"})


@pytest.mark.parametrize(
    "xet, options", [(True, ()), (False, ("--page=2", "--part=100000", "--cdn"))], ids=["xet", "lfs, pages, parts, cdn"]
)
def test_a_folder_is_uploaded_once_and_found_by_every_way(tmp_path: Path, xet: bool, options: tuple[str, ...]) -> None:
    for path, size in SIZES.items():
        (tmp_path / "folder" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / path).write_bytes(noise(size))
    with Hub(tmp_path / "hub", *options) as hub:
        found = client(hub, tmp_path / "home", "upload_and_list", str(tmp_path / "folder"), xet=xet)
        assert hub.unknown == []
        sent = [request for request in hub.requests if request.startswith(SENT)]
    assert found == {
        "again": True,
        "tree": sorted([".gitattributes", *SIZES]),
        "brought": [True, True],
        "globbed": [f"datasets/{REPO}/data/b c.bin", f"datasets/{REPO}/data/deep/d.txt"],
        "range": noise(1020)[1000:].hex(),
        "got": {path: sha256(noise(size)) for path, size in SIZES.items()},
        "after": [".gitattributes", "a.parquet", "empty.txt", "new.txt"],
        "commits": [["change", ["me"]], ["Upload folder using huggingface_hub", ["me"]], ["initial commit", ["org"]]],
    }
    assert len(sent) == (2 if xet else 3 + 2 + 1), "and the last one is of what changed"


def test_branches_and_tags(hub: Hub, tmp_path: Path) -> None:
    hub.commit(REPO, {"a.txt": b"1"})
    assert client(hub, tmp_path, "refs") == [True, ["main"], []]
    assert hub.files(REPO) == {"a.txt": b"1"}


def test_of_commits_on_one_parent_the_first_holds(hub: Hub, tmp_path: Path) -> None:
    parent = hub.commit(REPO, {"a.txt": b"1"})
    (*refusals, done), files = client(hub, tmp_path, "commit_at_once", parent)
    assert done == "done"
    assert [refusal.split(" for url")[0] for refusal in refusals] == [
        "HfHubHTTPError: Client error '412 Precondition Failed'"
    ] * 3
    assert all("A commit has happened since. Please refresh and try again." in refusal for refusal in refusals)
    assert len(files) == 2
    assert client(hub, tmp_path, "commit_at_once", None) == [
        ["done"] * 4,
        ["0.txt", "1.txt", "2.txt", "3.txt", "a.txt"],
    ]


@by_transport
def test_an_upload_that_is_cut_leaves_nothing_and_is_sent_again(hub: Hub, tmp_path: Path, xet: bool) -> None:
    hub.commit(REPO, {"a.txt": b"1"})
    hub.faults = [Fault("PUT /lfs/|POST /cas/v1/xorbs", taken=50_000, times=1)]
    before = set(hub.folder.rglob("*"))
    assert client(hub, tmp_path, "upload_one", "a.bin", 200_000, xet=xet) == "done"
    assert hub.faults[0].times == 0
    assert hub.files(REPO)["a.bin"] == noise(200_000)
    names = {path.name for path in set(hub.folder.rglob("*")) - before if path.parent.name != "xorbs"}
    assert names == {sha256(noise(200_000))}


@pytest.mark.parametrize("xet, status", [(False, 503), (True, 409)], ids=["lfs", "xet"])
def test_what_came_before_a_failed_commit_is_not_sent_again(hub: Hub, tmp_path: Path, xet: bool, status: int) -> None:
    hub.commit(REPO, {"a.txt": b"1"})
    hub.faults = [Fault("POST .*/commit/main", status, times=1)]
    sentence = client(hub, tmp_path, "upload_one", "a.bin", 200_000, xet=xet)
    assert sentence.startswith("HfHubHTTPError: ")
    assert f" error '{status} " in sentence
    assert hub.files(REPO) == {"a.txt": b"1"}
    assert client(hub, tmp_path, "upload_one", "a.bin", 200_000, xet=xet) == "done"
    assert hub.files(REPO)["a.bin"] == noise(200_000)
    assert len([request for request in hub.requests if request.startswith(SENT)]) == 1


def test_an_answer_that_is_lost_is_a_commit_that_is_there(hub: Hub, tmp_path: Path) -> None:
    hub.commit(REPO, {"a.txt": b"1"})
    hub.faults = [Fault("POST .*/commit/main", lost=True, times=1)]
    answer = client(hub, tmp_path, "upload_one", "b.txt", 5)
    assert answer == "RemoteProtocolError: Server disconnected without sending a response."
    assert hub.files(REPO) == {"a.txt": b"1", "b.txt": noise(5)}


def test_a_busy_hub_and_a_download_that_is_cut(hub: Hub, tmp_path: Path) -> None:
    hub.commit(REPO, {"a.bin": noise(200_000)})
    hub.faults = [
        Fault("POST .*/preupload/", 429, {"Retry-After": "0"}, times=1),
        Fault("GET .*/resolve/.*a.bin", cut=50_000, times=1, delay=0.2),
    ]
    assert client(hub, tmp_path, "upload_one", "b.txt", 5) == "done"
    assert client(hub, tmp_path, "download", "a.bin") == sha256(noise(200_000))
    assert [fault.times for fault in hub.faults] == [0, 0]


# Those who may read least come first: the clients give what they have in their cache to everybody.
TOKENS = ("", "hf_none", "hf_else", "hf_read", "hf_write")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, str]]]:
    """What each of TOKENS is told; "hf_else" is of somebody else, "hf_none" of nobody."""
    folder = tmp_path_factory.mktemp("answers")
    with Hub(folder / "hub") as hub:
        for repo in ("public", "private", "gated", "full"):
            hub.commit(f"org/{repo}", {"a.txt": b"text"})
        hub.store.add_token("hf_else", Token("else"))
        hub.store.change("org/private", private=True)
        hub.store.change("org/gated", gated="auto")
        hub.store.change("org/full", quota=8)
        yield client(hub, folder, "ask", *TOKENS, token="")
        assert hub.unknown == []


NOBODY = "Invalid username or password."
WRONG = "Invalid credentials in Authorization header"
ONLY_READS = "403 Forbidden: This token may only read, a token with the write role is needed."
NOT_THEIRS = "403 Forbidden: You don't have the rights to write to org/"
MISSING = "doesn't exist on the Hub or cannot be accessed."
FULL = "403 Forbidden: Private repository storage limit reached, please upgrade your plan"
# By what is asked: what each of TOKENS is told, in part.
ANSWERS: dict[str, tuple[str, ...]] = {
    "whoami": ("requires authentication", "Invalid user token.", "else", "me", "me"),
    "create": (NOBODY, WRONG, 'create a dataset under the namespace "org"', ONLY_READS, "org/other"),
    "load missing": (MISSING, WRONG, MISSING, MISSING, MISSING),
    "load revision": (
        "'nope' doesn't exist",
        WRONG,
        "'nope' doesn't exist",
        "'nope' doesn't exist",
        "'nope' doesn't exist",
    ),
    "read public": ("text", "text", "text", "text", "text"),
    "write public": (NOBODY, WRONG, NOT_THEIRS, ONLY_READS, "done"),
    "load private": (MISSING, WRONG, MISSING, "text", "text"),
    "read private": ("RepositoryNotFoundError: 401", WRONG, "RepositoryNotFoundError: 404", "text", "text"),
    "write private": ("RepositoryNotFoundError: 401", WRONG, "RepositoryNotFoundError: 404", ONLY_READS, "done"),
    "load gated": ("You must be authenticated", WRONG, "to ask for access.", "text", "text"),
    "read gated": ("GatedRepoError: 401", WRONG, "GatedRepoError: 403", "text", "text"),
    "write gated": (NOBODY, WRONG, NOT_THEIRS, ONLY_READS, "done"),
    "read full": ("text", "text", "text", "text", "text"),
    "write full": (NOBODY, WRONG, NOT_THEIRS, ONLY_READS, FULL),
}


def test_everything_that_is_asked_has_an_answer_for_each_token() -> None:
    assert ANSWERS.keys() == ASKED.keys()


@pytest.mark.parametrize("asked", ANSWERS)
def test_who_may_not_is_told_so(answers: dict[str, dict[str, str]], asked: str) -> None:
    told = [answers[token][asked] for token in TOKENS]
    assert [part if part in whole else whole for part, whole in zip(ANSWERS[asked], told, strict=True)] == [
        *ANSWERS[asked]
    ]


def test_what_was_answered_outlives_the_server(tmp_path: Path) -> None:
    with Hub(tmp_path / "hub") as hub:
        hub.commit(REPO, {"a.txt": b"text"})
        assert client(hub, tmp_path / "one", "upload_one", "b.bin", 10, xet=True) == "done"
        url, requests = hub.url, hub.requests
        hub.kill()
        assert "Connection refused" in client(hub, tmp_path / "two", "whoami", "hf_write")
        hub.start()
        assert (hub.url, hub.requests) == (url, requests)
        assert client(hub, tmp_path / "three", "download", "b.bin", xet=True) == sha256(noise(10))
    with Hub(tmp_path / "hub") as again:
        assert again.files(REPO) == {"a.txt": b"text", "b.bin": noise(10)}


def test_a_request_that_it_does_not_know_is_noticed(tmp_path: Path) -> None:
    with Hub(tmp_path / "hub") as hub:
        hub.commit(REPO, {"a.txt": b"text"})
        client(hub, tmp_path / "home", "likers")
        assert hub.unknown == [f"GET /api/datasets/{REPO}/likers"]
        hub.faults = [Fault("likers", 404)]
        client(hub, tmp_path / "home", "likers")
        assert len(hub.unknown) == 1, "what goes wrong on demand is no surprise"


def test_addresses_without_a_token_are_signed(hub: Hub) -> None:
    for request in ("PUT /lfs/0", "PUT /lfs/0/1", "POST /lfs/0", "GET /cdn/0", "GET /cas/xorbs/0"):
        assert plain(hub, f"{request}?signature=0")[0] == 403, request


def test_a_fault_comes_after_so_many_requests_and_ends(hub: Hub) -> None:
    hub.faults = [Fault("GET /api/w", 418, after=1, times=1), Fault("^GET", delay=0.2, times=1)]
    start = time.monotonic()
    assert [plain(hub, request)[0] for request in ["GET /api/whoami-v2"] * 3] == [401, 418, 401]
    assert time.monotonic() - start >= 0.2
    assert [(fault.after, fault.times) for fault in hub.faults] == [(0, 0), (0, 0)]


def test_a_range_by_xet_is_the_chunks_that_hold_it(hub: Hub, tmp_path: Path) -> None:
    hub.commit(REPO, {"a.txt": b"1"})
    client(hub, tmp_path / "home", "upload_one", "a.bin", 400_000, xet=True)
    token = json.loads(plain(hub, f"GET /api/datasets/{REPO}/xet-read-token/main")[1])["accessToken"]
    name = hub.store.xet_hash(sha256(noise(400_000)))
    for start, stop in ((0, 400_000), (0, 1), (150_000, 250_000), (399_999, 400_000)):
        headers = {"Authorization": f"Bearer {token}", "Range": f"bytes={start}-{stop - 1}"}
        said = json.loads(plain(hub, f"GET /cas/v1/reconstructions/{name}", headers)[1])
        pieces = [chunks(hub, term, said["fetch_info"][term["hash"]]) for term in said["terms"]]
        assert [len(piece) for piece in pieces] == [term["unpacked_length"] for term in said["terms"]]
        whole, before = b"".join(pieces), said["offset_into_first_range"]
        assert whole[before:][: stop - start] == noise(400_000)[start:stop]
        assert len(whole) < stop - start + 2 * LARGEST


LARGEST = 131_072  # bytes of a chunk


def chunks(hub: Hub, term: dict[str, Any], places: list[dict[str, Any]]) -> bytes:
    """What is in the chunks that a term names."""
    (place,) = (place for place in places if place["range"] == term["range"])
    headers = {"Range": "bytes={start}-{end}".format(**place["url_range"])}
    _, data = plain(hub, "GET " + place["url"].removeprefix(hub.url), headers)
    return b"".join(unpacked(data, chunk) for chunk in chunks_of(data))


def plain(hub: Hub, request: str, headers: Mapping[str, str] = MappingProxyType({})) -> tuple[int, bytes]:
    """The status and the body that the Hub answers to "METHOD path"."""
    connection = HTTPConnection(hub.url.removeprefix("http://"), timeout=10)
    try:
        connection.request(*request.split(), b"{}", headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


if __name__ == "__main__":
    name, words = sys.argv[1:]
    print(json.dumps(globals()[name](*json.loads(words))))
