"""Masks as segmenters write them: values 0 and 1, one dark colour on black, pictures of labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from intarsia.errors import UserError

_LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "JPEG2000")  # their darkest levels may be noise
_COLOURED = 16  # difference between the channels from which a colour is not grey
_SAME_HUE = 0.2  # of 1, largest difference between channels of two shades of one colour
_QUOTED = 8  # values in an error, at most


def white_of(
    levels: NDArray[np.uint8], image: Image.Image, path: Path
) -> tuple[NDArray[np.uint8], list[str]]:
    """A mask's grey levels, with white in the place of what can only mean the area.

    A file without white that has black and one other value marks that value. A palette of several colours
    shows labels; how bright these are means nothing.

    Args:
        levels: grey levels of the file as stored, uint8 [H, W].
        image: file that was opened.
        path: path of the file, for messages.

    Returns:
        The levels, and remarks on how they were read.

    Raises:
        UserError: for several labels.
    """
    labels = _labels(image)
    if labels:
        raise UserError(
            f"{path} shows {len(labels)} labels in colours (numbers {_listed(labels)} of its palette), and a "
            "mask has black and white only; save one that is white where to repaint"
        )
    values = _values(levels, image)
    if image.format in _LOSSY or len(values) != 2 or values[0] != 0 or values[1] >= 128:
        return levels, []
    marked = np.asarray(image) > 0 if image.mode.startswith("I") else levels > 0
    remark = f"{path} has no white; its values are 0 and {values[1]}, and {values[1]} is read as white"
    return np.where(marked, np.uint8(255), np.uint8(0)), [remark]


def without_white(levels: NDArray[np.uint8], image: Image.Image) -> str:
    """Why a file without white marks nothing, for an error."""
    values = _values(levels, image)
    if 1 < len(values) <= _QUOTED:
        return f"has no white (128 or more of 255): its values are {_listed(values)}"
    return f"has no white (128 or more of 255): its brightest pixel has {values[-1]}"


def _values(levels: NDArray[np.uint8], image: Image.Image) -> list[int]:
    """The different grey levels; small numbers in 16 bits as they are, not as 8 bits of them."""
    stored = np.asarray(image) if image.mode.startswith("I") else levels
    return [int(value) for value in np.unique(stored if stored.max(initial=0) < 256 else levels)]


def _labels(image: Image.Image) -> list[int]:
    """The numbers of a palette's colours that are in use besides black, if they are several colours."""
    if image.mode != "P" or image.palette is None:
        return []
    used = np.unique(np.asarray(image))
    colours = np.array(image.getpalette("RGB"), np.int64).reshape(-1, 3)
    used = used[used < len(colours)]
    bright = colours[used].max(1)
    used, shown = used[bright > 0], colours[used][bright > 0]
    if len(used) < 2 or np.ptp(shown, axis=1).max() < _COLOURED:
        return []
    hues = shown / shown.max(1, keepdims=True)
    return [int(number) for number in used] if np.ptp(hues, axis=0).max() > _SAME_HUE else []


def _listed(values: list[int]) -> str:
    more = " ..." if len(values) > _QUOTED else ""
    return ", ".join(str(value) for value in values[:_QUOTED]) + more
