"""The seam between the edit and its surroundings: feathering, colour correction, and its measurement."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from intarsia.boxes import Box, pad_box
from sampling.pictures import Mask, Picture
from sampling.settings import MatchColour

_RING = 1 / 32  # width of the known ring, as a share of the square's side


def inside_weight(edit_mask: Mask, area: Box, blend: int) -> NDArray[np.float32]:
    """The weight of the result at each pixel of `area`, float32 [h, w] in [0, 1].

    It is 0 outside the mask and rises linearly from the mask's edge to 1 over `blend` pixels inside. It is
    twice the share of mask pixels in a square around the pixel, minus one: exact for straight edges, and the
    same cost for any `blend`. The picture's border does not count as an edge. Parts of the mask narrower than
    twice `blend` are mixed everywhere.

    Args:
        edit_mask: mask of the picture, bool [H, W].
        area: box of the mask.
        blend: width of the seam in pixels, 1 or more.
    """
    height, width = edit_mask.shape
    around = pad_box(area, blend + 1, (width, height))
    share = Image.fromarray(around.cut(edit_mask).astype(np.uint8) * 255).filter(ImageFilter.BoxBlur(blend))
    weight = np.asarray(share, np.float32) / 127.5 - 1.0
    inner = Box(area.x0 - around.x0, area.y0 - around.y0, area.x1 - around.x0, area.y1 - around.y0)
    return np.where(area.cut(edit_mask), inner.cut(weight).clip(0.0, 1.0), np.float32(0.0))


def known_ring(fitted_mask: NDArray[np.uint8]) -> Mask:
    """The known pixels around the hole: bool [S, S], at most S / 32 pixels away in rows and columns.

    It is empty if the mask covers everything.

    Args:
        fitted_mask: mask of the square, uint8 [S, S], 255 = repaint, 0 = known.
    """
    reach = Image.fromarray(fitted_mask)
    for _ in range(max(1, round(len(fitted_mask) * _RING))):
        reach = reach.filter(ImageFilter.MaxFilter(3))
    return (np.asarray(reach) > 0) & (fitted_mask == 0)


def colour_shift(edited: Picture, known: Picture, ring: Mask) -> tuple[float, float, float]:
    """Mean difference, result minus picture, of red, green and blue on the ring, in levels of 255."""
    if not ring.any():
        return (0.0, 0.0, 0.0)
    red, green, blue = edited[ring].mean(0, dtype=np.float64) - known[ring].mean(0, dtype=np.float64)
    return (float(red), float(green), float(blue))


def match_ring(edited: Picture, known: Picture, ring: Mask, how: MatchColour) -> Picture:
    """Correct the colours of the result by the known ring around the hole.

    The model also paints the ring, where the truth is known. Each channel is shifted so that its mean on the
    ring equals the picture's. With "deviation" it is also scaled so that its standard deviation does, by at
    most a factor of two, because a flat ring contains little information.

    Args:
        edited: result of the model, uint8 [S, S, 3].
        known: input square of the model, uint8 [S, S, 3].
        ring: known pixels around the hole, bool [S, S], from `known_ring`.
        how: kind of correction; "none" changes nothing.
    """
    if how == "none" or not ring.any():
        return edited
    painted, true = edited[ring].astype(np.float64), known[ring].astype(np.float64)
    stretch = np.ones(3)
    if how == "deviation":
        stretch = np.clip((true.std(0) + 1.0) / (painted.std(0) + 1.0), 0.5, 2.0)
    moved = (edited - painted.mean(0)) * stretch + true.mean(0)
    return moved.round().clip(0, 255).astype(np.uint8)
