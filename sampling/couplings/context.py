"""The target also sees what is kept of the source: keys and values of both, in every self-attention.

As MimicBrush (Chen et al. 2024) shows a UNet a second picture, here without training and inside one picture:
what surrounds the hole gives it its light and its style.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sampling.couplings.coupling import AttentionLayer, Coupling, CouplingRow, Walk


class SharedContext(Coupling):
    """The target's keys and values are followed by the source's, as far as the source is kept.

    Args:
        keep: cells of the source that may be seen, [1, 1, h, w], 1 = kept; None for all. A cell of a coarser
            layer may be seen if all of it is kept: it must not show the hole.
    """

    needs = frozenset({"source_null", "source"})
    own = True

    def __init__(self, keep: Tensor | None = None) -> None:
        self.keep = keep

    def rows(
        self, walk: Walk, layer: AttentionLayer, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Coupling.rows`."""
        shared_key, shared_value = key.clone(), value.clone()
        for source, target in walk.pairs():
            shared_key[target], shared_value[target] = key[source], value[source]
        return query, torch.cat([key, shared_key], dim=2), torch.cat([value, shared_value], dim=2)

    def may_see(self, walk: Walk, layer: AttentionLayer, batch: int, cells: int, keys: int) -> Tensor:
        """bool [B, 1, 1, keys]: rows of the target see their own keys and the kept ones of the source."""
        own = keys // 2
        allowed = torch.zeros(batch, 1, 1, keys, dtype=torch.bool)
        allowed[..., :own] = True
        kept = self._kept(own)
        for _, target in walk.pairs():
            allowed[target, 0, 0, own:] = kept
        return allowed

    def _kept(self, cells: int) -> Tensor:
        """bool [cells]: the kept cells of a layer."""
        if self.keep is None:
            return torch.ones(cells, dtype=torch.bool)
        height, width = self.keep.shape[-2:]
        factor = round((height * width / cells) ** 0.5)
        hole = F.max_pool2d(1 - self.keep.float(), factor) if factor > 1 else 1 - self.keep.float()
        return (hole <= 0).flatten().cpu()


COUPLING = CouplingRow(lambda given: SharedContext(given.keep))
