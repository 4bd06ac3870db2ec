"""The exemplar: the object cut out with a margin, squashed to 224, and augmented as in Paint by Example.

The augmentation is flip, rotation, blur and an elastic displacement. The last was, in the version of its
library that the original pins, in effect a random affine map of three points; it is written out here as that.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from dataprep.pictures.decode import squash
from intarsia.boxes import Box, pad_box
from intarsia.sample import EXEMPLAR_SIZE

MARGIN = 10  # pixels of the source, where there is room
LARGEST_ANGLE = 20.0  # degrees
BACKGROUNDS = {"grey": 128, "white": 255}  # in place of what is not the object
BLUR_SIZES = (3, 5, 7)
LARGEST_SHIFT = 50.0  # pixels of the 224, each way
_LARGEST_BORDER = 4 * EXEMPLAR_SIZE
_SQUARE = EXEMPLAR_SIZE // 3
_CENTRE = EXEMPLAR_SIZE // 2
# Three corners of a square round the centre (x, y), which the elastic map moves.
_CORNERS = np.array(
    [
        (_CENTRE + _SQUARE, _CENTRE + _SQUARE),
        (_CENTRE + _SQUARE, _CENTRE - _SQUARE),
        (_CENTRE - _SQUARE, _CENTRE - _SQUARE),
    ],
    np.float64,
)


@dataclass(frozen=True)
class Augmentation:
    """One draw of the exemplar's augmentation, applied in this order.

    Attributes:
        flip: mirrored left to right.
        angle: counter-clockwise, degrees; 0 for none.
        blur: side of the box filter in pixels; 0 for none.
        shifts: (dx, dy) of the elastic map's three points in pixels; empty for none.
    """

    flip: bool = False
    angle: float = 0.0
    blur: int = 0
    shifts: tuple[tuple[float, float], ...] = ()


def draw_augmentation(rng: np.random.Generator) -> Augmentation:
    """Flip with probability 0.5, rotate by up to 20 degrees 0.5, blur 0.3, elastic 0.3.

    The elastic map's points move uniformly by up to 50 px in x and y. A map that all but folds the exemplar
    to a line, and so would repeat it more than nine times side by side, is drawn again (0.3 % of them).
    """
    flip = bool(rng.random() < 0.5)
    angle = float(rng.uniform(-LARGEST_ANGLE, LARGEST_ANGLE)) if rng.random() < 0.5 else 0.0
    blur = int(rng.choice(BLUR_SIZES)) if rng.random() < 0.3 else 0
    shifts: tuple[tuple[float, float], ...] = ()
    if rng.random() < 0.3:
        shifts = _draw_shifts(rng)
        while _border_needed(elastic_map(shifts)) > _LARGEST_BORDER:
            shifts = _draw_shifts(rng)
    return Augmentation(flip, angle, blur, shifts)


def _draw_shifts(rng: np.random.Generator) -> tuple[tuple[float, float], ...]:
    return tuple((float(dx), float(dy)) for dx, dy in rng.uniform(-LARGEST_SHIFT, LARGEST_SHIFT, (3, 2)))


def cut_exemplar(
    pixels: np.ndarray, box: Box, object_mask: np.ndarray | None = None, background: str = "keep"
) -> np.ndarray:
    """`box` with a margin of 10 pixels or the room there is, squashed to uint8 [224, 224, 3].

    Args:
        pixels: uint8 [H, W, 3] RGB, the source picture.
        box: inside it, at least one pixel.
        object_mask: uint8 [H, W], 255 = object; where it is below 128 the background is replaced.
        background: "keep", or a name in BACKGROUNDS.
    """
    padded = pad_box(box, MARGIN, (pixels.shape[1], pixels.shape[0]))
    return cut_shown(pixels, padded, object_mask, background)


def cut_shown(pixels: np.ndarray, box: Box, object_mask: np.ndarray | None, background: str) -> np.ndarray:
    """`cut_exemplar` without a margin: only what is in `box`."""
    shown = box.cut(pixels)
    if object_mask is not None and background != "keep":
        inside = box.cut(object_mask)[:, :, None] >= 128
        shown = np.where(inside, shown, np.uint8(BACKGROUNDS[background]))
    return squash(shown, EXEMPLAR_SIZE)


def augment_exemplar(exemplar: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    """Apply one draw to uint8 [224, 224, 3]; what a map brings in from outside is the picture, reflected."""
    if augmentation.flip:
        exemplar = cv2.flip(exemplar, 1)
    if augmentation.angle:
        exemplar = _warp(exemplar, rotation_map(augmentation.angle))
    if augmentation.blur:
        exemplar = cv2.blur(exemplar, (augmentation.blur, augmentation.blur))
    if augmentation.shifts:
        exemplar = _warp(exemplar, elastic_map(augmentation.shifts))
    return exemplar


def rotation_map(angle: float) -> np.ndarray:
    """float64 [2, 3]: a pixel of the rotated exemplar to the one it comes from, about the middle."""
    radians = np.deg2rad(angle)
    cos, sin = float(np.cos(radians)), float(np.sin(radians))
    middle = EXEMPLAR_SIZE / 2
    linear = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([linear, middle - linear @ (middle, middle)])


def elastic_map(shifts: tuple[tuple[float, float], ...]) -> np.ndarray:
    """float64 [2, 3]: a pixel of the displaced exemplar to the one it comes from.

    The affine map that takes three corners of the central square to their shifted places, inverted.
    """
    moved = np.column_stack([_CORNERS + np.array(shifts), np.ones(3)])
    # Cramer's rule by hand: BLAS may sum in another order on another machine.
    (x0, y0, _), (x1, y1, _), (x2, y2, _) = moved.tolist()
    determinant = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    if determinant == 0.0:
        return np.full((2, 3), np.inf)
    rows = []
    for u0, u1, u2 in _CORNERS.T.tolist():
        a = ((u1 - u0) * (y2 - y0) - (u2 - u0) * (y1 - y0)) / determinant
        b = ((x1 - x0) * (u2 - u0) - (x2 - x0) * (u1 - u0)) / determinant
        rows.append((a, b, u0 - a * x0 - b * y0))
    return np.array(rows)


def _border_needed(matrix: np.ndarray) -> float:
    """How far outside the exemplar the map reaches, pixels; infinite for no map at all."""
    last = EXEMPLAR_SIZE - 1
    corners = [(0, 0), (0, last), (last, 0), (last, last)]
    reach = [a * x + b * y + c for a, b, c in matrix.tolist() for x, y in corners]
    return float("inf") if not np.isfinite(reach).all() else max(-min(reach), max(reach) - last, 0.0)


def _warp(exemplar: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Map by `matrix` (target pixel to source pixel), bilinear, reflected at the borders.

    Source pixels are counted in 32nds, as in OpenCV's `warpAffine` before version 5. That function itself
    gives other results on processors with fused multiplication; whole numbers handed to `remap` do not.
    """
    places: np.ndarray = np.arange(EXEMPLAR_SIZE)
    x, y = (
        (_fixed(a * places) + 16)[None, :] + _fixed(b * places + c)[:, None]
        for a, b, c in (matrix * 1024).tolist()
    )
    whole = cv2.merge([(x >> 10).astype(np.int16), (y >> 10).astype(np.int16)])
    rest = (((y >> 5) & 31) << 5 | (x >> 5) & 31).astype(np.uint16)
    return cv2.remap(exemplar, whole, rest, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def _fixed(values: np.ndarray) -> np.ndarray:
    return np.rint(values).astype(np.int32)
