"""MasaCtrl with masks (Cao et al. 2023): the object looks at the source's object, all else at all else.

Without masks a target's object whose shape is new may take its content from the source's background.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sampling.couplings.coupling import AttentionLayer, CouplingInputs, CouplingRow, Walk
from sampling.couplings.masactrl import MutualSelfAttention

_THRESHOLD = 0.1  # of the words' maps between 0 and 1, as published


class MaskedMutualSelfAttention(MutualSelfAttention):
    """MasaCtrl whose cells see the source's keys on their own side of the object's outline only.

    The outlines are given, or they are where the words' maps of cross-attention are strong in each branch, in
    the coarsest layers of the same step. Where one side of the source has no cell, all of it is seen.

    Args:
        objects: the object in source and target, bool [2, h, w]; None = by the words' maps.
        words: weight of each token in the maps of source and target, [2, tokens]; None = by `objects`.
        from_share, from_depth: those of `MutualSelfAttention`.
    """

    def __init__(
        self,
        objects: Tensor | None = None,
        words: Tensor | None = None,
        from_share: float = 0.08,
        from_depth: float = 10 / 16,
    ) -> None:
        super().__init__(from_share, from_depth)
        self.objects, self.words, self.cross = objects, words, words is not None
        self._maps: list[Tensor] = []  # of this step, [2, n, tokens]

    def rows(
        self, walk: Walk, layer: AttentionLayer, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Coupling.rows`."""
        return (query, key, value) if layer.cross else super().rows(walk, layer, query, key, value)

    def may_see(self, walk: Walk, layer: AttentionLayer, batch: int, cells: int, keys: int) -> Tensor | None:
        """bool [B, 1, cells, keys]: cells of the target see keys of the source's object if they are in it."""
        if layer.cross or walk.before(self.from_share) or layer.depth < self.from_depth:
            return None
        found = self._objects()
        if found is None:
            return None
        source, target = _at(found, cells)
        same = target[:, None] == source[None]
        same |= ~same.any(1, keepdim=True)
        allowed = torch.ones(batch, 1, cells, keys, dtype=torch.bool, device=same.device)
        for _, row in walk.pairs():
            allowed[row, 0] = same.repeat(1, keys // cells)
        return allowed

    def reads_maps(self, walk: Walk, layer: AttentionLayer, pixels: int) -> bool:
        """See `Coupling.reads_maps`."""
        reads = layer.cross and layer.coarsest and self.words is not None
        return reads and not walk.before(self.from_share)

    def maps(self, walk: Walk, layer: AttentionLayer, maps: Tensor) -> Tensor:
        """See `Coupling.maps`; they are looked at only."""
        self._maps.append(maps[[walk.rows["source"], walk.rows["target"]]].mean(1))
        return maps

    def after_step(self, walk: Walk, source: Tensor, target: Tensor) -> Tensor:
        """See `Coupling.after_step`."""
        self._maps = []
        return target

    def _objects(self) -> Tensor | None:
        """bool [2, h, w]: the object in source and target; None as long as no map was read."""
        if self.words is None or not self._maps:
            return self.objects
        strength = (torch.stack(self._maps).mean(0) * self.words.to(self._maps[0])[:, None]).sum(-1)
        low, high = strength.amin(1, keepdim=True), strength.amax(1, keepdim=True)
        # A flat map has no object: nothing is divided by 0.
        strength = (strength - low) / (high - low).clamp_min(torch.finfo(strength.dtype).tiny)
        side = round(strength.shape[1] ** 0.5)
        return (strength >= _THRESHOLD).unflatten(1, (side, side))


def _at(objects: Tensor, cells: int) -> Tensor:
    """The object in a layer's cells, bool [2, cells], by the nearest cell as published."""
    height, width = objects.shape[-2:]
    factor = (cells / (height * width)) ** 0.5
    size = (round(height * factor), round(width * factor))
    return F.interpolate(objects[None].float(), size)[0].flatten(1) > 0


def _make(given: CouplingInputs) -> MaskedMutualSelfAttention:
    words = given.alignment.blend if given.alignment else None
    if words is not None:
        return MaskedMutualSelfAttention(words=words)
    assert given.keep is not None, "check_words"
    hole = given.keep[0] < 0.5
    return MaskedMutualSelfAttention(hole.expand(2, -1, -1))


COUPLING = CouplingRow(_make)
