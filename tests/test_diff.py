"""What changed from one release to another: which rows, why, how their columns drifted, and how much that is."""

import json
import random
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Features, Value
from fixtures import dalle3
from fixtures.make import picture, tar
from fixtures.toy import RELEASES, Toy, write
from fixtures.voices import Compass, Wide

from builders.dalle3 import Dalle3
from hfds import Input, Release, build
from hfds.changelog import Diff, check_level, level, promised
from hfds.cli import main
from hfds.diff import diff
from hfds.errors import BadFile, ConfigError, SourceMissing
from hfds.place import Place, place_of
from hfds.remote import Kept, Remote
from hfds.run import Run
from processors.dedup import MarkDuplicates
from processors.split import Split

FIRST, SECOND = (
    Input(Toy, "halves", into=split, splits=(name,)) for name, split in (("first", "train"), ("second", "test"))
)
V1 = Release("toys", "v1", (FIRST, SECOND), (MarkDuplicates(),), columns=("prompt", "license", "width"))
V2 = V1.but("v2")
LINES = V1.but("v1", inputs=(Input(Toy),), steps=())  # all in train
OLD = {
    "a": [("1", "one"), ("2", "two"), ("3", "three"), ("4", "four"), ("5", "Two!")],
    "b": [("6", "six"), ("7", "seven")],
}
NEW = {
    "a": [("1", "one"), ("2", "another two"), ("4", "ONE"), ("5", "Two!"), ("8", "eight")],
    "b": [("6", "six"), ("3", "three")],
}


def built(folder: Path, release: Release, **lines: list[tuple[str, str]]) -> Path:
    """`release` of these lines, in the folder's dist."""
    write(folder / "sources", **lines)
    build(release, Run.here(folder / "work"), sources=folder / "sources", out=folder / "dist")
    return folder / "dist"


def found(dist: Path, old: str = "v1", new: str = "v2", dataset: str = "toys") -> Diff:
    return diff(place_of(dataset, old, dist), place_of(dataset, new, dist))


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """V1 of OLD and V2 of NEW."""
    built(tmp_path, V1, **OLD)
    return built(tmp_path, V2, **NEW)


def test_every_row_has_its_reason(both: Path) -> None:
    seen = found(both)
    assert seen.rows == {"old": 6, "new": 6, "both": 4, "added": 2, "removed": 2, "moved": 1, "changed": 1}
    assert seen.splits == [{"split": "train", "old": 4, "new": 4}, {"split": "test", "old": 2, "new": 2}]
    again = {"step": "MarkDuplicates", "reason": "duplicate_prompt", "rows": 1}
    told = {"value": "1", "threshold": None}
    assert seen.added == [
        {**again, "samples": [{"id": "toy/5", "prompt": "Two!", **told, "partner": "toy/2", "partner_in": "train"}]},
        {
            "step": None,
            "reason": "new in toy/halves[first]",
            "rows": 1,
            "samples": [{"id": "toy/8", "prompt": "eight"}],
        },
    ]
    assert seen.removed == [
        {**again, "samples": [{"id": "toy/4", "prompt": "four", **told, "partner": "toy/1", "partner_in": "train"}]},
        {
            "step": None,
            "reason": "not in toy/halves[second] any more",
            "rows": 1,
            "samples": [{"id": "toy/7", "prompt": "seven"}],
        },
    ]
    (moved,) = seen.moved
    assert (moved["from"], moved["to"], moved["decision"], moved["rows"]) == ("train", "test", None, 1)
    assert moved["samples"][0]["id"] == "toy/3"
    assert seen.changed == [
        {"column": "prompt", "rows": 1, "share": 0.25, "samples": [{"id": "toy/2", "old": "two", "new": "another two"}]}
    ]
    assert level(seen) == ("major", ["1 rows went from train into test"])


def test_inputs_that_come_and_go(tmp_path: Path) -> None:
    built(tmp_path, V1, **OLD)
    dist = built(tmp_path, V2.but("v2", inputs=(FIRST,)), **OLD)
    gone = found(dist)
    assert [(one["step"], one["reason"], one["rows"]) for one in gone.removed] == [
        (None, "input gone: toy/halves[second]", 2)
    ]
    assert {"part": "input toy/halves[second]", "what": "there", "old": True, "new": False} in gone.made_of
    come = found(dist, "v2", "v1")
    assert [(one["reason"], one["rows"]) for one in come.added] == [("input new: toy/halves[second]", 2)]
    assert (gone.added, gone.moved, come.removed, come.changed) == ([], [], [], [])
    assert level(come) == ("minor", ["2 rows were added"])


def test_a_try_of_a_few_rows(tmp_path: Path) -> None:
    dist = built(tmp_path, LINES, **OLD)
    build(LINES.but("v2"), Run.here(tmp_path / "work"), sources=tmp_path / "sources", out=dist, rows=3)
    assert [(one["reason"], one["rows"]) for one in found(dist).removed] == [("beyond the first 3 of toy/lines", 4)]
    assert [(one["reason"], one["rows"]) for one in found(dist, "v2", "v1").added] == [
        ("beyond the first 3 of toy/lines", 4)
    ]


def test_what_decided_a_split(tmp_path: Path) -> None:
    halves = V1.but("v1", inputs=(Input(Toy, "halves"),), steps=(Split(0.0),))
    built(tmp_path, halves, **OLD)
    held = V1.but("v2", inputs=(FIRST, Input(Toy, "halves", "validation", ("second",))), steps=(Split(0.0),))
    dist = built(tmp_path, held, **OLD)
    (moved,) = found(dist).moved
    assert (moved["from"], moved["to"], moved["decision"], moved["rows"]) == ("train", "validation", "input", 2)


def test_a_ledger_of_before(both: Path) -> None:
    now = found(both)
    for name in ("v1", "v2"):
        path = both / f"toys/ledger/{name}.parquet"
        pq.write_table(pq.read_table(path).drop_columns(["partner_in", "decision"]), path)
    before = found(both)
    assert before.removed[0]["samples"][0]["partner"] == "toy/1"
    assert before.removed[0]["samples"][0]["partner_in"] is None
    assert [one["decision"] for one in before.moved] == [None]
    assert before.rows == now.rows


def test_counts_are_those_of_a_loop_over_rows(tmp_path: Path) -> None:
    chance = random.Random(3)
    sides = []
    for release in (V1, V2):
        rows = [(f"{key:03d}", f"a text {key % 90} of {chance.choice('xy')}") for key in chance.sample(range(300), 240)]
        dist = built(tmp_path, release, a=rows[:150], b=rows[150:])
        tables = {
            split: pq.read_table([*dist.glob(f"toys/data/{release.name}/{split}*")]) for split in ("train", "test")
        }
        sides.append({row["id"]: (split, row["prompt"]) for split in tables for row in tables[split].to_pylist()})
    old, new = sides
    common = old.keys() & new.keys()
    seen = found(dist)
    assert seen.rows == {
        "old": len(old),
        "new": len(new),
        "both": len(common),
        "added": len(new.keys() - common),
        "removed": len(old.keys() - common),
        "moved": sum(old[id_][0] != new[id_][0] for id_ in common),
        "changed": sum(old[id_][1] != new[id_][1] for id_ in common),
    }
    assert min(seen.rows.values()) > 5
    for groups in (seen.added, seen.removed, seen.moved):
        assert all(len(one["samples"]) == min(5, one["rows"]) for one in groups)
    assert sum(one["rows"] for one in seen.added) == seen.rows["added"]
    assert sum(one["rows"] for one in seen.removed) == seen.rows["removed"]
    for one in seen.moved:
        assert all(old[row["id"]][0] == one["from"] and new[row["id"]][0] == one["to"] for row in one["samples"])
    for row in (row for one in seen.removed for row in one["samples"]):
        assert row["prompt"] == old[row["id"]][1]
        assert row["id"] not in new


def test_drift_and_columns(tmp_path: Path) -> None:
    built(tmp_path, LINES, a=[(str(n), "x" * n) for n in range(1, 22)])
    wider = LINES.but("v2", columns=("prompt", "license", "url"))
    dist = built(tmp_path, wider, a=[(str(n), "x" * (n + 2)) for n in range(1, 22)])
    seen = found(dist)
    assert seen.columns == [
        {"column": "width", "old": "Value('int32')", "new": None},
        {"column": "url", "old": None, "new": "Value('string')"},
    ]
    drift = {one["column"]: one for one in seen.drift}
    assert drift["prompt"]["of"] == "length"
    assert drift["prompt"]["old"] == {"nulls": 0, "mean": 11, "5%": 2, "25%": 6, "50%": 11, "75%": 16, "95%": 20}
    assert drift["prompt"]["new"]["50%"] == 13
    assert drift["license"] == {
        "column": "license",
        "of": "counts",
        "old": {"nulls": 0, "counts": {"CC0-1.0": 21}},
        "new": {"nulls": 0, "counts": {"CC0-1.0": 21}},
    }
    assert (drift["width"]["old"], drift["width"]["new"]) == ({"nulls": 1}, None)
    assert "id" not in drift
    assert level(seen) == ("major", ["column width was removed"])
    assert level(found(dist, "v2", "v1"))[1] == ["column url was removed"]


def test_fields_of_structs_and_lists(tmp_path: Path) -> None:
    compass = Compass(str(tmp_path / "asked.txt"))
    turned = LINES.but("v1", steps=(compass,), columns=("prompt", "captions", "direction", "generation"))
    built(tmp_path, turned, a=[("1", "east 0"), ("2", "north 90")])
    dist = built(tmp_path, turned.but("v2"), a=[("1", "east 0"), ("2", "nearly north 80")])
    seen = found(dist)
    told = [(one["column"], one["rows"], one["samples"][0]["id"]) for one in seen.changed]
    assert told == [(name, 1, "toy/2") for name in ("captions", "direction", "prompt")]
    drift = {one["column"]: one["of"] for one in seen.drift}
    assert "direction" not in drift
    assert "captions" not in drift
    assert (drift["generation.seed"], drift["generation.sampler"]) == ("value", "counts"), "of none"
    assert seen.rows["changed"] == 1


ALONE, HASHED = ("image", "prompt"), ("image", "image_hash", "prompt")


@pytest.mark.parametrize("old, new", [(HASHED, HASHED), (ALONE, ALONE), (HASHED, ALONE), (ALONE, HASHED)])
def test_pictures(tmp_path: Path, old: tuple[str, ...], new: tuple[str, ...]) -> None:
    for name, columns, seed, says in (("v1", old, 2, "short"), ("v2", new, 3, "changed")):
        rows = [*dalle3.pair("one", short_caption=says, long_caption=None), *dalle3.pair("two", seed=seed)]
        tar(tmp_path / "sources/dalle3/data/data-000000.tar", [*rows, *dalle3.pair("six", seed=6)])
        release = Release("toys", name, (Input(Dalle3),), columns=columns)
        build(release, Run.here(tmp_path / "work"), sources=tmp_path / "sources", out=tmp_path / "dist")
    seen = found(tmp_path / "dist")
    assert [(one["column"], [row["id"] for row in one["samples"]]) for one in seen.changed] == [
        *((name, ["dalle3/two"]) for name in HASHED[:2] if name in old and name in new),
        ("prompt", ["dalle3/one"]),
    ]
    assert seen.rows["changed"] == 2
    sample = seen.changed[0]["samples"][0]
    assert len(json.loads(sample["old"])["bytes"]) == 32, "the hash, not the picture"
    assert sample["old"] != sample["new"]
    assert "image" not in {one["column"] for one in seen.drift}


def test_pictures_that_lie_elsewhere_are_not_read(tmp_path: Path) -> None:
    parts: list[tuple[int, int]] = []

    def elsewhere(path: str) -> Remote:
        def fetch(start: int, stop: int) -> bytes:
            parts.append((start, stop))
            return (tmp_path / "dist/toys" / path).read_bytes()[start:stop]

        return Remote(path, (tmp_path / "dist/toys" / path).stat().st_size, fetch, Kept())

    for name, seed in (("v1", 90), ("v2", 91)):
        noise = [(f"{n}.png", picture("PNG", 900, 600, seed=n)) for n in range(4)]
        noise += [("4.png", picture("PNG", 900, 600, seed=seed))]
        texts = [(f"{n}.json", dalle3.meta(str(n), "png")) for n in range(5)]
        tar(tmp_path / "sources/dalle3/data/data-000000.tar", sorted(noise + texts))
        release = Release("toys", name, (Input(Dalle3),), columns=HASHED)
        build(release, Run.here(tmp_path / "work"), sources=tmp_path / "sources", out=tmp_path / "dist")
    locks = [place_of("toys", name, tmp_path / "dist").lock for name in ("v1", "v2")]
    seen = diff(*(Place(lock, elsewhere) for lock in locks))
    assert seen == found(tmp_path / "dist")
    assert [one["column"] for one in seen.changed] == ["image", "image_hash"]
    assert len(parts) <= 2 * len(("footer", "ids", "ledger"))
    sizes = sum(split["bytes"] for lock in locks for split in lock["splits"].values())
    assert sum(stop - start for start, stop in parts) < sizes / 4


@dataclass(frozen=True)
class Share(Wide):
    """The width as another type."""

    adds = Features({"prompt_width": Value("float32")})

    def annotate(self, model: Any, items: list[Any]) -> pa.Table:
        return super().annotate(model, items).cast(self.adds.arrow_schema)


def test_a_column_of_another_type(tmp_path: Path) -> None:
    columns = ("prompt", "prompt_width")
    built(tmp_path, LINES.but("v1", steps=(Wide(),), columns=columns), a=OLD["a"])
    dist = built(tmp_path, LINES.but("v2", steps=(Share(),), columns=columns), a=OLD["a"])
    seen = found(dist)
    assert seen.columns == [{"column": "prompt_width", "old": "Value('int32')", "new": "Value('float32')"}]
    assert seen.changed == []
    assert level(seen) == ("major", ["column prompt_width is of another type"])


def test_a_long_text_is_shown_where_it_differs(tmp_path: Path) -> None:
    built(tmp_path, LINES, a=[("1", "x" * 1000 + "old" + "y" * 1000)])
    dist = built(tmp_path, LINES.but("v2"), a=[("1", "x" * 1000 + "new" + "y" * 1000)])
    seen = found(dist)
    sample = seen.changed[0]["samples"][0]
    assert sample["old"].startswith("…" + "x" * 30 + "oldyyy")
    assert sample["old"].endswith("y…")
    assert len(sample["new"]) == 302
    assert "oldyyy" in seen.markdown()
    assert "newyyy" in seen.markdown()


def test_the_same_and_what_it_is_made_of(tmp_path: Path) -> None:
    built(tmp_path, V1, **OLD)
    dist = built(tmp_path, V1.but("v2", steps=(MarkDuplicates(keep="cluster"), MarkDuplicates())), **OLD)
    seen = found(dist)
    assert level(seen) == ("none", [])
    assert (seen.added, seen.removed, seen.moved, seen.changed, seen.columns) == ([], [], [], [], [])
    assert seen.made_of == [
        {"part": "step MarkDuplicates", "what": "keep", "old": "first", "new": "cluster"},
        {"part": "step MarkDuplicates 2", "what": "there", "old": False, "new": True},
    ]
    itself = found(dist, "v1", "v1")
    assert (itself.made_of, level(itself)[0]) == ([], "none")


def of(**changes: Any) -> Diff:
    """Two releases of 1,000 rows that differ in this alone."""
    rows = {"old": 1000, "new": 1000, "both": 1000, "added": 0, "removed": 0, "moved": 0, "changed": 0}
    empty: dict[str, Any] = {name: [] for name in ("splits", "columns", "added", "removed", "moved", "changed")}
    digests = changes.pop("digests", {"old": "d", "new": "e"})
    rows |= changes.pop("rows", {})
    return Diff("toys", "v1", "v2", digests, rows, **{**empty, **changes}, drift=[], made_of=[])


def way(one: str, other: str, rows: int) -> dict[str, Any]:
    return {"moved": [{"from": one, "to": other, "decision": None, "rows": rows}], "rows": {"moved": rows}}


def gone(step: str, rows: int) -> dict[str, Any]:
    return {"removed": [{"step": step, "reason": "r", "rows": rows}], "rows": {"removed": rows}}


@pytest.mark.parametrize(
    "changes, wanted",
    [
        ({"columns": [{"column": "url", "old": "string", "new": None}]}, "major"),
        ({"columns": [{"column": "url", "old": "string", "new": "int"}]}, "major"),
        ({"columns": [{"column": "url", "old": "string", "new": "int"}], "digests": {"old": "d", "new": "d"}}, "major"),
        (way("train", "test", 1), "major"),
        (way("validation", "train", 1), "major"),
        (way("validation", "test", 10), "patch"),
        (way("validation", "test", 11), "minor"),
        ({"columns": [{"column": "url", "old": None, "new": "string"}]}, "minor"),
        ({"rows": {"added": 1}}, "minor"),
        (gone("MarkDuplicates", 11), "minor"),
        (gone("MarkDuplicates", 10), "patch"),
        (gone("Withdraw", 11), "patch"),
        ({"changed": [{"column": "prompt", "rows": 11, "share": 0.011}]}, "minor"),
        ({"changed": [{"column": "prompt", "rows": 10, "share": 0.01}]}, "patch"),
        ({}, "patch"),
        ({"digests": {"old": "d", "new": "d"}}, "none"),
    ],
)
def test_levels(changes: dict[str, Any], wanted: str) -> None:
    seen = level(of(**changes))
    assert seen[0] == wanted
    assert bool(seen[1]) == (wanted in ("major", "minor"))


PLUS: dict[str, Any] = {"rows": {"added": 1200}}
LESS: dict[str, Any] = {"columns": [{"column": "url", "old": "string", "new": None}]}


@pytest.mark.parametrize(
    "old, new, promise, changes, message",
    [
        ("v4", "v4.0.1", "patch", {}, None),
        ("v4", "v4.0.1", "patch", PLUS, "a patch of v4, but is minor (1,200 rows were added): name it v4.1"),
        ("v4.1.2", "v4.1.10", "patch", PLUS, "a patch of v4.1.2, but is minor (1,200 rows were added): name it v4.2"),
        ("v4.1", "v4.2", "minor", PLUS, None),
        ("v4", "v4.1", "minor", LESS, "a minor of v4, but is major (column url was removed): name it v5"),
        ("v4-a", "v4-a.1.1", "minor", LESS, "a minor of v4-a, but is major (column url was removed): name it v5-a"),
        ("demo", "demo.0.1", "patch", LESS, "a patch of demo, but is major (column url was removed): name it demo-2"),
        ("v9.3", "v9", "minor", PLUS, None),
        ("v4", "v5", None, LESS, None),
        ("v4", "v4-a", None, LESS, None),
        ("v4", "v4", "patch", {"digests": {"old": "d", "new": "d"}}, None),
    ],
)
def test_names_promise_a_level(
    old: str, new: str, promise: str | None, changes: dict[str, Any], message: str | None
) -> None:
    assert promised(old, new) == promise
    seen = replace(of(**changes), old=old, new=new)
    if message is None:
        return check_level(seen)
    with pytest.raises(ConfigError) as raised:
        check_level(seen)
    assert str(raised.value) == f"{new} is named as {message}"


def test_one_way_by_several_decisions_is_one_sentence() -> None:
    moved = [{"from": "test", "to": "train", "decision": said, "rows": 2} for said in (None, "merged")]
    assert level(of(moved=moved)) == ("major", ["4 rows went from test into train"])


def test_no_markup_of_theirs_survives(tmp_path: Path) -> None:
    hostile = "`rm` ![i](http://e.org) | <b>bold</b> \x1b[31m www.x.org"
    built(tmp_path, LINES, a=[("1", hostile), ("2", "two"), ("<script>|", "three")])
    dist = built(tmp_path, LINES.but("v2"), a=[("1", hostile + "?"), ("4|[x](y)", hostile)])
    text = found(dist).markdown()
    assert "rm" in text
    left = re.sub(r"\\.", "", text)  # what is escaped does nothing
    assert not any(bad in left for bad in ("`", "[", "]", "<", "\x1b", "://", "www."))
    for part in left.split("\n\n"):
        assert len({line.count("|") for line in part.splitlines()}) == 1, part
    assert [line for line in text.splitlines() if line.startswith("#")] == ["### v2 after v1"]


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Calls `hfds diff` on what was built; gives exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["diff", *arguments, "--out", str(tmp_path / "dist")])
        return (int(ended.value.code or 0), *capsys.readouterr())

    return run


def test_on_the_command_line(both: Path, call: Any, tmp_path: Path) -> None:
    code, said, _ = call("toys", "v1", "v2", "--json")
    entry = json.loads(said)
    assert (code, entry["level"], entry["rows"]["added"]) == (0, "major", 2)
    assert entry["because"] == ["1 rows went from train into test"]
    code, said, _ = call("toys", "v1", "v2", "--md")
    assert (code, said) == (0, found(both).markdown() + "\n")
    code, said, _ = call("toys", "v1", "v2")
    assert code == 0
    assert "6 rows became 6; 2 added, 2 removed, 1 moved, 1 changed" in said
    assert "not in toy/halves[second]" in said
    (tmp_path / "mine.py").write_text(RELEASES.format(path=[str(Path(__file__).parent)]))
    assert call(str(tmp_path / "mine.py"), "v1", "v2", "--md")[0] == 0
    assert call("toys", "v2", "v2")[1].startswith("none: 6 rows became 6; 0 added")
    for most, code in (("patch", 1), ("minor", 1), ("major", 0)):
        for how in ("--json", "--md"):
            ended, said, _ = call("toys", "v1", "v2", "--at-most", most, how)
            assert (ended, bool(said)) == (code, True)
    assert call("toys", "v2", "v2", "--at-most", "patch")[0] == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("toys", "v1", "v3"), "release toys/v3 is not built in"),
        (("toys", "v0", "v2"), "release toys/v0 is not built in"),
        (("toy", "v1", "v2"), "no dataset 'toy' was built in"),
        (("toys", "v1", "v2", "--at-most", "none"), "--at-most"),
        (("toys", "v1", "v2", "--md", "--json"), "give one of them"),
    ],
)
def test_what_is_not_there(both: Path, call: Any, arguments: tuple[str, ...], message: str) -> None:
    code, said, error = call(*arguments)
    assert code == 2
    assert message in said + error


def test_files_that_are_gone_or_broken(both: Path) -> None:
    ledger = both / "toys/ledger/v1.parquet"
    ledger.write_bytes(b"no ledger")
    with pytest.raises(BadFile, match=r"v1.parquet: it cannot be read .*; build that release again"):
        found(both)
    ledger.unlink()
    with pytest.raises(SourceMissing, match=r"v1.parquet of release toys/v1 is gone: build that release again"):
        found(both)
    with pytest.raises(ConfigError, match="release toys/v9 is not built in"):
        place_of("toys", "v9", both)
