"""Mistakes that a whole file of boxes has: another unit, other corners, other pictures; in sentences."""

import numpy as np

from dataprep.choose.rules import box_limits
from dataprep.plan.plan import BuildConfig
from dataprep.records import Annotations
from intarsia.errors import UserError
from intarsia.words import counted

WARNED_SHARE = 0.05  # of boxes or pictures, from which on a mistake is taken to be systematic
_SLACK = 0.01  # share of a side by which boxes may reach out: tools round
_CORNERS = ("x0", "y0", "x1", "y1")
_WRITTEN = {"coco": "x, y, width, height", "yolo": "centre x, centre y, width, height"}


def box_remarks(notes: Annotations, config: BuildConfig) -> tuple[str, ...]:
    """What looks like a mistake of many boxes; empty texts for what does not."""
    return _clipped(notes, config), _reversed(notes), _in_fractions(notes)


def refuse_fractions(notes: Annotations, path: str) -> None:
    """Refuse boxes that are all in fractions where pixels are expected, before any picture is read.

    Raises:
        UserError: with a box.
    """
    small = _fractional(notes)
    if len(small) and small.sum() == np.isfinite(notes.bounds).all(axis=1).sum() > 0:
        raise UserError(
            f"{path}: all boxes lie between 0 and 1, such as {_box(notes, int(np.argmax(small)))}; they are "
            "read as pixels: multiply x by the width and y by the height of the picture, or write YOLO labels"
        )


def _fractional(notes: Annotations) -> np.ndarray:
    """bool [N]: boxes in pixels that can only be meant as fractions."""
    if notes.unit != "pixels":
        return np.zeros(len(notes), bool)
    bounds = notes.bounds
    with np.errstate(invalid="ignore"):
        return (np.abs(bounds) < 2).all(axis=1) & (bounds % 1 != 0).any(axis=1)


def _in_fractions(notes: Annotations) -> str:
    return _many(_fractional(notes), notes, "lie", "between 0 and 1", "boxes are read as pixels")


def _reversed(notes: Annotations) -> str:
    """Many boxes that end before they begin: mostly width and height in place of a corner."""
    x0, y0, x1, y1 = notes.bounds.T
    wrong = (x1 < x0) | (y1 < y0)
    remedy = "the last two numbers are read as the lower right corner"
    return _many(wrong, notes, "end", "before the beginning", remedy)


def _clipped(notes: Annotations, config: BuildConfig) -> str:
    """Many boxes that reach out of their pictures, as far as sizes are known."""
    limits, bounds = box_limits(notes, config.orientation != "auto"), notes.bounds
    known = np.isfinite(bounds).all(axis=1) & np.isfinite(limits).all(axis=1)
    with np.errstate(invalid="ignore"):
        out = ((bounds < -limits * _SLACK) | (bounds > limits * (1 + _SLACK))).any(axis=1) & known
    text = _many(out, notes, "extend", "beyond the picture", "what is outside is cut off")
    if not text or config.source not in _WRITTEN:
        return text
    corners, limits = _as_corners(bounds[known], config.source), limits[known]
    fits = (corners[:, 2:] > corners[:, :2]).all(axis=1) & (corners <= limits * (1 + _SLACK)).all(axis=1)
    if fits.mean() > 1 - WARNED_SHARE:
        text += f"; all would fit as x0, y0, x1, y1, while this source reads {_WRITTEN[config.source]}"
    return text


def _many(wrong: np.ndarray, notes: Annotations, verb: str, where: str, remedy: str) -> str:
    """A sentence if more boxes than by accident are wrong, bool [N]; otherwise empty."""
    number = int(wrong.sum())
    if number <= WARNED_SHARE * len(notes):
        return ""
    boxes = f"{number:,} of {counted(len(notes), 'box', 'boxes')} {verb}{'s' if number == 1 else ''} {where}"
    return f"{boxes}, such as {_box(notes, int(np.argmax(wrong)))}; {remedy}"


def _as_corners(bounds: np.ndarray, source: str) -> np.ndarray:
    """float64 [N, 4]: the four numbers of each box as the source's file has them."""
    sides = bounds[:, 2:] - bounds[:, :2]
    first = (bounds[:, :2] + bounds[:, 2:]) / 2 if source == "yolo" else bounds[:, :2]
    return np.concatenate([first, sides], axis=1)


def _box(notes: Annotations, row: int) -> str:
    """`box 7 of '1.jpg' (x0 10, y0 20, x1 510, y1 420, in 320x240)`."""
    picture = int(notes.picture[row])
    corners = ", ".join(
        f"{name} {value:.6g}" for name, value in zip(_CORNERS, notes.bounds[row].tolist(), strict=True)
    )
    if picture < 0:
        return f"box {notes.box_ids[row]} ({corners})"
    width, height = notes.sizes[picture].tolist()
    size = f", in {width}x{height}" if width > 0 and height > 0 else ""
    name = notes.files[picture] or notes.image_ids[picture]
    return f"box {notes.box_ids[row]} of {name!r} ({corners}{size})"
