"""What a stream refuses, and what it does not believe: arguments, states, paths, tars, indexes, caches, servers."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import pytest
import uvicorn
from fixtures import streamed
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import hfds
from hfds.errors import BadFile, ConfigError, OutOfSpace
from hfds.streaming.decoding import Decode
from hfds.withdrawn import Tombstone, write_withdrawn

ROWS = 53


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return streamed.toys(tmp_path_factory.mktemp("toys") / "wds/v1", ROWS)


@pytest.fixture
def copy(toys: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toys, tmp_path / "home/wds/v1"))


@pytest.fixture
def far(toys: Path) -> Iterator[str]:
    """The toys elsewhere."""
    memory = fsspec.filesystem("memory")
    memory.put(str(toys), "/far/wds/v1", recursive=True)
    yield "memory://far/wds/v1"
    memory.rm("/far", recursive=True)


def opened(place: Any, **options: Any) -> Any:
    return hfds.stream(place, "train", **{"seed": 3, "size": 16, **options})


def ids(batches: Any) -> list[str]:
    return [id_ for batch in batches for id_ in batch["id"]]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "size of nothing": ({"size": 0}, "size is a number of pixels"),
    "size as text": ({"size": "512"}, "size is a number of pixels"),
    "half a pair": ({"size": (5,)}, "size is a number of pixels"),
    "seed as text": ({"seed": "x"}, "seed must be a whole number, got 'x'"),
    "no seed": ({"seed": None}, "seed must be a whole number"),
    "one id": ({"without": "toy/3"}, "without must be ids of rows, got toy/3"),
    "numbers as ids": ({"without": {3}}, "without must be ids"),
    "no ids": ({"without": None}, "without must be ids"),
    "a list of places": ({"place": ["a", "b"]}, "a place is a path or URL"),
    "an endless weight": ({"place": {"a": float("inf")}}, "weights must be numbers above 0"),
    "no such protocol": ({"place": "foo://x"}, "foo://x cannot be opened: Protocol not known: foo"),
}


@pytest.mark.parametrize("case", BAD)
def test_arguments_that_cannot_be(toys: Path, case: str) -> None:
    options, said = BAD[case]
    with pytest.raises(ConfigError, match=said):
        opened(options.get("place", toys), **{name: value for name, value in options.items() if name != "place"})


@pytest.mark.parametrize(
    "options",
    [{"batch_size": "8"}, {"batch_size": 2.5}, {"collate_fn": list}, {"buckets": [5]}, {"buckets": [(4, 0)]}],
    ids=str,
)
def test_loaders_that_cannot_be(toys: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        opened(toys).loader(**{"batch_size": 4, **options})


def test_a_seed_of_numpy_is_a_number(toys: Path) -> None:
    import numpy as np

    opened(toys, seed=3).load_state_dict(opened(toys, seed=np.int64(3)).state_dict())


def test_ids_may_come_from_a_generator(toys: Path) -> None:
    stream = opened(toys, without=(f"toy/{n}" for n in range(3)))
    assert len(stream) == ROWS - 3
    assert stream.order == opened(toys, without={"toy/0", "toy/1", "toy/2"}).order


ACCELERATED = """
import json, sys
import hfds
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch.utils.data import DataLoader
place, state = sys.argv[1], json.loads(sys.argv[2])
stream = hfds.stream(place, "train", seed=3, size=16, run=8)
config = DataLoaderConfiguration(dispatch_batches=False)
said = []
for epoch in (None, 1):
    stream.load_state_dict(state)
    loader = Accelerator(cpu=True, dataloader_config=config).prepare(DataLoader(stream, batch_size=8))
    if epoch is not None:
        loader.set_epoch(epoch)
    try:
        said.append([id_ for batch in loader for id_ in batch["id"]])
    except hfds.HfdsError as error:
        said.append(str(error))
print(json.dumps(said))
"""


def test_accelerate_does_not_begin_an_earlier_epoch_unheard(toys: Path) -> None:
    """Its loaders count epochs from 0 and say so to the dataset."""
    own = opened(toys).loader(8)
    state = {**own.state_dict(), "epoch": 1, "at": 40}
    command = [sys.executable, "-c", ACCELERATED, str(toys), json.dumps(state)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    refused, order = json.loads(done.stdout.splitlines()[-1])
    assert "of epoch 1, and epoch 0 was asked for" in refused
    assert "call set_epoch(1)" in refused
    own.load_state_dict(state)
    assert order == ids(own)
    with pytest.raises(ConfigError, match="from 0 on, got -1"):
        opened(toys).set_epoch(-1)


def test_an_export_with_other_captions_is_another_order(copy: Path) -> None:
    state = opened(copy).state_dict()
    said = json.loads((copy / "manifest.json").read_text())
    for change in (
        {"caption": "long"},
        {"splits": {"train": {**said["splits"]["train"], "left_out": {"no_caption": 1}}}},
    ):
        (copy / "manifest.json").write_text(json.dumps({**said, **change}))
        with pytest.raises(ConfigError, match="of another release or split"):
            opened(copy).load_state_dict(state)


def test_what_was_withdrawn_is_found_however_the_path_is_written(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_withdrawn([Tombstone("toy/3", "asked to", "id", "v2")], copy.parents[1])
    (tmp_path / "link").symlink_to(copy)
    monkeypatch.chdir(copy.parent)
    for place in (copy, "v1", "./v1", f"{copy}/.", f"{copy.parent}//v1", tmp_path / "link", f"{copy.parents[1]}@v1"):
        assert len(opened(place)) == ROWS - 1, place
    monkeypatch.chdir(copy)
    assert len(opened(".")) == ROWS - 1


@pytest.mark.parametrize("columns", [["id", "image"], ["id", "image", "text"]])
@pytest.mark.parametrize("place", ["here", "far"])
def test_tars_that_changed_places_are_found_out(toys: Path, copy: Path, place: str, columns: list[str]) -> None:
    first, second = copy / "train-00000.tar", copy / "train-00001.tar"
    first.rename(copy / "aside")
    second.rename(first)
    (copy / "aside").rename(second)
    at: Any = copy
    if place == "far":
        fsspec.filesystem("memory").put(str(copy), "/swapped/wds/v1", recursive=True)
        at = "memory://swapped/wds/v1"
    loader = opened(at, columns=columns, on_error="skip", decode=None).loader(4)
    assert len(ids(loader)) == ROWS - 36
    assert loader.account()["skipped"] == {"index_mismatch": 36}
    with pytest.raises(BadFile, match=r"train-0000[01]\.tar: sample .* \(index_mismatch"):
        ids(opened(at, columns=columns, decode=None).loader(4))


@pytest.mark.parametrize("damage", ["missing", "cut", "another"])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_index_that_is_damaged(copy: Path, damage: str, workers: int) -> None:
    index = copy / "train-00001.arrow"
    if damage == "missing":
        index.unlink()
    elif damage == "cut":
        index.write_bytes(index.read_bytes()[:100])
    else:
        shutil.copy(copy / "train-00000.arrow", index)
    loader = opened(copy, on_error="skip").loader(4, num_workers=workers)
    assert len(ids(loader)) == ROWS - 18
    account = loader.account()
    assert account["skipped"] == {"missing_index" if damage == "missing" else "unreadable_index": 18}
    assert account["handed_out"] + sum(account["skipped"].values()) == ROWS
    with pytest.raises(hfds.HfdsError, match=r"train-00001\.(arrow|tar)"):
        ids(opened(copy).loader(4, num_workers=workers))
    chosen = opened(copy, on_error="skip", where="aesthetic >= 0")
    assert chosen.left_out == {"index_lost": 18}
    assert len([*chosen]) == ROWS - 18


def test_the_caption_is_the_caption_whatever_the_index_calls_its_columns() -> None:
    decode = Decode(("text", "json", "image", "mask", "score"), ("text", "json", "mask", "score"), None, None, None)
    assert decode.indexed == ("score",)


def test_a_mixture_of_which_one_index_lacks_a_column(toys: Path, tmp_path: Path) -> None:
    rows = [streamed.sample(number, name="other") for number in range(20)]
    other = streamed.write(tmp_path / "v2", rows, shards=1)
    said = json.loads((other / "manifest.json").read_text())
    bare = streamed.bare(other, {**said, "index": []})
    found = {sample["id"]: sample["aesthetic"] for sample in opened({toys: 1, bare: 1}, columns=["id", "aesthetic"])}
    assert found["toy/1"] == found.get("other/1", 0.5) == 0.5


def test_a_transform_is_given_the_bucket(toys: Path) -> None:
    loader = opened(toys, transform=lambda image: image.size, size=None).loader(4, buckets=[(16, 8), (8, 16)])
    assert {size for batch in loader for size in batch["image"]} == {(16, 8)}


# The cache


def test_a_cache_holds_no_more_than_it_may(toys: Path, far: str, tmp_path: Path) -> None:
    size = max(path.stat().st_size for path in toys.glob("*.tar"))
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / f"{'0' * 64}.part").write_bytes(bytes(size))  # of a fetch that was killed
    seen = set()
    for sample in opened(far, cache=cache, cache_bytes=2 * size):
        seen.add(sample["id"])
        assert sum(path.stat().st_size for path in cache.iterdir()) <= 2 * size
    assert len(seen) == ROWS
    held = []
    for number in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # of this listing itself
            held.append(str(number.readlink()))
    assert [path for path in held if path.startswith(str(cache))] == [], "what is held open takes room"


def test_a_cached_shard_that_is_cut_is_fetched_again(far: str, tmp_path: Path) -> None:
    order = [sample["id"] for sample in opened(far, cache=tmp_path / "cache")]
    for path in (tmp_path / "cache").glob("*.tar"):
        os.truncate(path, 1000)
    assert [sample["id"] for sample in opened(far, cache=tmp_path / "cache")] == order


def test_a_full_disk_below_the_cache_loses_no_row(toys: Path, far: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    for shard in json.loads((toys / "manifest.json").read_text())["splits"]["train"]["shards"]:
        (cache / f"{shard['sha256']}.part").symlink_to("/dev/full")
    with pytest.raises(OutOfSpace, match=r"the disk is full.*choose another cache"):
        [*opened(far, cache=cache, on_error="skip")]


# A server that does not know ranges


@pytest.fixture
def plain(toys: Path) -> Iterator[str]:
    async def answer(request: Request) -> Response:
        file = toys / request.path_params["name"]
        return Response(file.read_bytes()) if file.is_file() else Response(status_code=404)

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        app = Starlette(routes=[Route("/{name}", answer, methods=["GET", "HEAD"])])
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def test_a_server_without_ranges_is_said(plain: str) -> None:
    with pytest.raises(BadFile, match="gives the whole file where a part is asked for"):
        next(iter(opened(plain)))
