"""MinHash: signatures that estimate, pairs that are checked, and the step that keeps signatures in a column."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from hfds.run import Run
from processors.duplicates import Verdicts, jaccard, minhash
from processors.duplicates.minhash import Signed, bands, signatures
from processors.duplicates.shingles import Sets, shingles
from processors.minhash import MinHashPrompt

WORDS = [f"w{n}" for n in range(2_000)]


def near_duplicates(rows: int, seed: int = 0) -> list[str]:
    """Prompts, of which most are one before them with a few words changed."""
    rng = random.Random(seed)
    made: list[list[str]] = []
    for _ in range(rows):
        text = list(rng.choice(made)) if made and rng.random() < 0.7 else rng.choices(WORDS, k=rng.randint(1, 40))
        for _ in range(rng.randint(0, 3)):
            text[rng.randrange(len(text))] = rng.choice(WORDS)
        made.append(text)
    return [" ".join(text) for text in made]


def signed(texts: list[str | None]) -> Signed:
    sets = shingles(pa.array(texts, pa.string()))
    return Signed(signatures(sets), sets)


def unsigned(sets: Sets) -> Signed:
    """Sets whose signatures, all of them equal, make a candidate of every pair."""
    return Signed(np.zeros((len(sets.sizes), 8), np.uint32), sets)


def similarities(sets: Sets) -> np.ndarray:
    rows = [{*sets.hashes[a:b].tolist()} for a, b in zip(sets.offsets[:-1], sets.offsets[1:], strict=True)]
    return np.array([[len(a & b) / max(len(a | b), 1) for b in rows] for a in rows])


def same(made: Verdicts, wanted: Verdicts) -> None:
    np.testing.assert_array_equal(made.partner, wanted.partner)
    np.testing.assert_array_equal(made.similarity, wanted.similarity)


@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.9, 1.0])
def test_of_all_pairs_the_candidates_are_decided_as_by_the_exact_measure(threshold: float) -> None:
    values = unsigned(shingles(pa.array(near_duplicates(400))))
    for more in ({}, {"fixed": 50}, {"fixed": 50, "among": False}):
        same(
            minhash.keep_first(values, threshold, **more),
            jaccard.keep_first(values.sets, threshold, **more),
        )
    same(minhash.drop_all(values, threshold, fixed=7), jaccard.drop_all(values.sets, threshold, fixed=7))
    first = minhash.components(values, threshold)
    np.testing.assert_array_equal(first, jaccard.components(values.sets, threshold))


def test_no_pair_is_false() -> None:
    values = signed(near_duplicates(1_000))
    true = similarities(values.sets)
    made = minhash.drop_all(values, 0.7)
    rows = np.flatnonzero(made.partner >= 0)
    assert len(rows) > 300
    np.testing.assert_array_equal(made.similarity[rows], true[rows, made.partner[rows]].astype(np.float32))
    assert made.similarity[rows].min() >= np.float32(0.7)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_hardly_a_pair_is_missed(threshold: float) -> None:
    values = signed(near_duplicates(4_000))
    wanted = jaccard.drop_all(values.sets, threshold).partner >= 0
    found = minhash.drop_all(values, threshold).partner >= 0
    assert wanted.sum() > 1_000
    assert not (found & ~wanted).any()
    assert (found & wanted).sum() >= 0.995 * wanted.sum()


def test_equal_sets_are_found_whatever_their_signatures_say() -> None:
    texts = near_duplicates(300)
    sets = shingles(pa.array([*texts, *texts]))
    random_ones = np.random.default_rng(0).integers(0, 2**32, (600, 16), np.uint32)
    made = minhash.keep_first(Signed(random_ones, sets), 1.0)
    assert (made.partner[300:] >= 0).all()
    assert (made.similarity[300:] == 1).all()


def test_rows_without_words_are_never_duplicates() -> None:
    values = signed(["!?", "a cat", None, "A cat!", "", "?!"])
    assert minhash.keep_first(values, 0.5).partner.tolist() == [-1, -1, -1, 1, -1, -1]
    assert minhash.drop_all(values, 0.5).partner.tolist() == [-1, 3, -1, 1, -1, -1]
    assert minhash.components(values, 0.5).tolist() == [0, 1, 2, 1, 4, 5]


def test_all_rows_equal_and_no_rows() -> None:
    values = signed(["a cat sat on a mat"] * 20_000)
    assert (minhash.keep_first(values, 0.7).partner[1:] == 0).all()
    assert minhash.keep_first(signed([]), 0.7).partner.tolist() == []
    assert minhash.components(signed(["!", "?"]), 0.7).tolist() == [0, 1]


def test_many_rows_that_are_all_alike() -> None:
    values = signed([f"a cat sat on a mat and looked at the moon until it was {n}" for n in range(5_000)])
    assert (minhash.keep_first(values, 0.7).partner[1:] == 0).all()


@pytest.mark.parametrize("threshold", [0.06, 0.3, 0.5, 0.7, 0.8, 0.9, 0.99, 1.0])
def test_bands_miss_less_than_a_thousandth(threshold: float) -> None:
    count, numbers = bands(128, threshold)
    assert count * numbers <= 128
    assert (1 - threshold**numbers) ** count <= 1e-3
    longer = numbers + 1
    assert longer > 128 or (1 - threshold**longer) ** (128 // longer) > 1e-3, "fewer candidates would do"


def test_signatures_estimate() -> None:
    sets = shingles(pa.array(["", *near_duplicates(400)]))
    made = signatures(sets)
    assert (made.dtype, made.shape) == (np.uint32, (401, 128))
    assert (made[0] == 2**32 - 1).all()
    np.testing.assert_array_equal(made[100:200], signatures(sets.take(np.arange(100, 200))))
    assert (signatures(sets, seed=2) != made)[1:].any(axis=1).all()
    errors = (made[:, None] == made).mean(axis=2)[1:, 1:] - similarities(sets)[1:, 1:]
    some = errors[np.triu(similarities(sets)[1:, 1:] > 0, 1)]
    assert abs(some.mean()) < 0.01
    assert 0.01 < some.std() < 0.5 / np.sqrt(128)


def test_signatures_stay_what_they_are() -> None:
    made = signatures(shingles(pa.array(["a cat sat on a mat"])), 4)
    assert made.tolist() == [[2294001549, 272446364, 543748637, 310797103]], "earlier releases hold these"


@pytest.mark.parametrize("threshold", [0, 1.1, float("nan")])
def test_a_threshold_is_a_share(threshold: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1, got"):
        minhash.keep_first(signed(["a"]), threshold)


@pytest.mark.parametrize("wrong", [np.zeros((2, 4), np.uint32), np.zeros((1, 4)), np.zeros(1, np.uint32)])
def test_a_signature_for_each_set(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a row of uint32 for each of 1 sets, got"):
        minhash.keep_first(Signed(wrong, shingles(pa.array(["a"]))), 0.7)


@pytest.mark.parametrize("num_proc", [1, 2])
def test_the_step(tmp_path: Path, num_proc: int) -> None:
    texts = ["a cat sat on a mat", "!?", None, "A  cat sat, on a mat", "dogs"]
    rows = Dataset(pa.table({"prompt": texts}))
    made = MinHashPrompt(permutations=16)(rows, Run.here(tmp_path, num_proc))
    assert made.features["prompt_minhash"].length == 16
    found: list[Any] = made["prompt_minhash"][:]
    assert found[1] is found[2] is None
    assert found[0] == found[3] != found[4]
    assert found[0] == signatures(shingles(pa.array(texts[:1])), 16)[0].tolist()
    assert made["dropped"][:] == [None] * 5
    assert MinHashPrompt(permutations=16, seed=2)(rows)["prompt_minhash"][0] != found[0]
    assert MinHashPrompt(permutations=16)(rows.select([]))["prompt_minhash"][:] == []


@pytest.mark.parametrize(
    "step, problem",
    [
        (MinHashPrompt(permutations=0), "MinHashPrompt: permutations must be 1 to 4096, got 0"),
        (MinHashPrompt(words=0), "MinHashPrompt: words must be a whole number from 1, got 0"),
        (MinHashPrompt(seed=-1), "MinHashPrompt: seed must be a whole number from 0, got -1"),
    ],
)
def test_parameters(step: MinHashPrompt, problem: str) -> None:
    assert step.problems() == [problem]
    assert MinHashPrompt().problems() == []
