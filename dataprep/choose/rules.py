"""The rules that keep or drop a box, one at a time: by its annotation, its size, its picture."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dataprep.records import REASONS, Annotations, FilterRules, Rejected, RejectReason
from intarsia.boxes import Box

FLAG_REASONS = {
    "is_crowd": RejectReason.CROWD,
    "is_group_of": RejectReason.GROUP_OF,
    "is_inside": RejectReason.INSIDE,
    "is_depiction": RejectReason.DEPICTION,
    "is_occluded": RejectReason.OCCLUDED,
    "is_truncated": RejectReason.TRUNCATED,
    "is_difficult": RejectReason.DIFFICULT,
    "is_cut": RejectReason.CUT_BY_BORDER,
}


# "pbe" is Paint by Example's own rule. A crowd region of COCO is not an object: both drop it.
FILTERS = {
    "pbe": FilterRules(dropped_flags=("is_crowd",)),
    "default": FilterRules(
        dropped_flags=("is_crowd", "is_group_of", "is_inside", "is_cut"), smallest_side=32
    ),
}


def judge_boxes(annotations: Annotations, rules: FilterRules) -> np.ndarray:
    """Which boxes are dropped, and why: int16 [N], -1 for a kept box, otherwise an index into REASONS.

    The area rule is Paint by Example's `read_bbox.py`: keep 0.02 <= (x1 - x0) * (y1 - y0) <= 0.8, in
    fractions of the picture, everything else untouched; of a box that reaches out of its picture, the part
    inside counts, which is all that a sample can show. If several reasons hold, the first in this function
    counts.
    """
    x0, y0, x1, y1 = shown_bounds(annotations, rules).T
    with np.errstate(invalid="ignore", over="ignore"):  # infinite ones are bad boxes below
        area = (x1 - x0) * (y1 - y0)
    if annotations.unit == "pixels":
        area /= _sizes(annotations).prod(axis=1)
    checks: list[tuple[np.ndarray, RejectReason]] = [
        (annotations.picture < 0, RejectReason.PICTURE_UNKNOWN),
        (~np.isfinite(annotations.bounds).all(axis=1), RejectReason.BAD_BOX),
        ((x1 <= x0) | (y1 <= y0), RejectReason.EMPTY_BOX),
        *(
            (annotations.flags[flag] == 1, FLAG_REASONS[flag])
            for flag in rules.dropped_flags
            if flag in annotations.flags
        ),
        (_unwanted(annotations.labels, rules)[annotations.label], RejectReason.CLASS_NOT_WANTED),
        (area < rules.smallest_area, RejectReason.AREA_TOO_SMALL),
        (area > rules.largest_area, RejectReason.AREA_TOO_LARGE),
    ]
    return first_reason(checks, len(annotations))


def _sizes(annotations: Annotations) -> np.ndarray:
    """float64 [N, 2]: (width, height) of each box's picture; not a number, which no rule hits, if unknown."""
    sizes: np.ndarray = np.full((len(annotations), 2), np.nan)
    listed = np.flatnonzero(annotations.picture >= 0)  # there may be no picture at all
    sizes[listed] = annotations.sizes[annotations.picture[listed]]
    sizes[(sizes <= 0).any(axis=1)] = np.nan
    return sizes


def shown_bounds(annotations: Annotations, rules: FilterRules) -> np.ndarray:
    """float64 [N, 4]: the boxes, clipped to their pictures as far as sizes are known and rules ask for it."""
    bounds = annotations.bounds
    if not rules.as_shown:
        return bounds
    limits = box_limits(annotations, rules.either_way)
    if (bounds >= 0).all() and (bounds <= limits).all():  # a copy of all of Open Images' is half a gigabyte
        return bounds
    return np.clip(bounds, 0, limits)


def box_limits(annotations: Annotations, either_way: bool = False) -> np.ndarray:
    """float64 [N, 4]: how far boxes may reach, in their unit: twice the sides; infinite if these are unknown.

    Args:
        annotations: annotations with boxes.
        either_way: whether a picture's sides may be exchanged, see `FilterRules`.
    """
    if annotations.unit == "fractions":
        return np.broadcast_to(1.0, (len(annotations), 4))
    sizes = np.nan_to_num(_sizes(annotations), nan=np.inf)
    return np.tile(np.maximum(sizes, sizes[:, ::-1]) if either_way else sizes, 2)


def first_reason(checks: list[tuple[np.ndarray, RejectReason]], number: int) -> np.ndarray:
    """int16 [number]: the code of the first check (bool [number], reason) that hits; -1 for none."""
    verdict: np.ndarray = np.full(number, -1, np.int16)
    for hit, reason in checks:
        if hit.any():
            verdict[hit & (verdict < 0)] = REASONS.index(reason)
    return verdict


def _unwanted(labels: list[str], rules: FilterRules) -> np.ndarray:
    """bool [labels]: which classes the rules drop."""
    wanted = rules.classes
    return np.array(
        [name in rules.not_classes or (wanted is not None and name not in wanted) for name in labels], bool
    )


def judge_sizes(sizes: np.ndarray, rules: FilterRules) -> np.ndarray:
    """The rules that need the picture's size: whole pixels, enough of them on each side, and the aspect.

    Args:
        sizes: int [N, 2], (width, height) of the boxes in whole pixels inside the picture.
        rules: limits.

    Returns:
        int16 [N] as `judge_boxes`.
    """
    with np.errstate(invalid="ignore"):  # no limit of the aspect, times no pixel: an empty box
        return first_reason(_size_checks(sizes.min(axis=1), sizes.max(axis=1), rules), len(sizes))


def _size_checks(short: Any, long: Any, rules: FilterRules) -> list[tuple[Any, RejectReason]]:
    """Checks as of `first_reason`, for sides as arrays, or as two numbers: a picture's few boxes, at once."""
    return [
        (short <= 0, RejectReason.EMPTY_BOX),
        (short < rules.smallest_side, RejectReason.SIDE_TOO_SHORT),
        (long > rules.largest_aspect * short, RejectReason.ASPECT_TOO_LARGE),
    ]


def judge_late_area(
    bounds: tuple[float, float, float, float], size: tuple[int, int], rules: FilterRules
) -> Rejected | None:
    """The area rule of a box in pixels, if only the picture itself shows its size (width, height)."""
    corners = np.array(bounds)
    x0, y0, x1, y1 = (np.clip(corners, 0, size * 2) if rules.as_shown else corners).tolist()
    area = (x1 - x0) * (y1 - y0) / (size[0] * size[1])
    if area < rules.smallest_area:
        return Rejected(RejectReason.AREA_TOO_SMALL, f"{area:.4f} of the picture")
    if area > rules.largest_area:
        return Rejected(RejectReason.AREA_TOO_LARGE, f"{area:.4f} of the picture")
    return None


def judge_pixels(boxes: Sequence[Box], rules: FilterRules) -> list[Rejected | None]:
    """`judge_sizes` of a picture's boxes, with details; None for a box that may stay."""
    found: list[Rejected | None] = []
    for box in boxes:
        short, long = sorted((box.width, box.height))
        reason = next((reason for hit, reason in _size_checks(short, long, rules) if hit), None)
        found.append(Rejected(reason, _size_detail(reason, box, rules)) if reason else None)
    return found


def _size_detail(reason: RejectReason, box: Box, rules: FilterRules) -> str:
    if reason == RejectReason.SIDE_TOO_SHORT:
        return f"{min(box.width, box.height)} px, at least {rules.smallest_side} wanted"
    if reason == RejectReason.ASPECT_TOO_LARGE:
        return f"{box.width}x{box.height} px, at most {rules.largest_aspect:g} to 1 wanted"
    return "no whole pixel inside the picture"
