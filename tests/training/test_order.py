"""The data order: every epoch a permutation, and one sequence whatever divides it."""

from itertools import islice

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training.config import BatchShape
from training.data.order import DataOrder, rank_positions

COUNTS = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any)


@settings(deadline=None, max_examples=60)
@given(COUNTS, st.integers(0, 2**40), st.integers(1, 15), st.integers(0, 1000))
def test_every_epoch_holds_every_sample_once(counts: list[int], seed: int, window: int, epoch: int) -> None:
    order = DataOrder(counts, seed, window)
    seen = [order.locate(epoch * order.total + i) for i in range(order.total)]
    assert sorted(seen) == [(shard, i) for shard, n in enumerate(counts) for i in range(n)]


@settings(deadline=None, max_examples=60)
@given(COUNTS, st.integers(1, 15), st.randoms())
def test_any_position_can_be_asked_for_in_any_order(counts: list[int], window: int, random: object) -> None:
    order = DataOrder(counts, 7, window)
    positions = list(range(3 * order.total))
    straight = {p: order.locate(p) for p in positions}
    random.shuffle(positions)  # type: ignore[attr-defined]
    fresh = DataOrder(counts, 7, window)
    assert all(fresh.locate(p) == straight[p] for p in positions)


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from([(1, 8, 1), (1, 1, 8), (2, 4, 1), (2, 2, 2), (4, 1, 2), (8, 1, 1)]),
    st.integers(0, 50),
    st.integers(1, 5),
)
def test_each_step_takes_the_same_set_however_it_is_divided(
    shape: tuple[int, int, int], start: int, steps: int
) -> None:
    world, micro, accum = shape
    taken = [
        [
            position
            for rank in range(world)
            for batch in list(
                islice(rank_positions(start, BatchShape(micro, accum, world), rank), steps * accum)
            )[step * accum : (step + 1) * accum]
            for position in batch
        ]
        for step in range(steps)
    ]
    assert [sorted(step) for step in taken] == [
        list(range(start + 8 * step, start + 8 * step + 8)) for step in range(steps)
    ]


def test_a_window_is_read_before_the_next_one() -> None:
    order = DataOrder([10] * 8, seed=1, window_shards=2)
    shards = [order.locate(i)[0] for i in range(80)]
    windows = [set(shards[start : start + 20]) for start in range(0, 80, 20)]
    assert all(len(window) == 2 for window in windows)
    assert set.union(*windows) == set(range(8))


def test_epochs_and_seeds_differ() -> None:
    order, other = DataOrder([20, 20], 1, 2), DataOrder([20, 20], 2, 2)
    first, second = ([order.locate(40 * e + i) for i in range(40)] for e in (0, 1))
    assert first != second
    assert first != [other.locate(i) for i in range(40)]


def test_a_jump_far_into_a_large_data_set_is_quick_and_right() -> None:
    order = DataOrder([1000] * 10_000, 5, 16)
    shard, sample = order.locate(123_456_789)
    assert 0 <= shard < 10_000
    assert 0 <= sample < 1000
    assert order.locate(123_456_789) == DataOrder(np.full(10_000, 1000), 5, 16).locate(123_456_789)
