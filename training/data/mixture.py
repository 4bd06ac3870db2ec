"""Several data sets in given shares: which one a position takes its sample from, as a pure function."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from training.data.order import DataOrder, permutation
from training.option_groups import DataConfig

BLOCK = 1000  # positions in which every data set has its share, rounded to whole positions


class ShardMixture:
    """The data set of each position: in every block of `BLOCK` positions each has its share, well mixed.

    Args:
        weights: weights of the data sets, above 0; only their ratios count.
        seed: seed of the order.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        self.weights, self.seed = tuple(weights), seed
        self.shares = whole_shares(self.weights, BLOCK)
        self._block = lru_cache(maxsize=4)(self._build_block)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies, as in loader workers, remember nothing: what is remembered cannot be pickled."""
        return ShardMixture, (self.weights, self.seed)

    def locate(self, position: int) -> tuple[int, int]:
        """The data set of a position, and how many positions before it have the same one."""
        block, place = divmod(position, BLOCK)
        sets, ranks = self._block(block)
        number = int(sets[place])
        return number, block * self.shares[number] + int(ranks[place])

    def _build_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """[BLOCK] each: the data set of each place, and how many places before it have the same one."""
        sets = np.repeat(np.arange(len(self.shares)), self.shares)[
            permutation(BLOCK, self.seed, "mixture", block)
        ]
        ranks: np.ndarray = np.empty(BLOCK, np.int64)
        for number, share in enumerate(self.shares):
            ranks[sets == number] = np.arange(share)
        return sets, ranks


def whole_shares(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers that add up to `total`, as near to the weights' shares as can be, and at least 1 each.

    The largest remainders are rounded up (Hamilton's method).
    """
    exact = [total * weight / sum(weights) for weight in weights]
    shares = [max(int(share), 1) for share in exact]
    order = sorted(range(len(exact)), key=lambda n: (shares[n] - exact[n], n))
    for number in order[: max(total - sum(shares), 0)]:
        shares[number] += 1
    while sum(shares) > total:  # many tiny weights were rounded up to 1
        shares[shares.index(max(shares))] -= 1
    return shares


class MixedOrder:
    """The order of several data sets, each with its own; it stands in for a `DataOrder`.

    Args:
        orders: order of each data set, over its own shards.
        first_shards: index of each data set's first shard among all shards.
        mixture: shares of the data sets.
    """

    def __init__(
        self, orders: Sequence[DataOrder], first_shards: Sequence[int], mixture: ShardMixture
    ) -> None:
        self.orders, self.first_shards, self.mixture = tuple(orders), tuple(first_shards), mixture
        # Positions after which every sample of the data set that takes longest has been seen.
        self.total = max(
            -(-order.total * BLOCK // share) for order, share in zip(self.orders, mixture.shares, strict=True)
        )

    def locate(self, position: int) -> tuple[int, int]:
        """The sample at a position: (index of the shard, index within the shard)."""
        number, own = self.mixture.locate(position)
        shard, sample = self.orders[number].locate(own)
        return self.first_shards[number] + shard, sample

    def epoch(self, position: int) -> int:
        """How often all samples of the position's data set were seen before it."""
        number, own = self.mixture.locate(position)
        return self.orders[number].epoch(own)


def mixture_of(data: DataConfig, seed: int) -> ShardMixture | None:
    """The mixture of a run's data sets; None without weights, when all shards are one data set."""
    return ShardMixture(data.weights, seed) if data.weights else None
