"""Copies of pictures for the page: to paint on, small ones, masks of what was painted, the model's window."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

from intarsia.boxes import Box
from intarsia.errors import UserError
from sampling.canvas.canvas import lay_canvas
from sampling.pictures import Mask, PictureFile
from sampling.settings import EditSettings

_WORK = 1024  # pixels of the longer side of the copy to paint on
_SMALL = 160  # of a small copy in a list


def work_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of the copy to paint on of a picture of this size."""
    scale = min(1.0, _WORK / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def work_copy(picture: PictureFile) -> bytes:
    """The copy to paint on, a PNG with the picture's colour profile."""
    height, width = picture.pixels.shape[:2]
    image = Image.fromarray(picture.pixels)
    image.thumbnail(work_size(width, height))
    return _png(image.resize(work_size(width, height)), picture.icc_profile)


def small_copy(content: bytes) -> bytes:
    """A JPEG of at most 160 pixels of a picture file."""
    with Image.open(io.BytesIO(content)) as image:
        image.draft("RGB", (2 * _SMALL, 2 * _SMALL))
        upright, small = ImageOps.exif_transpose(image), io.BytesIO()
        upright.thumbnail((_SMALL, _SMALL))
        upright.convert("RGB").save(small, "JPEG", quality=85)
    return small.getvalue()


def mask_copy(edit_mask: Mask) -> bytes:
    """A PNG of the size of the copy to paint on: white = repaint."""
    height, width = edit_mask.shape
    image = Image.fromarray(edit_mask.astype(np.uint8) * 255)
    return _png(image.resize(work_size(width, height), Image.Resampling.BOX))


def mask_of_strokes(content: bytes, size: tuple[int, int]) -> bytes:
    """The mask of a picture as a PNG, from what was painted on its copy.

    Args:
        content: picture file of the size of the copy; 128 or more of 255 = painted.
        size: width and height of the picture.

    Raises:
        UserError: if it is not a picture, has other proportions, or nothing is painted.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            given, work = image.size, work_size(*size)
            painted = np.asarray(image.convert("L")) >= 128 if given == work else np.zeros((1, 1), bool)
    except (OSError, SyntaxError, ValueError):
        raise UserError("what was painted did not arrive as a PNG; paint it again") from None
    if given != work:
        raise UserError(
            f"what was painted is {given[0]} x {given[1]} pixels, and the copy of the picture {work[0]} x "
            f"{work[1]}; paint on the copy of this picture"
        )
    if not painted.any():
        raise UserError("nothing is marked yet; paint over what is to be repainted, or give a mask file")
    return _png(Image.fromarray(painted).resize(size, Image.Resampling.NEAREST))


def cut_out(picture: PictureFile, box: Box) -> bytes:
    """A part of a picture as a PNG, with its transparency and colour profile.

    Raises:
        UserError: for a box that is empty or not inside the picture.
    """
    height, width = picture.pixels.shape[:2]
    if not (0 <= box.x0 < box.x1 <= width and 0 <= box.y0 < box.y1 <= height):
        raise UserError(f"the part {box.as_list()} is not inside the picture of {width} x {height} pixels")
    pixels = picture.pixels if picture.rgba is None else picture.rgba
    return _png(Image.fromarray(np.ascontiguousarray(box.cut(pixels))), picture.icc_profile)


def window_of(marked: Box, size: tuple[int, int], model_size: int, settings: EditSettings) -> Box:
    """The part of a picture that the model will see.

    Args:
        marked: smallest box around everything that is marked.
        size: width and height of the picture.
        model_size: side of the model's square.
        settings: settings of the edit; only `fit` and `context` are used.
    """
    mask: Mask = np.zeros((size[1], size[0]), bool)
    marked.cut(mask)[:] = True
    return lay_canvas(mask, model_size, settings).window


def _png(image: Image.Image, profile: bytes | None = None) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=4, **({"icc_profile": profile} if profile else {}))
    return content.getvalue()
