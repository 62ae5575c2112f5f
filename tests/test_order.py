"""The order of an epoch: a permutation of any number of rows, computed where it is asked for; how well it mixes."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfds.order import Blocks, InOrder, Mixed, Order, Shuffled
from hfds.streaming.course import Share

SEEDS = st.integers(-(2**70), 2**70)
ROWS = 20_000


def orders(n: int, seed: int) -> list[Order]:
    return [Shuffled(n, seed), Blocks(n, seed), Blocks(n, seed, 5, 3), InOrder(n)]


@given(st.integers(1, 3000), SEEDS, st.integers(0, 2**40))
@settings(deadline=None, max_examples=60)
def test_every_row_stands_at_one_position(n: int, seed: int, epoch: int) -> None:
    for order in orders(n, seed):
        assert np.array_equal(np.sort(order.at(np.arange(n), epoch)), np.arange(n))


@given(st.data(), st.integers(1, 3000), SEEDS)
@settings(deadline=None, max_examples=40)
def test_a_position_has_the_same_row_whatever_else_is_asked_for(data: st.DataObject, n: int, seed: int) -> None:
    some = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=20)), np.int64)
    for order in orders(n, seed):
        assert np.array_equal(order.at(some, 3), order.at(np.arange(n), 3)[some])


def test_seeds_and_epochs_differ_and_stay_the_same_for_ever() -> None:
    here = np.arange(8)
    assert Shuffled(1000, 7).at(here, 0).tolist() == [785, 987, 546, 166, 504, 420, 877, 715]
    assert Blocks(1000, 7).at(here, 0).tolist() == [377, 555, 396, 692, 440, 283, 930, 998]
    for kind in (Shuffled, Blocks):
        assert len({tuple(kind(1000, seed).at(here, epoch)) for seed in range(5) for epoch in range(5)}) == 25


def test_all_permutations_of_a_few_rows_are_equally_likely() -> None:
    found = np.array([Shuffled(4, seed).at(np.arange(4), 0) for seed in range(4800)])
    counts = np.unique(found @ [64, 16, 4, 1], return_counts=True)[1]
    assert len(counts) == 24
    assert ((counts - 200) ** 2 / 200).sum() < 49.7  # chi-square of 23 degrees: one in a thousand is above


def quality(order: Order, epochs: int = 20) -> tuple[float, float, float]:
    """How far a row is moved in the mean, as a part of n; of a million neighbouring positions how many have rows that
    are; chi-square, over its degrees of freedom, of hundredths of the rows in hundredths of the positions."""
    n = order.n
    rows = np.array([order.at(np.arange(n), epoch) for epoch in range(epochs)])
    moved = np.abs(rows - np.arange(n)).mean() / n
    neighbours = (np.abs(np.diff(rows)) == 1).mean() * 1e6
    there = np.stack([np.broadcast_to(np.arange(n), rows.shape), rows]).reshape(2, -1) * 100 // n
    counts = np.bincount(there[0] * 100 + there[1], minlength=10_000)
    expected = epochs * n / 10_000
    return float(moved), float(neighbours), float(((counts - expected) ** 2 / expected).sum() / 99**2)


def test_how_well_the_rows_are_mixed() -> None:
    chance = np.random.default_rng(0)

    class Drawn:
        n = ROWS

        def at(self, positions: np.ndarray, *epoch: int) -> np.ndarray:
            return chance.permutation(ROWS)[positions]

    drawn, full, blocks, none = map(quality, (Drawn(), Shuffled(ROWS, 5), Blocks(ROWS, 5), InOrder(ROWS)))
    for moved, neighbours, chi in (drawn, full):
        assert moved == pytest.approx(1 / 3, abs=0.005)
        assert neighbours == pytest.approx(2e6 / ROWS, rel=0.25)
        assert chi == pytest.approx(1, abs=0.08)
    moved, neighbours, chi = blocks
    assert moved == pytest.approx(1 / 3, abs=0.03), "a run of neighbours may come anywhere"
    assert neighbours == pytest.approx(2e6 / 512, rel=0.25), "two of one run of 32 meet among the 512 rows of a window"
    assert chi < 40, "its rows stay together"
    assert none[0] == 0


def test_a_window_of_blocks_reads_whole_runs_of_neighbours() -> None:
    order = Blocks(ROWS, 3)
    for window in range(ROWS // 512):
        runs = {row // 32 for row in order.at(np.arange(512) + 512 * window, 1).tolist()}
        assert len(runs) <= 17


def test_the_middle_of_ten_million_rows_costs_what_the_beginning_does() -> None:
    for order in (Shuffled(10_000_000, 1), Blocks(10_000_000, 1)):
        assert len(set(order.at(np.arange(5_000_000, 5_000_100), 4).tolist())) == 100
    assert len(set(Shuffled(1 << 60, 1).at(np.arange(3) + (1 << 59), 0).tolist())) == 3, "no machine holds so many"


@given(st.lists(st.tuples(st.integers(1, 400), st.floats(0.01, 10)), min_size=1, max_size=4), SEEDS, st.integers(0, 9))
@settings(deadline=None, max_examples=40)
def test_a_mixture_keeps_its_weights_and_ends_as_it_says(parts: list[tuple[int, float]], seed: int, epoch: int) -> None:
    kinds = tuple(Shuffled(n, seed + number) for number, (n, _) in enumerate(parts))
    for until in ("first", "all"):
        mixed = Mixed(kinds, tuple(weight for _, weight in parts), seed, until)
        length = mixed.length(epoch)
        which, rows = mixed.at(np.arange(length), epoch)
        counts = np.bincount(which, minlength=len(parts))
        pairs = set(zip(which.tolist(), rows.tolist(), strict=True))
        full = [counts[number] >= n for number, (n, _) in enumerate(parts)]
        assert np.array_equal(rows[: length // 2], mixed.at(np.arange(length // 2), epoch)[1])
        if until == "first":
            assert len(pairs) == length, "no row twice"
            assert any(full)
        else:
            assert all(full)
            assert len(pairs) == sum(n for n, _ in parts), "every row"


def test_every_thousand_positions_of_a_mixture_have_its_weights() -> None:
    mixed = Mixed((Shuffled(10_000, 1), Shuffled(30_000, 2), Shuffled(5, 3)), (0.7, 0.3, 0.00001), 5, "all")
    which, _ = mixed.at(np.arange(20_000), 0)
    for cycle in np.split(which, 20):
        assert np.bincount(cycle).tolist() == [699, 300, 1]


SHARES = st.tuples(st.integers(1, 500), st.integers(0, 500), st.integers(1, 20), st.integers(1, 7))


def taken(n: int, start: int, batch: int, ranks: int, remainder: str) -> list[list[int]]:
    """The positions of each step, one rank after the other."""
    shares = [Share(n, min(start, n), batch, rank, ranks, remainder) for rank in range(ranks)]
    steps = max(share.steps for share in shares)
    return [
        [p for share in shares if step < share.steps for p in share.positions(step).tolist()] for step in range(steps)
    ]


def flat(steps: list[list[int]]) -> list[int]:
    return [*chain(*steps)]


@given(SHARES)
def test_ranks_take_the_order_step_by_step(case: tuple[int, int, int, int]) -> None:
    n, start, batch, ranks = case
    start = min(start, n)
    assert flat(taken(n, start, batch, ranks, "keep")) == [*range(start, n)]
    assert flat(taken(n, start, batch, ranks, "drop")) == [*range(start, n - (n - start) % (batch * ranks))]
    filled = taken(n, start, batch, ranks, "repeat")
    assert {len(step) for step in filled} <= {batch * ranks}
    assert flat(filled)[: n - start] == [*range(start, n)]
    again = sum(Share(n, start, batch, rank, ranks, "repeat").again(len(filled) - 1) for rank in range(ranks))
    assert again == len(flat(filled)) - (n - start) or not filled


@given(SHARES, st.integers(1, 20), st.integers(1, 7), st.data())
def test_other_ranks_go_on_where_some_were(
    case: tuple[int, int, int, int], batch: int, ranks: int, data: st.DataObject
) -> None:
    steps = taken(*case, "keep")
    done = data.draw(st.integers(0, len(steps)))
    share = Share(case[0], min(case[1], case[0]), case[2], 0, case[3])
    here = share.after(done - 1) if done else share.start
    assert flat(steps[:done] + taken(case[0], here, batch, ranks, "keep")) == [*range(share.start, case[0])]
