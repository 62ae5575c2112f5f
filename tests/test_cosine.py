"""Near duplicates by cosine: the rows, partners and similarities that computing every pair exactly gives."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from processors.duplicates import Verdicts
from processors.duplicates.codes import Coder, Tuning
from processors.duplicates.cosine import components, drop_all, keep_first
from processors.duplicates.embedded import embedded
from processors.duplicates.pairs import Measure, Pairs, alike, merged

BLOCKS = [Tuning(23, 61), Tuning(64, 40, 4), Tuning(300, 50, 24), Tuning.of("cpu")]
Data = Callable[[np.random.Generator], tuple[np.ndarray, float]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine, products as small as these take less time than two threads take to meet."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def every(measure: Measure) -> Pairs:
    """All pairs that are alike, in ascending order."""
    return merged(list(alike(measure)))


def normalised(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def far(random: np.random.Generator) -> tuple[np.ndarray, float]:
    return normalised(random.standard_normal((150, 8))), 0.7


def everything_is_similar(random: np.random.Generator) -> tuple[np.ndarray, float]:
    return normalised(random.standard_normal((150, 24)) * 0.02 + 1), 0.99


def clusters(random: np.random.Generator) -> tuple[np.ndarray, float]:
    centres = random.standard_normal((12, 24))
    spread = random.choice([0.02, 0.2, 0.5], (180, 1))
    return normalised(centres[random.integers(0, 12, 180)] + spread * random.standard_normal((180, 24))), 0.9


def copies(random: np.random.Generator) -> tuple[np.ndarray, float]:
    few = normalised(random.standard_normal((30, 6)))
    return few[random.integers(0, 30, 160)], 0.8


def ties(random: np.random.Generator) -> tuple[np.ndarray, float]:
    return random.choice([-0.25, 0.25], (180, 16)).astype(np.float32), 0.5


def at_the_threshold(random: np.random.Generator) -> tuple[np.ndarray, float]:
    """Partners at 0.85, moved by single bits of single numbers: within 1e-7 on both sides."""
    one = np.linalg.qr(random.standard_normal((40, 40)))[0]
    other = 0.85 * one + math.sqrt(1 - 0.85**2) * np.roll(one, 1, axis=0)
    vectors = np.concatenate([one, np.repeat(other, 3, axis=0)]).astype(np.float32)
    for row in vectors[40:]:
        at = random.integers(0, 40, 2)
        row[at] = np.nextafter(row[at], random.choice(np.array([-1, 1], np.float32), 2))
    return vectors[random.permutation(len(vectors))], 0.85


def in_the_band(random: np.random.Generator) -> tuple[np.ndarray, float]:
    """All pairs nearer to the threshold than bfloat16 can tell, half of them below."""
    axes = np.linalg.qr(random.standard_normal((120, 120)))[0]
    around = math.sqrt(0.86) * axes[0] + math.sqrt(0.14) * axes[1:]
    return normalised(around + 1e-4 * random.standard_normal(around.shape)), 0.86


def as_similar_as_a_pair(random: np.random.Generator) -> tuple[np.ndarray, float]:
    vectors = normalised(random.standard_normal((120, 5)))
    return vectors, min(1, exact(vectors[3], vectors[70])) if exact(vectors[3], vectors[70]) > -1 else 0.5


def below_zero(random: np.random.Generator) -> tuple[np.ndarray, float]:
    return normalised(random.standard_normal((100, 4))), -0.3


DATA: list[Data] = [
    far,
    everything_is_similar,
    clusters,
    copies,
    ties,
    at_the_threshold,
    in_the_band,
    as_similar_as_a_pair,
    below_zero,
]


def exact(one: np.ndarray, other: np.ndarray) -> float:
    return math.fsum((one.astype(float) * other).tolist())


class Truth:
    """Every pair computed exactly, and the definitions in the plainest words."""

    def __init__(self, vectors: np.ndarray, threshold: float):
        count = len(vectors)
        self.first = [next(n for n in range(count) if (vectors[n] == row).all()) for row in vectors]
        similar = np.zeros((count, count))
        for one in range(count):
            for other in range(one):
                similar[one, other] = similar[other, one] = exact(vectors[one], vectors[other])
        self.there = similar >= threshold
        self.similarity = np.minimum(similar, 1).astype(np.float32)

    def best(self, row: int, among: list[int]) -> tuple[int, float]:
        there = [other for other in among if self.there[row, other]]
        return max(((n, self.similarity[row, n]) for n in there), key=lambda pair: (pair[1], -pair[0]), default=(-1, 0))

    def keep_first(self, fixed: int, among: bool) -> list[tuple[int, float]]:
        found: list[tuple[int, float]] = []
        for row, first in enumerate(self.first):
            if row < fixed:
                found.append((-1, 0))
            elif first < row:
                stays = found[first][0] < 0
                found.append(((first, 1) if among or first < fixed else (-1, 0)) if stays else found[first])
            else:
                before = range(row if among else fixed)
                found.append(self.best(row, [n for n in before if found[n][0] < 0 and self.first[n] == n]))
        return found

    def drop_all(self, fixed: int) -> list[tuple[int, float]]:
        found: list[tuple[int, float]] = []
        for row, first in enumerate(self.first):
            equal = [n for n, other in enumerate(self.first) if other == first and n != row]
            others = [n for n, other in enumerate(self.first) if other == n != row]
            found.append((-1, 0) if row < fixed else (equal[0], 1) if equal else self.best(row, others))
        return found

    def components(self) -> list[int]:
        count = len(self.first)
        joined = self.there | (np.array(self.first)[:, None] == np.array(self.first))
        labels = list(range(count))
        for start in range(count):
            todo = [start] if labels[start] == start else []
            while todo:
                row = todo.pop()
                for other in np.flatnonzero(joined[row]):
                    if labels[other] > start:
                        labels[other] = start
                        todo.append(int(other))
        return labels


def pairs(verdicts: Verdicts) -> list[tuple[int, float]]:
    assert (verdicts.partner.dtype, verdicts.similarity.dtype) == (np.int64, np.float32)
    return list(zip(verdicts.partner.tolist(), verdicts.similarity, strict=True))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("data", DATA)
def test_equals_computing_every_pair(data: Data, seed: int) -> None:
    vectors, threshold = data(np.random.default_rng(seed))
    truth = Truth(vectors, threshold)
    expected = {(fixed, among): truth.keep_first(fixed, among) for fixed in (0, 40) for among in (True, False)}
    everything, connected = {fixed: truth.drop_all(fixed) for fixed in (0, 40)}, truth.components()
    for tuning in BLOCKS:
        for (fixed, among), wanted in expected.items():
            assert pairs(keep_first(vectors, threshold, fixed=fixed, among=among, tuning=tuning)) == wanted
        for fixed, wanted in everything.items():
            assert pairs(drop_all(vectors, threshold, fixed=fixed, tuning=tuning)) == wanted
        assert components(vectors, threshold, tuning=tuning).tolist() == connected


@pytest.mark.parametrize("data", DATA)
def test_pairs_are_those_that_are_similar(data: Data) -> None:
    vectors, threshold = data(np.random.default_rng(0))
    truth = Truth(vectors, threshold)
    distinct = np.flatnonzero(np.array(truth.first) == np.arange(len(vectors)))
    wanted = np.argwhere(np.tril(truth.there[np.ix_(distinct, distinct)], -1))
    for tuning in BLOCKS:
        measure = embedded(vectors, threshold, tuning=tuning)
        assert (measure.copy_of.tolist(), measure.distinct.tolist()) == (truth.first, distinct.tolist())
        found = every(measure)
        np.testing.assert_array_equal(np.stack([found.later, found.earlier], axis=1), wanted)
        similarity = truth.similarity[distinct[found.later], distinct[found.earlier]]
        np.testing.assert_array_equal(found.similarity.astype(np.float32), similarity)


@pytest.mark.parametrize("width", [None, 48, 64])
def test_codes_are_wrong_by_no_more_than_their_band(width: int | None) -> None:
    random = np.random.default_rng(0)
    vectors = normalised(random.standard_normal((70_000, 64)) * 0.95 ** np.arange(64))
    coder = Coder(vectors, np.arange(len(vectors)), 0.9, "cpu", width)
    assert coder.width in ((width,) if width else (48, 64)), "the one with which a sample was compared faster"
    some = coder.code(np.arange(1_000, 1_512))
    products = (some.codes.double() @ some.codes.double().T).numpy()
    assert (products >= vectors[some.positions] @ vectors[some.positions].T - coder.band(some, some)).all()


def test_a_chain_is_one_component() -> None:
    angles = np.random.default_rng(0).permutation(3_000) * 1e-3
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert not components(vectors, math.cos(1.5e-3), tuning=Tuning(256, 512)).any()


def test_a_hub_is_one_component() -> None:
    spokes = np.eye(400, dtype=np.float32)
    hub = np.full((1, 400), 0.05, np.float32)
    assert not components(np.concatenate([spokes, hub]), 0.04).any()


@pytest.mark.parametrize("function", [keep_first, drop_all, components])
def test_equal_rows_cost_no_pairs(function: Callable[..., Verdicts | np.ndarray]) -> None:
    vectors = np.repeat(np.eye(2, 8, dtype=np.float32), 100_000, axis=0)
    vectors[1::2] *= -0.0 + 1
    found = function(vectors, 1.0)
    partner = found.partner if isinstance(found, Verdicts) else found
    assert set(np.unique(partner)) <= {-1, 0, 1, 100_000, 100_001}


def test_zero_has_no_sign() -> None:
    vectors = np.array([[1, 0.0], [1, -0.0]], np.float32) * np.float32(0.999)
    assert keep_first(vectors, 1.0).partner.tolist() == [-1, 0], "equal rows are similar at any threshold"


def test_half_precision_and_files(tmp_path: Path) -> None:
    vectors, threshold = clusters(np.random.default_rng(0))
    half = vectors.astype(np.float16)
    mapped = np.memmap(tmp_path / "vectors", np.float16, "w+", shape=half.shape)
    mapped[:] = half
    wanted = Truth(half, threshold).keep_first(0, True)
    assert pairs(keep_first(half, threshold)) == wanted
    assert pairs(keep_first(np.memmap(tmp_path / "vectors", np.float16, "r", shape=half.shape), threshold)) == wanted


@pytest.mark.parametrize("function", [keep_first, drop_all, components])
def test_no_row_and_one_row(function: Callable[..., Verdicts | np.ndarray]) -> None:
    for rows in (0, 1):
        found = function(np.eye(rows, 4, dtype=np.float32), 0.5)
        partner = found.partner if isinstance(found, Verdicts) else found - 1
        assert partner.tolist() == [-1] * rows


@pytest.mark.parametrize(
    "function", [keep_first, partial(keep_first, fixed=100), partial(keep_first, among=False), drop_all, components]
)
def test_progress_counts_every_row_once(function: Callable[..., object]) -> None:
    vectors, threshold = copies(np.random.default_rng(0))
    done: list[int] = []
    function(vectors, threshold, progress=done.append, tuning=Tuning(8, 8))
    assert sum(done) == len(vectors)
    assert min(done) >= 0


class Killed(Exception):
    pass


def until(calls: int) -> Callable[[int], None]:
    """A progress that ends a run when it is called for the time after so many."""
    left = iter(range(calls))

    def progress(rows: int) -> None:
        if next(left, None) is None:
            raise Killed

    return progress


FUNCTIONS: list[Callable[..., Verdicts | np.ndarray]] = [
    keep_first,
    partial(keep_first, fixed=50),
    partial(keep_first, fixed=50, among=False),
    partial(drop_all, fixed=20),
    components,
]
EACH = Tuning(16, 64, saved=0)  # writes the journal after every block


@pytest.mark.parametrize("data", [clusters, copies, everything_is_similar])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_killed_run_goes_on(function: Callable[..., Verdicts | np.ndarray], data: Data, tmp_path: Path) -> None:
    vectors, threshold = data(np.random.default_rng(0))
    calls: list[int] = []
    wanted = function(vectors, threshold, tuning=EACH, progress=calls.append)
    journal = tmp_path / "journal"
    for blocks in range(len(calls)):
        with pytest.raises(Killed):
            function(vectors, threshold, tuning=EACH, journal=journal, progress=until(blocks))
        again: list[int] = []
        found = function(vectors, threshold, tuning=Tuning(16, 50), journal=journal, progress=again.append)
        np.testing.assert_array_equal(found, wanted)
        assert len(again) == len(calls) - blocks, "what had been decided was decided again"
        assert sum(again) == len(vectors)
        assert not list(tmp_path.iterdir())


def test_a_run_may_be_killed_twice(tmp_path: Path) -> None:
    vectors, threshold = clusters(np.random.default_rng(0))
    for _ in range(3):
        with pytest.raises(Killed):
            keep_first(vectors, threshold, tuning=EACH, journal=tmp_path / "journal", progress=until(2))
    (tmp_path / "journal.part").write_bytes(b"killed while it was written")
    again: list[int] = []
    found = keep_first(vectors, threshold, journal=tmp_path / "journal", tuning=Tuning(16, 64), progress=again.append)
    assert pairs(found) == pairs(keep_first(vectors, threshold))
    assert len(again) == -(-len(vectors) // 16) + 1 - 6
    assert not list(tmp_path.iterdir())


def test_the_journal_of_other_work_and_a_damaged_one_count_for_nothing(tmp_path: Path) -> None:
    vectors, threshold = clusters(np.random.default_rng(0))
    other, journal = vectors.copy(), tmp_path / "journal"
    other[170] = other[3]
    with pytest.raises(Killed):
        keep_first(vectors, threshold, tuning=EACH, journal=journal, progress=until(5))
    written = journal.read_bytes()
    flipped = bytearray(written)
    flipped[100] ^= 1
    for function, mine, limit, content in [
        (keep_first, other, threshold, written),
        (keep_first, vectors, 0.5, written),
        (partial(keep_first, fixed=1), vectors, threshold, written),
        (drop_all, vectors, threshold, written),
        (components, vectors, threshold, written),
        (keep_first, vectors, threshold, written[:-1]),
        (keep_first, vectors, threshold, written + b"0"),
        (keep_first, vectors, threshold, bytes(flipped)),
        (keep_first, vectors, threshold, b""),
    ]:
        journal.write_bytes(content)
        calls: list[int] = []
        with pytest.raises(Killed):
            function(mine, limit, tuning=EACH, journal=journal, progress=until(4))
        found = function(mine, limit, tuning=EACH, journal=journal, progress=calls.append)
        np.testing.assert_array_equal(found, function(mine, limit))
        full: list[int] = []
        function(mine, limit, tuning=EACH, progress=full.append)
        assert len(calls) == len(full) - 4, "went on from its own journal, not from the other one"


def test_a_journal_is_not_written_all_the_time(tmp_path: Path) -> None:
    vectors, threshold = clusters(np.random.default_rng(0))
    with pytest.raises(Killed):
        keep_first(vectors, threshold, tuning=Tuning(16, 64), journal=tmp_path / "journal", progress=until(8))
    assert not list(tmp_path.iterdir())


def spoiled(value: float) -> np.ndarray:
    vectors = np.eye(4, dtype=np.float32)
    vectors[2] = value
    return vectors


@pytest.mark.parametrize(
    "vectors, message",
    [
        (spoiled(math.nan), "row 2 of the vectors holds NaN"),
        (spoiled(math.inf), "row 2 of the vectors holds infinity"),
        (spoiled(0), "row 2 of the vectors is zero"),
        (spoiled(1), "row 2 of the vectors has length 2, wanted 1"),
        (np.eye(4), r"float32 or float16 array of shape \(rows, dimensions\), got float64 of shape \(4, 4\)"),
        (np.ones(4, np.float32), r"got float32 of shape \(4,\)"),
        ([np.ones(1, np.float32), np.ones(2, np.float32)], "got a list"),
    ],
)
def test_bad_vectors(vectors: np.ndarray, message: str) -> None:
    for function in (keep_first, drop_all, components):
        with pytest.raises(ValueError, match=message):
            function(vectors, 0.5)


@pytest.mark.parametrize("threshold", [-1, 1.01, 85, math.nan])
def test_bad_thresholds(threshold: float) -> None:
    with pytest.raises(ValueError, match=f"above -1 and not above 1, got {threshold}"):
        keep_first(np.eye(4, dtype=np.float32), threshold)


def test_bad_fixed() -> None:
    with pytest.raises(ValueError, match="fixed must be a number of the 4 rows, got 5"):
        keep_first(np.eye(4, dtype=np.float32), 0.5, fixed=5)


@pytest.mark.gpu
@pytest.mark.parametrize("data", DATA)
def test_an_accelerator_decides_the_same(data: Data) -> None:
    vectors, threshold = data(np.random.default_rng(0))
    assert pairs(keep_first(vectors, threshold, device="cuda:0")) == pairs(keep_first(vectors, threshold))
    assert pairs(drop_all(vectors, threshold, device="cuda:0")) == pairs(drop_all(vectors, threshold))
    assert (components(vectors, threshold, device="cuda:0") == components(vectors, threshold)).all()
    for one, other in zip(
        every(embedded(vectors, threshold, device="cuda:0")), every(embedded(vectors, threshold)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
