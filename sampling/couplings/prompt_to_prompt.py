"""Prompt-to-Prompt (Hertz et al. 2022): the target attends to its words as the source attended to its own.

Refinement, replacement and reweighting are one formula:
target map = source map @ transfer + target map * keep.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sampling.couplings.alignment import Alignment, same_places
from sampling.couplings.coupling import AttentionLayer, Coupling, CouplingInputs, CouplingRow, Walk

_THRESHOLD = 0.3  # of the blend's map, relative to its maximum


class PromptToPrompt(Coupling):
    """The target has the source's maps of cross-attention, and its self-attention in the coarser layers.

    Args:
        alignment: correspondence of the tokens.
        cross_share: share of the steps with the source's maps of cross-attention; the paper's 20 of 50.
        own_share: share of the steps with the source's self-attention; the paper's 30 of 50.
        blend_from: share of the steps after which the local blend begins; the paper's 10 of 50.
    """

    needs = frozenset({"source"})
    cross = own = True

    def __init__(
        self,
        alignment: Alignment,
        cross_share: float = 0.4,
        own_share: float = 0.6,
        blend_from: float = 0.2,
    ) -> None:
        self.alignment = alignment
        self.cross_share, self.own_share, self.blend_from = cross_share, own_share, blend_from
        self._maps: list[Tensor] = []  # of this step, [2, heads, n, tokens]
        self._sum: Tensor | None = None

    def rows(
        self, walk: Walk, layer: AttentionLayer, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Coupling.rows`. Equal queries and keys give equal maps, so that no map is computed."""
        coarse = query.shape[2] <= (walk.side // 2) ** 2
        if layer.cross or not coarse or not walk.before(self.own_share):
            return query, key, value
        query, key = query.clone(), key.clone()
        source, target = walk.rows["source"], walk.rows["target"]
        query[target], key[target] = query[source], key[source]
        return query, key, value

    def reads_maps(self, walk: Walk, layer: AttentionLayer, pixels: int) -> bool:
        """See `Coupling.reads_maps`."""
        return layer.cross and (walk.before(self.cross_share) or self._blends(layer))

    def maps(self, walk: Walk, layer: AttentionLayer, maps: Tensor) -> Tensor:
        """See `Coupling.maps`."""
        source, target = walk.rows["source"], walk.rows["target"]
        if walk.before(self.cross_share):
            maps = maps.clone()
            transfer, keep = (part.to(maps) for part in (self.alignment.transfer, self.alignment.keep))
            maps[target] = maps[source] @ transfer + maps[target] * keep
        if self._blends(layer):
            self._maps.append(maps[[source, target]])
        return maps

    def after_step(self, walk: Walk, source: Tensor, target: Tensor) -> Tensor:
        """See `Coupling.after_step`."""
        if self.alignment.blend is None:
            return target
        now, self._maps = torch.stack(self._maps, dim=1), []
        self._sum = now if self._sum is None else self._sum + now
        if walk.before(self.blend_from):
            return target
        return source + self._change(source.shape[-2:]).to(target) * (target - source)

    def _blends(self, layer: AttentionLayer) -> bool:
        """Whether a layer's maps count for the blend: those of the coarsest layers outside the middle."""
        return self.alignment.blend is not None and layer.cross and layer.coarsest

    def _change(self, size: tuple[int, int]) -> Tensor:
        """Where the target may differ, [1, 1, h, w]: where the words' maps are strong in either branch."""
        assert self._sum is not None and self.alignment.blend is not None
        weights = self.alignment.blend.to(self._sum)[:, None, None, None]
        words = (self._sum * weights).sum(-1).mean((1, 2))
        side = round(words.shape[1] ** 0.5)
        grid = F.max_pool2d(words.unflatten(1, (side, side))[:, None], 3, stride=1, padding=1)
        grid = F.interpolate(grid, size)
        grid = grid / grid.amax((2, 3), keepdim=True)
        return (grid > _THRESHOLD).any(0, keepdim=True).to(grid.dtype)


def _make(given: CouplingInputs) -> PromptToPrompt:
    return PromptToPrompt(given.alignment or same_places(given.num_tokens))


COUPLING = CouplingRow(_make, fewest_tokens=2)
