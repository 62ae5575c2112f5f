"""Steps: called by hand or by a build, on one process or two, they give the same; dropped rows are not shown."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from datasets import Dataset, Features, Value, load_from_disk

from hfds.errors import ConfigError
from hfds.processor import Annotator, Filter
from hfds.record import drops
from hfds.run import Run
from processors.split import Split


@dataclass(frozen=True)
class Measure(Annotator):
    """Adds the length of a prompt and replaces the prompt by its upper case."""

    seen: Callable[[int], None] = lambda rows: None
    needs = ("prompt",)
    adds = Features({"prompt": Value("string"), "length": Value("int32")})

    def columns(self, table: pa.Table) -> pa.Table:
        self.seen(len(table))
        return pa.table({"prompt": pc.utf8_upper(table["prompt"]), "length": pc.utf8_length(table["prompt"])})


@dataclass(frozen=True)
class Longer(Filter):
    """Keeps prompts longer than `than`."""

    than: int = 2
    needs = ("length",)

    def verdicts(self, table: pa.Table) -> pa.Array:
        short = pc.if_else(pc.less_equal(table["length"], self.than), "short", None)
        return drops(self.name, len(table), short, table["length"].cast(pa.string()), str(self.than))


@dataclass(frozen=True)
class Shout(Annotator):
    """Replaces the prompt and nothing else."""

    needs = ("prompt",)
    adds = Features({"prompt": Value("string")})

    def columns(self, table: pa.Table) -> pa.Table:
        return pa.table({"prompt": pc.utf8_upper(table["prompt"])})


class Longer2(Longer):
    """The same under another version."""

    version = 2


def rows(*prompts: str | None) -> Dataset:
    return Dataset.from_dict({"prompt": list(prompts), "other": list(range(len(prompts)))})


def test_an_annotator_adds_and_replaces_columns_in_place() -> None:
    made = Measure()(rows("a", "bcd", None))
    assert set(made.column_names) == {"other", "prompt", "length"}
    assert made["prompt"][:] == ["A", "BCD", None]
    assert made["length"][:] == [1, 3, None]
    assert made["other"][:] == [0, 1, 2]


def test_a_filter_marks_and_a_mark_stays() -> None:
    made = Longer(5)(Longer(2)(Measure()(rows("a", "bcd", "efghijk"))))
    assert [d and (d["reason"], d["value"], d["threshold"]) for d in made["dropped"]] == [
        ("short", "1", "2"),
        ("short", "3", "5"),
        None,
    ]
    assert len(made) == 3, "nothing is removed"


def test_dropped_rows_are_not_shown() -> None:
    seen: list[int] = []
    marked = Longer(2)(Measure()(rows("a", "bcd", "e", "fgh")))
    made = Measure(seen.append)(marked)
    assert seen == [2]
    assert made["prompt"][:] == ["A", "BCD", "E", "FGH"], "what was there stays"
    assert made["length"][:] == [1, 3, 1, 3]


def test_all_dropped_or_no_rows() -> None:
    none = Longer(9)(Measure()(rows("a", "b")))
    assert Measure()(none)["length"][:] == [1, 1]
    empty = Longer()(Measure()(Dataset(pa.table({"prompt": pa.array([], pa.string())}))))
    assert (len(empty), set(empty.column_names)) == (0, {"prompt", "length", "dropped"})


def test_a_missing_column_is_named() -> None:
    with pytest.raises(KeyError, match="Longer needs the column 'length'; there are: prompt, other"):
        Longer()(rows("a"))


@pytest.mark.parametrize("num_proc", [1, 2])
def test_a_run_keeps_results_and_finds_them_again(tmp_path: Path, num_proc: int) -> None:
    rows(*(f"prompt {n}" for n in range(25_000))).save_to_disk(str(tmp_path / "given"))
    given = load_from_disk(str(tmp_path / "given"))
    seen: list[int] = []
    run = Run.here(tmp_path, num_proc)
    first = Longer(8)(Measure(seen.append)(given, run), run)
    called = len(seen)
    second = Longer(8)(Measure(seen.append)(given, run), run)
    assert len(seen) == called, "computed again"
    by_hand = Longer(8)(Measure()(given))
    assert first["dropped"][:] == second["dropped"][:] == by_hand["dropped"][:]
    assert (num_proc == 1) == (called > 0), "one process computes here, two elsewhere"


def test_parameters_and_version_are_part_of_the_key(tmp_path: Path) -> None:
    assert Longer(2).key() == Longer(2).key() != Longer(3).key()
    assert Longer2(2).key() != Longer(2).key()
    run = Run.here(tmp_path)
    measured = Measure()(rows("a", "bcd"), run)
    assert [sum(d is not None for d in Longer(n)(measured, run)["dropped"]) for n in (0, 2, 3)] == [0, 1, 2]


def test_the_only_column_is_replaced() -> None:
    only = Dataset.from_dict({"prompt": ["a", "b"]})
    assert Shout()(only)["prompt"][:] == ["A", "B"]


def test_impossible_parameters_are_refused() -> None:
    with pytest.raises(ConfigError, match="Split: validation must be a number from 0 to 1, got 2"):
        Split(2)(rows("a"))
