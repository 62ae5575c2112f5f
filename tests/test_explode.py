"""Explode: one row to several. None appears or vanishes without an account, by hand or in a build."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Value, load_dataset
from fixtures import toy

from hfds import Input, Release, Run, build
from hfds.check import check
from hfds.diff import diff
from hfds.errors import ConfigError, ConservationError, HfdsError
from hfds.explain import explain
from hfds.explode import Explode
from hfds.ledger import check_conservation, funnel
from hfds.place import place_of
from hfds.plan import plan
from hfds.wanted import Wanted
from hfds.yank import yank
from processors.dedup import MarkDuplicates
from processors.repeat import Repeat
from processors.split import Split

GONE = {"step": "x", "reason": "y", "value": None, "threshold": None, "partner": None, "partner_in": None}
V1 = Release("toys", "v1", (Input(toy.Toy),), (MarkDuplicates("prompt"), Split(0.3)), columns=("prompt", "license"))
V2 = V1.but("v2", steps=(*V1.steps, Repeat(3)))


@dataclass(frozen=True)
class Letters(Explode):
    """A row for each letter of a prompt, upside down where `wrong`."""

    wrong: bool = False
    needs = ("prompt",)
    adds = Features({"letter": Value("string")})

    def exploded(self, table: pa.Table) -> pa.Table:
        pairs = [(row, letter) for row, prompt in enumerate(table["prompt"].to_pylist()) for letter in prompt]
        rows, letters = zip(*pairs[:: -1 if self.wrong else 1], strict=True) if pairs else ((), ())
        return pa.table({"row": pa.array(rows, pa.int64()), "letter": pa.array(letters, pa.string())})


def rows(**more: Any) -> Dataset:
    return Dataset.from_dict({"id": ["a/1", "a/2", "a/3"], "prompt": ["xy", "z", "uvw"], **more})


def test_rows_are_made_behind_the_others() -> None:
    made = Repeat(3)(rows(dropped=[None, GONE, None], split=["train", "train", "validation"]))
    assert made["id"][:] == ["a/1", "a/2", "a/3", "a/1~2", "a/1~3", "a/3~2", "a/3~3"]
    assert made["prompt"][3:] == ["xy", "xy", "uvw", "uvw"]
    assert made["split"][3:] == ["train", "train", "validation", "validation"]
    assert made["dropped"][3:] == [None] * 4
    assert made["made"][:4] == [None, None, None, {"step": "Repeat", "parent": "a/1"}]
    assert Repeat(1)(rows())["id"][:] == rows()["id"][:]
    assert len(Repeat(2)(rows().select([]))) == 0


def test_rows_with_columns_of_their_own_and_rows_of_rows() -> None:
    made = Letters()(rows(letter=["old", "old", "old"], dropped=[None, GONE, None]))
    assert made["letter"][:] == ["x", "old", "u", "y", "v", "w"]
    again = Repeat(2)(made)
    assert again["id"][6:] == ["a/1~~2", "a/3~~2", "a/1~2~~2", "a/3~2~~2", "a/3~3~~2"]
    assert again["made"][3] == {"step": "Letters", "parent": "a/1"}
    assert again["made"][8] == {"step": "Repeat", "parent": "a/1~2"}
    assert Repeat(2)(again)["id"][11:13] == ["a/1~~~2", "a/3~~~2"]
    odd = Repeat(2)(Letters()(Dataset.from_dict({"id": ["a/~~x", "b~~1"], "prompt": ["xy", "uv"]})))
    assert odd["id"][2:] == ["a/~~x~2", "b~~1~2", "a/~~x~~2", "b~~1~~2", "a/~~x~2~~2", "b~~1~2~~2"]
    assert Repeat(2)(Repeat(2)(Dataset.from_dict({"id": ["~"]})))["id"][:] == ["~", "~~2", "~~~~2", "~~2~~~2"]


def test_a_step_that_leaves_rows_out_is_refused() -> None:
    with pytest.raises(HfdsError, match=r"Letters\.exploded must name each of its 3 rows at least once, in order"):
        Letters(wrong=True)(rows())
    with pytest.raises(HfdsError, match="at least once"):
        Letters()(Dataset.from_dict({"id": ["a/1", "a/2"], "prompt": ["x", ""]}))
    for times in (0, 1.5, True, 10_001):
        with pytest.raises(ConfigError, match=f"times must be a whole number from 1 to 10,000, got {times!r}"):
            Repeat(times)(rows())  # type: ignore[arg-type]


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    return toy.write(tmp_path / "sources", a=toy.many(30), b=[("b", "Another"), ("c", "A prompt, number 1")])


def test_a_build_accounts_for_every_row(tmp_path: Path, sources: Path) -> None:
    out = tmp_path / "dist"
    build(V1, Run.here(tmp_path / "work"), sources=sources, out=out)
    built = build(V2, Run.here(tmp_path / "work"), sources=sources, out=out)
    (entry,) = built.funnel
    assert entry["rows"] == 32
    assert entry["made"] == {"Repeat": 22}
    assert sum(entry["kept"].values()) == 33
    assert entry["rows"] + 22 == 33 + sum(one["rows"] for one in entry["dropped"])
    assert check("toys", out) == []

    told = {split: part["id"][:] for split, part in load_dataset(str(built.folder), "v2").items()}
    parents = {split: part["id"][:] for split, part in load_dataset(str(built.folder), "v1").items()}
    for split, ids in told.items():
        assert ids == parents[split] + [f"{id_}~{n}" for id_ in parents[split] for n in (2, 3)]

    card = (built.folder / "README.md").read_text()
    assert re.search(r"\| Repeat +\| made of others +\| \W*22 +\|", card), card
    changed = diff(place_of("toys", "v1", out), place_of("toys", "v2", out))
    assert [(one["reason"], one["rows"]) for one in changed.added] == [("made by Repeat", 22)]
    fate = explain("toys", "v2", "toy/b~3", out)
    assert fate["row"]["prompt"] == "Another"
    assert [(one["made_by"], one["parent"]) for one in fate["releases"]] == [(None, None), ("Repeat", "toy/b")]
    assert [one["fate"] for one in fate["releases"]] == ["not read", "kept"]


@pytest.mark.parametrize("num_proc", [1, 2])
def test_the_same_for_any_number_of_processes_and_found_again(tmp_path: Path, num_proc: int) -> None:
    sources = toy.write(tmp_path / "sources", a=[(f"{n}", f"prompt {n}") for n in range(12_000)])
    run = Run.here(tmp_path / "work", num_proc)
    first = build(V2, run, sources=sources, out=tmp_path / "one")
    stamps = {path.name: path.stat().st_mtime_ns for path in run.steps.glob("Repeat-*.arrow")}
    assert len(stamps) == 1 + num_proc
    again = build(V2, run, sources=sources, out=tmp_path / "two")
    assert {path.name: path.stat().st_mtime_ns for path in run.steps.glob("Repeat-*.arrow")} == stamps
    assert first.digest == again.digest
    for path in run.steps.glob("Repeat-*.arrow"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])  # a kill, a full disk
    assert build(V2, run, sources=sources, out=tmp_path / "three").digest == first.digest
    assert sum(first.funnel[0]["kept"].values()) == 36_000


def test_an_id_that_another_row_has_is_told(tmp_path: Path) -> None:
    sources = toy.write(tmp_path / "sources", a=[("x", "one"), ("x~2", "two")])
    built = build(V2, Run.here(tmp_path / "work"), sources=sources, out=tmp_path / "dist")
    (entry,) = built.funnel
    assert entry["made"] == {"Repeat": 4}
    assert entry["dropped"] == [{"step": "toy", "reason": "duplicate_key", "rows": 1}]
    ids = [id_ for part in load_dataset(str(built.folder), "v2").values() for id_ in part["id"]]
    assert sorted(ids) == ["toy/x", "toy/x~2", "toy/x~2~2", "toy/x~2~3", "toy/x~3"]


def test_a_made_row_that_was_withdrawn_stays_away(tmp_path: Path, sources: Path) -> None:
    out = tmp_path / "dist"
    build(V2, Run.here(tmp_path / "work"), sources=sources, out=out)
    yanked = yank("toys", "v2", Wanted(("toy/b~2",)), "asked", out=out, force=True)
    assert yanked.rows == 1
    assert check("toys", out) == []
    again = build(V2, Run.here(tmp_path / "work"), sources=sources, out=out)
    assert {"step": "Withdraw", "reason": "asked", "rows": 1} in again.funnel[0]["dropped"]
    ids = {id_ for part in load_dataset(str(again.folder), "v2").values() for id_ in part["id"]}
    assert "toy/b" in ids
    assert "toy/b~2" not in ids


def test_the_plan_counts_what_will_be_made(tmp_path: Path, sources: Path) -> None:
    from fixtures.voices import Loud

    release = V2.but("v3", steps=(*V2.steps, Loud()))
    steps = plan(release, Run.here(tmp_path / "work"), sources=sources, out=tmp_path / "dist")["steps"]
    assert [(one["step"], one["rows"]) for one in steps] == [
        ("MarkDuplicates", 32), ("Split", 11), ("Repeat", 11), ("Loud", 33)
    ]  # fmt: skip


def test_ledgers_of_before_are_read(tmp_path: Path, sources: Path) -> None:
    out = tmp_path / "dist"
    built = build(V1, Run.here(tmp_path / "work"), sources=sources, out=out)
    path = built.folder / "ledger/v1.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["made_by", "parent"]), path)
    assert funnel(path) == built.funnel
    fate = explain("toys", "v1", "toy/b", out)["releases"][0]
    assert (fate["fate"], fate["made_by"], fate["parent"]) == ("kept", None, None)


def test_a_count_that_differs_is_an_error() -> None:
    counted = [{"input": "a", "rows": 3, "dropped": [], "kept": {"train": 5}, "made": {"Repeat": 2}}]
    check_conservation(counted, {"a": 3}, {"train": 5}, 2)
    with pytest.raises(ConservationError, match="steps made 3 rows of others, the ledger accounts for 2"):
        check_conservation(counted, {"a": 3}, {"train": 5}, 3)
    with pytest.raises(ConservationError, match="a gave 5 rows, the ledger accounts for 3"):
        check_conservation(counted, {"a": 5}, {"train": 5}, 2)


def test_pictures_of_rows_are_not_copied_into_made_ones(tmp_path: Path) -> None:
    paths = [{"bytes": None, "path": f"slice://0-10::/tars/{n}.tar"} for n in range(3)]
    made = Repeat(2)(rows().add_column("image", paths), Run.here(tmp_path)).with_format("arrow")[:]
    assert made["image"].to_pylist() == [*paths, *paths]
    assert np.array_equal(made["id"].to_pylist()[3:], ["a/1~2", "a/2~2", "a/3~2"])
