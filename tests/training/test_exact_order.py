"""Every sample of an epoch exactly once, through real loaders, whatever the ranks and workers."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.synthetic import make_shards
from tests.training.test_data import dataset_of
from training.config import BatchShape
from training.data.batches import batches
from training.data.order import DataOrder, rank_positions
from training.option_groups import DataConfig

COUNTS = (
    5,
    4,
    7,
    3,
)  # 19 samples: no multiple of any global batch below; fewer shards than most rank × worker
SHAPES = [BatchShape(8, 1, 1), BatchShape(2, 2, 2), BatchShape(2, 1, 4), BatchShape(1, 1, 8)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards", COUNTS)


def seen_by(folder: Path, shape: BatchShape, workers: int, start: int, steps: int) -> list[dict[int, str]]:
    """Position -> key for each rank, each rank with a loader of its own."""
    span = range(start, start + steps * shape.global_batch, shape.global_batch)
    config, ranks = DataConfig(num_workers=workers), []
    for rank in range(shape.world):
        parts = list(batches(config, dataset_of(folder), shape, rank, span))
        assert [len(part.keys) for part in parts] == [shape.micro] * (steps * shape.accum)
        ranks.append(
            {p: k for part in parts for p, k in zip(part.positions.tolist(), part.keys, strict=True)}
        )
    return ranks


def merged(ranks: list[dict[int, str]]) -> dict[int, str]:
    together = {position: key for rank in ranks for position, key in rank.items()}
    assert len(together) == sum(len(rank) for rank in ranks)  # no position twice
    return together


def in_order(folder: Path, until: int) -> dict[int, str]:
    """What each position holds, one by one."""
    dataset = dataset_of(folder)
    return {p: dataset[p][1].meta.key for p in range(until)}  # type: ignore[index]


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.world}-ranks")
def test_ranks_and_workers_divide_one_sequence(folder: Path, shape: BatchShape, workers: int) -> None:
    steps = 5  # 40 samples: two epochs and the beginning of a third, the last batch of each across the border
    together = merged(seen_by(folder, shape, workers, 0, steps))
    assert together == in_order(folder, steps * 8)
    for epoch in range(2):
        keys = [together[position] for position in range(epoch * 19, (epoch + 1) * 19)]
        assert sorted(keys) == [f"s{number:05d}" for number in range(19)]


def test_an_epoch_goes_on_where_it_was_when_ranks_and_workers_change(folder: Path) -> None:
    """Stopped in the middle of epochs and continued with other ranks, workers and micro-batches."""
    parts = [
        (BatchShape(2, 1, 4), 1, 1),
        (BatchShape(4, 1, 1), 2, 2),
        (BatchShape(1, 3, 2), 0, 1),
        (BatchShape(1, 1, 8), 1, 2),
    ]
    start, together = 0, {}
    for shape, workers, steps in parts:
        together |= merged(seen_by(folder, shape, workers, start, steps))
        start += steps * shape.global_batch
    assert start == 38
    assert together == in_order(folder, 38)
    assert Counter(together.values()) == {f"s{number:05d}": 2 for number in range(19)}


def test_one_sample_in_one_shard_serves_any_number_of_ranks_and_workers(tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "shards", (1,))
    for shape in (BatchShape(2, 1, 1), BatchShape(1, 1, 4)):
        together = merged(seen_by(folder, shape, 2, 0, 2))
        assert set(together.values()) == {"s00000"}
        assert sorted(together) == list(range(2 * shape.global_batch))


PART = st.tuples(st.sampled_from([1, 2, 4, 8]), st.integers(1, 3), st.integers(1, 3), st.integers(0, 6))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=9).filter(any), st.lists(PART, max_size=6))
def test_any_history_of_ranks_sees_every_sample_of_an_epoch_once(
    counts: list[int], history: list[tuple[int, int, int, int]]
) -> None:
    order, start, taken = DataOrder(counts, 3, 2), 0, []
    for world, micro, accum, steps in history:
        shape = BatchShape(micro, accum, world)
        streams = [rank_positions(start, shape, rank) for rank in range(world)]
        for _ in range(steps * accum):  # all ranks have a batch, and of the same size, each time
            taken += [position for stream in streams for position in next(stream)]
        start += steps * shape.global_batch
    assert sorted(taken) == list(range(start))
    epochs = [0, *range(order.total, start + 1, order.total)]
    for first, end in pairwise(epochs):
        seen = Counter(order.locate(position) for position in range(first, end))
        assert seen == {(shard, index): 1 for shard, n in enumerate(counts) for index in range(n)}
