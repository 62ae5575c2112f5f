"""The annotation store: parts that are whole are found by everyone, parts that are not are named and never trusted."""

import errno
import logging
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from hfds import store as module
from hfds.errors import ConfigError
from hfds.store import PART, Answers, Store, keys_of

SCHEMA = pa.schema({"score": pa.float32()})


def keys(*numbers: int) -> np.ndarray:
    return np.array([[n, n * 7] for n in numbers], np.uint64)


def scores(*values: float) -> pa.Table:
    return pa.table([pa.array(values, pa.float32())], SCHEMA)


@pytest.fixture(params=["local", "memory"])
def answers(request: pytest.FixtureRequest, tmp_path: Path) -> Answers:
    """One step's, in a local folder or on another file system."""
    url = str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}/store"
    return Store(url, tmp_path / "mirror").answers("Score", "Score v1 {}")


def read(answers: Answers, wanted: np.ndarray) -> list[float | None]:
    known = answers.known(answers.parts(), SCHEMA)
    places = known.find(wanted)
    found = iter(known.take(places[places >= 0])["score"].to_pylist())
    return [next(found) if place >= 0 else None for place in places]


def files(answers: Answers) -> list[Path]:
    return sorted(Path(answers._root, "answers").iterdir())


def test_what_was_written_is_found(answers: Answers) -> None:
    assert answers.parts() == []
    assert read(answers, keys(1)) == [None]
    answers.write(keys(1, 2, 3), scores(0.1, 0.2, 0.3))
    answers.write(keys(9, 2), scores(0.9, 5))
    assert read(answers, keys(3, 4, 9, 1)) == pytest.approx([0.3, None, 0.9, 0.1])
    assert read(answers, keys(2)) == pytest.approx([0.2]), "of two answers the first holds"
    assert answers.describe() | {"bytes": 0, "step": ""} == {
        "step": "", "rows": 4, "failed": 0, "parts": 2, "bytes": 0, "key": "Score v1 {}",
    }  # fmt: skip


def test_keys_that_share_a_half(answers: Answers) -> None:
    same = np.array([[1, 5], [2, 5], [3, 5], [1, 6]], np.uint64)
    answers.write(same[[2, 0, 3]], scores(3, 1, 16))
    assert read(answers, same) == [1, None, 3, 16]


def test_a_part_that_says_all_the_others_say_survives_the_merge(answers: Answers) -> None:
    answers.write(keys(1, 2, 3), scores(1, 2, 3))
    answers.write(keys(2), scores(2))
    small = {name: answers._fs.cat_file(f"{answers._root}/answers/{name}") for name in answers.parts()}
    answers.tidy()
    assert read(answers, keys(1, 2, 3)) == [1, 2, 3]
    for name, data in small.items():  # as a merge leaves them that was killed
        answers._fs.pipe_file(f"{answers._root}/answers/{name}", data)
    answers.tidy()
    assert read(answers, keys(1, 2, 3)) == [1, 2, 3]
    assert len(answers.parts()) == 1


def test_a_clock_that_is_behind_does_not_change_an_answer(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    answers.write(keys(1), scores(1))
    monkeypatch.setattr(time, "time_ns", lambda: 5)
    answers.write(keys(1), scores(7))
    assert read(answers, keys(1)) == [1]


def test_stores_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the annotation store foo://x cannot be opened: Protocol not known: foo"):
        Store("foo://x", tmp_path)
    answers = Store(tmp_path / "store", tmp_path / "mirror").answers("Score", "Score v1")
    answers.write(keys(1), scores(1))
    Path(answers._root, "step.json").write_text("{")
    listed = Store(tmp_path / "store", tmp_path / "mirror").steps()
    assert [(one.key, one.describe()["rows"]) for one in listed] == [("unknown: its step.json is damaged", 1)]


def test_many_rows_become_parts_of_bounded_size(tmp_path: Path) -> None:
    answers = Store(tmp_path, tmp_path / "mirror").answers("Embed", "")
    count, width = 3000, 32 << 10
    vectors = pa.FixedSizeListArray.from_arrays(np.zeros(count * width // 4, np.float32), width // 4)
    answers.write(keys(*range(count)), pa.table({"vector": vectors}))
    sizes = [path.stat().st_size for path in files(answers)]
    assert len(sizes) == 3
    assert max(sizes) < PART * 1.1
    known = answers.known(answers.parts(), pa.schema({"vector": vectors.type}))
    assert len(known) == count


@pytest.mark.parametrize("damage", ["cut", "altered", "emptied"])
def test_a_damaged_part_is_named_and_never_trusted(
    answers: Answers, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answers.write(keys(1, 2), scores(0.5, 0.25))
    answers.write(keys(3), scores(0.75))
    fs, folder = answers._fs, f"{answers._root}/answers"
    name = answers.parts()[0]
    data = bytearray(fs.cat_file(f"{folder}/{name}"))
    data[len(data) // 2] ^= 1
    broken = {"cut": data[: len(data) // 2], "altered": data, "emptied": b""}[damage]
    fs.pipe_file(f"{folder}/{name}", bytes(broken))
    fresh = Store(fs.unstrip_protocol(answers._root.rpartition("/")[0]), tmp_path / "new").answers(
        "Score", "Score v1 {}"
    )
    with caplog.at_level(logging.WARNING):
        assert read(fresh, keys(1, 2, 3)) == [None, None, 0.75]
    assert f"{name} is damaged: it is set aside" in caplog.text
    assert [path.endswith(f"{name}.damaged") for path in fresh.damaged()] == [True]
    assert read(fresh, keys(3)) == [0.75]
    fresh.tidy()
    assert fresh.damaged() == []


def test_small_parts_are_merged_and_nothing_changes(answers: Answers) -> None:
    for number in range(20):
        answers.write(keys(number, 100), scores(number, number))
    assert answers.tidy() > 0
    assert len(answers.parts()) == 1
    assert read(answers, keys(*range(20), 100)) == [*range(20), 0]
    assert answers.describe()["rows"] == 21, "second answers are gone"
    answers.write(keys(100), scores(9))
    assert read(answers, keys(100)) == [0]


def test_what_a_killed_run_left_is_removed_when_it_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Store(tmp_path, tmp_path / "mirror").answers("Score", "")
    answers.write(keys(1), scores(1))
    left = Path(answers._root, "answers", ".abc.part")
    left.write_bytes(b"half")
    answers.tidy()
    assert left.exists(), "it may be another run's"
    monkeypatch.setattr(module, "STALE", -1)
    answers.tidy()
    assert not left.exists()
    assert read(answers, keys(1)) == [1]


def test_failures_are_kept_apart_and_forgotten_on_request(answers: Answers) -> None:
    answers.write_failed(keys(1, 2), ["ValueError", "truncated_image"], ["bad", None])
    answers.write_failed(keys(3), ["ValueError"], ["worse"])
    failed = answers.failed(answers.parts("failed"))
    assert failed.take(failed.find(keys(3, 1)))["value"].to_pylist() == ["worse", "bad"]
    assert answers.forget_failed("ValueError") == 2
    failed = answers.failed(answers.parts("failed"))
    assert (failed.find(keys(1, 2, 3)) >= 0).tolist() == [False, True, False]
    assert (answers.forget_failed(), answers.forget_failed()) == (1, 0)


def test_steps_are_listed_and_removed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", tmp_path / "mirror")
    assert store.steps() == []
    for name in ("A", "B"):
        store.answers(name, f"{name} v1").write(keys(1), scores(1))
    (tmp_path / "store/notes").mkdir()
    assert [(one.folder[:1], one.key) for one in store.steps()] == [("A", "A v1"), ("B", "B v1")]
    assert store.steps()[0].remove() > 0
    assert [one.folder[:1] for one in store.steps()] == ["B"]


def test_a_disk_that_is_full_leaves_no_half_part(tmp_path: Path) -> None:
    answers = Store(tmp_path / "store", tmp_path / "mirror").answers("Score", "")
    answers.write(keys(1), scores(1))
    program = (
        "import resource, signal, sys; sys.path.insert(0, 'tests'); sys.dont_write_bytecode = True\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "import test_store as t; from pathlib import Path\n"
        f"a = t.Store({str(tmp_path / 'store')!r}, Path({str(tmp_path)!r})).answers('Score', '')\n"
        "try: a.write(t.keys(*range(1000)), t.scores(*range(1000)))\n"
        "except OSError as error: print(error.errno)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert done.stdout.split() == [str(errno.EFBIG)], done.stderr
    assert len(files(answers)) == 1
    assert read(answers, keys(1)) == [1]


def test_two_writers_at_once(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, 'tests'); import test_store as t; from pathlib import Path\n"
        f"a = t.Store({str(tmp_path / 'store')!r}, Path({str(tmp_path)!r})).answers('Score', '')\n"
        "for n in range(100): a.write(t.keys(n), t.scores(n + float(sys.argv[1])))\n"
    )
    command = [sys.executable, "-c", program]
    both = [subprocess.Popen([*command, part], cwd=Path(__file__).parent.parent) for part in ("0", "0.5")]
    answers = Store(tmp_path / "store", tmp_path / "mirror").answers("Score", "")
    seen: dict[int, float | None] = {}
    while any(process.poll() is None for process in both):
        for number, value in enumerate(read(answers, keys(*range(100)))):
            if value is not None:
                assert seen.setdefault(number, value) == value, "an answer never changes"
        time.sleep(0.01)
    assert [process.returncode for process in both] == [0, 0]
    assert {int(value or 0) for value in read(answers, keys(*range(100)))} == set(range(100))


def test_a_remote_part_is_copied_once(tmp_path: Path) -> None:
    answers = Store(f"memory://{tmp_path.name}/once", tmp_path / "mirror").answers("Score", "")
    answers.write(keys(1), scores(1))
    assert read(answers, keys(1)) == [1]
    copy = next((tmp_path / "mirror").rglob("*.arrow"))
    stamp = copy.stat().st_mtime_ns
    assert read(answers, keys(1)) == [1]
    assert copy.stat().st_mtime_ns == stamp
    copy.write_bytes(b"cut")
    assert read(answers, keys(1)) == [1], "a bad copy is copied again"
    assert answers.damaged() == []
    fsspec.filesystem("memory").store.clear()


def test_keys_survive_slices() -> None:
    column = pa.chunked_array([module.key_column(keys(1, 2, 3)).slice(1), module.key_column(keys(4))])
    assert keys_of(column).tolist() == keys(2, 3, 4).tolist()
