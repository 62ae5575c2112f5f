"""Exact duplicates and the split: the first stays, its partner is named, and no cluster crosses the border."""

import random

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hfds.run import Run
from processors.dedup import MarkDuplicates
from processors.split import Split, clusters


def rows(**columns: list[str | None]) -> Dataset:
    count = len(next(iter(columns.values())))
    return Dataset.from_dict({"id": [f"toy/{n}" for n in range(count)], **columns})


def partners(made: Dataset) -> list[str | None]:
    return [dropped and dropped["partner"] for dropped in made["dropped"]]


@pytest.mark.parametrize(
    "first, second, same",
    [
        ("A cat", "a  CAT!", True),
        ("a cat, a dog", "a cat a dog", True),
        (" a cat\n", "a\tcat", True),
        ("ﬁne ４k", "fine 4k", True),
        ("a cat", "a cats", False),
        ("猫 and 犬", "猫 and 狗", False),
        ("हिन्दी", "हिनदी", False),
        ("🐱", "🐶", False),
        ("🐱", " 🐱 ", True),
        ("!!!", "???", False),
        ("", "", False),
        ("  ", "  ", False),
        (None, None, False),
    ],
)
def test_prompts_are_compared_normalised(first: str | None, second: str | None, same: bool) -> None:
    assert partners(MarkDuplicates("prompt")(rows(prompt=[first, second]))) == [None, "toy/0" if same else None]


def test_other_columns_are_compared_as_they_are() -> None:
    made = MarkDuplicates("image_hash")(rows(image_hash=["ab", "AB", "ab", None, None]))
    assert partners(made) == [None, None, "toy/0", None, None]
    assert made["dropped"][2] == {
        "step": "MarkDuplicates",
        "reason": "duplicate_image_hash",
        "value": "1",
        "threshold": None,
        "partner": "toy/0",
    }


def test_a_dropped_row_has_no_duplicates() -> None:
    made = MarkDuplicates("image_hash")(
        MarkDuplicates("prompt")(rows(prompt=["a", "A", "b"], image_hash=["1", "2", "2"]))
    )
    assert partners(made) == [None, "toy/0", None], "row 2 shares a picture only with a row that is gone"


@given(st.lists(st.sampled_from([None, "", "a", "A", "b", "b!", "c d", "c  D"]), max_size=40))
def test_equals_the_plain_way(prompts: list[str | None]) -> None:
    first: dict[str, str] = {}
    expected = []
    for number, prompt in enumerate(prompts):
        key = " ".join((prompt or "").replace("!", " ").lower().split())
        expected.append(first.get(key) if key else None)
        if key:
            first.setdefault(key, f"toy/{number}")
    assert partners(MarkDuplicates("prompt")(rows(prompt=prompts or [None]))) == (expected or [None])


def test_the_split_of_a_cluster_does_not_depend_on_order_or_company() -> None:
    prompts = [f"prompt {n // 2}" for n in range(400)]
    split = Split(0.3)(rows(prompt=prompts))["split"][:]
    assert all(split[n] == split[n + 1] for n in range(0, 400, 2)), "one cluster, one split"
    assert 0.2 < split.count("validation") / 400 < 0.4
    order = random.Random(0).sample(range(400), 300)
    shuffled = Split(0.3)(rows(prompt=[prompts[n].upper() for n in order]))["split"][:]
    assert shuffled == [split[n] for n in order]
    assert Split(0.3, seed=1)(rows(prompt=prompts))["split"][:] != split
    assert set(Split(0.0)(rows(prompt=prompts))["split"]) == {"train"}
    assert set(Split(1.0)(rows(prompt=prompts))["split"]) == {"validation"}


def test_clusters_reach_through_prompts_and_pictures() -> None:
    chain = rows(prompt=["a", "b", "b", None, "z"], image_hash=["1", "1", "2", "2", None])
    for seed in range(20):
        split = Split(0.5, seed=seed)(chain)["split"][:]
        assert len(set(split[:4])) == 1
    assert {tuple(Split(0.5, seed=s)(chain)["split"]) for s in range(20)} >= {("train",) * 5, ("validation",) * 5}


def test_a_given_split_decides_for_its_cluster_and_validation_wins() -> None:
    given_rows = rows(prompt=["a", "A", "b", "B", "b!", "c"], split=[None, "train", "train", None, "validation", None])
    assert Split(1.0)(given_rows)["split"][:] == [
        "train",
        "train",
        "validation",
        "validation",
        "validation",
        "validation",
    ]
    assert Split(0.0)(given_rows)["split"][:] == ["train", "train", "validation", "validation", "validation", "train"]


def test_dropped_rows_have_no_split_and_decide_nothing() -> None:
    marked = MarkDuplicates("prompt")(rows(prompt=["a", "A"], split=[None, "validation"]))
    assert Split(0.0)(marked)["split"][:] == ["train", None]


def test_rows_with_nothing_to_compare_are_clusters_of_their_own() -> None:
    split = Split(0.5)(rows(prompt=[None] * 200, image_hash=[None] * 200))["split"][:]
    assert 60 < split.count("validation") < 140


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30))
def test_clusters_are_connected_components(pairs: list[tuple[int, int]]) -> None:
    count = len(pairs)
    groups = []
    for side in (0, 1):
        first: dict[int, int] = {}
        groups.append(np.array([first.setdefault(pair[side], n) for n, pair in enumerate(pairs)]))
    label = list(range(count))
    for _ in range(count):
        for n in range(count):
            for m in range(count):
                if pairs[n][0] == pairs[m][0] or pairs[n][1] == pairs[m][1]:
                    label[n] = label[m] = min(label[n], label[m])
    assert clusters(groups, count).tolist() == label


def test_a_long_chain_is_one_cluster(tmp_path: object) -> None:
    chain = rows(prompt=[str(n // 2) for n in range(5000)], image_hash=[str((n + 1) // 2) for n in range(5000)])
    assert len(set(Split(0.5)(chain, Run.here(str(tmp_path)))["split"])) == 1
