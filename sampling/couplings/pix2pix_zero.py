"""Pix2pix-zero (Parmar et al. 2023): the target's latents are moved so that it attends as the source does."""

import torch
from torch import Tensor

from sampling.couplings.coupling import (
    Ask,
    AttentionLayer,
    Coupling,
    CouplingInputs,
    CouplingRow,
    Row,
    RowLatents,
    Walk,
)


class MapGuidance(Coupling):
    """Before each step, one step of gradient descent on the target's latents.

    The loss is the squared difference of the maps of cross-attention, summed over layers and pixels, averaged
    over rows and heads. Each row of the target is moved by itself, as in the published code: the noise is
    predicted from both, and the walk goes on from the row with null tokens.

    Args:
        amount: step size; the loss is a sum over pixels, so that a larger model wants a smaller one.
    """

    cross = True

    def __init__(self, amount: float = 0.1) -> None:
        self.amount = amount
        self.losses: list[float] = []  # of all steps
        self._loss: Tensor | None = None

    def asks(self, walk: Walk) -> tuple[Row, ...]:
        """See `Coupling.asks`."""
        if "target_null" in walk.rows:
            return ("source_null", "source", "target_null", "target")
        return ("source", "target")

    def reads_maps(self, walk: Walk, layer: AttentionLayer, pixels: int) -> bool:
        """See `Coupling.reads_maps`; outside `before_step` no map is needed."""
        return self._loss is not None

    def maps(self, walk: Walk, layer: AttentionLayer, maps: Tensor) -> Tensor:
        """See `Coupling.maps`."""
        source, target = maps.chunk(2)
        assert self._loss is not None
        self._loss = self._loss + (target - source.detach()).square().sum((-2, -1)).mean()
        return maps

    def before_step(self, walk: Walk, target: RowLatents, ask: Ask) -> RowLatents:
        """See `Coupling.before_step`."""
        if self.amount == 0:
            return target
        with torch.enable_grad():
            moved = {row: latents.detach().requires_grad_() for row, latents in target.items()}
            self._loss = next(iter(moved.values())).new_zeros(())
            ask(moved)
            gradients = torch.autograd.grad(self._loss, list(moved.values()))
        self.losses.append(self._loss.item())
        self._loss = None
        return {
            row: latents - self.amount * gradient
            for (row, latents), gradient in zip(target.items(), gradients, strict=True)
        }


def _make(given: CouplingInputs) -> MapGuidance:
    return MapGuidance()


COUPLING = CouplingRow(_make, fewest_tokens=2)
