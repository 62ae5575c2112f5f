"""MarkDuplicates over everything that it compares: which rows stay, who their partners are, and how similar."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, Features, List, Value

from hfds.errors import ConfigError
from hfds.record import FEATURES
from hfds.run import Run
from processors.dedup import MarkDuplicates

WORDS = "one two three four five six seven eight nine ten eleven"
TEXTS = [WORDS, WORDS + " twelve", "a cat on a mat", "One, two, three " + WORDS[14:], None, "", "another thing"]


def rows(**columns: Any) -> Dataset:
    count = len(next(iter(columns.values())))
    return Dataset.from_dict({"id": [f"toy/{n}" for n in range(count)], **columns})


def vectors(*angles: float) -> Dataset:
    """Rows with embeddings in two dimensions, at these degrees."""
    turns = np.radians(np.array(angles))
    features = Features({"id": Value("string"), "embedding": List(Value("float32"), length=2)})
    points = np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)
    return Dataset.from_dict({"id": [f"toy/{n}" for n in range(len(angles))], "embedding": points.tolist()}, features)


def partners(made: Dataset) -> list[str | None]:
    return [dropped and dropped["partner"] for dropped in made["dropped"]]


def values(made: Dataset) -> list[str | None]:
    return [dropped and dropped["value"] for dropped in made["dropped"]]


def test_texts_by_the_share_of_their_shingles() -> None:
    made = MarkDuplicates(above=0.7)(rows(prompt=TEXTS))
    assert partners(made) == [None, "toy/0", None, "toy/0", None, None, None]
    assert values(made) == [None, "0.9", None, "1", None, None, None]
    assert made["dropped"][1] == {
        "step": "MarkDuplicates", "reason": "duplicate_prompt", "value": "0.9", "threshold": "0.7", "partner": "toy/0",
    }  # fmt: skip
    assert partners(MarkDuplicates(above=0.95)(rows(prompt=TEXTS))) == [None, None, None, "toy/0", None, None, None]
    assert partners(MarkDuplicates()(rows(prompt=TEXTS))) == [None, None, None, "toy/0", None, None, None]


def test_embeddings_by_their_cosine() -> None:
    pytest.importorskip("torch")
    made = MarkDuplicates("embedding", above=0.9)(vectors(0, 20, 40, 60, 0))
    assert partners(made) == [None, "toy/0", None, "toy/2", "toy/0"], "the second is gone, so the third stays"
    assert [value and round(float(value), 4) for value in values(made)] == [None, 0.9397, None, 0.9397, 1]


def test_hashes_by_their_bits(tmp_path: Any) -> None:
    hashes = pa.array([0, 0b111, 2**64 - 1, None], pa.uint64())
    given = Dataset(pa.table({"id": ["a", "b", "c", "d"], "perceptual_hash": hashes}))
    made = MarkDuplicates("perceptual_hash", within=3)(given, Run.here(tmp_path))
    assert partners(made) == [None, "a", None, None]
    assert values(made)[1] == f"{1 - 3 / 64:.6g}"
    assert partners(MarkDuplicates("perceptual_hash", within=2)(given)) == [None] * 4


@pytest.mark.parametrize(
    "keep, expected",
    [
        ("first", [None, "toy/0", None, "toy/2", None]),
        ("cluster", [None, "toy/0", "toy/0", "toy/0", None]),
        ("none", ["toy/1", "toy/0", "toy/1", "toy/2", None]),
    ],
)
def test_which_row_stays(keep: str, expected: list[str | None]) -> None:
    pytest.importorskip("torch")
    chain = vectors(0, 20, 40, 60, 180)
    assert partners(MarkDuplicates("embedding", above=0.9, keep=keep)(chain)) == expected
    if keep == "none":
        twice = rows(prompt=["a", "b", "a", "c", "a"])
        assert partners(MarkDuplicates(keep=keep)(twice)) == ["toy/2", None, "toy/0", None, "toy/0"]


def test_the_best_row_stays() -> None:
    given = rows(prompt=["a", "A", "b", "a!", "B"], score=[1.0, 3.0, 0.5, None, 0.5], source=["x", "y", "x", "z", "y"])
    assert partners(MarkDuplicates(keep="best", best=("score",))(given)) == ["toy/1", None, None, "toy/1", "toy/2"]
    assert partners(MarkDuplicates(keep="best", best=("source", "score"))(given)) == [
        None, "toy/0", None, "toy/0", "toy/2",
    ]  # fmt: skip


def test_train_gives_way_to_validation() -> None:
    given = rows(prompt=["a", "a", "b", "b", "c"], split=["train", "validation", "train", "train", "validation"])
    assert partners(MarkDuplicates(across="splits")(given)) == ["toy/1", None, None, None, None]
    near = rows(prompt=[WORDS, WORDS, WORDS + " twelve"], split=["train", "train", "test"])
    assert partners(MarkDuplicates(above=0.8, across="splits")(near)) == ["toy/2", "toy/2", None]


def test_dropped_rows_are_nobodys_partner_and_no_rows_at_all() -> None:
    given = MarkDuplicates()(rows(prompt=["a", "a", "a"]))
    assert partners(MarkDuplicates(above=0.5)(given)) == [None, "toy/0", "toy/0"]
    for step in (MarkDuplicates(above=0.5), MarkDuplicates(keep="cluster"), MarkDuplicates(keep="none", above=0.5)):
        assert partners(step(rows(prompt=[None, ""]))) == [None, None]


@pytest.mark.parametrize(
    "step, message",
    [
        (MarkDuplicates(above=1.5), "above must be a similarity above 0 and at most 1, got 1.5"),
        (MarkDuplicates(within=40), "within must be 0 to 16 bits, got 40"),
        (MarkDuplicates(above=0.5, within=3), "give one of them"),
        (MarkDuplicates(keep="last"), "keep must be one of first, best, cluster, none, got 'last'"),
        (MarkDuplicates(keep="best"), "keep='best' and the columns in best belong together"),
        (MarkDuplicates(across="sets"), "across must be None or 'splits', got 'sets'"),
        (MarkDuplicates(across="splits", keep="none"), "keep must be 'first' or 'best'"),
        (MarkDuplicates(within=3), "column 'prompt' is Value('string'), wanted 64-bit hashes (uint64)"),
        (MarkDuplicates("width", above=0.5), "column 'width' is Value('int64'), wanted texts or embeddings"),
    ],
)
def test_what_cannot_be(step: MarkDuplicates, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        step(rows(prompt=["a"], width=[1], split=["train"]))
    assert message in str(error.value)


def test_a_vector_that_is_none() -> None:
    pytest.importorskip("torch")
    broken = vectors(0, 10).map(lambda row: {"embedding": [0.0, 0.0]})
    with pytest.raises(ConfigError, match=r"MarkDuplicates: embedding: .*row 0"):
        MarkDuplicates("embedding", above=0.9)(broken)


def test_vectors_of_different_lengths() -> None:
    features = Features({"id": Value("string"), "embedding": List(Value("float32"))})
    mixed = Dataset.from_dict({"id": ["a", "b"], "embedding": [[1.0, 0.0], [1.0]]}, features)
    with pytest.raises(ConfigError, match="MarkDuplicates: embedding: vectors have 1 and 2 dimensions"):
        MarkDuplicates("embedding", above=0.9)(mixed)


def test_the_steps_of_the_documentation() -> None:
    page = (Path(__file__).parent.parent / "docs/duplicates.md").read_text()
    there: dict[str, Any] = {}
    exec(compile(page.split("```python\n")[1].split("```")[0], "docs/duplicates.md", "exec"), there)
    known: dict[str, Any] = {**FEATURES, "split": Value("string")}
    for step in there["steps"]:
        assert step.problems() == []
        assert step.misfits(known) == []
        known.update(step.adds)
