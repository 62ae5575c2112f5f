"""Releases that look at the rows of earlier ones: built, found again, explained; what is said when they are gone."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fixtures.toy import Toy, write
from fixtures.voices import Compass

from hfds import Input, Release, build
from hfds.errors import ConfigError, SourceMissing
from hfds.explain import explain
from hfds.lock import read_locks
from hfds.plan import plan
from hfds.run import Run
from processors.dedup import MarkDuplicates
from processors.duplicates.alike import Alike
from processors.minhash import MinHashPrompt
from processors.split import Split

OLD = [(f"{n:03d}", f"prompt {n} of the first release") for n in range(40)]
NEW = [(f"n{n}", f"Prompt {n} of the FIRST release!") for n in range(0, 40, 2)] + [("x1", "something else")]
V1 = Release("toys", "v1", (Input(Toy, "halves", splits=("first",)),), (Split(0.3),), columns=("prompt", "image_hash"))
V2 = V1.but("v2", inputs=(Input(Toy, "halves"),), steps=(MarkDuplicates(against=(V1,)), Split(0.3, earlier=(V1,))))
V3 = V2.but("v3", steps=(Split(0.3, earlier=(V1,)),))


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """V1 in tmp_path/dist, and the sources that V2 and V3 have too."""
    sources = write(tmp_path / "sources", a=OLD, b=NEW)
    build(V1, Run.here(tmp_path / "work"), sources=sources, out=tmp_path / "dist")
    return tmp_path


def again(release: Release, folder: Path) -> dict[str, dict[str, str]]:
    """Builds a release beside V1; the splits of its rows and those of V1, by id."""
    build(release, Run.here(folder / "work"), sources=folder / "sources", out=folder / "dist")
    ledgers = [pq.read_table(folder / f"dist/toys/ledger/{name}.parquet") for name in ("v1", release.name)]
    return {
        name: {row["id"]: row["split"] for row in ledger.to_pylist()}
        for name, ledger in zip(("v1", "now"), ledgers, strict=True)
    }


def test_new_rows_give_way_to_those_of_an_earlier_release(built: Path) -> None:
    splits = again(V2, built)
    assert {id_: split for id_, split in splits["now"].items() if id_ in splits["v1"]} == splits["v1"]
    assert [id_ for id_, split in splits["now"].items() if split is None] == [f"toy/n{n}" for n in range(0, 40, 2)]
    home = built / "dist/toys"
    chain = explain("toys", "v2", "toy/n4", built / "dist")["chain"]
    assert [(row["release"], row["id"]) for row in chain] == [("toys/v2", "toy/n4"), ("toys/v1", "toy/004")]
    assert chain[0]["partner_in"] == f"toys/v1:{splits['v1']['toy/004']}"
    assert chain[1]["split"] == splits["v1"]["toy/004"]
    locks = read_locks(home)
    assert locks["v2"]["earlier"] == {"toys/v1": locks["v1"]["digest"]}
    assert locks["v2"]["steps"][0]["parameters"]["against"] == ["toys/v1"]
    assert locks["v1"]["earlier"] == {}


def test_near_duplicates_follow_an_earlier_split(built: Path) -> None:
    splits = again(V3, built)
    for number in range(0, 40, 2):
        assert splits["now"][f"toy/n{number}"] == splits["v1"][f"toy/{number:03d}"]
    assert set(splits["v1"].values()) == {"train", "validation"}
    ledger = pq.read_table(built / "dist/toys/ledger/v3.parquet").to_pylist()
    told = next(row for row in ledger if row["id"] == "toy/n6")
    assert (told["decision"], told["partner"]) == ("earlier", "toy/006")
    assert told["partner_in"] == f"toys/v1:{splits['v1']['toy/006']}"


def test_an_earlier_release_that_changed_is_looked_at_again(built: Path) -> None:
    before = again(V2, built)["now"]
    write(built / "sources", a=OLD[:5])
    build(V1, Run.here(built / "work"), sources=built / "sources", out=built / "dist")
    write(built / "sources", a=OLD)
    after = again(V2, built)["now"]
    assert before["toy/n8"] is None
    assert after["toy/n8"] is not None
    assert after["toy/n4"] is None


def test_a_partner_s_split_is_the_one_that_it_ends_in(tmp_path: Path) -> None:
    sources = write(tmp_path / "sources", a=OLD, b=NEW)
    release = V2.but("v4", steps=(MarkDuplicates(), Split(0.5)))
    build(release, Run.here(tmp_path / "work"), sources=sources, out=tmp_path / "dist")
    ledger = pq.read_table(tmp_path / "dist/toys/ledger/v4.parquet").to_pylist()
    split = {row["id"]: row["split"] for row in ledger}
    doubled = [row for row in ledger if row["partner"]]
    assert len(doubled) == 20
    assert all(row["partner_in"] == split[row["partner"]] for row in doubled)
    assert {row["partner_in"] for row in doubled} == {"train", "validation"}


def test_plan_sees_what_build_sees(built: Path) -> None:
    planned = plan(V2, Run.here(built / "work"), sources=built / "sources", out=built / "dist")
    assert [step["step"] for step in planned["steps"]] == ["MarkDuplicates", "Split"]


def test_releases_that_are_not_there(built: Path) -> None:
    sources, dist = built / "sources", built / "dist"
    other = V2.but("v5", steps=(Split(earlier=(V2,)),))
    with pytest.raises(ConfigError, match=r"release toys/v2 is not built in .*dist: it is one of: v1; build it"):
        build(other, Run.here(built / "work"), sources=sources, out=dist)
    with pytest.raises(ConfigError, match="cannot be compared with itself"):
        build(other.but("v2"), Run.here(built / "work"), sources=sources, out=dist)
    shard = next((dist / "toys/data/v1").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(SourceMissing, match="has another size than its lock says: build that release again"):
        build(V2, Run.here(built / "work2"), sources=sources, out=dist)
    shard.unlink()
    with pytest.raises(SourceMissing, match=r"train-.*parquet of release toys/v1 is gone|validation-.* is gone"):
        build(V2, Run.here(built / "work2"), sources=sources, out=dist)


def test_columns_that_an_earlier_release_does_not_have(built: Path, caplog: pytest.LogCaptureFixture) -> None:
    sources, dist, run = built / "sources", built / "dist", Run.here(built / "work")
    texts = V1.but("v0", columns=("prompt",))
    build(texts, run, sources=sources, out=dist)
    later = V2.but("v5", steps=(Split(earlier=(texts,)),))
    build(later, run, sources=sources, out=dist)
    assert "toys/v0 has no column image_hash: its rows are compared without" in caplog.text
    build(V1.but("v0", columns=("license",)), run, sources=sources, out=dist)
    with pytest.raises(ConfigError, match="toys/v0 has no column 'prompt', and no annotator that comes before"):
        build(later, run, sources=sources, out=dist)
    with pytest.raises(ConfigError, match="toys/v0 has no column 'prompt', and no annotator that comes before"):
        build(V2.but("v6", steps=(MarkDuplicates(against=(texts,)),)), run, sources=sources, out=dist)


def test_columns_of_another_maker_are_made_again(built: Path) -> None:
    sources, dist, run = built / "sources", built / "dist", Run.here(built / "work")
    first, other = MinHashPrompt(seed=1), MinHashPrompt(seed=2)
    one = V1.but("v7", steps=(first,), columns=("prompt", "prompt_minhash"))
    build(one, run, sources=sources, out=dist)
    for number, signed in enumerate((first, other)):
        step = MarkDuplicates("prompt_minhash", above=0.7, against=(one,))
        splits = build(one.but(f"v8{number}", inputs=V2.inputs, steps=(signed, step)), run, sources=sources, out=dist)
        dropped = {entry["input"]: entry["dropped"] for entry in splits.funnel}
        assert [drop["rows"] for drop in dropped["toy/halves"]] == [20], "with another seed, too"


def test_models_are_not_asked_again_about_the_rows_of_an_earlier_release(built: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    sources, dist = built / "sources", built / "dist"
    write(sources, a=[("1", "east 0"), ("2", "north 90")], b=[("3", "nearly east 20"), ("4", "west 180")])
    compass = Compass(str(tmp_path / "asked.txt"))
    one = V1.but("v7", steps=(compass, Split(0.5)), columns=("prompt",))
    build(one, Run.here(built / "work"), sources=sources, out=dist)
    assert compass.asked() == ["east 0", "north 90"]
    near = Alike("direction", above=0.9)
    two = V2.but("v8", steps=(compass, MarkDuplicates(of=(near,), against=(one,)), Split(0.5, (near,), earlier=(one,))))
    build(two, Run.here(built / "work"), sources=sources, out=dist)
    assert compass.asked() == ["east 0", "north 90", "nearly east 20", "west 180"]
    ledger = {row["id"]: row for row in pq.read_table(dist / "toys/ledger/v8.parquet").to_pylist()}
    assert (ledger["toy/3"]["reason"], ledger["toy/3"]["partner"]) == ("duplicate_direction", "toy/1")
    assert ledger["toy/3"]["value"][:4] == "0.93"
    assert ledger["toy/4"]["split"] is not None
    (built / "work/store").rename(built / "gone")
    fresh = two.but("v9", steps=(compass, MarkDuplicates(of=(near,), against=(one,))))
    build(fresh, Run.here(built / "work3"), sources=sources, out=dist)
    assert sorted(compass.asked()[4:]) == ["east 0", "nearly east 20", "north 90", "west 180"], "once each"
