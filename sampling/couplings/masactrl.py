"""MasaCtrl's mutual self-attention (Cao et al. 2023): the target looks at the source's keys and values."""

from torch import Tensor

from sampling.couplings.coupling import AttentionLayer, Coupling, CouplingRow, Walk


class MutualSelfAttention(Coupling):
    """From a step and a depth on, the target's self-attention has the source's keys and values.

    The target keeps its own queries: it may change its pose, and fills it with the source's content.

    Args:
        from_share: share of the steps after which it begins; the paper's 4 of 50.
        from_depth: share of the blocks after which it begins; the paper's 10 of 16, the decoder.
    """

    needs = frozenset({"source_null", "source"})
    own = True

    def __init__(self, from_share: float = 0.08, from_depth: float = 10 / 16) -> None:
        self.from_share, self.from_depth = from_share, from_depth

    def rows(
        self, walk: Walk, layer: AttentionLayer, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Coupling.rows`."""
        if walk.before(self.from_share) or layer.depth < self.from_depth:
            return query, key, value
        key, value = key.clone(), value.clone()
        for source, target in walk.pairs():
            key[target], value[target] = key[source], value[source]
        return query, key, value


COUPLING = CouplingRow(lambda given: MutualSelfAttention())
