"""Withdrawal: the rows are gone from a patch release, from every later build and from all that hfds loads."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from fixtures import dalle3, toy

from builders.dalle3 import Dalle3
from hfds import Input, Release, build
from hfds.card import render
from hfds.changelog import level
from hfds.check import differences, local
from hfds.cli import main
from hfds.diff import diff
from hfds.errors import BadFile, ConfigError, SourceMissing
from hfds.history import write_documents
from hfds.lock import read_lock, read_locks, release_names, release_order
from hfds.place import place_of
from hfds.run import Run
from hfds.shards import plan
from hfds.wanted import Wanted
from hfds.withdrawn import Tombstone, merged, parse, read_withdrawn, redacted
from hfds.yank import Yank, next_name, yank
from processors.dedup import MarkDuplicates
from processors.split import Split

TOYS = Release("toys", "v1", (Input(toy.Toy),), (MarkDuplicates("prompt"), Split(0.3)), columns=("prompt", "license"))
PICTURES = Release("pictures", "v1", (Input(Dalle3),), (Split(0.4),))


def small(monkeypatch: pytest.MonkeyPatch, shard: int, group: int) -> None:
    """Shards and row groups of a few rows: these many bytes."""
    monkeypatch.setattr("hfds.dist.shards.plan", partial(plan, max_shard=shard))
    monkeypatch.setattr("hfds.shards.ROW_GROUP", group)


def made(folder: Path, release: Release) -> Path:
    """A release in folder/dist; returns its dataset's folder."""
    return build(release, Run.here(folder / "work"), sources=folder / "sources", out=folder / "dist").folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """toys v1, built once: 30 rows in seven shards."""
    folder = tmp_path_factory.mktemp("built")
    toy.write(folder / "sources", a=toy.many(90))
    with pytest.MonkeyPatch.context() as monkeypatch:
        small(monkeypatch, 250, 100)
        made(folder, TOYS)
    return folder


@pytest.fixture
def toys(tmp_path: Path, built: Path) -> Path:
    """A copy of toys v1."""
    for name in ("sources", "dist"):
        shutil.copytree(built / name, tmp_path / name)
    return tmp_path / "dist/toys"


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pictures v1: 8 rows with pictures, two to three in a shard."""
    small(monkeypatch, 30_000, 8_000)
    dalle3.clean(tmp_path / "sources/dalle3")
    return made(tmp_path, PICTURES)


def withdrawn(home: Path, release: str = "v1", reason: str = "asked for", **how: Any) -> Yank:
    wanted = Wanted(*(tuple(how.pop(name, ())) for name in ("ids", "urls", "sha256s", "prompts")))
    return yank(home.name, release, wanted, reason, out=home.parent, **how)


def rows_of(home: Path, release: str) -> dict[str, dict[str, Any]]:
    """The rows of a release by id, each with its split."""
    splits = read_lock(home, release)["splits"]
    return {
        row["id"]: {**row, "split": split}
        for split, entry in splits.items()
        for shard in entry["shards"]
        for row in pq.read_table(home / shard["path"]).to_pylist()
    }


def ledger_of(home: Path, release: str) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in pq.read_table(home / f"ledger/{release}.parquet").to_pylist()}


def files_of(home: Path) -> dict[str, bytes]:
    return {path.relative_to(home).as_posix(): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def shards_of(lock: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {Path(shard["path"]).name: shard for split in lock["splits"].values() for shard in split["shards"]}


def test_a_row_is_gone_and_everything_else_stays(toys: Path, tmp_path: Path) -> None:
    files, before, fates = files_of(toys), rows_of(toys, "v1"), ledger_of(toys, "v1")
    done = withdrawn(toys, ids=["toy/000033"])
    assert (done.patch, done.rows, done.found) == ("v1.0.1", 1, {"v1": 1})
    assert done.alike == ["toy/000034", "toy/000035"], "they had the same prompt"
    assert rows_of(toys, "v1.0.1") == {id_: row for id_, row in before.items() if id_ != "toy/000033"}
    anew = {"README.md", "croissant.json"}
    assert {path: data for path, data in files_of(toys).items() if path in files and path not in anew} == {
        path: data for path, data in files.items() if path not in anew
    }
    old, new = read_lock(toys, "v1"), read_lock(toys, "v1.0.1")
    shared = [name for name, shard in shards_of(new).items() if shard["sha256"] == shards_of(old)[name]["sha256"]]
    assert len(shared) == len(shards_of(old)) - 1 >= 6
    for name in shared:
        assert (toys / "data/v1" / name).samefile(toys / "data/v1.0.1" / name)
    for name, shard in shards_of(new).items():
        data = (toys / "data/v1.0.1" / name).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert new["patch_of"] == {"release": "v1", "digest": old["digest"]}
    assert new["licenses"] == {"CC0-1.0": 29}
    assert differences(place_of("toys", new["release"], toys.parent), local(toys)) == []
    kept = {"split": None, "decision": None, "partner_in": None}
    gone = {**fates["toy/000033"], **kept, "step": "Withdraw", "reason": "asked for"}
    hung = {id_: {**fates[id_], "partner_in": None} for id_ in done.alike}
    assert ledger_of(toys, "v1.0.1") == {**fates, "toy/000033": gone, **hung}
    assert {"step": "Withdraw", "reason": "asked for", "rows": 1} in new["funnel"][0]["dropped"]
    stone = {"id": "toy/000033", "reason": "asked for", "by": "id", "release": "v1.0.1"}
    assert [json.loads(line) for line in (toys / "withdrawn.jsonl").read_text().splitlines()] == [stone]
    assert new["steps"][0]["parameters"] == {
        "rows": 1,
        "sha256": hashlib.sha256((toys / "withdrawn.jsonl").read_bytes()).hexdigest(),
    }
    loaded = load_dataset(str(toys), "v1.0.1", cache_dir=str(tmp_path / "hf"))
    assert {split: len(part) for split, part in loaded.items()} == {
        split: entry["rows"] for split, entry in new["splits"].items()
    }
    assert (toys / "README.md").read_text() == render(read_locks(toys), withdrawn=1)
    assert not [*toys.glob(".building*")]


def test_every_way_to_find_rows(pictures: Path) -> None:
    rows = rows_of(pictures, "v1")
    one, two, three = (f"dalle3/{name}" for name in ("one", "two.dotted.name", "three"))
    how = {
        "urls": [rows[one]["url"]],
        "sha256s": [hashlib.sha256(rows[two]["image"]["bytes"]).hexdigest().upper()],
        "prompts": [rf"(?i)^{rows[three]['prompt'][:12].upper()}.*$"],
        "ids": ["dalle3/four"],
    }
    done = withdrawn(pictures, **how)
    told = {stone["id"]: stone["by"] for stone in done.withdrawn}
    assert told == {one: "url", two: "sha256", three: "prompt-regex", "dalle3/four": "id"}
    assert [*told] == sorted(told)
    assert set(rows_of(pictures, "v1.0.1")) == set(rows) - set(told)
    text = (pictures / "withdrawn.jsonl").read_text()
    assert not any(value in text for value in (how["urls"][0], how["sha256s"][0].lower(), how["prompts"][0]))


def test_the_digest_is_that_of_the_rows(pictures: Path, tmp_path: Path) -> None:
    withdrawn(pictures, ids=["dalle3/three"])
    patched = read_lock(pictures, "v1.0.1")
    again = made(tmp_path, PICTURES.but("v2"))
    assert "dalle3/three" not in rows_of(again, "v2")
    assert read_lock(again, "v2")["digest"] == patched["digest"]
    assert rows_of(again, "v2") == rows_of(pictures, "v1.0.1")
    assert read_lock(again, "v2")["licenses"] == patched["licenses"]
    assert read_lock(again, "v2")["steps"][0] == patched["steps"][0]


def test_shards_are_written_as_before(pictures: Path) -> None:
    def told(path: Path) -> tuple[Any, ...]:
        names = ("path_in_schema", "compression", "has_dictionary_page", "has_offset_index", "is_stats_set")
        group = pq.read_metadata(path).row_group(0)
        columns = [group.column(number) for number in range(group.num_columns)]
        return pq.read_schema(path).metadata, [[getattr(one, name) for name in names] for one in columns]

    withdrawn(pictures, ids=[next(iter(rows_of(pictures, "v1")))])
    old, new = (shards_of(read_lock(pictures, name)) for name in ("v1", "v1.0.1"))
    (anew,) = [name for name in new if new[name]["sha256"] != old[name]["sha256"]]
    assert told(pictures / new[anew]["path"]) == told(pictures / old[anew]["path"])


def test_row_groups_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, 1 << 20, 200)
    toy.write(tmp_path / "sources", a=toy.many(90))
    home = made(tmp_path, TOYS.but("v1", steps=()))
    path = "train-00000-of-00001.parquet"
    before = [[*pq.ParquetFile(home / "data/v1" / path).read_row_group(n, ["id"])["id"].to_pylist()] for n in range(20)]
    withdrawn(home, ids=[before[0][0], *before[3]])
    with pq.ParquetFile(home / "data/v1.0.1" / path) as left:
        groups = [left.read_row_group(n, ["id"])["id"].to_pylist() for n in range(3)]
    assert groups == [before[0][1:], before[1], before[2]]
    with pq.ParquetFile(home / "data/v1" / path) as old, pq.ParquetFile(home / "data/v1.0.1" / path) as left:
        assert left.num_row_groups == old.num_row_groups - 1, "one lost all its rows"


def test_a_shard_and_a_split_without_rows_are_left_out(toys: Path, tmp_path: Path) -> None:
    rows, old = rows_of(toys, "v1"), read_lock(toys, "v1")
    held = [id_ for id_, row in rows.items() if row["split"] == "validation"]
    shard = next(iter(old["splits"]["train"]["shards"]))["path"]
    first = pq.read_table(toys / shard)["id"].to_pylist()
    withdrawn(toys, ids=[*held, *first])
    new = read_lock(toys, "v1.0.1")
    assert [*new["splits"]] == ["train"]
    assert set(shards_of(new)) == {Path(one["path"]).name for one in old["splits"]["train"]["shards"][1:]}
    loaded = load_dataset(str(toys), "v1.0.1", cache_dir=str(tmp_path / "hf"))
    assert {*loaded["train"]["id"]} == {*rows} - {*held, *first}
    files = files_of(toys)
    with pytest.raises(ConfigError, match="no row of toys/v1 would be left"):
        withdrawn(toys, ids=[*rows])
    assert files_of(toys) == files


def test_again_changes_nothing_and_more_is_one_patch_more(toys: Path) -> None:
    withdrawn(toys, ids=["toy/000033"])
    files = files_of(toys)
    again = withdrawn(toys, ids=["toy/000033"], reason="another")
    assert (again.patch, again.rows, again.withdrawn) == ("v1.0.1", 1, [])
    assert withdrawn(toys, "v1.0.1", ids=["toy/000033"]).patch is None
    assert files_of(toys) == files
    assert withdrawn(toys, "v1.0.1", ids=["toy/000036"]).patch == "v1.0.2"
    assert withdrawn(toys, ids=["toy/000033"]).patch == "v1.0.2", "which is without both"
    assert withdrawn(toys, ids=["toy/000039"]).patch == "v1.0.3"
    assert withdrawn(toys, ids=["toy/000039"], name="v1-clean").patch == "v1-clean"
    assert {*rows_of(toys, "v1")} - {*rows_of(toys, "v1.0.3")} == {"toy/000033", "toy/000036", "toy/000039"}
    assert read_lock(toys, "v1-clean")["digest"] == read_lock(toys, "v1.0.3")["digest"]
    assert [stone.release for stone in read_withdrawn(toys)] == ["v1.0.1", "v1.0.2", "v1.0.3"]
    assert release_names(toys) == ["v1", "v1.0.1", "v1.0.2", "v1.0.3", "v1-clean"]


@pytest.mark.parametrize(
    "release, taken, patch",
    [
        ("v4", (), "v4.0.1"),
        ("v4.0.1", (), "v4.0.2"),
        ("v4.0.9", (), "v4.0.10"),
        ("v4.1", (), "v4.1.1"),
        ("v4-a", (), "v4-a.0.1"),
        ("v4-a.0.1", (), "v4-a.0.2"),
        ("demo", (), "demo.0.1"),
        ("v4", ("v4.0.1", "v4.0.7", "v40.0.9", "v4.0.8-x"), "v4.0.8"),
    ],
)
def test_the_name_of_a_patch(release: str, taken: tuple[str, ...], patch: str) -> None:
    assert next_name(release, taken) == patch
    others = ["v3", "v4", "v4-a", "v4-b", "v4.1", "v4.2", "v5", "v10", "demo-meaning", "v4.0.1", "v4.0.2"]
    between = [one for one in others if release_order(release) < release_order(one) < release_order(patch)]
    assert [one for one in between if not one.startswith(f"{release}.")] == []


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "which rows? give at least one --id, --url, --sha256 or --prompt-regex"),
    ({"ids": ["toy/1"]}, "no row of toys is one of these, in v1"),
    ({"ids": ["toy/1"], "urls": ["http://e.org"]}, "v1 was not looked at by url: it has no such column"),
    ({"ids": [""]}, "--id is empty"),
    ({"sha256s": ["12"]}, "--sha256 takes the 64 hex digits of a picture's bytes, got '12'"),
    ({"prompts": ["(a"]}, "is no RE2 expression: "),
    ({"prompts": [".*"]}, "that is 30 of 30 rows of v1, more than 1%: look with --dry-run"),
    ({"ids": ["toy/000033"], "reason": "\x1b[31m"}, "the reason must be one line"),
    ({"ids": ["toy/000033"], "reason": "one\ntwo"}, "the reason must be one line"),
    ({"ids": ["toy/000033"], "reason": " "}, "the reason must be one line"),
    ({"ids": ["toy/000033"], "name": "v1"}, "toys has a release 'v1' already"),
    ({"ids": ["toy/000033"], "name": "../v9"}, "release name '../v9': wanted letters"),
    *(
        ({"ids": ["toy/000033"], "name": name}, f"release name {name!r}: wanted letters")
        for name in ("v2.", "v1..2", "v2.lock", "v2-ledger", "main", "HEAD", "0123456789abcdef" * 2 + "01234567")
    ),
    ({"ids": ["toy/000033"], "release": "v2"}, "release toys/v2 is not built"),
]


def test_what_no_release_has_is_said_once(toys: Path) -> None:
    lock = (toys / "releases/v1.lock.json").read_text()
    for number in range(2, 9):
        (toys / f"releases/v{number}.lock.json").write_text(lock.replace('"release": "v1"', f'"release": "v{number}"'))
    with pytest.raises(ConfigError) as raised:
        withdrawn(toys, urls=["http://e.org"])
    names = "v1, v2, v3, v4, v5, 3 more"
    clause = f"{names} were not looked at by url: they have no such column"
    assert str(raised.value) == f"no row of toys is one of these, in {names}; {clause}"


def test_names_are_in_one_order() -> None:
    alike = ["v1.a", "v1-a", "v1_a", "v1", "v01", "v001", "v1."]
    assert len({*map(repr, map(release_order, alike))}) == len(alike)
    assert sorted(["v10", "v²", "v2"], key=release_order) == ["v2", "v10", "v²"], "a tag of somebody's"


def test_what_cannot_be_withdrawn(toys: Path) -> None:
    before = files_of(toys)
    for how, message in REFUSED:
        with pytest.raises(ConfigError) as raised:
            withdrawn(toys, **how)
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)
        assert files_of(toys) == before


def test_many_rows_on_purpose(toys: Path) -> None:
    files = files_of(toys)
    tried = withdrawn(toys, prompts=["number 1"], dry_run=True)
    assert (tried.patch, tried.rows, tried.found, len(tried.withdrawn)) == ("v1.0.1", 11, {"v1": 11}, 11)
    assert files_of(toys) == files
    assert withdrawn(toys, prompts=["number 1"], force=True).rows == 11
    assert withdrawn(toys, "v1.0.1", prompts=["number 25$"]).rows == 1, "one row of one expression is no slip"


def test_all_releases_are_looked_at(toys: Path, tmp_path: Path) -> None:
    made(tmp_path, TOYS.but("v2", steps=(Split(0.3),)))
    done = withdrawn(toys, ids=["toy/000034"])
    assert (done.patch, done.found) == (None, {"v2": 1}), "v1 dropped it as a duplicate"
    assert [stone.release for stone in read_withdrawn(toys)] == ["v1"]
    assert release_names(toys) == ["v1", "v2"]
    assert withdrawn(toys, "v2", ids=["toy/000034"]).patch == "v2.0.1"


def test_a_withdrawn_row_never_comes_back(toys: Path, tmp_path: Path) -> None:
    done = withdrawn(toys, ids=["toy/000033"], reason="of <b>one</b> | who asked")
    withdrawn(toys, ids=done.alike)
    toy.write(tmp_path / "sources", b=[("000033", "A prompt, number 11"), ("000033", "of another day"), ("9", "new")])
    lock = read_lock(made(tmp_path, TOYS.but("v2")), "v2")
    rows, fates = rows_of(toys, "v2"), ledger_of(toys, "v2")
    assert not [row for row in rows.values() if row["prompt"].startswith("A prompt, number 11")]
    assert len(rows) == 30, "29, and one that is new"
    assert (fates["toy/000033"]["step"], fates["toy/000033"]["reason"]) == ("Withdraw", "of <b>one</b> | who asked")
    assert [fates[f"toy/000033#{n}"]["reason"] for n in (2, 3)] == ["duplicate_key"] * 2
    assert lock["steps"][0]["parameters"]["rows"] == 3
    assert "<b>" not in (toys / "README.md").read_text()


def test_what_is_told_of_it_is_its_id(toys: Path) -> None:
    withdrawn(toys, ids=["toy/000033"], reason="who asked")
    prompt = rows_of(toys, "v1")["toy/000033"]["prompt"]
    for old, new, part in (("v1", "v1.0.1", "removed"), ("v1.0.1", "v1", "added")):
        found = diff(place_of("toys", old, toys.parent), place_of("toys", new, toys.parent))
        (group,) = getattr(found, part)
        assert group == {"step": "Withdraw", "reason": "who asked", "rows": 1, "samples": [{"id": "toy/000033"}]}
        assert "toy/000033" in found.markdown()
        assert prompt not in found.markdown() + json.dumps(found.entry())
    withdrawn(toys, ids=["toy/000036"])
    patches = [place_of("toys", name, toys.parent) for name in ("v1", "v1.0.2")]
    assert level(diff(*patches))[0] == "patch", "2 of 30 rows, however many that is"


def test_diffs_of_before_forget_it(toys: Path, tmp_path: Path) -> None:
    toy.write(tmp_path / "sources", a=[*toy.many(90)[:33], ("000033", "another"), ("000036", "said anew")])
    made(tmp_path, TOYS.but("v2"))
    entry = diff(place_of("toys", "v1", toys.parent), place_of("toys", "v2", toys.parent)).entry()
    assert "said anew" in json.dumps(entry)
    told = redacted(entry, [Tombstone("toy/000036", "asked for", "id", "v1.0.1")])
    assert "said anew" not in json.dumps(told)
    assert "another" in json.dumps(told)
    assert told["rows"] == entry["rows"]
    one = {"id": "toy/1", "prompt": "A prompt", "partner": "toy/000036"}
    group = {"step": "MarkDuplicates", "rows": 2, "samples": [one, {**one, "partner": "toy/2"}]}
    told = redacted({**entry, "added": [group]}, [Tombstone("toy/000036", "asked for", "id", "v1.0.1")])
    assert told["added"][0]["samples"] == [{"id": "toy/1"}, {**one, "partner": "toy/2"}], "a copy may say the same"


def test_a_text_that_many_rows_have_is_told_nowhere(tmp_path: Path) -> None:
    toy.write(tmp_path / "sources", a=[(f"{n:03d}", f"Jane Doe of number {n % 5}") for n in range(200)])
    home = made(tmp_path, TOYS.but("v1", steps=()))
    made(tmp_path, TOYS.but("v2", steps=(Split(0.3),)))
    write_documents("toys", home.parent)
    secret, entry = "of number 3", home / "releases/v2.diff.json"
    assert all(secret in (home / path).read_text() for path in ("README.md", "releases/v2.diff.json"))
    withdrawn(home, prompts=[secret], force=True)
    assert secret not in entry.read_text(), "the yank writes it anew"
    assert "releases/v1.0.1.diff.json" in write_documents("toys", home.parent)
    told = {path: data for path, data in files_of(home).items() if not path.endswith((".parquet", ".lock.json"))}
    assert {"README.md", "CHANGELOG.md", "releases/v1.0.1.diff.json", "releases/v2.diff.json"} <= {*told}
    assert not [path for path, data in told.items() if secret.encode() in data]
    assert secret in (home / "releases/v1.lock.json").read_text(), "which may be published"
    assert secret not in (home / "releases/v1.0.1.lock.json").read_text()
    drift = {one["column"]: one for one in json.loads(entry.read_text())["drift"]}
    assert drift["prompt"] == {"column": "prompt", "of": "counts", "old": {"nulls": 0.0}, "new": {"nulls": 0.0}}
    assert drift["license"]["new"]["counts"] == {"CC0-1.0": 200}
    found = diff(*(place_of("toys", name, home.parent) for name in ("v1", "v2")))
    assert secret not in json.dumps(found.entry()), "nor where it is looked at"
    files = files_of(home)
    assert not [path for path in write_documents("toys", home.parent) if path.endswith(".diff.json")]
    assert files_of(home) == files


def test_old_entries_are_forgetful_after_a_card_too(toys: Path, tmp_path: Path) -> None:
    toy.write(tmp_path / "sources", b=[("new", "Jane Doe")])
    made(tmp_path, TOYS.but("v2"))
    write_documents("toys", toys.parent)
    entry = toys / "releases/v2.diff.json"
    assert "Jane Doe" in entry.read_text()
    (toys / "withdrawn.jsonl").write_text('{"id": "toy/new", "reason": "who asked", "by": "id", "release": "v3"}\n')
    assert "releases/v2.diff.json" in write_documents("toys", toys.parent), "tombstones may come from elsewhere"
    assert "Jane Doe" not in entry.read_text()


def test_without_hard_links(toys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    withdrawn(toys, ids=["toy/000033"])
    assert len(rows_of(toys, "v1.0.1")) == 29


def test_files_that_are_gone_or_broken(toys: Path) -> None:
    (toys / "withdrawn.jsonl").write_text('{"id": "toy/000036", "reason": "x"}\n')
    with pytest.raises(BadFile, match=r"withdrawn.jsonl: line 1 is no JSON object with the texts id, reason"):
        withdrawn(toys, ids=["toy/000033"])
    (toys / "withdrawn.jsonl").unlink()
    next(toys.glob("data/v1/train-*")).unlink()
    with pytest.raises(SourceMissing, match="is gone"):
        withdrawn(toys, ids=["toy/000033"])


def test_lists_become_one() -> None:
    one, two = Tombstone("b", "first", "id", "v1"), Tombstone("a", "x", "url", "v2")
    assert merged([one], [two, Tombstone("b", "second", "id", "v9")]) == (two, one)
    data = b'\n{"id": "a\\u2028", "reason": "\\u001b[31m", "by": "id", "release": "v1", "more": 1}\n'
    assert parse(data, "f") == (Tombstone("a\u2028", "\\x1b[31m", "id", "v1"),)
    for wrong in (b"[]", b"{", b'{"id": 3, "reason": "x", "by": "id", "release": "v1"}'):
        with pytest.raises(BadFile, match="take the file as it was before"):
            parse(wrong, "f")


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from hfds.wanted import Wanted
from hfds.yank import yank

CHANGES = ("os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")
home, copies, left = Path(sys.argv[1]), Path(sys.argv[2]), None

def hook(event, arguments):
    global left
    if left is not None and (event in CHANGES or (event == "open" and "w" in str(arguments[1]))):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
for number in range(1000):
    copy = copies / str(number) / home.name
    shutil.copytree(home, copy)
    child = os.fork()
    if not child:
        left = number
        yank(home.name, "v1", Wanted(("toy/000033", "toy/000002")), "asked for", out=copy.parent)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


def test_killed_at_any_moment_and_run_again(toys: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(toys), str(tmp_path / "copies")]
    subprocess.run(command, check=True, timeout=100, stderr=subprocess.DEVNULL)
    copies = sorted((tmp_path / "copies").iterdir(), key=lambda path: int(path.name))
    expected = files_of(copies[-1] / "toys")
    assert len(copies) > 30
    before = files_of(toys)
    for copy in copies:
        home = copy / "toys"
        anew = {(path, before[path]) for path in ("README.md", "croissant.json")}
        assert before.items() - anew <= files_of(home).items()
        for name, lock in read_locks(home).items():
            assert sum(split["rows"] for split in lock["splits"].values()) == len(rows_of(home, name))
            assert (home / lock["ledger"]["path"]).is_file()
        configs = {name for name in ("v1", "v1.0.1") if f"config_name: {name}\n" in (home / "README.md").read_text()}
        assert "v1" in configs <= {*release_names(home)}
        withdrawn(home, ids=["toy/000033", "toy/000002"])
        assert files_of(home) == expected, f"killed at {copy.name}"


def test_on_the_command_line(toys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*more: str) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["yank", "toys", "v1", "--reason", "asked for", "--out", str(toys.parent), *more])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    code, said = run("--id", "toy/000033", "--prompt-regex", "number 3!*$", "--dry-run")
    assert (code, "v1.0.1: v1 without 2 rows; 2 rows would be new" in said) == (0, True), said
    code, said = run("--id", "toy/000033", "--url", "http://e.org")
    assert "v1 was not looked at by url" in said
    assert "toy/000034" in said, "a duplicate of it"
    assert (code, "v1.0.1: v1 without 1 rows; 1 rows are new" in said) == (0, True), said
    code, said = run("--id", "toy/000033", "--json")
    assert (code, json.loads(said)["patch"], json.loads(said)["withdrawn"]) == (0, "v1.0.1", [])
    assert run("--prompt-regex", ".")[0] == 2


def test_a_patch_is_found_by_the_file_of_its_release(
    toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--out", str(toys.parent)])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    withdrawn(toys, ids=["toy/000033"])
    file, more = tmp_path / "releases.py", '\nOTHER = V1.but("v1", dataset="others")\n'
    file.write_text(toy.RELEASES.format(path=[str(Path(__file__).parent)]))
    code, said = run("diff", str(file), "v1", "v1.0.1")
    assert (code, "30 rows became 29" in said) == (0, True), said
    assert run("explain", str(file), "v1.0.1", "toy/000033")[0] == 0
    assert run("yank", str(file), "v1.0.1", "--id", "toy/000036", "--reason", "asked for")[0] == 0
    code, said = run("audit", "leaks", str(file), "v1.0.1", "--check", "prompt", "--workdir", str(tmp_path / "w"))
    assert (code, "0 leaks between the splits" in said) == (0, True), said
    code, said = run("diff", str(file), "v1", "v1.0.9")
    wanted = f"release 'v1.0.9' is neither defined in {file} nor built of its datasets in {toys.parent}: did you mean "
    assert (code, wanted in said.replace("\n", " ")) == (2, True), said
    file.write_text(file.read_text() + more)
    code, said = run("diff", str(file), "v2", "v1")
    assert (code, "release 'v1' is one of toys, others: give the dataset instead" in said) == (2, True), said
