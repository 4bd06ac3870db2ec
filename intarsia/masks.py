"""Edit masks: a box, or a shape of Bezier curves with jittered points around the box."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from intarsia.boxes import Box

JITTER = 5  # largest shift of a point along each axis, in pixels
LARGEST_HOLE = 0.05  # largest share of the box that a Bezier shape may leave uncovered

_STEPS = [i * 0.05 for i in range(1, 19)]  # parameters t of the points on a curve

Point = tuple[float, float]


@dataclass(frozen=True)
class EditMask:
    """An edit mask in pixels of the picture.

    Attributes:
        pixels: mask, uint8 [H, W], 255 = repaint, 0 = keep.
        kind: name of the kind of mask: "bezier", "box", …
        polygon: points of a Bezier shape, in pixels; empty for other kinds.
    """

    pixels: np.ndarray
    kind: str
    polygon: tuple[Point, ...]


def box_mask(box: Box, size: tuple[int, int]) -> np.ndarray:
    """The rectangle of `box` as uint8 [H, W], 255 = repaint."""
    width, height = size
    pixels: np.ndarray = np.zeros((height, width), np.uint8)
    pixels[box.y0 : box.y1, box.x0 : box.x1] = 255
    return pixels


def bezier_polygon(
    box: Box, extended: Box, rng: np.random.Generator, jitter: int = JITTER, outward: bool = False
) -> tuple[Point, ...]:
    """The jittered points of four quadratic Bezier curves around `box`, at most 18 per curve.

    The curves follow the top, right, bottom and left sides of the annotated box from corner to corner. The
    middle node of each is the side's centre moved out to the extended box, so a side bulges by half its
    extension. Points are computed at t = 0.05 … 0.90 and moved by independent whole numbers in -5 … 5. As in
    Paint by Example's code, a point is omitted if its exact x or y already occurred on the same curve, so a
    side without extension has two or three points.

    Args:
        box: annotated box.
        extended: extended box.
        rng: generator of the sample.
        jitter: largest shift along each axis, pixels.
        outward: whether a shift counts only where it takes a coordinate out of the box, as in Insert
            Anything's code, which keeps all points.
    """
    centre_x, centre_y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    nodes: list[tuple[Point, Point, Point]] = [
        ((box.x0, box.y0), (centre_x, extended.y0), (box.x1, box.y0)),
        ((box.x1, box.y0), (extended.x1, centre_y), (box.x1, box.y1)),
        ((box.x1, box.y1), (centre_x, extended.y1), (box.x0, box.y1)),
        ((box.x0, box.y1), (extended.x0, centre_y), (box.x0, box.y0)),
    ]
    points = [point for curve in nodes for point in _curve_points(*curve, every=outward)]
    shifts = rng.integers(-jitter, jitter, size=(len(points), 2), endpoint=True)
    if outward:
        for (x, y), shift in zip(points, shifts, strict=True):
            shift *= not box.x0 <= x + shift[0] <= box.x1, not box.y0 <= y + shift[1] <= box.y1
    # Five decimals represent these values exactly (multiples of 1/800); further decimals are rounding noise.
    return tuple((x, y) for x, y in np.round(np.array(points) + shifts, 5).tolist())


def _curve_points(start: Point, middle: Point, end: Point, every: bool) -> list[Point]:
    xs: list[float] = []
    ys: list[float] = []
    (x0, y0), (x1, y1), (x2, y2) = start, middle, end
    for t in _STEPS:
        rest = 1.0 - t  # the order of operations determines which values repeat exactly
        x = (rest * x0 + 2.0 * t * x1) * rest + t * t * x2
        y = (rest * y0 + 2.0 * t * y1) * rest + t * t * y2
        if every or (x not in xs and y not in ys):
            xs.append(x)
            ys.append(y)
    return list(zip(xs, ys, strict=True))


def polygon_mask(polygon: tuple[Point, ...], box: Box, size: tuple[int, int]) -> np.ndarray:
    """Fill `polygon`; if it misses more than 5 % of `box`, add the box.

    The original code fills the polygon only. For a box of a few pixels, a jitter of five pixels leaves almost
    nothing; for a box at the picture's edges the corners are cut off, because a side without extension has
    two or three points.

    Args:
        polygon: points in pixels; parts outside the picture are cut off.
        box: annotated box.
        size: (width, height) of the picture.

    Returns:
        Mask, uint8 [H, W], 255 = repaint.
    """
    width, height = size
    pixels: np.ndarray = np.zeros((height, width), np.uint8)
    if len(polygon) >= 2:
        _fill(pixels, polygon)
    inside = pixels[box.y0 : box.y1, box.x0 : box.x1]
    if np.count_nonzero(inside) < (1 - LARGEST_HOLE) * box.area:
        inside[:] = 255
    return pixels


def _fill(pixels: np.ndarray, polygon: tuple[Point, ...]) -> None:
    """Draw a polygon into uint8 [H, W] itself: to copy it out of a picture takes longer than to draw it."""
    picture = Image.frombuffer("L", pixels.shape[::-1], pixels, "raw", "L", 0, 1)
    picture.readonly = 0
    shared = picture.im
    ImageDraw.Draw(picture).polygon(list(polygon), fill=255)
    if picture.im is not shared:  # a Pillow that draws into a copy
        pixels[:] = np.array(picture)
