"""Near-duplicate texts as text-dedup finds them (github.com/ChenghaoMou/text-dedup), by the command that it is.

Another way to the same question as `processors.duplicates.minhash`, for those who want its answer. It joins all rows
that share a band of their MinHash signatures, directly or through others, and keeps one of each group. It does not
check what it joins: rows are dropped that are like no other, and the similarity given here, which is the true one of
a row and the one kept for it, may be below the threshold, even 0.

text-dedup runs in an environment of its own, because what it requires fits with little else (urllib3 1.26, pyspark).
Written for version 0.4.0. It is given the words of each text with one blank between them, as they are counted here, so
that both cut texts into the same shingles (but for marks, such as vowel signs of Hindi, at which it cuts words), and
none of the texts without words, which it would all join.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hfds.errors import ConfigError, HfdsError
from processors.duplicates import Verdicts
from processors.duplicates.jaccard import in_common
from processors.duplicates.shingles import shingles, spaced

INDEX, CLUSTER = "__index__", "__cluster__"  # its names of columns: the number of a row, and of the one kept for it


def keep(texts: pa.Array, threshold: float, *, words: int = 3, permutations: int = 128, python: str) -> Verdicts:
    """Drops every row that text-dedup drops. The partner is the row that it keeps of the group, be it a later one.

    Args:
        texts: rows that are null or without words are never dropped.
        threshold: what its bands are chosen for, above 0 and at most 1. It is not checked.
        words: of a shingle.
        permutations: numbers in a signature.
        python: the interpreter of an environment in which text-dedup is installed.

    Raises:
        ConfigError: there is no such interpreter, or it has no text-dedup.
        HfdsError: text-dedup failed, or wrote something else than version 0.4.0 does.
        ValueError: the threshold is not above 0 and at most 1, or `words` is below 1.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"a threshold of Jaccard similarity is above 0 and at most 1, got {threshold!r}")
    sets = shingles(texts, words)
    shown = np.flatnonzero(sets.sizes)
    root = np.arange(len(texts))
    root[shown] = shown[_roots(_words(texts, shown), threshold, words, permutations, python)]
    dropped = np.flatnonzero(root != np.arange(len(texts)))
    partner, similarity = np.full(len(texts), -1), np.zeros(len(texts), np.float32)
    partner[dropped] = root[dropped]
    similarity[dropped] = in_common(sets)(dropped, root[dropped])
    return Verdicts(partner, similarity)


def _words(texts: pa.Array, rows: np.ndarray) -> pa.Array:
    """The words of the texts of some rows, with one blank between them."""
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(spaced(texts.take(pa.array(rows))), " +", " "))


def _roots(texts: pa.Array, threshold: float, words: int, permutations: int, python: str) -> np.ndarray:
    """For every text the one that is kept for it, or itself: (rows,) int64."""
    if not len(texts):
        return np.zeros(0, np.int64)
    with TemporaryDirectory(prefix="text-dedup-") as folder:
        scratch = Path(folder)
        pq.write_table(pa.table({"text": texts}), scratch / "texts.parquet")
        options = {
            **{"path": "parquet", "data_files": scratch / "texts.parquet", "split": "train", "column": "text"},
            **{"cache_dir": scratch / "cache", "output": scratch / "kept", "num_proc": 1},
            **{"threshold": threshold, "ngram": words, "num_perm": permutations},
            "min_length": 1,  # by default it drops texts of fewer than 5 words
        }
        named = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        _run([python, "-m", "text_dedup.minhash", *named, "--no-clean_cache"], scratch / "errors.txt")
        return _read(scratch / "cache", len(texts))


def _run(command: list[str], errors: Path) -> None:
    """Runs text-dedup to its end; nothing of it is left running, whatever ends this."""
    python = command[0]
    with errors.open("wb") as file:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file, start_new_session=True
            )
        except OSError as error:
            raise ConfigError(
                f"text-dedup needs the Python of an environment that has it, got {python}: {error.strerror}"
            ) from None
    try:
        code = process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it has worker processes, which are of its group
        process.wait()
    if code:
        said = errors.read_text("utf-8", "replace").strip().splitlines()
        last = said[-1].strip() if said else "it said nothing"
        if "No module named 'text_dedup'" in last:
            raise ConfigError(f"text-dedup is not installed for {python}: {python} -m pip install text-dedup==0.4.0")
        raise HfdsError(f"text-dedup failed with exit code {code}: {last}")


def _read(cache: Path, rows: int) -> np.ndarray:
    """The groups, from the files that its last step but one left in its cache.

    What it means to be read, with --debug, is a pickle, which could run anything; these are Arrow.
    """
    root = np.full(rows, -1)
    for table in _tables(cache):
        index, cluster = (table[name].to_numpy() for name in (INDEX, CLUSTER))
        numbers = np.concatenate([index, cluster])
        if ((numbers < 0) | (numbers >= rows)).any():
            raise HfdsError(f"text-dedup wrote numbers of rows that it was not given, of {rows}: wanted version 0.4.0")
        root[index] = cluster
    if missing := np.count_nonzero(root < 0):
        raise HfdsError(f"text-dedup said nothing of {missing} of {rows} rows: wanted version 0.4.0")
    return root


def _tables(cache: Path) -> Iterator[pa.Table]:
    """The numbers of rows and of those that are kept for them, of every file that has both."""
    for path in sorted(cache.rglob("*.arrow")):
        try:
            with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
                if {INDEX, CLUSTER} <= {*reader.schema.names}:
                    yield reader.read_all().select([INDEX, CLUSTER])
        except pa.ArrowInvalid as error:
            raise HfdsError(f"text-dedup wrote {path.name}, which cannot be read: {error}") from None
