"""The global order of samples: a pure function from a position to a sample.

The state of the data is one integer. Positions never end: epoch = position // N. Within an epoch the
shards come in a seeded order, grouped into windows of a few shards, and the samples of each window in a
seeded order, so that every sample appears once per epoch and few files are open.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from intarsia.rng import derive_seed
from training.config import BatchShape


class DataOrder:
    """The order for shards with `counts` samples.

    Args:
        counts: samples of each shard; shards of 0 samples are allowed.
        seed: seed of the order.
        window_shards: shards whose samples are mixed.
    """

    def __init__(self, counts: Sequence[int], seed: int, window_shards: int) -> None:
        self.counts = np.asarray(counts, dtype=np.int64)
        self.total = int(self.counts.sum())
        self.seed = seed
        self.window_shards = window_shards
        self._epoch = lru_cache(maxsize=2)(self._build_epoch)
        self._window = lru_cache(maxsize=2)(self._build_window)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies, as in loader workers, remember nothing: what is remembered cannot be pickled."""
        return DataOrder, (self.counts, self.seed, self.window_shards)

    def locate(self, position: int) -> tuple[int, int]:
        """The sample at a position: (index of the shard, index within the shard)."""
        epoch, index = divmod(position, self.total)
        _, starts = self._epoch(epoch)
        window = int(np.searchsorted(starts, index, side="right")) - 1
        shard, sample = self._window(epoch, window)[index - starts[window]]
        return int(shard), int(sample)

    def epoch(self, position: int) -> int:
        """How often all samples were seen before a position."""
        return position // self.total

    def _build_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The shards in this epoch's order, and the index at which each window starts."""
        shards = permutation(len(self.counts), self.seed, "shards", epoch)
        sizes = np.add.reduceat(self.counts[shards], np.arange(0, len(shards), self.window_shards))
        return shards, np.concatenate([[0], np.cumsum(sizes)[:-1]])

    def _build_window(self, epoch: int, window: int) -> np.ndarray:
        """[n, 2]: shard and sample of each place in the window."""
        shards = self._epoch(epoch)[0][window * self.window_shards :][: self.window_shards]
        counts = self.counts[shards]
        places = np.stack([np.repeat(shards, counts), np.concatenate([np.arange(n) for n in counts])], axis=1)
        return places[permutation(len(places), self.seed, "samples", epoch, window)]


def permutation(length: int, *key: int | str) -> np.ndarray:
    """A seeded permutation; raw bits are sorted, because numpy keeps those stable, but not `permutation`."""
    return np.argsort(np.random.PCG64(derive_seed("order", *key)).random_raw(length), kind="stable")


def rank_positions(start: int, shape: BatchShape, rank: int) -> Iterator[list[int]]:
    """The positions of one rank's micro-batches, without end, from the global position `start` on.

    One optimizer step takes the next `shape.global_batch` positions, however they are divided among ranks and
    accumulation steps; micro-batch a of rank r takes the a·world + r-th group of `shape.micro`.
    """
    while True:
        for accum in range(shape.accum):
            first = start + (accum * shape.world + rank) * shape.micro
            yield list(range(first, first + shape.micro))
        start += shape.global_batch
