"""The kept region is the source's own after every step: the coupling of every edit with a mask."""

from torch import Tensor

from sampling.couplings.coupling import Coupling, CouplingInputs, CouplingRow, Walk


class Background(Coupling):
    """After each step the source's latents replace the target's where the picture is kept.

    Args:
        keep: [1, 1, h, w], 1 = keep, between 0 and 1 in cells that the mask's edge divides.
    """

    def __init__(self, keep: Tensor) -> None:
        self.keep = keep

    def after_step(self, walk: Walk, source: Tensor, target: Tensor) -> Tensor:
        """See `Coupling.after_step`."""
        return self.keep * source + (1 - self.keep) * target


def _make(given: CouplingInputs) -> Background:
    assert given.keep is not None, "a coupling with a mask"
    return Background(given.keep)


COUPLING = CouplingRow(_make, masked=True)
