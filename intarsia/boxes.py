"""Boxes in pixels, their conversion from two annotation conventions, and the square crop around a box."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

EXTENSION = 0.4  # largest extension of a side, as a share of the free space there
ZOOM = 0.6  # largest zoom, as a share of the free space around the extended box


@dataclass(frozen=True)
class Box:
    """A rectangle of whole pixels, half-open: columns x0 … x1 - 1, rows y0 … y1 - 1, origin top left."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.y1 - self.y0

    @property
    def area(self) -> int:
        """Number of pixels; 0 for an empty box."""
        return max(self.width, 0) * max(self.height, 0)

    def contains(self, other: "Box") -> bool:
        """Whether every pixel of `other` is in this box."""
        return self.x0 <= other.x0 and self.y0 <= other.y0 and other.x1 <= self.x1 and other.y1 <= self.y1

    def clipped(self, size: tuple[int, int]) -> "Box":
        """The part inside a picture of `size` (width, height); it may be empty."""
        width, height = size
        return Box(
            min(max(self.x0, 0), width),
            min(max(self.y0, 0), height),
            min(max(self.x1, 0), width),
            min(max(self.y1, 0), height),
        )

    def cut(self, pixels: np.ndarray) -> np.ndarray:
        """The part of pixels [H, W] or [H, W, C] inside this box, as a view."""
        return pixels[self.y0 : self.y1, self.x0 : self.x1]

    def as_list(self) -> list[int]:
        """[x0, y0, x1, y1], as in files."""
        return [self.x0, self.y0, self.x1, self.y1]


class Window(NamedTuple):
    """The part of a picture that a square crop shows; `squashed` if it is all of it, resized to a square."""

    box: Box
    squashed: bool


def box_from_xyxy(x0: float, y0: float, x1: float, y1: float, size: tuple[int, int]) -> Box:
    """The pixel box of real-valued corners: truncated as in Paint by Example, and clipped to `size`."""
    return Box(int(x0), int(y0), int(x1), int(y1)).clipped(size)


def box_from_fractions(bounds: tuple[float, float, float, float], size: tuple[int, int]) -> Box:
    """The pixel box of fractions (x0, y0, x1, y1) of a picture of `size`, the convention of Open Images."""
    x0, y0, x1, y1 = bounds
    width, height = size
    return box_from_xyxy(x0 * width, y0 * height, x1 * width, y1 * height, size)


def pad_box(box: Box, margin: int, size: tuple[int, int]) -> Box:
    """`box` enlarged by `margin` pixels on each side, clipped to a picture of `size`."""
    return Box(box.x0 - margin, box.y0 - margin, box.x1 + margin, box.y1 + margin).clipped(size)


def scale_box(box: Box, size: tuple[int, int], new_size: tuple[int, int]) -> Box:
    """`box` of a picture of `size` (width, height), converted to the same picture at `new_size`.

    Edges are rounded outward to whole pixels, so that no part of the object is lost. The arithmetic uses
    integers only.
    """
    (width, height), (new_width, new_height) = size, new_size
    return Box(
        box.x0 * new_width // width,
        box.y0 * new_height // height,
        -(-box.x1 * new_width // width),
        -(-box.y1 * new_height // height),
    )


def extend_box(
    box: Box,
    size: tuple[int, int],
    rng: np.random.Generator,
    within: Box | None = None,
    share: float = EXTENSION,
) -> Box:
    """`box` with each side moved outward at random by at most a share of the free space there.

    Four independent whole numbers, uniform over 0 … int(share * room) inclusive, are drawn in the order left,
    right, top, bottom. With 0.4 this is the extended box of Paint by Example's training data.

    Args:
        box: box inside the picture.
        size: (width, height) of the picture.
        rng: generator of the sample.
        within: box around `box` that limits the extension. The result then has the same distribution,
            conditioned on staying inside: the sides are independent, so each range simply ends there.
        share: largest extension of a side, as a share of the free space there.
    """
    width, height = size
    limits = within or Box(0, 0, width, height)
    most = (
        min(int(share * room), limit)
        for room, limit in (
            (box.x0, box.x0 - limits.x0),
            (width - box.x1, limits.x1 - box.x1),
            (box.y0, box.y0 - limits.y0),
            (height - box.y1, limits.y1 - box.y1),
        )
    )
    left, right, top, bottom = (int(rng.integers(0, number, endpoint=True)) for number in most)
    return Box(box.x0 - left, box.y0 - top, box.x1 + right, box.y1 + bottom)


def crop_window(extended: Box, size: tuple[int, int], rng: np.random.Generator, zoom: float = ZOOM) -> Window:
    """A random square window that contains `extended`, or the whole picture if no square can.

    This is Paint by Example's crop. The square has the picture's short side; along the long side its position
    is uniform over those that contain the extended box; then it shrinks on all four sides by a uniform whole
    number up to 0.6 of the smallest distance between the window's edge and the extended box. If the extended
    box is longer than the short side, the whole picture is used and squashed.

    Args:
        extended: extended box, inside the picture.
        size: (width, height) of the picture.
        rng: generator of the sample.
        zoom: largest zoom, as a share of that distance.
    """
    width, height = size
    side = min(size)
    low, high, long_side = (
        (extended.x0, extended.x1, width) if width > height else (extended.y0, extended.y1, height)
    )
    first, last = max(high - side, 0), min(low + side, long_side) - side
    if last < first:
        return Window(Box(0, 0, width, height), squashed=True)
    position = int(rng.integers(first, last, endpoint=True))
    x, y = (position, 0) if width > height else (0, position)
    free = min(extended.x0 - x, extended.y0 - y, x + side - extended.x1, y + side - extended.y1)
    inward = int(rng.integers(0, int(zoom * free), endpoint=True))
    return Window(Box(x + inward, y + inward, x + side - inward, y + side - inward), squashed=False)
