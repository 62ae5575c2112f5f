"""Releases with models: what one computed all later ones find again; the plan says it before; failures are retried."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from fixtures import toy
from fixtures.toy import Toy
from fixtures.voices import Loud, Wide, loads, shown

from hfds.cli import main
from hfds.errors import ConfigError, Stopped
from hfds.explain import explain
from hfds.plan import PROBE, plan
from hfds.processor import Filter
from hfds.record import drops
from hfds.release import Input, Release, build, forget_failures
from hfds.run import Run
from processors.dedup import MarkDuplicates


@dataclass(frozen=True)
class Quieter(Filter):
    """Keeps what is quieter than `than`."""

    than: float = 0.5
    needs = ("loudness",)

    def verdicts(self, table: pa.Table) -> pa.Array:
        loud = pc.if_else(pc.greater_equal(table["loudness"], self.than), "loud", None)
        return drops(self.name, len(table), loud, table["loudness"].cast(pa.string()), str(self.than))


def lines(first: int, count: int) -> list[tuple[str, str]]:
    """Prompts of ten letters and digits, as loud as the last octal digit of their number is large."""
    return [(f"{n:06d}", "A" * (n % 8) + "b" * (7 - n % 8) + f"{n:03d}") for n in range(first, first + count)]


class Place:
    """Where a test builds."""

    def __init__(self, folder: Path):
        self.folder, self.log = folder, folder / "log"
        self.v1 = Release(
            "toys", "v1", (Input(Toy),), (MarkDuplicates("prompt"), Loud(log=str(self.log)), Quieter()),
            columns=("prompt", "loudness"),
        )  # fmt: skip
        toy.write(folder / "sources", a=lines(0, 200))

    def run(self, **options: Any) -> Run:
        return Run.here(self.folder / "work", **options)

    def build(self, release: Release, **options: Any) -> Any:
        return build(release, self.run(**options), sources=self.folder / "sources", out=self.folder / "dist")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def kept(built: Any) -> int:
    return sum(sum(entry["kept"].values()) for entry in built.funnel)


def test_only_what_is_new_is_computed(place: Place) -> None:
    assert kept(place.build(place.v1)) == 125
    assert len(shown(place.log)) == 200
    stricter = place.v1.but("v2", steps=(*place.v1.steps[:-1], Quieter(0.2)))
    assert kept(place.build(stricter)) == 50, "another threshold"
    assert kept(place.build(place.v1.but("renamed"))) == 125
    more = place.v1.but("v3", steps=(*place.v1.steps, Wide()), columns=("prompt", "prompt_width"))
    assert kept(place.build(more)) == 125, "a further step"
    assert len(shown(place.log)) == 200
    assert loads(place.log) == 1
    toy.write(place.folder / "sources", b=[("new", "Something ELSE"), ("old", "b" * 7 + "000")])
    built = place.build(place.v1.but("v4"))
    assert built.funnel[0]["rows"] == 202
    assert shown(place.log)[200:] == ["Something ELSE"], "a further file of a source"
    shutil.rmtree(place.folder / "work/steps")
    shutil.rmtree(place.folder / "work/sources")
    assert place.build(place.v1.but("v4")).digest == built.digest
    assert len(shown(place.log)) == 201, "the store alone is enough"


def test_the_digest_does_not_depend_on_what_was_known(place: Place) -> None:
    digest = place.build(place.v1).digest
    shutil.rmtree(place.folder / "work")
    place.build(place.v1.but("half", inputs=place.v1.inputs), num_proc=2)
    assert place.build(place.v1, batch_size=3).digest == digest


def test_the_lock_says_where_the_answers_are(place: Place) -> None:
    lock = place.build(place.v1).lock
    folder = lock["steps"][1]["answers"]
    assert (place.folder / "work/store" / folder / "step.json").is_file()
    assert "answers" not in lock["steps"][2]


def test_a_damaged_part_is_computed_again(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    digest = place.build(place.v1).digest
    part = next((place.folder / "work/store").rglob("*.arrow"))
    part.write_bytes(part.read_bytes()[:-9])
    shutil.rmtree(place.folder / "work/steps")
    assert place.build(place.v1).digest == digest
    assert f"{part.name} is damaged" in caplog.text
    assert len(shown(place.log)) == 400


def test_the_plan_says_what_will_be_computed(place: Place) -> None:
    release = place.v1.but("v2", steps=(*place.v1.steps, Wide(log=str(place.folder / "wide"))))
    unread = plan(release, place.run(), sources=place.folder / "sources", probe=False)
    assert (unread["inputs"][0]["prepared"], "known" in unread["steps"][1]) == (0, False)
    planned = plan(release, place.run(), sources=place.folder / "sources")
    steps = {step["step"]: step for step in planned["steps"]}
    assert [steps["Loud"][name] for name in ("rows", "known", "missing", "estimated")] == [200, 0, 200, False]
    assert steps["Loud"]["rate"] > 0
    assert planned["hours"] > 0
    assert steps["Loud"]["store_bytes"] > 200 * 4
    probed = shown(place.log)
    assert len(probed) == len(set(probed)) <= PROBE + 8
    assert steps["Wide"]["estimated"]
    assert 110 < steps["Wide"]["rows"] < 140, "from the rows whose loudness is known"
    place.build(release)
    assert len(shown(place.log)) == 200, "what the probe computed is found again"
    again = plan(release, place.run(), sources=place.folder / "sources")
    assert [step.get("missing") for step in again["steps"]] == [None, 0, None, 0]
    assert again["hours"] == 0
    assert [step["rows"] for step in again["steps"]] == [200, 200, 200, 125]


def test_hours_that_are_over_and_a_build_that_goes_on(place: Place) -> None:
    slow = place.v1.but("v1", steps=(Loud(log=str(place.log), seconds=0.05), Quieter()))
    with pytest.raises(Stopped, match="run again to go on"):
        place.build(slow, max_hours=0.00005)
    assert not (place.folder / "dist/toys/README.md").exists()
    assert kept(place.build(slow)) == 125
    assert len(shown(place.log)) == len(set(shown(place.log))) == 200


def test_failures_are_dropped_with_their_reason_and_can_be_retried(place: Place) -> None:
    broken = place.v1.but("v1", steps=(Loud(log=str(place.log), breaks="01", refuses="023"), Quieter()))
    built = place.build(broken)
    reasons = {(entry["step"], entry["reason"]): entry["rows"] for entry in built.funnel[0]["dropped"]}
    assert reasons[("Loud", "ArithmeticError")] == 12
    assert reasons[("Loud", "refused")] == 1
    assert explain("toys", "v1", "toy/000017", place.folder / "dist")["chain"][0]["value"] == "cannot read 01"
    assert kept(place.build(place.v1.but("v1"))) == kept(built), "they are not tried again by themselves"
    count = len(shown(place.log))
    assert forget_failures(place.v1, place.run(), reason="refused") == {"Loud": 1}
    assert forget_failures(place.v1, place.run()) == {"Loud": 12}
    assert kept(place.build(place.v1)) == 125
    assert len(shown(place.log)) == count + 13, "alone"
    with pytest.raises(ConfigError, match=r"'Lout' is no step with a model: did you mean 'Loud'\?"):
        forget_failures(place.v1, place.run(), step="Lout")


@pytest.mark.parametrize("obstacle", ["file", "inside"])
def test_a_store_that_cannot_be_written(place: Place, obstacle: str) -> None:
    (place.folder / "store").write_text("in the way")
    store = str(place.folder / "store") + ("/below" if obstacle == "inside" else "")
    with pytest.raises(ConfigError, match=r"cannot write at .*: choose another --workdir, --store or --out"):
        place.build(place.v1, store=store)


def test_a_store_of_another_run(place: Place) -> None:
    place.build(place.v1, store=str(place.folder / "shared"))
    shutil.rmtree(place.folder / "work")
    digest = place.build(place.v1, store=f"file://{place.folder}/shared").digest
    assert len(shown(place.log)) == 200
    assert place.build(place.v1, store=f"memory://{place.folder.name}").digest == digest


FILE = """
import sys
sys.path[:0] = {path!r}
from test_incremental import Loud, Place
from pathlib import Path
V1 = Place(Path({folder!r})).v1
"""


def test_commands(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    mine = place.folder / "mine.py"
    mine.write_text(FILE.format(path=[str(Path(__file__).parent)], folder=str(place.folder)))

    def call(*arguments: Any) -> tuple[int, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        return int(exit_.value.code or 0), capfd.readouterr().out

    where = ("--sources", place.folder / "sources", "--workdir", place.folder / "work")
    out = ("--out", place.folder / "dist")
    code, printed = call("plan", mine, "v1", *where)
    assert code == 0
    assert "hours of one" in printed
    assert "200" in printed
    assert call("build", mine, "v1", *where, *out)[0] == 0
    code, printed = call("store", "ls", "--workdir", place.folder / "work", "--json")
    assert [(code, entry["rows"]) for entry in json.loads(printed)] == [(0, 200)]
    assert call("store", "verify", "--workdir", place.folder / "work") == (0, "every part is whole\n")
    assert call("retry", mine, "v1", *where, *out)[0] == 0
    assert call("store", "gc", "--workdir", place.folder / "work", "--unused", place.folder / "dist")[0] == 0
    assert call("store", "gc", "--workdir", place.folder / "work", "--unused", place.folder / "nowhere")[0] == 2
    assert len(shown(place.log)) == 200
    part = next((place.folder / "work/store").rglob("*.arrow"))
    part.write_bytes(b"")
    code, printed = call("store", "verify", "--workdir", place.folder / "work", "--json")
    assert code == 1
    assert json.loads(printed)[0]["part"].endswith(".damaged")
    (place.folder / "dist/toys/releases/v1.lock.json").write_text(json.dumps({"steps": []}))
    call("store", "gc", "--workdir", place.folder / "work", "--unused", place.folder / "dist")
    assert not [*(place.folder / "work/store").iterdir()]
    assert call("build", mine, "v1", *where, *out, "--max-hours", "0")[0] in (0, 4)
