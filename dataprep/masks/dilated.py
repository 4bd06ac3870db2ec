"""The mask kind `dilated`: the object's own mask, grown."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from dataprep.masks.mask_kind import MaskKind, MaskScene

if TYPE_CHECKING:
    import numpy as np

    from intarsia.masks import EditMask


class DilatedMask(MaskKind):
    """The object's mask, dilated by a square several times."""

    needs_object: ClassVar[bool] = True
    covers_object: ClassVar[bool] = True
    size: int = Field(default=7, ge=1, le=255)  # side of the square, pixels
    times: int = Field(default=2, ge=0, le=100)

    @property
    def reach(self) -> None:
        """No limit: an object's mask need not lie in its box."""
        return

    def draw(self, scene: MaskScene, rng: "np.random.Generator") -> "EditMask":
        """Nothing is left to chance."""
        import cv2
        import numpy as np

        from intarsia.masks import EditMask

        assert scene.object_mask is not None
        inside = np.where(scene.object_mask >= 128, np.uint8(255), np.uint8(0))
        square: np.ndarray = np.ones((self.size, self.size), np.uint8)
        return EditMask(cv2.dilate(inside, square, iterations=self.times), self.kind, ())


MASK = DilatedMask
