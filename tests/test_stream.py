"""The stream: the same order for any ranks and workers, resumed at any step; and what is damaged."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
import torch
import uvicorn
from fixtures import gallery, streamed
from hub import Fault, Hub
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from torch.utils.data import DataLoader, IterableDataset

import hfds
from hfds.errors import BadFile, ConfigError, SourceError, SourceMissing
from hfds.streaming.cache import Cache
from hfds.tars import export
from hfds.withdrawn import Tombstone, text_of, write_withdrawn

ROWS = 53
BUCKETS = [(32, 32), (48, 24), (24, 48)]


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return streamed.toys(tmp_path_factory.mktemp("toys") / "v1", ROWS)


def ids(batches: Any) -> list[str]:
    return [id_ for batch in batches for id_ in batch["id"]]


def opened(place: Any, **options: Any) -> Any:
    return hfds.stream(place, "train", **{"seed": 3, "size": 16, **options})


# What it hands out


def test_a_sample(toys: Path) -> None:
    found = {sample["id"]: sample for sample in opened(toys)}
    assert len(found) == ROWS
    assert isinstance(opened(toys), IterableDataset)
    for number in (0, 3):  # a JPEG and a PNG
        sample = found[f"toy/{number}"]
        assert list(sample) == ["id", "image", "text"]
        assert sample["text"] == f"Toy {number}"
        assert sample["image"].shape == (3, 16, 16)
        assert sample["image"].dtype == torch.uint8
        assert abs(int(sample["image"][0].float().mean()) - number) <= 2


def test_columns_come_from_the_index_and_the_json(toys: Path) -> None:
    columns = ["width", "aesthetic", "prompt", "json", "jpg"]
    sample = next(iter(opened(toys, columns=columns, where="aesthetic == 1.0", shuffle=None)))
    assert (sample["width"], sample["aesthetic"], sample["prompt"]) == (32, 1.0, "Toy 2")
    assert sample["json"]["id"] == "toy/2"
    assert sample["jpg"][:2] == b"\xff\xd8"
    assert next(iter(opened(toys, columns=["negative_prompt"]))) == {"negative_prompt": None}, "the JSON has no nulls"


def test_only_the_picture_is_read_where_no_more_is_asked_for(toys: Path, tmp_path: Path) -> None:
    copy = tmp_path / "v1"
    copy.mkdir()
    for path in toys.iterdir():
        data = path.read_bytes()
        if path.suffix == ".tar":
            data = data.replace(b'{"id": "toy/7"', b"wrong " * 2 + b"no")
        copy.joinpath(path.name).write_bytes(data)
    columns = ["id", "image", "aesthetic"]
    assert len([*opened(copy, columns=columns)]) == ROWS
    with pytest.raises(BadFile, match="no JSON"):
        [*opened(copy)]


def test_sizes_and_ways_to_decode(tmp_path: Path) -> None:
    place = streamed.toys(tmp_path / "v1", 8, size=(640, 320))

    def images(**options: Any) -> list[Any]:
        return [sample["image"] for sample in opened(place, shuffle=None, **options)]

    assert {tuple(image.shape) for image in images(size=100)} == {(3, 100, 100)}
    assert {tuple(image.shape) for image in images(size=(90, 30))} == {(3, 30, 90)}
    assert {tuple(image.shape) for image in images(size=None)} == {(3, 320, 640)}
    assert {image.size for image in images(size=40, transform=lambda image: image)} == {(80, 40)}, "an eighth"
    assert {image.size for image in images(size=40, decode="exact", transform=lambda image: image)} == {(640, 320)}
    kinds = [image[:4] for image in images(decode=None)]
    assert kinds[3] == b"\x89PNG"
    assert images(decode=None, transform=len) == [*map(len, images(decode=None))]
    first = PIL.Image.new("RGB", (640, 320), (0, 0, 40))
    assert (
        abs(images(decode="exact", size=None)[0].numpy().astype(int) - np.asarray(first).transpose(2, 0, 1)).max() <= 2
    )


def test_what_cannot_be(toys: Path) -> None:
    for options, words in (
        ({"shuffle": "some"}, "shuffle must be one of 'full', 'blocks', None, got 'some'"),
        ({"columns": "image"}, "columns must be a list of names"),
        ({"where": "aestetic > 1"}, "no 'aestetic' in its index; did you mean 'aesthetic'"),
        ({"where": "aesthetic > 9"}, "no row in 'train' to stream where aesthetic > 9"),
        ({"run": 0}, "at least 1"),
    ):
        with pytest.raises(ConfigError, match=words):
            opened(toys, **options)
    with pytest.raises(ConfigError, match=r"no split 'val'; it is one of: train"):
        hfds.stream(toys, "val")
    with pytest.raises(ConfigError, match="weights must be numbers above 0"):
        opened({toys: 0})
    with pytest.raises(SourceMissing, match="is not there"):
        opened(toys / "nowhere")
    for options, words in (({"batch_size": 0}, "at least 1"), ({"rank": 2, "ranks": 2}, "below ranks")):
        with pytest.raises(ConfigError, match=words):
            opened(toys).loader(**{"batch_size": 4, **options})


def test_a_dataset_folder_and_a_release(toys: Path, tmp_path: Path) -> None:
    (tmp_path / "toys/wds").mkdir(parents=True)
    (tmp_path / "toys/wds/v1").symlink_to(toys)
    assert [s["id"] for s in opened(f"{tmp_path}/toys@v1")] == [s["id"] for s in opened(toys)]


def test_a_release_that_was_exported(tmp_path: Path) -> None:
    built = gallery.made(tmp_path, [gallery.row(number) for number in range(40)])
    export("gallery", "v1", out=tmp_path / "dist", caption="short", index=["license"], max_shard=30_000)
    parts = [pq.read_table(built.folder / shard["path"]) for shard in built.lock["splits"]["train"]["shards"]]
    rows = {row["id"]: row for part in parts for row in part.to_pylist()}
    columns = ["id", "text", "width", "license", "source_scores", "image"]
    loader = opened(f"{tmp_path}/dist/gallery@v1", columns=columns, where="license == 'CC0-1.0'").loader(4)
    samples = [
        dict(zip(batch, values, strict=True)) for batch in loader for values in zip(*batch.values(), strict=True)
    ]
    assert {sample["id"] for sample in samples} == rows.keys()
    for sample in samples:
        row = rows[sample["id"]]
        number = int(sample["id"].removeprefix("gallery/r."))
        assert sample["text"] == (f"painting {number}" if number % 2 else row["prompt"])
        assert sample["width"] == row["width"]
        assert sample["license"] == "CC0-1.0"
        assert (sample["source_scores"] or {}).get("aesthetic") == (row["source_scores"] or {}).get("aesthetic")


def test_importing_it_does_not_load_torch() -> None:
    code = "import sys, hfds; hfds.stream; assert callable(hfds.stream); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# Order, ranks and workers


@pytest.mark.parametrize("shuffle", ["full", "blocks", None])
def test_workers_do_not_change_the_order(toys: Path, shuffle: str | None) -> None:
    stream = opened(toys, shuffle=shuffle)
    order = [sample["id"] for sample in stream]
    assert sorted(order) == sorted(f"toy/{n}" for n in range(ROWS))
    assert (order == [f"toy/{n}" for n in range(ROWS)]) == (shuffle is None)
    for workers in (0, 1, 2):
        loader = stream.loader(4, num_workers=workers)
        batches = [*loader]
        assert ids(batches) == order
        assert [len(batch["id"]) for batch in batches] == [4] * 13 + [1]
        assert len(loader) == 14
        second = ids(loader)
        assert sorted(second) == sorted(order)
        assert (second == order) == (shuffle is None), "the next epoch"


def test_a_plain_loader(toys: Path) -> None:
    order = [sample["id"] for sample in opened(toys)]
    assert ids(DataLoader(opened(toys), batch_size=4)) == order
    assert sorted(ids(DataLoader(opened(toys), batch_size=4, num_workers=2))) == sorted(order)
    assert ids(DataLoader(opened(toys, run=4), batch_size=4, num_workers=2)) == order
    stream = opened(toys, run=4)
    loader = DataLoader(stream, batch_size=4, num_workers=2, persistent_workers=True)
    assert ids(loader) == order
    stream.set_epoch(1)
    second = ids(loader)
    assert sorted(second) == sorted(order)
    assert second != order, "workers that persist are told the epoch"
    stream.load_state_dict({**stream.state_dict(12), "epoch": 0})
    assert ids(loader) == order[12:]
    del loader


def test_a_loader_begins_where_its_stream_is(toys: Path) -> None:
    order = [sample["id"] for sample in opened(toys)]
    stream = opened(toys)
    stream.load_state_dict(stream.state_dict(20))
    assert [sample["id"] for sample in stream] == order[20:]
    assert ids(stream.loader(4)) == order[20:]
    assert len(ids(stream.loader(4, buckets=BUCKETS))) == ROWS, "which has batches of its own to count"


@pytest.mark.slow
def test_workers_that_are_spawned(toys: Path) -> None:
    order = [sample["id"] for sample in opened(toys)]
    stream = opened(toys, where="width > 0")
    assert ids(stream.loader(4, num_workers=2, multiprocessing_context="spawn")) == order


@pytest.mark.parametrize("remainder, last", [("keep", [3, 2]), ("drop", []), ("repeat", [4, 4])])
def test_ranks_share_an_epoch(toys: Path, remainder: str, last: list[int]) -> None:
    order = [sample["id"] for sample in opened(toys)]  # 53: six steps of two ranks by four, and five are left
    loaders = [opened(toys).loader(4, rank=rank, ranks=2, remainder=remainder) for rank in range(2)]
    parts = [[*loader] for loader in loaders]
    steps = [[b["id"] for b in (part[n : n + 1] or [{"id": []}])] for n in range(7) for part in parts]
    taken = [id_ for step in steps for batch in step for id_ in batch]
    assert [len(part[6]["id"]) for part in parts if len(part) > 6] == last
    assert taken == {"keep": order, "drop": order[:48], "repeat": order + order[:3]}[remainder]
    accounts = [loader.account() for loader in loaders]
    handed, repeated = (sum(one[name] for one in accounts) for name in ("handed_out", "repeated"))
    assert handed - repeated + accounts[0]["dropped"] == ROWS


def test_going_on_with_other_ranks_and_workers(toys: Path) -> None:
    order = [sample["id"] for sample in opened(toys)]
    for steps in (0, 1, 3, 6):
        loaders = [opened(toys).loader(4, rank=rank, ranks=2, num_workers=rank) for rank in range(2)]
        before: list[list[str]] = []
        running = [iter(loader) for loader in loaders]
        for _ in range(steps):
            before += [next(one)["id"] for one in running]
        states = [loader.state_dict() for loader in loaders]
        del running
        assert states[0] == states[1]
        assert len(json.dumps(states[0])) < 200
        for ranks, batch in ((1, 4), (3, 5), (2, 1)):
            again = [opened(toys).loader(batch, rank=rank, ranks=ranks) for rank in range(ranks)]
            for loader in again:
                loader.load_state_dict(json.loads(json.dumps(states[0])))
            parts = [[*loader] for loader in again]
            longest = max(map(len, parts))
            after = [part[n]["id"] for n in range(longest) for part in parts if n < len(part)]
            assert [*chain(*before, *after)] == order


def test_a_loop_that_is_left_goes_on(toys: Path) -> None:
    order = [sample["id"] for sample in opened(toys)]
    loader = opened(toys).loader(4, num_workers=2)
    first = next(iter(loader))["id"]
    assert loader.state_dict()["at"] == 4
    assert first + ids(loader) == order
    assert loader.state_dict() | {"at": 0, "epoch": 1} == loader.state_dict()


def test_states_of_something_else_are_refused(toys: Path, tmp_path: Path) -> None:
    state = opened(toys).loader(4).state_dict()
    other = streamed.toys(tmp_path / "v2", 60)
    for place, options, words in (
        (other, {}, "of another release or split"),
        (toys, {"seed": 4}, "of another order"),
        (toys, {"shuffle": "blocks"}, "of another order"),
        (toys, {"where": "width > 0"}, "of another order"),
    ):
        with pytest.raises(ConfigError, match=words):
            opened(place, **options).loader(4).load_state_dict(state)
    for wrong, words in (
        ({"at": 54}, "no epoch and position"),
        ({"epoch": "0"}, "no epoch"),
        ({"x": 1}, "has release"),
    ):
        with pytest.raises(ConfigError, match=words):
            opened(toys).load_state_dict({**state, **wrong})
    opened(toys).load_state_dict(state)


def test_the_first_sample_of_ten_million(tmp_path: Path) -> None:
    place = streamed.bare_index(tmp_path / "v1", 10_000_000, 50_000)
    start = time.perf_counter()
    stream = opened(place, on_error="skip")
    loader = stream.loader(8)
    loader.load_state_dict({**loader.state_dict(), "at": 5_000_000})
    share = loader._share(loader.at)
    some = stream.course.at(share.positions(0), 0)
    piece = stream._piece(some.places, some.rows)
    assert len({spot.shard.path for _, spot in piece}) > 1
    assert time.perf_counter() - start < 5, "far above what it takes, for a machine that is busy"


# Choosing rows


def test_a_rule_keeps_rows_by_the_index(toys: Path) -> None:
    stream = opened(toys, where="aesthetic >= 4 and width > 10", without={"toy/8", "toy/1"})
    order = [sample["id"] for sample in stream]
    assert sorted(order) == sorted(f"toy/{n}" for n in range(ROWS) if n % 10 >= 8 and n != 8)
    loader = stream.loader(2)
    batches = iter(loader)
    first = next(batches)["id"]
    again = opened(toys, where="aesthetic >= 4 and width > 10", without=["toy/1", "toy/8"]).loader(3)
    again.load_state_dict(loader.state_dict())
    assert first + ids(again) == order
    assert again.account()["left_out"] == {"where": 43, "without": 1}


def test_rows_that_were_withdrawn_are_in_no_epoch(tmp_path: Path) -> None:
    gallery.made(tmp_path, [gallery.row(n) for n in range(30)])
    home = tmp_path / "dist/gallery"
    place = export("gallery", "v1", out=tmp_path / "dist").folder
    whole = ids(opened(place).loader(4))
    before = opened(place).loader(4).state_dict()
    write_withdrawn([Tombstone(id_, "asked to", "id", "v2") for id_ in (*whole[2:5], "of/another")], home)
    loader = opened(f"{home}@v1").loader(4)
    order = ids(loader)
    assert sorted(order) == sorted({*whole} - {*whole[2:5]})
    assert loader.account()["left_out"] == {"withdrawn": 3}
    assert sorted(ids(opened(place, without=whole[4:6]).loader(4))) == sorted({*whole} - {*whole[2:6]})
    with pytest.raises(ConfigError, match="rows were withdrawn since"):
        loader.load_state_dict(before)
    state = opened(place).loader(4).state_dict()
    assert export("gallery", "v1", out=tmp_path / "dist").instead
    again = opened(place).loader(4)
    again.load_state_dict(state)
    assert ids(again) == order, "the tars that are made anew go on where the old ones were left"
    assert again.account()["left_out"] == {}


def test_a_mixture(toys: Path, tmp_path: Path) -> None:
    other = streamed.toys(tmp_path / "v2", 400, name="other")
    mixed = opened({toys: 1, other: 3})
    order = [sample["id"] for sample in mixed]
    own = sum(id_.startswith("toy/") for id_ in order)
    assert len(order) == len(set(order)) == len(mixed)
    assert own == ROWS, "until the first of them has no more"
    assert 0.2 < own / len(order) < 0.3
    everything = [sample["id"] for sample in opened({toys: 1, other: 3}, until="all")]
    assert len(set(everything)) == ROWS + 400
    for workers in (0, 2):
        loader = opened({toys: 1, other: 3}).loader(8, num_workers=workers)
        loader.load_state_dict({**loader.state_dict(), "at": 40})
        assert ids(loader) == order[40:]
    with pytest.raises(ConfigError, match="of another order"):
        opened({toys: 1, other: 2}).loader(8).load_state_dict(loader.state_dict())


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 90 pictures half are square, a third wide, a sixth tall."""
    sizes = [(64, 64), (64, 60), (60, 64), (100, 50), (90, 50), (50, 100)]
    made = [streamed.sample(n, sizes[n % 6]) for n in range(90)]
    return streamed.write(tmp_path_factory.mktemp("shapes") / "v1", made)


@pytest.mark.parametrize("remainder, count", [("keep", 90), ("drop", 84), ("repeat", 96)])
def test_buckets(shapes: Path, remainder: str, count: int) -> None:
    batches = [*opened(shapes).loader(4, buckets=BUCKETS, remainder=remainder, num_workers=2)]
    numbers = [int(id_.removeprefix("toy/")) for id_ in ids(batches)]
    assert len(numbers) == count
    assert len(set(numbers)) == min(count, 90)
    kinds = {(32, 32): {0, 1, 2}, (24, 48): {3, 4}, (48, 24): {5}}
    for batch in batches:
        assert {int(id_.removeprefix("toy/")) % 6 for id_ in batch["id"]} <= kinds[tuple(batch["image"].shape[2:])]
    shown = [tuple(batch["image"].shape[2:]) for batch in batches]
    assert shown != sorted(shown), "batches of all buckets are mixed"
    loader = opened(shapes).loader(4, buckets=BUCKETS, remainder=remainder, rank=1, ranks=2)
    running = iter(loader)
    first = [next(running)["id"] for _ in range(3)]
    assert first == [batch["id"] for batch in batches[1:6:2]]
    again = opened(shapes).loader(4, buckets=BUCKETS, remainder=remainder)
    again.load_state_dict(loader.state_dict())
    assert ids(again) == ids(batches[6:])
    whole = opened(shapes).loader(4, buckets=BUCKETS, remainder=remainder)
    ids(whole)
    for account in (whole.account(), again.account()):
        assert account["before"] + account["handed_out"] - account["repeated"] + account["dropped"] == 90
    assert again.account()["before"] > 0
    with pytest.raises(ConfigError, match="of another order"):
        opened(shapes).loader(5, buckets=BUCKETS, remainder=remainder).load_state_dict(loader.state_dict())


def test_buckets_of_a_mixture(shapes: Path, tmp_path: Path) -> None:
    other = streamed.write(tmp_path / "v2", [streamed.sample(n, (50, 100), "other") for n in range(400)])
    mixed = opened({shapes: 1, other: 3})
    whole = mixed.loader(4, buckets=BUCKETS)
    for epoch in (0, 1):
        assert sorted(ids(whole)) == sorted(sample["id"] for sample in mixed)
        assert whole.account()["handed_out"] == len(mixed)
        mixed.set_epoch(epoch + 1)
    batches = [*opened({shapes: 1, other: 3}).loader(4, buckets=BUCKETS, num_workers=2)]
    together = [{id_.partition("/")[0] for id_ in batch["id"]} for batch in batches]
    assert {"toy", "other"} in together, "a bucket has pictures of both"
    assert {"toy"} in together
    loader = opened({shapes: 1, other: 3}).loader(4, buckets=BUCKETS)
    loader.load_state_dict({**loader.state_dict(), "at": 20})
    assert ids(loader) == ids(batches[20:])
    account = loader.account()
    assert account["before"] + account["handed_out"] == len(loader.stream)


def test_pictures_of_no_known_size_are_in_no_bucket(tmp_path: Path) -> None:
    made = [streamed.sample(number) for number in range(8)]
    made[3][1]["width"] = None
    place = streamed.write(tmp_path / "v1", made)
    with pytest.raises(ConfigError, match="add where='width > 0'"):
        opened(place).loader(2, buckets=BUCKETS)
    assert len(ids(opened(place, where="width > 0").loader(2, buckets=BUCKETS))) == 7


# What is damaged


def damaged(toys: Path, folder: Path) -> Path:
    """A copy in which the first tar is gone, a sample of the second is overwritten and the third is cut."""
    folder.mkdir()
    for path in toys.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "train-00000.tar").unlink()
    with open(folder / "train-00001.tar", "r+b") as file:
        file.write(b"x" * 512)
        file.seek(8192)
        file.seek(file.read().index(b"\xff\xd8") + 8192 + 100)
        file.write(bytes(200))
    os.truncate(folder / "train-00002.tar", (folder / "train-00002.tar").stat().st_size - 20_000)
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_damaged_is_named_and_counted(toys: Path, tmp_path: Path, workers: int) -> None:
    place = damaged(toys, tmp_path / "bad")
    with pytest.raises(BadFile, match=r"train-0000\d.tar: sample 'toy/\d+' cannot be handed out \(.*on_error='skip'"):
        ids(opened(place).loader(4, num_workers=workers))
    loader = opened(place, on_error="skip").loader(4, num_workers=workers)
    handed = ids(loader)
    account = loader.account()
    skipped = account["skipped"]
    assert skipped["missing_shard"] == 18
    assert skipped["index_mismatch"] == 1
    assert skipped["truncated_shard"] >= 4
    assert skipped["not_an_image"] == 1
    assert len(skipped) == 4
    assert account["handed_out"] == len(handed)
    assert len(handed) + sum(skipped.values()) == ROWS
    order = [sample["id"] for sample in opened(toys)]
    assert handed == [id_ for id_ in order if id_ in handed], "the others stay where they were"
    batches = iter(loader := opened(place, on_error="skip").loader(4, num_workers=workers))
    for _ in range(4):
        next(batches)
    again = opened(place, on_error="skip").loader(4)
    again.load_state_dict(loader.state_dict())
    assert [id_ for id_ in order[loader.at :] if id_ in handed] == ids(again)


def test_ranks_do_not_part_over_a_batch_of_which_nothing_is_left(toys: Path, tmp_path: Path) -> None:
    place = damaged(toys, tmp_path / "bad")
    with pytest.raises(BadFile, match="no sample of a whole batch can be read, and ranks must take equal steps"):
        ids(opened(place, on_error="skip").loader(1, rank=0, ranks=2))


class Slow:
    """A transform that takes its time."""

    def __call__(self, image: PIL.Image.Image) -> int:
        time.sleep(0.05)
        return image.width


def test_a_worker_that_is_killed(toys: Path) -> None:
    order = [sample["id"] for sample in opened(toys)]
    loader = opened(toys, transform=Slow()).loader(4, num_workers=2)
    handed: list[str] = []

    def train() -> None:
        for number, batch in enumerate(loader):
            handed.extend(batch["id"])
            if number == 2:
                for worker in multiprocessing.active_children():
                    os.kill(worker.pid or 0, signal.SIGKILL)

    with pytest.raises(RuntimeError, match=r"DataLoader worker .* (killed|exited)"):
        train()
    assert len(handed) < ROWS
    again = opened(toys).loader(4, num_workers=1)
    again.load_state_dict(loader.state_dict())
    assert handed + ids(again) == order


# Remote places


@pytest.fixture
def remote(toys: Path) -> Iterator[str]:
    fs = fsspec.filesystem("memory")
    fs.put(str(toys), "/toys/wds/v1", recursive=True)
    yield "memory://toys/wds/v1"
    fs.rm("/toys", recursive=True)


@pytest.mark.parametrize("shuffle", ["full", "blocks"])
def test_a_remote_place(toys: Path, remote: str, shuffle: str) -> None:
    order = [sample["id"] for sample in opened(toys, shuffle=shuffle)]
    assert [sample["id"] for sample in opened(remote, shuffle=shuffle)] == order
    assert ids(opened(remote, shuffle=shuffle, ahead=7).loader(4, num_workers=2)) == order


def test_shards_are_kept_in_a_folder_of_a_size(toys: Path, remote: str, tmp_path: Path) -> None:
    order = [sample["id"] for sample in opened(toys)]
    tars = sorted(toys.glob("*.tar"))
    sizes = [path.stat().st_size for path in tars]
    cache = tmp_path / "cache"
    assert ids(opened(remote, cache=cache, cache_bytes=10**9).loader(4, num_workers=2)) == order
    kept = sorted(path.read_bytes() for path in cache.glob("*.tar"))
    assert kept == sorted(path.read_bytes() for path in tars)
    fsspec.filesystem("memory").rm("/toys/wds/v1/train-00001.tar")
    assert ids(opened(remote, cache=cache).loader(4)) == order, "nothing is fetched again"
    stream = opened(remote, cache=tmp_path / "small", cache_bytes=sizes[0] + 10, on_error="skip", shuffle=None)
    ids(stream.loader(4))
    assert [path.stat().st_size for path in (tmp_path / "small").glob("*.tar")] == [sizes[2]]


def test_a_shard_that_is_not_what_the_manifest_says_is_not_kept(remote: str, tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    data = fs.cat("/toys/wds/v1/train-00001.tar")
    fs.pipe("/toys/wds/v1/train-00001.tar", data[:-10] + b"0123456789")
    loader = opened(remote, cache=tmp_path, on_error="skip").loader(4)
    ids(loader)
    assert loader.account()["skipped"] == {"unreadable_shard": 18}
    assert len([*tmp_path.glob("*.tar")]) == 2
    assert not [*tmp_path.glob("*.part")]


def test_room_is_made_by_what_was_not_used_for_longest(tmp_path: Path) -> None:
    for age, name in enumerate("abc"):
        path = tmp_path / f"{name}.tar"
        path.write_bytes(bytes(100))
        os.utime(path, (1000 - age, 1000 - age))
    Cache(tmp_path, 250)._make_room(100)
    assert sorted(path.stem for path in tmp_path.glob("*.tar")) == ["a"]


READ = """
import json, logging, sys
import hfds
from hfds.errors import HfdsError
place, options = sys.argv[1], json.loads(sys.argv[2])
try:
    workers = options.pop("workers", 0)
    loader = hfds.stream(place, "train", seed=3, size=16, **options).loader(4, num_workers=workers)
    print(json.dumps({"ids": [id_ for batch in loader for id_ in batch["id"]], "account": loader.account()}))
except HfdsError as error:
    print(json.dumps({"error": type(error).__name__, "text": str(error)}))
"""


def from_hub(hub: Hub, home: Path, place: str, **options: Any) -> dict[str, Any]:
    command = [sys.executable, "-c", READ, place, json.dumps(options)]
    done = subprocess.run(command, env=hub.environment(home), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_release_on_the_hub(hub: Hub, toys: Path, tmp_path: Path) -> None:
    order = [sample["id"] for sample in opened(toys)]
    files = {f"wds/v1/{path.name}": path.read_bytes() for path in toys.iterdir()}
    exported = hub.commit("org/toys", files)
    hub.faults = [
        Fault(r"GET .*train-00001\.tar", status=429, headers={"Retry-After": "0"}, times=1),
        Fault(r"GET .*train-00002\.tar", status=503, times=1),
        Fault(r"GET .*train-00000\.tar", cut=2000, times=2),
    ]
    assert from_hub(hub, tmp_path, "org/toys@v1")["ids"] == order
    assert not any(fault.times for fault in hub.faults)
    hub.forget()
    found = from_hub(hub, tmp_path, "org/toys@v1", shuffle="blocks", workers=1)
    asked = [request for request in hub.requests if request.startswith("GET") and ".tar" in request]
    assert sorted(found["ids"]) == sorted(order)
    assert len(asked) <= 9, "neighbours are asked for at once"
    hub.faults = [Fault(r"GET .*train-00001\.tar", status=403)]
    found = from_hub(hub, tmp_path, "org/toys@v1", on_error="skip")
    assert found["account"]["skipped"] == {"unreadable_shard": 18}
    assert len(found["ids"]) == ROWS - 18
    assert "the answer is 403" in from_hub(hub, tmp_path, "org/toys@v1")["text"]
    hub.faults = []
    hub.commit("org/toys", {**files, "withdrawn.jsonl": text_of([Tombstone(order[0], "asked", "id", "v2")]).encode()})
    found = from_hub(hub, tmp_path, f"hf://datasets/org/toys@{exported}/wds/v1")
    assert sorted(found["ids"]) == sorted(order[1:]), "what was withdrawn is asked of main"
    found = from_hub(hub, tmp_path, "org/toys@v2")
    assert found["error"] == "SourceMissing"
    assert issubclass(SourceMissing, SourceError)


@pytest.fixture
def served(toys: Path) -> Iterator[tuple[str, dict[str, int]]]:
    """The toys behind HTTP, and how often it still answers 429, or closes the connection in the middle of an answer."""
    faults = {"429": 2, "cut": 2}

    async def answer(request: Request) -> Response:
        folder, _, name = request.path_params["path"].rpartition("/")
        file = toys / name
        if folder != "toys/wds/v1":
            return Response(status_code=403)  # as a bucket says of what is not there, if it cannot be listed
        part = request.headers.get("range", "") if request.method == "GET" and file.suffix == ".tar" else ""
        if part and faults["429"]:
            faults["429"] -= 1
            return Response(status_code=429, headers={"Retry-After": "0"})
        if part and faults["cut"]:
            faults["cut"] -= 1
            first, last = map(int, part.removeprefix("bytes=").split("-"))
            headers = {"Content-Range": f"bytes {first}-{last}/{file.stat().st_size}"}
            return Response(b"x" * 100, 206, {**headers, "Content-Length": str(last - first + 1)})
        return FileResponse(file) if file.is_file() else Response(status_code=404)

    routes = [Route("/{path:path}", answer, methods=["GET", "HEAD"])]
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_level="critical"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/toys/wds/v1", faults
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("workers", [0, 2])
def test_over_http(toys: Path, served: tuple[str, dict[str, int]], workers: int) -> None:
    place, faults = served
    assert ids(opened(place).loader(4, num_workers=workers)) == [sample["id"] for sample in opened(toys)]
    assert faults == {"429": 0, "cut": 0}


def test_what_http_needs_is_named() -> None:
    code = "import sys, hfds; sys.modules['aiohttp'] = None; hfds.stream('http://127.0.0.1:9/v1', 'train')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    told = done.stderr.splitlines()[-1]
    assert told.startswith("hfds.errors.MissingExtra: http://127.0.0.1:9/v1 needs ")
    assert "aiohttp" in told
    assert told.endswith("pip install 'hfds[remote]'")
