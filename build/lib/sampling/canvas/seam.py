"""The seam between what was painted and what was there: feathering, colour correction, and its measure."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from intarsia.boxes import Box, pad_box
from sampling.pictures import Mask, Picture
from sampling.settings import MatchColour

_RING = 1 / 32  # width of the known ring, of the square's side


def inside_weight(edit_mask: Mask, area: Box, blend: int) -> NDArray[np.float32]:
    """How much of the result shows at each pixel of `area`, float32 [h, w] in [0, 1].

    0 outside the mask; from its edge inwards it rises evenly to 1 over `blend` pixels (twice the share of
    the mask in the square around a pixel, less one: exact for straight edges, and the same cost for any
    `blend`). The picture's own border is no edge. A part of the mask narrower than twice `blend` stays
    mixed all over.

    Args:
        edit_mask: bool [H, W].
        area: the mask's box.
        blend: in pixels, 1 or more.
    """
    height, width = edit_mask.shape
    around = pad_box(area, blend + 1, (width, height))
    share = Image.fromarray(around.cut(edit_mask).astype(np.uint8) * 255).filter(ImageFilter.BoxBlur(blend))
    weight = np.asarray(share, np.float32) / 127.5 - 1.0
    inner = Box(area.x0 - around.x0, area.y0 - around.y0, area.x1 - around.x0, area.y1 - around.y0)
    return np.where(area.cut(edit_mask), inner.cut(weight).clip(0.0, 1.0), np.float32(0.0))


def known_ring(fitted_mask: NDArray[np.uint8]) -> Mask:
    """The known pixels next to the hole: bool [S, S], at most S / 32 pixels from it (by rows and columns).

    Empty where the mask covers everything.

    Args:
        fitted_mask: uint8 [S, S], 255 = repaint, 0 = known.
    """
    reach = Image.fromarray(fitted_mask)
    for _ in range(max(1, round(len(fitted_mask) * _RING))):
        reach = reach.filter(ImageFilter.MaxFilter(3))
    return (np.asarray(reach) > 0) & (fitted_mask == 0)


def colour_shift(edited: Picture, known: Picture, ring: Mask) -> tuple[float, float, float]:
    """By how many levels (of 255) red, green and blue of the result lie above the picture's on the ring."""
    if not ring.any():
        return (0.0, 0.0, 0.0)
    red, green, blue = edited[ring].mean(0, dtype=np.float64) - known[ring].mean(0, dtype=np.float64)
    return (float(red), float(green), float(blue))


def match_ring(edited: Picture, known: Picture, ring: Mask, how: MatchColour) -> Picture:
    """The result with the colours that it should have, judged by the known ring around the hole.

    The model paints the ring, too, and there the truth is known: each channel is moved so that its mean on
    the ring is the picture's, and with "deviation" stretched so that its standard deviation is, too (at most
    twofold either way: a flat ring says little).

    Args:
        edited: uint8 [S, S, 3], the model's square.
        known: uint8 [S, S, 3], what the model was shown.
        ring: bool [S, S], from `known_ring`.
        how: "none" changes nothing.
    """
    if how == "none" or not ring.any():
        return edited
    painted, true = edited[ring].astype(np.float64), known[ring].astype(np.float64)
    stretch = np.ones(3)
    if how == "deviation":
        stretch = np.clip((true.std(0) + 1.0) / (painted.std(0) + 1.0), 0.5, 2.0)
    moved = (edited - painted.mean(0)) * stretch + true.mean(0)
    return moved.round().clip(0, 255).astype(np.uint8)
