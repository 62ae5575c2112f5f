"""Sources read from the Hub by its unmodified clients: the same rows as from a folder, or one sentence.

The clients read their settings when they are imported, so this file is also the program that reads, in a process of its
own: see `reading`.
"""

import errno
import hashlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures import dalle3, gustavosta
from fixtures.make import picture, tar, zip_
from hub import Fault, Hub, Token

DALLE3 = "ProGamerGov/synthetic-dataset-1m-dalle3-high-quality-captions"
DIFFUSIONDB = "poloclub/diffusiondb"
GUSTAVOSTA = "Gustavosta/Stable-Diffusion-Prompts"
SECRET = "hf_SecretThatMustNotShow"


# In a process of its own


def reading(load: dict[str, Any]) -> dict[str, Any]:
    """The rows of `hfds.load(**load)`, or its error; with `pieces` it reads file by file, as a build does."""
    from hfds.errors import HfdsError

    try:
        splits = _pieces(**load) if load.pop("pieces", False) else _splits(**load)
        cache = [file["filename"] for split in splits for file in getattr(split, "cache_files", [])]
        return {"rows": [_plain(row) for split in splits for row in _undecoded(split)], "cache": cache}
    except HfdsError as error:
        return {"error": type(error).__name__, "text": str(error), "exit_code": error.exit_code}


def _splits(source: str, **options: Any) -> list[Any]:
    import hfds

    return list(hfds.load(source, **options).values())


def _pieces(source: str, cache_dir: str, **options: Any) -> list[Any]:
    from hfds.catalogue import find_builder

    splits = []
    for split, piece in find_builder(source)(**options).each_piece(cache_dir):
        piece.download_and_prepare()
        splits.append(piece.as_dataset(split))
    return splits


def _undecoded(rows: Any) -> Any:
    from datasets import Image

    return rows.cast_column("image", Image(decode=False))


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the hash of its pixels for `image`, and where its picture is `kept`: "row" or a file."""
    from datasets import Image

    if (image := row["image"]) is None:
        return {**row, "kept": None}
    pixels = hashlib.sha256(Image().decode_example(image).tobytes()).hexdigest()
    return {**row, "image": pixels, "kept": "row" if image["bytes"] else image["path"].partition("::")[2]}


# In the process of the tests


def read(url: str, home: Path, *loads: dict[str, Any], **environment: str) -> list[dict[str, Any]]:
    """What `reading` makes of each load, all in one process."""
    done = run([sys.executable, __file__, json.dumps(loads)], url, home, **environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def run(command: list[str], url: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, done, with the Hub at `url` and no setting of this machine's user; `home` keeps what it printed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_UPDATE_CHECK", "HF_HUB_DISABLE_XET")
    ours = {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_UPDATE_DOWNLOAD_COUNTS": "0", **dict.fromkeys(settings, "1")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(
        command, env={**clean, **ours, "PATH": path, **environment}, capture_output=True, text=True, timeout=120
    )
    home.mkdir(exist_ok=True)
    with (home / "printed").open("a") as file:
        file.write(done.stdout + done.stderr)
    return done


def content(folder: Path) -> dict[str, bytes]:
    """The files of a folder, by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same_rows(found: dict[str, Any], expected: dict[str, Any], revision: str) -> None:
    """Asserts that these are the rows that a folder gave, but for their revision and where their pictures are kept."""
    assert "rows" in found, found
    assert {row["source_revision"] for row in found["rows"]} == {revision}
    for row, other in zip(found["rows"], expected["rows"], strict=True):
        assert {**row, "source_revision": None, "kept": None} == {**other, "source_revision": None, "kept": None}


def test_every_way_of_reading_gives_the_rows_of_the_folder(hub: Hub, tmp_path: Path) -> None:
    dalle3.clean(tmp_path / "source")
    first = tmp_path / "source/data/data-000000.tar"
    first.rename(first.with_name("data-0 a%20b@c#d.tar"))  # what a URL would be misread for
    commit = hub.commit(DALLE3, content(tmp_path / "source"))
    folder, prepared, by_commit, two, pieces, streamed = read(
        hub.url,
        tmp_path / "home",
        {"source": "dalle3", "data_dir": str(tmp_path / "source")},
        {"source": "dalle3"},
        {"source": "dalle3", "revision": commit},
        {"source": "dalle3", "num_proc": 2, "cache_dir": str(tmp_path / "two")},
        {"source": "dalle3", "pieces": True, "cache_dir": str(tmp_path / "pieces")},
        {"source": "dalle3", "streaming": True},
    )
    assert len(folder["rows"]) == 8
    for found in (prepared, by_commit, two, pieces, streamed):
        same_rows(found, folder, commit)
    assert by_commit["cache"] == prepared["cache"]
    files = {row["kept"] for found in (prepared, two, pieces) for row in found["rows"]}
    downloads = tmp_path / f"home/hub/datasets--{DALLE3.replace('/', '--')}/snapshots/{commit}"
    assert files == {str(path) for path in (downloads / "data").iterdir()}
    assert {row["kept"] for row in streamed["rows"]} == {"row"}
    gets = [request for request in hub.requests if request.startswith(f"GET /datasets/{DALLE3}/resolve")]
    assert len(gets) == 4, "each file once for all that is prepared, and once for what is streamed"


def test_a_branch_that_moved_is_another_source(hub: Hub, tmp_path: Path) -> None:
    dalle3.clean(tmp_path / "source")
    files = content(tmp_path / "source")
    old = hub.commit(DALLE3, files)
    (before,) = read(hub.url, tmp_path / "home", {"source": "dalle3"})
    moved = hub.commit(DALLE3, {**files, "README.md": b"# A dataset"})
    tar(tmp_path / "source/data/data-000002.tar", dalle3.pair("nine", seed=9))
    more = hub.commit(DALLE3, content(tmp_path / "source"), "more")
    hub.forget()
    loads = ({"source": "dalle3", **options} for options in ({}, {"revision": "more"}, {"revision": old}))
    after, grown, pinned = read(hub.url, tmp_path / "home", *loads)
    same_rows(after, before, moved)
    assert [row["id"] for row in grown["rows"]] == [*(row["id"] for row in before["rows"]), "dalle3/nine"]
    assert pinned == before
    assert len({*before["cache"], *after["cache"], *grown["cache"]}) == 3
    gets = [request for request in hub.requests if request.startswith("GET /datasets/")]
    assert gets == [f"GET /datasets/{DALLE3}/resolve/{more}/data/data-000002.tar"], "what is there is not fetched again"


def test_text_and_zips_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    gustavosta.hub(tmp_path / "parquet")
    gustavosta.hub(tmp_path / "csv", "txt")
    texts = {kind: hub.commit(GUSTAVOSTA, content(tmp_path / kind), kind) for kind in ("parquet", "csv")}
    for number, compression in ((1, 0), (2, 8)):
        names = [f"{number}-{at}.png" for at in range(3)]
        said = {name: {"p": f"prompt of {name}", "se": 7, "c": 7.0, "st": 50, "sa": "k_lms"} for name in names}
        part = f"part-{number:06}"
        members = [(name, picture("PNG", seed=10 * number + at)) for at, name in enumerate(names)]
        members.append((f"{part}.json", json.dumps(said).encode()))
        zip_(tmp_path / f"zips/images/{part}.zip", members, compression)
    zips = hub.commit(DIFFUSIONDB, content(tmp_path / "zips"))
    both = [
        ({"source": "gustavosta"}, "parquet", texts["parquet"]),
        ({"source": "gustavosta"}, "csv", texts["csv"]),
        ({"source": "diffusiondb", "config": "2m_all"}, "zips", zips),
    ]
    loads = [
        load
        for options, folder, commit in both
        for load in (
            {**options, "data_dir": str(tmp_path / folder)},
            {**options, "revision": commit},
            {**options, "revision": commit, "streaming": True},
        )
    ]
    found = read(hub.url, tmp_path / "home", *loads)
    assert [len(outcome["rows"]) for outcome in found] == [9] * 6 + [6] * 3
    for at, (_, _, commit) in enumerate(both):
        for outcome in found[3 * at + 1 : 3 * at + 3]:
            same_rows(outcome, found[3 * at], commit)
    prepared, streamed = ([row["kept"] for row in outcome["rows"]] for outcome in found[7:])
    assert [Path(kept).name for kept in prepared] == ["part-000001.zip"] * 3 + ["row"] * 3
    assert streamed == ["row"] * 6


def test_a_connection_that_ends_inside_a_zip_drops_no_row(hub: Hub, tmp_path: Path) -> None:
    members = [(f"{at:02}.png", picture("PNG", width=900, height=900, seed=at)) for at in range(12)]
    said = {name: {"p": "prompt", "se": 7, "c": 7.0, "st": 50, "sa": "k_lms"} for name, _ in members}
    members.append(("part-000001.json", json.dumps(said).encode()))
    for folder, compression in (("stored", 0), ("deflated", 8)):
        zip_(tmp_path / f"{folder}/images/part-000001.zip", members, compression)
    commits = [hub.commit(DIFFUSIONDB, content(tmp_path / folder), folder) for folder in ("stored", "deflated")]
    loads = [{"source": "diffusiondb", "config": "2m_all", "revision": c, "streaming": True} for c in commits]
    whole = read(hub.url, tmp_path / "home", *loads)
    assert [len(outcome["rows"]) for outcome in whole] == [12, 12]
    for commit, load in zip(commits, loads, strict=True):
        asked = [request for request in hub.requests if request.startswith("GET") and f"resolve/{commit}" in request]
        hub.faults = [Fault(f"GET /datasets/{DIFFUSIONDB}/resolve/{commit}", 403, after=len(asked) - 1)]
        (outcome,) = read(hub.url, tmp_path / "home", load)
        assert outcome.get("error") == "SourceMissing", outcome
        assert "the Hub answers 403" in outcome["text"]


Trouble = tuple[Hub, Path, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def trouble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trouble]:
    """A Hub where much is wrong, the home of a process that read from it, and what came of TROUBLE and OTHERS there."""
    home = tmp_path_factory.mktemp("trouble") / "home"
    dalle3.clean(home.parent / "source")
    files = content(home.parent / "source")
    tars = [data for _, data in sorted(files.items())]
    with Hub(home.parent / "hub") as hub:
        hub.commit(DALLE3, {"README.md": b"", "metadata/readme.txt": b""}, "empty")
        hub.commit(DALLE3, {"data/data-0::1.tar": tars[0]}, "chained")
        tar(home.parent / "damaged.tar", dalle3.pair("nine", seed=9))
        whole = (home.parent / "damaged.tar").read_bytes()
        hub.commit(DALLE3, {"data/data-0.tar": tars[0], "data/data-1 of 2.tar": whole}, "damaged")
        hub.blob(DALLE3, "data/data-1 of 2.tar", "damaged").write_bytes(whole[:700] + b"\0\0" + whole[702:])
        faults = [
            Fault("revision/gated-page", 403, {"X-Error-Code": "GatedRepo"}),
            Fault("revision/down", 500),
            Fault("revision/portal", 200),
            Fault(f"tree/{hub.commit(DALLE3, files, 'busy-list')}", 503, times=1),
            Fault(f"GET /datasets/{DALLE3}/resolve/{hub.commit(DALLE3, files, 'busy-file')}", 503, times=1),
            Fault(f"resolve/{hub.commit(DALLE3, files, 'gated')}", 403, {"X-Error-Code": "GatedRepo"}),
            Fault(f"resolve/{hub.commit(DALLE3, files, 'forbidden')}", 403),
        ]
        for kind in ("parquet", "csv"):
            gustavosta.hub(home.parent / kind, kind)
            faults.append(Fault(f"resolve/{hub.commit(GUSTAVOSTA, content(home.parent / kind), kind)}", 403))
        hub.faults = faults
        loads = OTHERS | {name: load for name, (load, _, _) in TROUBLE.items()}
        yield hub, home, dict(zip(loads, read(hub.url, home, *loads.values()), strict=True))
    assert hub.unknown == []


GATED = "is gated: ask for access on its page on the Hub, then log in with: hf auth login"
FORBIDDEN = "is not for this token, the Hub answers 403: log in as someone who may read it with: hf auth login"
# By name: what is loaded, the error that comes of it, and its sentence.
TROUBLE: dict[str, tuple[dict[str, Any], str, str]] = {
    "no such revision": (
        {"source": "dalle3", "revision": "nope"},
        "SourceMissing",
        f"dalle3: {DALLE3} has no revision 'nope' on the Hub: give a branch, tag or commit that it has",
    ),
    "no such repository": (
        {"source": "diffusiondb"},
        "SourceMissing",
        f"diffusiondb: {DIFFUSIONDB} is not on the Hub, or is private: log in as someone who may read it with: "
        "hf auth login",
    ),
    "no such file": (
        {"source": "dalle3", "revision": "empty"},
        "SourceMissing",
        f"dalle3: no data/data-*.tar or data-*.tar or *.tar in {DALLE3} at 'empty', which holds README.md, "
        "metadata/readme.txt; give another revision",
    ),
    "gated, its page as well": (
        {"source": "dalle3", "revision": "gated-page"},
        "SourceMissing",
        f"dalle3: {DALLE3} {GATED}",
    ),
    "gated": ({"source": "dalle3", "revision": "gated"}, "SourceMissing", f"dalle3: {DALLE3} {GATED}"),
    "gated, two processes": (
        {"source": "dalle3", "revision": "gated", "num_proc": 2},
        "SourceMissing",
        f"dalle3: {DALLE3} {GATED}",
    ),
    "gated, streaming": (
        {"source": "dalle3", "revision": "gated", "streaming": True},
        "SourceMissing",
        f"dalle3: {DALLE3} {GATED}",
    ),
    "forbidden": ({"source": "dalle3", "revision": "forbidden"}, "SourceMissing", f"dalle3: {DALLE3} {FORBIDDEN}"),
    "forbidden, streaming": (
        {"source": "dalle3", "revision": "forbidden", "streaming": True},
        "SourceMissing",
        f"dalle3: {DALLE3} {FORBIDDEN}",
    ),
    "forbidden, streaming parquet": (
        {"source": "gustavosta", "revision": "parquet", "streaming": True},
        "SourceMissing",
        f"gustavosta: {GUSTAVOSTA} {FORBIDDEN}",
    ),
    "forbidden, streaming text": (
        {"source": "gustavosta", "revision": "csv", "streaming": True},
        "SourceMissing",
        f"gustavosta: {GUSTAVOSTA} {FORBIDDEN}",
    ),
    "the Hub is down": (
        {"source": "dalle3", "revision": "down"},
        "SourceMissing",
        f"dalle3: {DALLE3} cannot be read now, the Hub answers 500: try again later",
    ),
    "no Hub but a page of somebody else": (
        {"source": "dalle3", "revision": "portal"},
        "SourceMissing",
        f"dalle3: {DALLE3} cannot be read from the Hub (Expecting value: line 1 column 1 (char 0)): check the network, "
        "and HF_ENDPOINT if it is set",
    ),
    "the wrong token": (
        {"source": "dalle3", "token": f"{SECRET}-of-somebody-else"},
        "SourceMissing",
        f"dalle3: {DALLE3} is not for this token, the Hub answers 401: log in as someone who may read it with: "
        "hf auth login",
    ),
    "an impossible token": (
        {"source": "dalle3", "token": f"{SECRET}\n{SECRET}"},
        "ConfigError",
        "dalle3: the token holds a character that none has: copy it again, or leave it out",
    ),
    "a name that fsspec misreads": (
        {"source": "dalle3", "revision": "chained"},
        "BadFile",
        "data/data-0::1.tar: fsspec reads the '::' in its name as a chain; rename it",
    ),
}
OTHERS = {
    "a busy list": {"source": "dalle3", "revision": "busy-list"},
    "a busy file": {"source": "dalle3", "revision": "busy-file", "streaming": True},
    "a damaged file": {"source": "dalle3", "revision": "damaged"},
}


@pytest.mark.parametrize("name", TROUBLE)
def test_one_sentence_says_what_to_do(trouble: Trouble, name: str) -> None:
    _, error, sentence = TROUBLE[name]
    assert trouble[2][name] == {"error": error, "text": sentence, "exit_code": 2 if error == "ConfigError" else 3}


@pytest.mark.parametrize("name", ["a busy list", "a busy file"])
def test_a_hub_that_is_busy_for_a_moment_is_asked_again(trouble: Trouble, name: str) -> None:
    assert len(trouble[2][name].get("rows", [])) == 8, trouble[2][name]
    assert [fault.times for fault in trouble[0].faults if fault.status == 503] == [0, 0]


def test_a_damaged_file_is_named_and_the_advice_helps(trouble: Trouble) -> None:
    hub, home, outcomes = trouble
    name, commit = "data/data-1 of 2.tar", hub.store.head(DALLE3, "damaged")
    command = f"hf download --repo-type dataset {DALLE3} '{name}' --revision {commit} --force-download"
    blob, whole = hub.blob(DALLE3, name, "damaged"), (home.parent / "damaged.tar").read_bytes()
    got, said = (hashlib.sha256(data).hexdigest() for data in (blob.read_bytes(), whole))
    blob.write_bytes(whole)
    text = f"{name}: its sha256 is {got}, upstream says {said}; fetch it again with: {command}"
    assert outcomes["a damaged file"] == {"error": "BadFile", "text": text, "exit_code": 3}
    (again,) = read(hub.url, home, OTHERS["a damaged file"])
    assert again == outcomes["a damaged file"], "the download is still there"
    done = run(shlex.split(command), hub.url, home)
    assert done.returncode == 0, done.stderr
    (after,) = read(hub.url, home, OTHERS["a damaged file"])
    assert [row["id"] for row in after["rows"]][-1] == "dalle3/nine"


def test_nobody_answers(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    loads = ({"source": "dalle3"}, {"source": "dalle3", "streaming": True})
    refused = (
        f"dalle3: {DALLE3} cannot be read from the Hub ([Errno {errno.ECONNREFUSED}] Connection refused): check the "
        "network, and HF_ENDPOINT if it is set"
    )
    offline = (
        f"dalle3: {DALLE3} is not asked for while HF_HUB_OFFLINE is set: unset it, or give the folder that holds it"
    )
    for text, settings in ((refused, {}), (offline, {"HF_HUB_OFFLINE": "1"})):
        outcome = {"error": "SourceMissing", "text": text, "exit_code": 3}
        assert read(url, tmp_path / "home", *loads, **settings) == [outcome, outcome]


def test_a_token_opens_and_never_shows(hub: Hub, tmp_path: Path) -> None:
    dalle3.clean(tmp_path / "source")
    commit = hub.commit(DALLE3, content(tmp_path / "source"))
    hub.store.add_token(SECRET, Token("ProGamerGov", "read"))
    hub.store.change(DALLE3, private=True)
    shutil.rmtree(tmp_path / "source")
    home = tmp_path / "home"
    anonymous, streamed, prepared, pieces, two, blank = read(
        hub.url,
        home,
        {"source": "dalle3", "streaming": True},
        {"source": "dalle3", "token": SECRET, "streaming": True},
        {"source": "dalle3", "token": f" {SECRET}\n"},
        {"source": "dalle3", "token": SECRET, "pieces": True, "cache_dir": str(tmp_path / "pieces")},
        {"source": "dalle3", "token": SECRET, "num_proc": 2, "cache_dir": str(tmp_path / "two")},
        {"source": "dalle3", "token": " "},
    )
    assert anonymous["error"] == blank["error"] == "SourceMissing"
    for found in (streamed, prepared, pieces, two):
        assert {row["source_revision"] for row in found["rows"]} == {commit}
        assert len(found["rows"]) == 8
    hub.faults = [Fault("/resolve/", 403), Fault("revision/down", 500)]
    failed = [
        {"source": "dalle3", "token": SECRET, "cache_dir": str(tmp_path / "again"), **options}
        for options in ({"streaming": True}, {"revision": "nope"}, {"revision": "down"})
    ]
    assert [outcome["error"] for outcome in read(hub.url, home, *failed)] == ["SourceMissing"] * 3
    assert hub.tokens == {SECRET}
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert (home / "printed") in written
    assert [path for path in written if SECRET in str(path) or SECRET.encode() in path.read_bytes()] == []


if __name__ == "__main__":
    for load in json.loads(sys.argv[1]):
        print(json.dumps(reading(load), default=str), flush=True)
