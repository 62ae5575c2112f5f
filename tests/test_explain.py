"""A row's account: where it came from, what became of it in each release, and the row that it hangs on."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures.toy import Toy, write

from hfds import Input, Release, build
from hfds.cli import main
from hfds.errors import BadFile, ConfigError
from hfds.explain import explain
from hfds.run import Run
from processors.dedup import MarkDuplicates
from processors.split import Split

FIRST, SECOND = (Input(Toy, "halves", splits=(name,)) for name in ("first", "second"))
V1 = Release("toys", "v1", (FIRST,), (), columns=("prompt", "license", "source"))
V2 = Release("toys", "v2", (FIRST, SECOND), (MarkDuplicates(against=(V1,)), Split(0.4)), columns=("prompt",))
OTHER = V2.but("v1", dataset="others", steps=(MarkDuplicates(against=(V2,)),))
LINES = {
    "a": [(f"{n:02d}", f"prompt {n}") for n in range(30)],
    "b": [("n1", "Prompt 1!"), ("n2", "something else"), ("n3", "Something, else")],
}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explained")
    write(folder / "sources", **LINES)
    for release in (V1, V2):
        build(release, Run.here(folder / "work"), sources=folder / "sources", out=folder / "dist")
    write(folder / "sources", b=[("m1", "something ELSE"), ("m2", "a third")])
    build(OTHER, Run.here(folder / "work"), sources=folder / "sources", out=folder / "dist")
    return folder / "dist"


def test_a_dropped_row_and_its_partner_in_an_earlier_release(dist: Path) -> None:
    seen = explain("toys", "v2", "toy/n1", dist)
    assert seen["row"] == {"release": "toys/v2", "id": "toy/n1", "split": None, "prompt": None, "withdrawn": None}
    assert seen["source"] == {
        "source": "toy", "input": "toy/halves[second]", "repo": None, "revision": None, "homepage": None,
        "license": None, "url": None,
    }  # fmt: skip
    assert [(link["release"], link["id"], link["reason"], link["split"]) for link in seen["chain"]] == [
        ("toys/v2", "toy/n1", "duplicate_prompt", None),
        ("toys/v1", "toy/01", None, "train"),
    ]
    unread, dropped = seen["releases"]
    assert unread == {"release": "toys/v1", "fate": "not read", **dict.fromkeys([*unread][2:])}
    assert {**seen["chain"][0], "fate": "dropped"} == {**dropped, "id": "toy/n1"}
    assert (dropped["step"], dropped["partner"], dropped["partner_in"]) == ("MarkDuplicates", "toy/01", "toys/v1:train")


def test_every_kept_row_is_found_in_its_shard(dist: Path, tmp_path: Path) -> None:
    prompts = {f"toy/{key}": text for key, text in LINES["a"] + LINES["b"]}
    splits = set()
    for name in ("v1", "v2"):
        rows = pq.read_table(dist / f"toys/ledger/{name}.parquet").to_pylist()
        for id_, split in ((row["id"], row["split"]) for row in rows if row["split"]):
            seen = explain("toys", name, id_, dist)
            wanted = {"release": f"toys/{name}", "id": id_, "split": split, "prompt": prompts[id_], "withdrawn": None}
            assert (seen["row"], seen["source"]["license"]) == (wanted, "CC0-1.0")
            splits.add(split)
    assert splits == {"train", "validation"}
    shutil.copytree(dist, tmp_path / "dist")
    shard = next(tmp_path.glob("dist/toys/data/v1/*"))
    pq.write_table(pq.read_table(shard).slice(1), shard)
    with pytest.raises(BadFile, match=r"it does not hold 'toy/03' where the ledger has it; build that release again"):
        explain("toys", "v1", "toy/03", tmp_path / "dist")


def test_of_a_row_that_was_withdrawn_nothing_is_shown(dist: Path, tmp_path: Path) -> None:
    shutil.copytree(dist, tmp_path / "dist")
    lines = [
        json.dumps({"id": f"toy/{key}", "reason": "who asked", "by": "id", "release": "v3"}) + "\n"
        for key in ("01", "n1")
    ]
    stones = tmp_path / "dist/toys/withdrawn.jsonl"
    stones.write_text(lines[0])
    seen = explain("toys", "v1", "toy/01", tmp_path / "dist")
    row = {"release": "toys/v1", "id": "toy/01", "split": "train", "prompt": None, "withdrawn": "who asked"}
    assert (seen["row"], seen["source"]["license"], seen["source"]["url"]) == (row, None, None)
    assert "prompt 1" not in json.dumps(seen)
    _, partner = explain("toys", "v2", "toy/n1", tmp_path / "dist")["chain"]
    assert (partner["id"], partner["split"], partner["decision"]) == ("toy/01", "train", None)
    stones.write_text("".join(lines))
    (link,) = explain("toys", "v2", "toy/n1", tmp_path / "dist")["chain"]
    assert {name: value for name, value in link.items() if value is not None} == {
        "release": "toys/v2", "id": "toy/n1", "input": "toy/halves[second]", "step": "MarkDuplicates",
        "reason": "duplicate_prompt",
    }  # fmt: skip


def test_a_row_that_was_dropped_has_no_licence_but_the_one_it_was_dropped_for(tmp_path: Path) -> None:
    lines = [("a", "same", "MIT"), ("b", "same", "GPL-3.0"), ("c", "other", "X-Secret")]
    (tmp_path / "sources/toy").mkdir(parents=True)
    (tmp_path / "sources/toy/a.txt").write_text("".join("\t".join(line) + "\n" for line in lines))
    release = V1.but("v1", steps=(MarkDuplicates(),), allow_licenses=("MIT", "GPL-3.0"))
    build(release, Run.here(tmp_path / "work"), sources=tmp_path / "sources", out=tmp_path / "dist")
    found = {key: explain("toys", "v1", f"toy/{key}", tmp_path / "dist")["source"]["license"] for key in "abc"}
    assert found == {"a": "MIT", "b": None, "c": "X-Secret"}


def test_a_chain_into_another_dataset_and_one_that_is_not_there(dist: Path, tmp_path: Path) -> None:
    chain = explain("others", "v1", "toy/m1", dist)["chain"]
    assert [(link["release"], link["id"]) for link in chain] == [("others/v1", "toy/m1"), ("toys/v2", "toy/n2")]
    shutil.copytree(dist / "others", tmp_path / "others")
    assert len(explain("others", "v1", "toy/m1", tmp_path)["chain"]) == 1
    for said in ("../../toys/v2:train", "toys/../v2:train", "/v2:train", ":"):
        ledger = tmp_path / "others/ledger/v1.parquet"
        table = pq.read_table(ledger)
        pq.write_table(table.set_column(8, "partner_in", pa.repeat(said, len(table)).cast(pa.string())), ledger)
        assert len(explain("others", "v1", "toy/m1", tmp_path)["chain"]) == 1, "no path of theirs is opened"


def test_a_chain_that_bites_its_tail_ends(dist: Path, tmp_path: Path) -> None:
    shutil.copytree(dist, tmp_path / "dist")
    ledger = tmp_path / "dist/toys/ledger/v2.parquet"
    rows = pq.read_table(ledger).drop_columns(["partner_in", "decision"]).to_pylist()
    partners = {"toy/n1": "toy/n2", "toy/n2": "toy/n3", "toy/n3": "toy/n2", "toy/01": "toy/gone"}
    for row in rows:
        row["partner"] = partners.get(row["id"])
    pq.write_table(pa.Table.from_pylist(rows), ledger)
    chain = explain("toys", "v2", "toy/n1", tmp_path / "dist")["chain"]
    assert [link["id"] for link in chain] == ["toy/n1", "toy/n2", "toy/n3"]
    assert {link["decision"] for link in chain} == {None}
    with pytest.raises(
        BadFile, match=r"v2.parquet: it has no row 'toy/gone', which is a partner in toys/v2; build that release again"
    ):
        explain("toys", "v2", "toy/01", tmp_path / "dist")


@pytest.mark.parametrize(
    "dataset, name, id_, message",
    [
        ("toys", "v2", "x/none", "no row 'x/none' in toys/v2: ids begin with the source's name"),
        ("toys", "v2", "y/n1", "no row 'y/n1' in toys/v2: did you mean 'toy/n1'?"),
        ("toys", "v1", "toy/n1", "no row 'toy/n1' in toys/v1: toys/v2 read it"),
        ("toy", "v1", "toy/n1", "no dataset 'toy' was built in"),
        ("toys", "v", "toy/n1", "release toys/v is not built in .*: did you mean 'v2'?"),
    ],
)
def test_what_is_not_there(dist: Path, dataset: str, name: str, id_: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        explain(dataset, name, id_, dist)


def test_on_the_command_line(dist: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> Any:
        with pytest.raises(SystemExit) as ended:
            main(["explain", *arguments, "--out", str(dist)])
        assert not ended.value.code
        return capsys.readouterr().out

    assert json.loads(said("toys", "v2", "toy/n1", "--json")) == explain("toys", "v2", "toy/n1", dist)
    lines = said("toys", "v2", "toy/n1").splitlines()
    assert "input       toy/halves[second]" in lines
    assert "toys/v1     not read" in lines
    assert (
        "toys/v2     dropped by MarkDuplicates: duplicate_prompt, value 1, partner toy/01, partner_in toys/v1:train"
    ) in lines
    assert lines[lines.index("id          toy/01") - 1 :][0] == "release     toys/v1"
    assert "toys/v1     kept in train" in said("toys", "v1", "toy/01").splitlines()
