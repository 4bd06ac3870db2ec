"""The exemplar as data prep made it before recipes: fixed code, to which the recipe `pbe` is held.

Maps and warp are data prep's own; what is fixed here is the order of the draws and of the steps.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from dataprep.draw.exemplar import Shifts, draw_shifts, elastic_map, rotation_map, warp
from dataprep.pictures.decode import squash
from intarsia.boxes import Box, pad_box
from intarsia.masks import EditMask, bezier_polygon, box_mask, polygon_mask
from intarsia.sample import EXEMPLAR_SIZE


@dataclass(frozen=True)
class Augmentation:
    """One draw, applied in this order.

    Attributes:
        flip: mirrored left to right.
        angle: counter-clockwise, degrees; 0 for none.
        blur: side of the box filter in pixels; 0 for none.
        shifts: (dx, dy) of the elastic map's three points in pixels; empty for none.
    """

    flip: bool = False
    angle: float = 0.0
    blur: int = 0
    shifts: Shifts = ()


def draw_augmentation(rng: np.random.Generator) -> Augmentation:
    """Flip with probability 0.5, rotate by up to 20 degrees 0.5, blur 0.3, displace 0.3."""
    flip = bool(rng.random() < 0.5)
    angle = float(rng.uniform(-20.0, 20.0)) if rng.random() < 0.5 else 0.0
    blur = int(rng.choice((3, 5, 7))) if rng.random() < 0.3 else 0
    shifts = draw_shifts(rng, 50.0) if rng.random() < 0.3 else ()
    return Augmentation(flip, angle, blur, shifts)


def augment_exemplar(exemplar: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    """Apply one draw to uint8 [224, 224, 3]."""
    if augmentation.flip:
        exemplar = cv2.flip(exemplar, 1)
    if augmentation.angle:
        exemplar = warp(exemplar, rotation_map(augmentation.angle))
    if augmentation.blur:
        exemplar = cv2.blur(exemplar, (augmentation.blur, augmentation.blur))
    if augmentation.shifts:
        exemplar = warp(exemplar, elastic_map(augmentation.shifts))
    return exemplar


def cut_exemplar(pixels: np.ndarray, box: Box) -> np.ndarray:
    """`box` with a margin of 10 pixels or the room there is, squashed to uint8 [224, 224, 3]."""
    return squash(pad_box(box, 10, (pixels.shape[1], pixels.shape[0])).cut(pixels), EXEMPLAR_SIZE)


def draw_mask(box: Box, extended: Box, size: tuple[int, int], rng: np.random.Generator) -> EditMask:
    """Half Bezier shapes, half extended boxes."""
    if rng.random() < 0.5:
        polygon = bezier_polygon(box, extended, rng)
        return EditMask(polygon_mask(polygon, box, size), "bezier", polygon)
    return EditMask(box_mask(extended, size), "box", ())
