"""The mask kind `bezier`: four curves round the box with jittered points."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from dataprep.masks.mask_kind import MaskKind, MaskScene

if TYPE_CHECKING:
    import numpy as np

    from intarsia.masks import EditMask


class BezierMask(MaskKind):
    """A shape of four quadratic Bezier curves, which bulge by half the extension of their sides."""

    largest_hole: ClassVar[float] = 0.05  # `intarsia.masks.LARGEST_HOLE`
    jitter: int = Field(default=5, ge=0)  # largest shift of a point along each axis, pixels
    outward: bool = False  # whether a shift counts only where it takes a coordinate out of the box

    @property
    def reach(self) -> int:
        """As far as points are shifted."""
        return self.jitter

    def draw(self, scene: MaskScene, rng: "np.random.Generator") -> "EditMask":
        """Draw the points, then fill them; if more than 5 % of the box is missed, the box is added."""
        from intarsia.masks import EditMask, bezier_polygon, polygon_mask

        polygon = bezier_polygon(scene.box, scene.extended, rng, self.jitter, self.outward)
        return EditMask(polygon_mask(polygon, scene.box, scene.size), self.kind, polygon)


MASK = BezierMask
