"""Plug-and-Play (Tumanyan et al. 2023): layout by the source's queries, keys and features."""

from torch import Tensor

from sampling.couplings.coupling import AttentionLayer, Coupling, CouplingRow, Walk


class PlugAndPlay(Coupling):
    """In the decoder's self-attention the target has the source's queries and keys, once its features.

    Both are those of the source without any description, the row with null tokens.

    Args:
        attention_share: share of the steps with the source's queries and keys; the paper's 25 of 50.
        feature_share: share of the steps with the source's features; the paper's 40 of 50.
        from_depth: share of the blocks after which queries and keys are the source's; the paper's 8 of 16.
    """

    needs = frozenset({"source_null"})
    own = True
    features_of = "up_blocks.1.resnets.1.conv2"  # before the residual is added

    def __init__(
        self, attention_share: float = 0.5, feature_share: float = 0.8, from_depth: float = 0.5
    ) -> None:
        self.attention_share, self.feature_share, self.from_depth = attention_share, feature_share, from_depth

    def rows(
        self, walk: Walk, layer: AttentionLayer, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Coupling.rows`."""
        if not walk.before(self.attention_share) or layer.depth < self.from_depth:
            return query, key, value
        return _from_source(walk, query), _from_source(walk, key), value

    def features(self, walk: Walk, features: Tensor) -> Tensor:
        """See `Coupling.features`."""
        return _from_source(walk, features) if walk.before(self.feature_share) else features


def _from_source(walk: Walk, states: Tensor) -> Tensor:
    """The states with those of the source's null row in all rows of the target."""
    states = states.clone()
    for name in ("target_null", "target"):
        if name in walk.rows:
            states[walk.rows[name]] = states[walk.rows["source_null"]]
    return states


COUPLING = CouplingRow(lambda given: PlugAndPlay())
