"""The mask kind `box`: the extended box."""

from typing import TYPE_CHECKING, ClassVar

from dataprep.masks.mask_kind import MaskKind, MaskScene

if TYPE_CHECKING:
    import numpy as np

    from intarsia.masks import EditMask


class BoxMask(MaskKind):
    """The rectangle of the extended box; how far it is extended is the recipe's `extension`."""

    largest_hole: ClassVar[float] = 0.0

    def draw(self, scene: MaskScene, rng: "np.random.Generator") -> "EditMask":
        """Nothing is left to chance."""
        from intarsia.masks import EditMask, box_mask

        return EditMask(box_mask(scene.extended, scene.size), self.kind, ())


MASK = BoxMask
