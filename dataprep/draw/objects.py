"""Which boxes a recipe may choose by the object's own mask."""

import cv2
import numpy as np

from dataprep.draw.exemplar import object_bounds
from dataprep.draw.recipe import Recipe
from dataprep.draw.shape import largest_extended
from dataprep.records import Rejected, RejectReason
from intarsia.boxes import Box


def judge_object(mask: np.ndarray | Rejected | None, box: Box, recipe: Recipe) -> Rejected | None:
    """Why a recipe that needs object masks cannot use a box; None if it can.

    Args:
        mask: object's mask, uint8 [H, W] in the picture's size, 255 = object; or why it cannot be had.
        box: annotated box, inside the picture.
        recipe: recipe that needs object masks.
    """
    if mask is None:
        return Rejected(RejectReason.NO_OBJECT_MASK)
    if isinstance(mask, Rejected):
        return mask
    rules, (height, width) = recipe.rules, mask.shape
    inside = (mask >= 128).astype(np.uint8)
    bounds, share = object_bounds(mask), np.count_nonzero(inside) / mask.size
    if bounds is None or share < rules.smallest_area:
        return Rejected(RejectReason.OBJECT_TOO_SMALL, f"{share:.2%} of the picture")
    if share > rules.largest_area:
        return Rejected(RejectReason.OBJECT_TOO_LARGE, f"{share:.2%} of the picture")
    if min(bounds.width / width, bounds.height / height) < rules.smallest_side:
        return Rejected(RejectReason.OBJECT_TOO_SMALL, f"{bounds.width}x{bounds.height} pixels")
    largest = largest_extended(recipe.extension, box, (width, height))
    if max(largest.width / width, largest.height / height) > rules.largest_extended:
        return Rejected(
            RejectReason.OBJECT_TOO_LARGE, f"{largest.width}x{largest.height} pixels with its extension"
        )
    piece = largest_piece(inside) if rules.one_piece else 1.0
    if piece < rules.one_piece:
        return Rejected(RejectReason.OBJECT_IN_PIECES, f"the largest has {piece:.0%} of it")
    return None


def largest_piece(inside: np.ndarray) -> float:
    """The share of the largest outline among the areas of all outlines, of uint8 [H, W], not 0 = object.

    As AnyDoor counts it (datasets/data_utils.py, mask_score): holes do not count.
    """
    outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    areas = [cv2.contourArea(outline) for outline in outlines]
    return max(areas) / sum(areas) if sum(areas) else 0.0
