"""Figures of pixels that boxes are chosen by: how sharp and bright a crop is, and a picture's hash."""

import cv2
import numpy as np

from dataprep.pictures.decode import squash
from dataprep.records import FilterRules, Rejected, RejectReason
from intarsia.boxes import Box
from intarsia.sample import EXEMPLAR_SIZE

HASH_BITS = 64
_HASH_BLOCK = 8  # points in each direction that a mean is taken of


def crop_figures(pixels: np.ndarray, box: Box) -> tuple[float, float]:
    """Sharpness and brightness of a box as the exemplar shows it: grey, squashed to 224 without margin.

    Both come from whole numbers and are the same on every processor.

    Args:
        pixels: uint8 [H, W, 3] RGB.
        box: part of the picture, at least one pixel.

    Returns:
        The variance of the Laplacian (below about 50 a photograph looks blurred), and the mean, 0 … 255.
    """
    grey = cv2.cvtColor(squash(box.cut(pixels), EXEMPLAR_SIZE), cv2.COLOR_RGB2GRAY)
    edges = cv2.Laplacian(grey, cv2.CV_16S).astype(np.int32)
    total, squares = int(edges.sum()), int((edges * edges).sum(dtype=np.int64))
    return (squares - total * total / edges.size) / edges.size, int(grey.sum(dtype=np.int64)) / grey.size


def judge_crop(pixels: np.ndarray, box: Box, rules: FilterRules) -> Rejected | None:
    """The rules that need the box's pixels; nothing is computed if none is set."""
    if rules.least_sharpness <= 0 and rules.darkest <= 0 and rules.brightest >= 255:
        return None
    sharpness, brightness = crop_figures(pixels, box)
    if sharpness < rules.least_sharpness:
        detail = f"sharpness {sharpness:.1f}, at least {rules.least_sharpness:g} wanted"
        return Rejected(RejectReason.TOO_BLURRED, detail)
    if brightness < rules.darkest:
        detail = f"brightness {brightness:.1f}, at least {rules.darkest:g} wanted"
        return Rejected(RejectReason.TOO_DARK, detail)
    if brightness > rules.brightest:
        detail = f"brightness {brightness:.1f}, at most {rules.brightest:g} wanted"
        return Rejected(RejectReason.TOO_BRIGHT, detail)
    return None


def picture_hash(pixels: np.ndarray) -> int:
    """A 64-bit difference hash: whether each of nine by eight grey means is darker than its right neighbour.

    For the same photograph in another size or quality all but a few bits agree (100 of Open Images at a
    quarter of the size or at JPEG quality 30: 95 % within four); for two different ones about half (4,950
    pairs: 14 or more differ). A picture of one colour has 0.

    Args:
        pixels: uint8 [H, W, 3] RGB.
    """
    small = cv2.resize(pixels, (9 * _HASH_BLOCK, 8 * _HASH_BLOCK), interpolation=cv2.INTER_LINEAR)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.int32)
    sums = grey.reshape(8, _HASH_BLOCK, 9, _HASH_BLOCK).sum(axis=(1, 3))
    return int.from_bytes(np.packbits(sums[:, :-1] < sums[:, 1:]).tobytes(), "big")
