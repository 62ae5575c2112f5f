"""Near-duplicate texts: against counting all pairs out, on real prompts, random sets and the shapes that are traps."""

import csv
import re
import tracemalloc
import unicodedata
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.duplicates import Verdicts
from processors.duplicates.jaccard import components, drop_all, keep_first
from processors.duplicates.shingles import Sets, shingles

SOURCES = Path(__file__).parent.parent / "examples/sources"


def sets_of(*rows: set[int] | list[int]) -> Sets:
    """Sets of small numbers, spread over all 64 bits as hashes are."""
    members = [sorted(number * 0x9E3779B97F4A7C15 % 2**64 for number in set(row)) for row in rows]
    hashes = np.array([member for row in members for member in row], np.uint64)
    return Sets(hashes, np.cumsum([0, *map(len, members)]))


def as_python(sets: Sets) -> list[frozenset[int]]:
    ends = sets.offsets.tolist()
    return [frozenset(sets.hashes[a:b].tolist()) for a, b in pairwise(ends)]


Likeness = list[dict[int, float]]  # for every row how like the others it is, where it has anything in common with them


def similarities(sets: Sets) -> Likeness:
    rows = as_python(sets)
    having: dict[int, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        for member in row:
            having[member].append(number)
    made = []
    for number, row in enumerate(rows):
        common = Counter(other for member in row for other in having[member] if other != number)
        made.append({other: n / (len(row) + len(rows[other]) - n) for other, n in common.items()})
    return made


def plain_keep_first(like: Likeness, threshold: float, fixed: int = 0, among: bool = True) -> Verdicts:
    kept: set[int] = set()
    partner, similarity = [-1] * len(like), [0.0] * len(like)
    for row, others in enumerate(like):
        near = [
            (-value, other)
            for other, value in others.items()
            if other in kept and value >= threshold and (among or other < fixed)
        ]
        if row >= fixed and near:
            partner[row], similarity[row] = min(near)[1], -min(near)[0]
        else:
            kept.add(row)
    return Verdicts(np.array(partner, np.int64), np.array(similarity, np.float32))


def plain_drop_all(like: Likeness, threshold: float, fixed: int = 0) -> Verdicts:
    partner, similarity = [-1] * len(like), [0.0] * len(like)
    for row, others in enumerate(like):
        best, other = min(((-value, other) for other, value in others.items()), default=(0, -1))
        if row >= fixed and -best >= threshold:
            partner[row], similarity[row] = other, -best
    return Verdicts(np.array(partner, np.int64), np.array(similarity, np.float32))


def plain_components(like: Likeness, threshold: float) -> list[int]:
    label = list(range(len(like)))
    for row in range(len(like)):  # the first rows first, so that they give their number to all that they reach
        reached = [row] if label[row] == row else []
        while reached:
            for other, value in like[reached.pop()].items():
                if value >= threshold and label[other] > row:
                    label[other] = row
                    reached.append(other)
    return label


def same(made: Verdicts, wanted: Verdicts) -> None:
    assert [made.partner.dtype, made.similarity.dtype] == [np.int64, np.float32]
    np.testing.assert_array_equal(made.partner, wanted.partner)
    np.testing.assert_array_equal(made.similarity, wanted.similarity)


def check(sets: Sets, like: Likeness, threshold: float, fixed: int) -> None:
    same(keep_first(sets, threshold), plain_keep_first(like, threshold))
    same(keep_first(sets, threshold, fixed=fixed), plain_keep_first(like, threshold, fixed))
    same(keep_first(sets, threshold, fixed=fixed, among=False), plain_keep_first(like, threshold, fixed, False))
    same(drop_all(sets, threshold, fixed=fixed), plain_drop_all(like, threshold, fixed))
    assert components(sets, threshold).tolist() == plain_components(like, threshold)


def prompts() -> list[str]:
    """Real ones, 11,600 of them."""
    table = pq.read_table(SOURCES / "diffusiondb/metadata.parquet", columns=["prompt"])
    with open(SOURCES / "prompt_lists/PartiPrompts.tsv", encoding="utf-8") as file:
        return [*table["prompt"].to_pylist(), *(row["Prompt"] for row in csv.DictReader(file, delimiter="\t"))]


def test_real_prompts() -> None:
    sets = shingles(pa.array(prompts()[::2]))
    like = similarities(sets)
    for threshold in (0.3, 0.7, 1.0):
        check(sets, like, threshold, fixed=1000)


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 12), max_size=8), max_size=30),
    st.sampled_from([0.1, 1 / 3, 0.5, 0.6, 2 / 3, 0.7, 0.75, 0.8, 1.0]),
    st.integers(0, 30),
)
def test_any_sets(rows: list[list[int]], threshold: float, fixed: int) -> None:
    sets = sets_of(*rows)
    check(sets, similarities(sets), threshold, min(fixed, len(rows)))


@pytest.mark.parametrize(
    "common, others, threshold", [(7, 3, 0.7), (3, 7, 0.3), (9, 1, 0.9), (29, 71, 0.29), (1, 2, 1 / 3)]
)
def test_a_fraction_that_is_the_threshold_counts(common: int, others: int, threshold: float) -> None:
    low = sets_of(range(common), range(common + others))
    assert keep_first(low, threshold).partner.tolist() == [-1, 0]
    assert keep_first(low, np.nextafter(threshold, 2)).partner.tolist() == [-1, -1]


def test_the_partner_is_the_most_similar_kept_row_and_of_equals_the_first() -> None:
    rows = sets_of(range(10), range(20, 30), [*range(20, 29), 40], [*range(1, 10), 50], [*range(9), 51, 52], range(10))
    made = keep_first(rows, 0.5)
    assert made.partner.tolist() == [-1, -1, 1, 0, 0, 0]
    assert made.similarity.tolist() == [0, 0, np.float32(9 / 11), np.float32(9 / 11), np.float32(9 / 12), 1]
    tied = sets_of([1, 2, 3, 4, 5], [4, 5, 6, 7, 8], [3, 4, 5, 6])
    assert keep_first(tied, 0.4).partner.tolist() == [-1, -1, 0]


def test_a_row_is_dropped_for_kept_rows_only() -> None:
    chain = sets_of(range(0, 10), range(2, 12), range(4, 14), range(6, 16))
    assert keep_first(chain, 0.6).partner.tolist() == [-1, 0, -1, 2]
    assert drop_all(chain, 0.6).partner.tolist() == [1, 0, 1, 2]
    assert components(chain, 0.6).tolist() == [0, 0, 0, 0]


def test_the_copy_of_a_dropped_row_may_have_a_nearer_partner() -> None:
    rows = sets_of(range(10), range(2, 12), [*range(3, 12), 20], range(2, 12))
    made = keep_first(rows, 0.6)
    assert made.partner.tolist() == [-1, 0, -1, 2], "row 3 equals row 1, which came before row 2"
    assert made.similarity.tolist() == [0, np.float32(8 / 12), 0, np.float32(9 / 11)]


def test_references_are_never_dropped() -> None:
    rows = sets_of(range(5), range(5), range(5), range(10, 15), range(10, 15))
    assert keep_first(rows, 0.5, fixed=2).partner.tolist() == [-1, -1, 0, -1, 3]
    assert keep_first(rows, 0.5, fixed=2, among=False).partner.tolist() == [-1, -1, 0, -1, -1]
    assert drop_all(rows, 0.5, fixed=2).partner.tolist() == [-1, -1, 0, 4, 3]
    assert keep_first(rows, 0.5, fixed=5).partner.tolist() == [-1] * 5


def test_rows_without_members_are_never_duplicates() -> None:
    rows = sets_of([], [1], [], [1], [])
    assert keep_first(rows, 0.1).partner.tolist() == [-1, -1, -1, 1, -1]
    assert drop_all(rows, 0.1).partner.tolist() == [-1, 3, -1, 1, -1]
    assert components(rows, 0.1).tolist() == [0, 1, 2, 1, 4]
    assert keep_first(sets_of(), 0.1).partner.tolist() == []
    assert components(sets_of([], []), 0.1).tolist() == [0, 1]


@pytest.mark.parametrize("threshold", [0, -1, 1.1, float("nan")])
def test_a_threshold_is_a_share(threshold: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1, got"):
        keep_first(sets_of([1]), threshold)


def columns(*numbers: np.ndarray) -> Sets:
    """A set for each row of numbers; what has one row stands in all sets."""
    rows = max(map(len, numbers))
    whole = np.concatenate([np.broadcast_to(part, (rows, part.shape[1])) for part in numbers], axis=1)
    hashes = np.sort(whole.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15), axis=1)
    return Sets(hashes.ravel(), np.arange(rows + 1) * hashes.shape[1])


def test_traps_take_neither_long_nor_much() -> None:
    one, many = np.arange(20)[None], 20 + np.arange(400_000)
    tracemalloc.start()
    equal = columns(one, np.zeros((100_000, 0)))
    assert (keep_first(equal, 0.7).partner[1:] == 0).all()
    assert (drop_all(equal, 0.7).partner[1:] == 0).all()
    one_in_all = columns(one[:, :1], many.reshape(100_000, 4))
    assert (keep_first(one_in_all, 0.5).partner == -1).all()
    one_apart = columns(one, many[:20_000, None])
    assert (keep_first(one_apart, 0.7).partner[1:] == 0).all(), "every two rows are alike: 200 M pairs"
    assert tracemalloc.get_traced_memory()[1] < 300e6
    tracemalloc.stop()


def plain_words(text: str) -> list[str]:
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower())


def test_shingles_are_runs_of_words() -> None:
    texts = prompts()
    made = as_python(shingles(pa.array(texts)))
    seen: dict[int, tuple[str, ...]] = {}
    for text, hashes in zip(texts, made, strict=True):
        words = plain_words(text)
        runs = {tuple(words[n : n + 3]) for n in range(len(words) - 2)} or ({tuple(words)} - {()})
        assert len(hashes) == len(runs), text
        for other in hashes & seen.keys():
            assert seen[other] in runs
        if len(runs) == 1:
            seen[next(iter(hashes))] = next(iter(runs))
    assert len(seen) > 100


@pytest.mark.parametrize(
    "first, second, same",
    [
        ("A cat sat", "a  CAT, sat!", True),
        ("ﬁne ４k", "fine 4k", True),
        ("a_b", "a b", False),
        ("a cat", "cat a", False),
        ("cat", "cat cat", False),
        ("a cat sat", "a cat", False),
        ("猫、犬", "猫 犬", True),
        ("हिन्दी", "हिनदी", False),
        ("«a» — b", "a b", True),
        ("a cat sat a cat sat", "cat sat a cat sat a cat", True),
    ],
)
def test_words(first: str, second: str, same: bool) -> None:
    one, two = as_python(shingles(pa.array([first, second])))
    assert len(one) > 0
    assert (one == two) == same


def test_a_text_without_words_has_no_shingles() -> None:
    texts = pa.array([None, "", " ", "!?", "🐱", "a"])
    assert shingles(texts).sizes.tolist() == [0, 0, 0, 0, 0, 1]
    assert shingles(texts[:0]).sizes.tolist() == []
    assert shingles(pa.array([None, None], pa.string())).sizes.tolist() == [0, 0]
    with pytest.raises(ValueError, match="1 word or more, got 0"):
        shingles(texts, 0)


@pytest.mark.parametrize("words", [1, 2, 5])
def test_shingles_of_other_lengths(words: int) -> None:
    sizes = shingles(pa.array(["a b c d e f", "a b", "b a b a b a b a"]), words).sizes
    assert sizes.tolist() == {1: [6, 2, 2], 2: [5, 1, 2], 5: [2, 1, 2]}[words]


def test_a_text_has_the_same_shingles_in_any_company() -> None:
    texts = prompts()
    whole = as_python(shingles(pa.array([*texts, *texts])))
    assert whole[: len(texts)] == whole[len(texts) :]
    assert as_python(shingles(pa.array(["x", *texts[5000:7000]], pa.large_string())[1:])) == whole[5000:7000]
