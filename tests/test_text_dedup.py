"""text-dedup as a command: with a package of its name that takes the same options and leaves the same files."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, Features, List, Value

from hfds.errors import ConfigError, HfdsError
from processors.dedup import MarkDuplicates
from processors.duplicates.text_dedup import keep

# Joins texts of the same first word, and keeps the last of them: text-dedup keeps any row of a group.
FAKE = """
import argparse, pathlib, pyarrow as pa, pyarrow.parquet as pq
parser = argparse.ArgumentParser(allow_abbrev=False)
for name in "path split column cache_dir output data_files".split():
    parser.add_argument("--" + name, required=True)
for name in "num_proc ngram num_perm min_length".split():
    parser.add_argument("--" + name, type=int, required=True)
parser.add_argument("--threshold", type=float, required=True)
parser.add_argument("--no-clean_cache", action="store_true", required=True)
args = parser.parse_args()
assert (args.path, args.split, args.column) == ("parquet", "train", "text"), args
assert (args.threshold, args.ngram, args.num_perm, args.min_length) == (0.7, 3, 128, 1), args
texts = pq.read_table(args.data_files)["text"].to_pylist()
last = {text.split()[0]: number for number, text in enumerate(texts)}
clusters = [last[text.split()[0]] for text in texts]
table = pa.table({"text": texts, "__index__": range(len(texts)), "__cluster__": clusters})
folder = pathlib.Path(args.cache_dir) / "parquet/default-0/0.0.0/1"
folder.mkdir(parents=True)
def write(name, part):
    with pa.ipc.new_stream(folder / name, part.schema) as file:
        file.write_table(part)
write("parquet-train.arrow", table.select(["text"]))
write("cache-1_00000_of_00001.arrow", table.select(["text", "__index__"]))
half = len(texts) // 2
write("cache-2_00000_of_00002.arrow", table[:half])
write("cache-2_00001_of_00002.arrow", table[half:])
write("cache-3_00000_of_00001.arrow", pa.table({"indices": sorted(last.values())}))
"""


def interpreter(folder: Path, code: str | None) -> str:
    """A Python that has a package text_dedup with this code, or none of that name."""
    package = folder / "packages/text_dedup"
    package.mkdir(parents=True)
    if code is not None:
        (package / "__init__.py").touch()
        (package / "minhash.py").write_text(code)
    else:
        package.rmdir()
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{package.parent}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return str(python)


FEATURES = Features({"id": Value("string"), "prompt": Value("string"), "vector": List(Value("float32"))})


def test_as_a_backend_of_the_step(tmp_path: Path) -> None:
    texts = ["A cat sat on", "dogs", "a CAT sat in", None, "a moon, a moon"]
    rows = Dataset.from_dict({"id": ["a", "b", "c", "d", "e"], "prompt": texts})
    step = MarkDuplicates(above=0.7, keep="cluster", text_dedup=interpreter(tmp_path, FAKE))
    dropped = step(rows)["dropped"][:]
    assert [fate and fate["partner"] for fate in dropped] == ["e", None, "e", None, None]
    assert dropped[0]["value"] == "0", "though it is not like its partner"
    assert step.key() == MarkDuplicates(above=0.7, keep="cluster", text_dedup="/elsewhere").key()
    assert step.key() != MarkDuplicates(above=0.7, keep="cluster").key()


@pytest.mark.parametrize(
    "step, message",
    [
        (MarkDuplicates(above=0.7, text_dedup="python"), "give above and keep='cluster'"),
        (MarkDuplicates(keep="cluster", text_dedup="python"), "give above and keep='cluster'"),
        (MarkDuplicates("vector", above=0.7, keep="cluster", text_dedup="python"), "text_dedup compares texts"),
        (MarkDuplicates(above=0.7, keep="cluster", text_dedup="/no/python"), "/no/python"),
    ],
)
def test_what_it_cannot_do(step: MarkDuplicates, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        step(Dataset.from_dict({"id": ["a"], "prompt": ["b c d"], "vector": [[1.0, 0.0]]}, FEATURES))
    assert message in str(error.value)


def test_the_row_that_it_keeps_is_the_partner_and_the_similarity_the_true_one(tmp_path: Path) -> None:
    texts = pa.array(["A cat,  sat on", "?!", "dogs", "a CAT sat in", None, "a moon", "a cat sat on!"])
    made = keep(texts, 0.7, python=interpreter(tmp_path, FAKE))
    assert made.partner.tolist() == [6, -1, -1, 6, -1, 6, -1]
    assert made.similarity.tolist() == [1, 0, 0, np.float32(1 / 3), 0, 0, 0], "it does not check what it joins"
    assert (made.partner.dtype, made.similarity.dtype) == (np.int64, np.float32)


def test_it_is_not_started_where_no_text_has_words() -> None:
    assert keep(pa.array(["!", None]), 0.7, python="/nowhere").partner.tolist() == [-1, -1]


def test_no_such_python() -> None:
    with pytest.raises(ConfigError, match="an environment that has it, got /nowhere/python: No such file"):
        keep(pa.array(["a"]), 0.7, python="/nowhere/python")


def test_a_python_without_text_dedup(tmp_path: Path) -> None:
    python = interpreter(tmp_path, None)
    with pytest.raises(ConfigError, match=f"not installed for {python}: {python} -m pip install text-dedup"):
        keep(pa.array(["a"]), 0.7, python=python)


@pytest.mark.parametrize(
    "code, said",
    [
        ("raise ValueError('no room')", "exit code 1: ValueError: no room"),
        ("import os; os.kill(os.getpid(), 9)", "exit code -9: it said nothing"),
        ("", "said nothing of 2 of 2 rows"),
        (FAKE.replace("table[half:]", "table[:half]"), "said nothing of 1 of 2 rows"),
        (FAKE.replace("clusters = [", "clusters = [5 + "), "numbers of rows that it was not given, of 2"),
        (FAKE + "(folder / 'cache-4.arrow').write_bytes(b'nothing')", "wrote cache-4.arrow, which cannot be read"),
    ],
)
def test_a_failure_is_one_sentence(tmp_path: Path, code: str, said: str) -> None:
    with pytest.raises(HfdsError, match=said) as caught:
        keep(pa.array(["a", "b"]), 0.7, python=interpreter(tmp_path, code))
    assert "\n" not in str(caught.value)


def test_none_of_its_workers_is_left_running(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = f"""
import os, pathlib, time
if not os.fork():
    pathlib.Path({str(note)!r}).write_text(str(os.getpid()))
    time.sleep(60)
while not pathlib.Path({str(note)!r}).exists() or not pathlib.Path({str(note)!r}).read_text():
    time.sleep(0.01)
raise SystemExit("over")
"""
    with pytest.raises(HfdsError, match="exit code 1: over"):
        keep(pa.array(["a"]), 0.7, python=interpreter(tmp_path, code))
    assert is_over(int(note.read_text()))


def is_over(process: int) -> bool:
    """Whether a process ends within a second; one that nobody waits for is a zombie until then."""
    for _ in range(100):
        try:
            os.kill(process, 0)
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("threshold", [0, 1.1])
def test_a_threshold_is_a_share(threshold: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1, got"):
        keep(pa.array(["a"]), threshold, python="/nowhere")


@pytest.mark.slow
def test_the_real_one() -> None:
    python = os.environ.get("TEXT_DEDUP_PYTHON")
    if python is None:
        pytest.skip("TEXT_DEDUP_PYTHON names no interpreter of an environment with text-dedup 0.4.0")
    words = [f"w{n}" for n in range(40)]
    texts = pa.array([" ".join(words), " ".join(words[:39]), " ".join(reversed(words)), "!", "one", "ONE."])
    made = keep(texts, 0.7, python=python)
    assert (made.partner >= 0).sum() == 2
