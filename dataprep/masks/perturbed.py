"""The mask kind `perturbed`: the object's own mask with parts of its outline pushed outward.

AnyDoor's loop (ali-vilab/AnyDoor, datasets/data_utils.py, perturb_mask). Only the rectangle that an operation
changes is looked at again, which gives the same pixels.
"""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from dataprep.masks.mask_kind import MaskKind, MaskScene

if TYPE_CHECKING:
    import numpy as np

    from intarsia.masks import EditMask


class PerturbedMask(MaskKind):
    """The object's mask, grown in random rectangles until it overlaps with itself as little as was drawn."""

    needs_object: ClassVar[bool] = True
    iou: tuple[float, float] = (0.3, 0.99)  # range of the overlap that is aimed at
    rounds: int = Field(default=250, ge=1, le=10_000)  # at most
    operations: int = Field(default=4, ge=1, le=100)  # per round
    dots: float = Field(
        default=0.1, ge=0, le=1
    )  # share of the operations that set the middle pixel to 0 or 1 first
    sizes: tuple[int, int] = (3, 9)  # smallest and largest side of the kernels, pixels

    @field_validator("iou", "sizes")
    @classmethod
    def _ordered(cls, pair: tuple[float, float]) -> tuple[float, float]:
        if not 0 < pair[0] <= pair[1]:
            raise ValueError("the smaller of two positive numbers comes first")
        return pair

    @property
    def reach(self) -> None:
        """No limit but the crop's window."""
        return

    def draw(self, scene: MaskScene, rng: "np.random.Generator") -> "EditMask":
        """Perturb the part of the object's mask that the crop shows."""
        import numpy as np

        from intarsia.masks import EditMask

        assert scene.object_mask is not None
        window = scene.window()
        inside = (window.cut(scene.object_mask) >= 128).astype(np.uint8)
        pixels: np.ndarray = np.zeros(scene.size[::-1], np.uint8)
        window.cut(pixels)[:] = 255 * perturb(inside, self, rng)
        return EditMask(pixels, self.kind, ())


def perturb(inside: "np.ndarray", numbers: PerturbedMask, rng: "np.random.Generator") -> "np.ndarray":
    """The largest piece of a perturbed mask.

    Args:
        inside: uint8 [H, W], 1 = object.
        numbers: numbers of the kind.
        rng: generator of the sample.

    Returns:
        uint8 [H, W], 1 = repaint.
    """
    import cv2
    import numpy as np

    target = rng.uniform(*numbers.iou)
    height, width = inside.shape
    if height <= 2 or width <= 2:
        return inside
    grown, smallest = inside.copy(), np.count_nonzero(inside)
    for _ in range(numbers.rounds):
        for _ in range(numbers.operations):
            x0, y0 = int(rng.integers(width)), int(rng.integers(height))
            x1, y1 = int(rng.integers(x0 + 1, width + 1)), int(rng.integers(y0 + 1, height + 1))
            part = grown[y0:y1, x0:x1]
            if rng.random() < numbers.dots:
                part[int((y0 + y1) / 2) - y0, int((x0 + x1) / 2) - x0] = rng.integers(2) * 255
            change = cv2.dilate if rng.random() < 0.5 else cv2.erode
            changed = change(part, _kernel(int(rng.integers(numbers.sizes[0], numbers.sizes[1] + 1)), rng))
            np.logical_or(changed, inside[y0:y1, x0:x1], out=part)
        # The object is always inside, so that the overlap is a quotient of two areas.
        if (smallest + 1e-6) / (np.count_nonzero(grown) + 1e-6) < target:
            break
    return _largest_piece(grown)


def _kernel(size: int, rng: "np.random.Generator") -> "np.ndarray":
    import cv2

    shape, sides = (
        (cv2.MORPH_RECT, (size, size)),
        (cv2.MORPH_ELLIPSE, (size, size)),
        (cv2.MORPH_ELLIPSE, (size, size // 2)),
        (cv2.MORPH_ELLIPSE, (size // 2, size)),
    )[int(rng.integers(4))]
    return cv2.getStructuringElement(shape, sides)


def _largest_piece(inside: "np.ndarray") -> "np.ndarray":
    import cv2
    import numpy as np

    number, labels, figures, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
    if number < 3:  # background and one piece, or none
        return inside
    return (labels == 1 + int(figures[1:, cv2.CC_STAT_AREA].argmax())).astype(np.uint8)


MASK = PerturbedMask
