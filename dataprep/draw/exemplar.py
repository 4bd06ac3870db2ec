"""The exemplar before its augmentation, cut out by a recipe; and the maps that rotate and displace it.

Paint by Example's elastic displacement was, in the version of its library that the original pins, in effect a
random affine map of three points; it is written out here as that.
"""

import math

import cv2
import numpy as np

from dataprep.draw.recipe import Exemplar
from dataprep.pictures.decode import squash
from intarsia.boxes import Box, pad_box
from intarsia.errors import UserError
from intarsia.sample import EXEMPLAR_SIZE

BACKGROUNDS = {"black": 0, "grey": 128, "white": 255}  # in place of what is not the object
LARGEST_BORDER = 4 * EXEMPLAR_SIZE  # pixels that a map may reach beyond the exemplar
_SQUARE = EXEMPLAR_SIZE // 3
_CENTRE = EXEMPLAR_SIZE // 2
# Three corners of a square round the centre (x, y), which the elastic map moves.
_CORNERS = (
    (_CENTRE + _SQUARE, _CENTRE + _SQUARE),
    (_CENTRE + _SQUARE, _CENTRE - _SQUARE),
    (_CENTRE - _SQUARE, _CENTRE - _SQUARE),
)
Shifts = tuple[tuple[float, float], ...]  # (dx, dy) of the elastic map's three points, pixels


def shown_box(box: Box, object_mask: np.ndarray | None, how: Exemplar, size: tuple[int, int]) -> Box:
    """The part of a picture of `size` that the exemplar shows: box or object's bounds, with the margin."""
    if how.around == "object" and object_mask is not None:
        box = object_bounds(object_mask) or box
    return pad_box(box, how.margin, size)


def object_bounds(object_mask: np.ndarray) -> Box | None:
    """The smallest box that holds the object of a mask, uint8 [H, W], 255 = object; None if there is none."""
    x, y, width, height = cv2.boundingRect((object_mask >= 128).astype(np.uint8))
    return Box(x, y, x + width, y + height) if width else None


def bare_exemplar(
    pixels: np.ndarray,
    shown: Box,
    object_mask: np.ndarray | None,
    how: Exemplar,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray | None, dict[str, float]]:
    """The exemplar before its augmentation.

    Args:
        pixels: uint8 [H, W, 3] RGB, the picture.
        shown: part of it that is shown (`shown_box`).
        object_mask: uint8 [H, W], 255 = object; None if it is not known, and the background stays.
        how: numbers of the recipe.
        rng: generator of the sample; used if the canvas grows.

    Returns:
        uint8 [h, w, 3]; the object's mask [h, w] if the background is replaced later, otherwise None; and
        what was drawn, by name.
    """
    exemplar, mask, drawn = shown.cut(pixels), None, {}
    if object_mask is not None and how.background != "keep":
        mask = shown.cut(object_mask)
        if how.cut_out == "before":
            exemplar, mask = on_background(exemplar, mask, how), None
    factor = 1.0
    if how.grow:
        factor = drawn["grow"] = how.grow[int(rng.integers(len(how.grow)))]
    if factor != 1 or how.shape == "pad":
        exemplar = _on_canvas(exemplar, factor, how, BACKGROUNDS.get(how.background, BACKGROUNDS["grey"]))
        mask = None if mask is None else _on_canvas(mask, factor, how, 0)
    if how.resize == "before":
        exemplar = squash(exemplar, EXEMPLAR_SIZE)
        mask = None if mask is None else squash(mask, EXEMPLAR_SIZE)
    elif exemplar.base is not None:  # a view: a transform may write into what it is given
        exemplar = exemplar.copy()
    return exemplar, mask, drawn


def finished_exemplar(exemplar: np.ndarray, mask: np.ndarray | None, how: Exemplar) -> np.ndarray:
    """An augmented exemplar with its background replaced, if `mask` is given, as uint8 [224, 224, 3]."""
    if mask is not None:
        exemplar = on_background(exemplar, mask, how)
    return exemplar if how.resize == "before" else squash(exemplar, EXEMPLAR_SIZE)


def on_background(pixels: np.ndarray, mask: np.ndarray, how: Exemplar) -> np.ndarray:
    """uint8 [H, W, 3]; where the mask, uint8 [H, W], is below 128 the background's level takes its place."""
    return np.where(mask[:, :, None] >= 128, pixels, np.uint8(BACKGROUNDS[how.background]))


def _on_canvas(pixels: np.ndarray, factor: float, how: Exemplar, level: int) -> np.ndarray:
    """In the middle of a canvas of one level, `factor` times as large, and square for `shape: pad`."""
    height, width = pixels.shape[:2]
    tall, wide = int(height * factor), int(width * factor)
    if how.shape == "pad":
        tall = wide = max(tall, wide)
    top, left = (tall - height) // 2, (wide - width) // 2
    canvas: np.ndarray = np.full((tall, wide, *pixels.shape[2:]), level, np.uint8)
    canvas[top : top + height, left : left + width] = pixels
    return canvas


def draw_shifts(rng: np.random.Generator, largest: float) -> Shifts:
    """The elastic map's points move uniformly by up to `largest` pixels in x and y.

    A map that all but folds the exemplar to a line, and so would repeat it more than nine times side by side,
    is drawn again (0.3 % of them at 50 pixels).
    """
    while True:
        shifts = tuple((float(dx), float(dy)) for dx, dy in rng.uniform(-largest, largest, (3, 2)))
        if border_needed(elastic_map(shifts)) <= LARGEST_BORDER:
            return shifts


def rotation_map(angle: float) -> np.ndarray:
    """float64 [2, 3]: a pixel of the rotated exemplar to the one it comes from, about the middle."""
    radians = np.deg2rad(angle)
    cos, sin = float(np.cos(radians)), float(np.sin(radians))
    middle = EXEMPLAR_SIZE / 2
    linear = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([linear, middle - linear @ (middle, middle)])


def elastic_map(shifts: Shifts) -> np.ndarray:
    """float64 [2, 3]: a pixel of the displaced exemplar to the one it comes from.

    The affine map that takes three corners of the central square to their shifted places, inverted.
    """
    # Cramer's rule by hand: BLAS may sum in another order on another machine.
    (x0, y0), (x1, y1), (x2, y2) = (
        (x + dx, y + dy) for (x, y), (dx, dy) in zip(_CORNERS, shifts, strict=True)
    )
    determinant = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    if determinant == 0.0:
        return np.full((2, 3), np.inf)
    rows = []
    for u0, u1, u2 in zip(*_CORNERS, strict=True):
        a = ((u1 - u0) * (y2 - y0) - (u2 - u0) * (y1 - y0)) / determinant
        b = ((x1 - x0) * (u2 - u0) - (x2 - x0) * (u1 - u0)) / determinant
        rows.append((a, b, u0 - a * x0 - b * y0))
    return np.array(rows)


def border_needed(matrix: np.ndarray) -> float:
    """How far outside the exemplar the map reaches, pixels; infinite for no map at all."""
    last = EXEMPLAR_SIZE - 1
    corners = [(0, 0), (0, last), (last, 0), (last, last)]
    reach = [a * x + b * y + c for a, b, c in matrix.tolist() for x, y in corners]
    return float("inf") if not all(map(math.isfinite, reach)) else max(-min(reach), max(reach) - last, 0.0)


def warp(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Map uint8 [224, 224] or [224, 224, 3] by `matrix`, target pixel to source pixel.

    Bilinear, reflected at the borders. Source pixels are counted in 32nds, as in OpenCV's `warpAffine` before
    version 5. That function itself gives other results on processors with fused multiplication; whole numbers
    handed to `remap` do not.

    Raises:
        UserError: for pixels of another size.
    """
    if pixels.shape[:2] != (EXEMPLAR_SIZE, EXEMPLAR_SIZE):
        raise UserError(f"the maps of Paint by Example are for {EXEMPLAR_SIZE} x {EXEMPLAR_SIZE} pixels")
    places: np.ndarray = np.arange(EXEMPLAR_SIZE)
    x, y = (
        (_fixed(a * places) + 16)[None, :] + _fixed(b * places + c)[:, None]
        for a, b, c in (matrix * 1024).tolist()
    )
    whole = cv2.merge([(x >> 10).astype(np.int16), (y >> 10).astype(np.int16)])
    rest = (((y >> 5) & 31) << 5 | (x >> 5) & 31).astype(np.uint16)
    return cv2.remap(pixels, whole, rest, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def _fixed(values: np.ndarray) -> np.ndarray:
    return np.rint(values).astype(np.int32)
