"""Exact duplicates and the split: the first stays, its partner is named, and no cluster crosses the border."""

import random

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from datasets import Dataset
from fixtures.toy import Toy
from hypothesis import given
from hypothesis import strategies as st

from hfds import Input, Release
from hfds.errors import ConfigError
from hfds.run import Run
from processors.dedup import MarkDuplicates
from processors.duplicates.alike import Alike
from processors.duplicates.clusters import clusters
from processors.duplicates.normal import normalise
from processors.split import Split


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


@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(" _,aB1\t\x7f"))))
def test_normalising_is_what_the_documentation_says(texts: list[str | None]) -> None:
    folded = pc.utf8_lower(pc.utf8_normalize(pa.array(texts, pa.string()), form="NFKC"))
    words = pc.utf8_trim_whitespace(pc.replace_substring_regex(folded, r"[^\p{L}\p{M}\p{N}]+", " "))
    plain = pc.if_else(pc.equal(words, ""), pc.utf8_trim_whitespace(folded), words)
    assert normalise(pa.array(texts, pa.string())).to_pylist() == plain.to_pylist()
    assert normalise(pa.array([*texts, "x"], pa.string())[1:]).to_pylist() == [*plain.to_pylist(), "x"][1:]


def test_other_columns_are_compared_as_they_are() -> None:
    made = MarkDuplicates("image_hash")(rows(image_hash=["ab", "AB", "ab", None, None]))
    assert partners(made) == [None, None, "toy/0", None, None]
    assert made["dropped"][2] == {
        "step": "MarkDuplicates",
        "reason": "duplicate_image_hash",
        "value": "1",
        "threshold": None,
        "partner": "toy/0",
        "partner_in": None,
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
    others = [f"other {n}" for n in range(5)]
    chain = rows(prompt=["a", "b", "b", None, *others], image_hash=["1", "1", "2", "2", *[None] * 5])
    splits = [Split(0.5, seed=seed)(chain)["split"][:4] for seed in range(20)]
    assert all(len(set(split)) == 1 for split in splits)
    assert {split[0] for split in splits} == {"train", "validation"}


def test_a_cluster_with_a_larger_share_than_validation_goes_to_train() -> None:
    chained = rows(prompt=["a"] * 120 + [f"other {n}" for n in range(80)])
    made = [Split(0.5, seed=seed)(chained) for seed in range(10)]
    assert {split for one in made for split in one["split"][:120]} == {"train"}
    assert {one["split"][150] for one in made} == {"train", "validation"}
    decisions = [one["decided"][0] for one in made]
    assert {"decision": "too_large", "partner": None, "partner_in": None} in decisions
    assert None in decisions, "where chance has put it into train anyway"
    few = rows(prompt=["a"] * 90 + [f"other {n}" for n in range(10)])
    assert {Split(0.5, seed=seed)(few)["split"][0] for seed in range(10)} == {"train", "validation"}


@pytest.mark.parametrize("wins, held_back", [("validation", [19, 20, 21, 89, 90, 91]), ("train", [19, 20, 89, 90, 91])])
def test_of_a_large_cluster_only_what_is_itself_like_an_earlier_row_goes_along(wins: str, held_back: list[int]) -> None:
    texts = [" ".join(f"word{n + m}" for m in range(12)) for n in range(150)]  # each like its neighbours: 9 of 11
    there = earlier(
        ("old/1", "toys/v1", "validation", texts[20]),
        ("old/2", "toys/v1", "train", texts[22]),
        ("toy/90", "toys/v1", "validation", "rewritten since"),
    )
    made = Split(0.1, of=(Alike("prompt", above=0.8),), earlier=(V1,), wins=wins)(rows(prompt=texts), earlier=there)
    split = made["split"][:]
    assert [n for n in range(150) if split[n] == "validation"] == held_back
    assert made["decided"][20] == {"decision": "earlier", "partner": "old/1", "partner_in": "toys/v1:validation"}
    assert made["decided"][21]["decision"] == "merged by toy/0"
    assert made["decided"][50]["decision"] == "too_large"
    assert made["decided"][89]["partner"] == "toy/90"


def test_the_oldest_row_decides() -> None:
    # One cluster through pictures; what is behind the first row, or whether it is there at all, does not matter.
    alone = [Split(0.5, seed=seed)(rows(prompt=["first", *"xyz"]))["split"][0] for seed in range(30)]
    long = rows(prompt=["first", "second", "third", *"xyz"], image_hash=["1", "1", "1", None, None, None])
    assert [Split(0.5, seed=seed)(long)["split"][:3] for seed in range(30)] == [[split] * 3 for split in alone]


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


def test_an_input_s_split_is_a_decision() -> None:
    made = Split(0.0)(rows(prompt=["a", "A", "b"], split=[None, "validation", None]))
    assert made["split"][:] == ["validation", "validation", "train"]
    told = {"decision": "input", "partner": "toy/1", "partner_in": None}
    assert made["decided"][:] == [told, {**told, "partner": None}, None]
    assert Split(1.0, wins="train")(rows(prompt=["a", "A"], split=["train", "validation"]))["split"][:] == ["train"] * 2


V1, V2 = (Release("toys", name, (Input(Toy),)) for name in ("v1", "v2"))


def earlier(*held: tuple[str, str, str, str]) -> Dataset:
    return Dataset.from_dict(dict(zip(("id", "release", "split", "prompt"), zip(*held, strict=True), strict=True)))


def test_what_was_held_back_never_enters_train() -> None:
    there = earlier(
        ("toy/0", "toys/v1", "validation", "as it was"),
        ("old/1", "toys/v1", "validation", "gone since"),
        ("old/2", "toys/v2", "train", "trained on"),
        ("old/3", "toys/v2", "train", "joined"),
    )
    given_rows = rows(prompt=["Rewritten since", "gone since!", "trained ON", "new"], image_hash=[None] * 4)
    step = Split(0.0, of=("prompt",), earlier=(V1, V2))
    made = step(given_rows, earlier=there)
    assert made["split"][:] == ["validation", "validation", "train", "train"]
    assert made["decided"][:] == [
        {"decision": "earlier", "partner": None, "partner_in": "toys/v1:validation"},
        {"decision": "earlier", "partner": "old/1", "partner_in": "toys/v1:validation"},
        {"decision": "earlier", "partner": "old/2", "partner_in": "toys/v2:train"},
        None,
    ]
    by_chance = Split(1.0, of=("prompt",), earlier=(V1, V2))(given_rows, earlier=there)["split"][:]
    assert by_chance == ["validation", "validation", "train", "validation"]
    with pytest.raises(ConfigError, match="earlier releases have no column 'image_hash'"):
        Split(earlier=(V1,))(given_rows, earlier=there)


@pytest.mark.parametrize("wins, partner", [("validation", "old/1"), ("train", "old/2")])
def test_two_clusters_that_a_new_row_joins_are_a_decision(wins: str, partner: str) -> None:
    there = earlier(
        ("old/1", "toys/v1", "validation", "one two three four five six"),
        ("old/2", "toys/v1", "train", "three four five six seven eight"),
    )
    between = "one two three four five six seven eight"
    near = Alike("prompt", above=0.6)
    made = Split(0.5, of=(near,), earlier=(V1,), wins=wins)(rows(prompt=[between, "else"]), earlier=there)
    assert made["split"][0] == wins
    assert made["decided"][0] == {"decision": "merged by toy/0", "partner": partner, "partner_in": f"toys/v1:{wins}"}
    assert made["decided"][1] is None


def test_releases_that_disagree_about_a_row_merge_nothing() -> None:
    there = earlier(("toy/0", "toys/v1", "validation", "a"), ("toy/0", "toys/v2", "train", "a"))
    for wins in ("validation", "train"):
        made = Split(0.5, of=("prompt",), earlier=(V1, V2), wins=wins)(rows(prompt=["a", "A"]), earlier=there)
        assert made["split"][:] == [wins, wins]
        assert [told["decision"] for told in made["decided"]] == ["disagreed", "disagreed"]


@pytest.mark.parametrize("wins", ["validation", "train"])
def test_what_wins_wins_over_splits_of_any_name(wins: str) -> None:
    there = earlier(("toy/0", "toys/v1", wins, "a"))
    for name in ("zoo", "alps"):
        made = Split(of=("prompt",), earlier=(V1,), wins=wins)(
            rows(prompt=["a", "A"], split=[name, None]), earlier=there
        )
        assert made["split"][:] == [wins, wins]


def test_near_duplicates_are_one_cluster() -> None:
    apart = [
        f"{'x' * (n // 2)} lies beside {'y' * (n // 2)} and {'z' * (n // 2)}{' too' * (n % 2)}" for n in range(2, 200)
    ]
    made = Split(0.3, of=(Alike("prompt", above=0.6),))(rows(prompt=apart))["split"][:]
    assert all(made[n] == made[n + 1] for n in range(0, len(made), 2))
    assert 0.15 < made.count("validation") / len(made) < 0.45


@pytest.mark.parametrize(
    "step, message",
    [
        (Split(1.5), "validation must be a number from 0 to 1"),
        (Split(of=("prompt", 3)), "of must be a tuple of names of columns and Alike"),  # type: ignore[arg-type]
        (Split(earlier=("v1",)), "earlier must be a tuple of releases"),  # type: ignore[arg-type]
        (Split(wins="test"), "wins must be one of validation, train, got 'test'"),
        (Split(of=(Alike("prompt", above=2),)), "above must be a similarity above 0 and at most 1, got 2"),
        (Split(of=(Alike("prompt", within=2),)), "wanted 64-bit hashes"),
    ],
)
def test_what_a_split_cannot_be(step: Split, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        step(rows(prompt=["a"]))
    assert message in str(error.value)


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
