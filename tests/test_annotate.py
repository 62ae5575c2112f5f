"""Steps with models: every distinct row is shown once and never again; what fails is isolated, named and retried."""

import errno
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from fixtures.voices import Loud, Wide, loads, shown

from hfds.annotate import annotate
from hfds.annotator import passes
from hfds.asked import groups, share
from hfds.errors import HfdsError, SourceChanged, Stopped
from hfds.run import Run
from hfds.store import Store
from processors.split import Split


def rows(*prompts: str | None, **columns: Any) -> Dataset:
    return Dataset.from_dict({"prompt": list(prompts), **columns})


def many(count: int) -> Dataset:
    return rows(*(f"Prompt {n}" for n in range(count)))


def reasons(made: Dataset) -> list[tuple[str, str] | None]:
    return [row and (row["reason"], row["value"]) for row in made["dropped"][:]]


@pytest.mark.parametrize("num_proc", [1, 2])
def test_equal_rows_are_shown_once_and_never_again(tmp_path: Path, num_proc: int) -> None:
    log = tmp_path / "log"
    step, run = Loud(log=str(log)), Run.here(tmp_path / "work", num_proc)
    first = step(rows("AA", "b", "AA", None, "cD"), run)
    assert first["loudness"][:] == [1, 0, 1, None, 0.5]
    assert reasons(first) == [None] * 5
    assert sorted(shown(log)) == ["AA", "b", "cD"]
    again = step(rows("new", "cD", "AA"), Run.here(tmp_path / "work", num_proc))
    assert again["loudness"][:] == [0, 0.5, 1]
    assert sorted(shown(log)) == ["AA", "b", "cD", "new"], "only what is new"
    assert loads(log) == 2
    assert step(rows("b", "new"), run)["loudness"][:] == [0, 0]
    assert loads(log) == 2, "nothing was missing, so nothing was loaded"


def test_by_hand_without_a_run() -> None:
    assert Loud()(rows("AA", "b"))["loudness"][:] == [1, 0]
    assert Loud().columns(rows("AA", "b").with_format("arrow")[:])["loudness"].to_pylist() == [1, 0]


def test_what_a_model_is_not_shown(tmp_path: Path) -> None:
    log = tmp_path / "log"
    gone = {"step": "x", "reason": "y", "value": None, "threshold": None, "partner": None}
    made = Loud(log=str(log))(rows("AA", "b", None, dropped=[None, gone, None], loudness=[9.0, 9.0, 9.0]))
    assert made["loudness"][:] == [1, 9, 9], "what was there stays"
    assert shown(log) == ["AA"]
    assert len(Loud()(Dataset.from_dict({"prompt": []}))) == 0


def test_another_parameter_is_another_step(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for of in ("letters", "words", "letters"):
        Loud(of=of, log=str(log))(rows("AA"), Run.here(tmp_path))
    assert shown(log) == ["AA", "AA"]


def test_steps_that_are_worked_on_together(tmp_path: Path) -> None:
    logs = [tmp_path / "loud", tmp_path / "wide"]
    steps = (Loud(log=str(logs[0])), Wide(log=str(logs[1])))
    assert passes((Split(), *steps, Split(), steps[0])) == [(Split(),), steps, (Split(),), (steps[0],)]
    run = Run.here(tmp_path)
    steps[0](rows("AA", "b"), run)
    done = annotate(steps, rows("AA", "b", "cc"), run)
    assert [(d.step, d.known, d.computed, d.failed, d.left) for d in done] == [
        ("Loud", 2, 1, 0, 0),
        ("Wide", 0, 3, 0, 0),
    ]
    assert [sorted(shown(log)) for log in logs] == [["AA", "b", "cc"]] * 2
    assert [sorted(n.tolist()) for _, n in groups([np.array([1, 4]), np.array([1, 2])])] == [[1], [4], [2]]


def on_device(run: Run) -> Run:
    """`run` as on an accelerator, which is asked by several threads so that it waits for nothing."""
    vars(run).update(device="cuda:0", device_name="a device")
    return run


@pytest.mark.parametrize("num_proc", [1, 2])
@pytest.mark.parametrize("where", [on_device, lambda run: run])
def test_a_row_that_makes_the_model_fail_is_found(tmp_path: Path, num_proc: int, where: Callable[[Run], Run]) -> None:
    log = tmp_path / "log"
    step = Loud(log=str(log), breaks="7", refuses="13")
    given = many(40)
    made = step(given, where(Run.here(tmp_path / "work", num_proc)))
    failed = [n for n, row in enumerate(made["dropped"][:]) if row]
    assert failed == [7, 13, 17, 27, 37]
    assert reasons(made)[7] == ("ArithmeticError", "cannot read 7")
    assert reasons(made)[13] == ("refused", "Prompt 13")
    assert made["dropped"][7]["step"] == "Loud"
    assert made["loudness"][7] is None
    count = len(shown(log))
    again = Loud(log=str(log))(given, Run.here(tmp_path / "work", num_proc))
    assert reasons(again) == reasons(made), "not tried again by itself"
    assert len(shown(log)) == count
    answers = Store(tmp_path / "work/store", tmp_path).answers("Loud", step.key())
    assert answers.forget_failed("refused") == 1
    assert answers.forget_failed() == 4
    assert answers.forget_failed() == 0
    mended = Loud(log=str(log))(given, Run.here(tmp_path / "work", num_proc))
    assert reasons(mended) == [None] * 40
    assert sorted(shown(log)[count:]) == [f"Prompt {n}" for n in (13, 17, 27, 37, 7)], "alone"


def test_a_model_that_fails_on_everything_drops_nothing(tmp_path: Path) -> None:
    step = Loud(breaks="Prompt")
    with pytest.raises(
        HfdsError, match="Loud failed on each of 16 rows and answers no other, the last time with ArithmeticError"
    ):
        step(many(40), Run.here(tmp_path))
    assert Loud()(many(40), Run.here(tmp_path))["loudness"][0] is not None


def test_few_rows_are_blamed_only_if_another_is_answered(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(HfdsError, match="Loud failed on each of 2 rows and answers no other"):
        Loud(breaks="x")(rows("x", "xx"), Run.here(tmp_path / "work"))
    assert Loud()(rows("x"), Run.here(tmp_path / "work"))["loudness"][:] == [0], "nothing was recorded"
    made = Loud(breaks="z", log=str(log))(rows("x", "z", "zz"), Run.here(tmp_path / "work"))
    assert reasons(made) == [None, ("ArithmeticError", "cannot read z"), ("ArithmeticError", "cannot read z")]
    assert shown(log) == ["x"], "asked again, to see that the model is well"
    many_bad = rows("x", *(f"z{n}" for n in range(40)))
    assert [*map(bool, reasons(Loud(breaks="z")(many_bad, Run.here(tmp_path / "work"))))] == [False, *[True] * 40]


def test_rows_that_cannot_be_prepared_do_not_wait_for_the_model(tmp_path: Path) -> None:
    class Odd(Loud):
        batch_size = 512

        def prepare(self, batch: Any) -> list[Any]:
            if any(text.endswith("0") for text in batch.texts("prompt")):
                raise LookupError("odd")
            return super().prepare(batch)

    made = Odd()(many(400), Run.here(tmp_path))
    assert [n for n, reason in enumerate(reasons(made)) if reason] == [*range(0, 400, 10)]
    assert reasons(made)[0] == ("LookupError", "odd")


def test_a_disk_that_fails_blames_no_row(tmp_path: Path) -> None:
    class Fails(Loud):
        def prepare(self, batch: Any) -> list[Any]:
            raise OSError(errno.EIO, "Input/output error", "pictures.tar")

    with pytest.raises(OSError, match="Input/output error"):
        Fails()(many(9), Run.here(tmp_path))
    assert Loud()(many(9), Run.here(tmp_path))["dropped"][:] == [None] * 9


def test_a_step_that_a_release_has_twice(tmp_path: Path) -> None:
    log = tmp_path / "log"
    step = Loud(log=str(log))
    assert [d.computed for d in annotate([step, step], many(9), Run.here(tmp_path / "work"))] == [9, 9]
    assert len(shown(log)) == 9


def test_a_null_picture_is_not_shown_even_with_a_hash(tmp_path: Path) -> None:
    class See(Loud):
        needs = ("image",)

        def prepare(self, batch: Any) -> list[Any]:
            return [picture.size for picture in batch.pictures]

        def annotate(self, model: Any, items: list[Any]) -> Any:
            return super().annotate(model, [str(item) for item in items])

    features = Features({"image": Image(), "image_hash": Value("string")})
    given = Dataset.from_dict({"image": [None, {"bytes": b"abc", "path": None}], "image_hash": ["x", "x"]}, features)
    assert See()(given)["loudness"][:] == [None, 0]
    assert See()(given.select([1, 0, 0]))["loudness"][:] == [0, None, None]


@pytest.mark.parametrize("where", [on_device, lambda run: run])
def test_out_of_memory_shrinks_the_batch_and_is_remembered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, where: Callable[[Run], Run]
) -> None:
    log = tmp_path / "log"
    step = Loud(log=str(log), fits=3)
    with caplog.at_level(logging.WARNING):
        assert step(many(30), where(Run.here(tmp_path / "work")))["loudness"][:] == Loud()(many(30))["loudness"][:]
    assert "going on with 2 rows at a time" in caplog.text
    assert [*json.loads((tmp_path / "work/batches.json").read_text()).values()] == [2]
    caplog.clear()
    made = step(rows("X", "Y", "Z"), where(Run.here(tmp_path / "work")))
    assert caplog.text == ""
    assert made["loudness"][:] == [1, 1, 1]
    with pytest.raises(HfdsError, match="CUDA out of memory"):
        Loud(fits=0)(many(20), Run.here(tmp_path / "other2"))


def test_hours_that_are_over(tmp_path: Path) -> None:
    log = tmp_path / "log"
    step = Loud(log=str(log), seconds=0.2)
    with pytest.raises(Stopped, match=r"stopped after 5e-05 hours as asked, with \d+ rows of Loud left; run again"):
        step(many(300), Run.here(tmp_path / "work", max_hours=0.00005))
    done = len(shown(log))
    assert 0 < done < 300
    assert len(Loud(log=str(log))(many(300), Run.here(tmp_path / "work"))) == 300
    assert len(shown(log)) == len(set(shown(log))) == 300


def test_a_step_that_answers_with_too_few_rows(tmp_path: Path) -> None:
    class Short(Loud):
        def annotate(self, model: Any, items: list[Any]) -> Any:
            return super().annotate(model, items).slice(1)

        def parameters(self) -> dict[str, Any]:
            return {"short": True}

    with pytest.raises(HfdsError, match=r"Short.annotate gave 7 rows for 8; it must give as many"):
        Short()(many(9), Run.here(tmp_path))


def test_a_background_process_that_is_killed(tmp_path: Path) -> None:
    class Deadly(Loud):
        def prepare(self, batch: Any) -> list[Any]:
            os.kill(os.getpid(), 9)
            return []

    with pytest.raises(HfdsError, match="a background process was killed, most likely for want of memory"):
        Deadly()(many(9), Run.here(tmp_path, 2))


def test_answers_are_kept_when_an_error_ends_the_run(tmp_path: Path) -> None:
    log = tmp_path / "log"

    class Ends(Loud):
        def annotate(self, model: Any, items: list[Any]) -> Any:
            if "Prompt 20" in items:
                raise SourceChanged("the file is gone")
            return super().annotate(model, items)

    with pytest.raises(SourceChanged):
        Ends(log=str(log))(many(40), Run.here(tmp_path / "work"))
    assert len(shown(log)) == 16

    class Mended(Loud):
        name = "Ends"

    assert len(Mended(log=str(log))(many(40), Run.here(tmp_path / "work"))) == 40
    assert sorted(shown(log)) == sorted(many(40)["prompt"][:]), "none twice"


def test_shares_do_not_overlap_and_are_balanced_by_cost() -> None:
    positions, costs = np.arange(5, 3005), np.linspace(0, 10, 3000) ** 3
    parts = [share(costs, positions, Run(Path(), rank=rank, ranks=3)) for rank in range(3)]
    assert sorted(np.concatenate(parts).tolist()) == positions.tolist()
    loads = [costs[part - 5].sum() for part in parts]
    assert max(loads) < 1.1 * min(loads)
    few = [share(np.ones(2), np.array([3, 9]), Run(Path(), rank=rank, ranks=3)).tolist() for rank in range(3)]
    assert sorted(few) == [[], [3], [9]], "a rank may have none"
