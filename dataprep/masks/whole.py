"""The mask kind `whole`: the whole picture."""

from typing import TYPE_CHECKING, ClassVar

from dataprep.masks.mask_kind import MaskKind, MaskScene

if TYPE_CHECKING:
    import numpy as np

    from intarsia.masks import EditMask


class WholeMask(MaskKind):
    """Everything is repainted: the exemplar alone says what the picture shows."""

    covers_object: ClassVar[bool] = True
    largest_hole: ClassVar[float] = 0.0

    @property
    def reach(self) -> None:
        """No limit."""
        return

    def draw(self, scene: MaskScene, rng: "np.random.Generator") -> "EditMask":
        """Nothing is left to chance."""
        from intarsia.boxes import Box
        from intarsia.masks import EditMask, box_mask

        return EditMask(box_mask(Box(0, 0, *scene.size), scene.size), self.kind, ())


MASK = WholeMask
