"""Edits side by side with what they were made from, as one picture."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from intarsia.model import EditModel
from sampling.canvas import check_mask
from sampling.edit import EditRequest, EditResult, edit
from sampling.pictures import Picture
from sampling.settings import EditSettings

_MARGIN = 8
_HEADER = 22
_HOLE = 128  # mid-grey, as the model sees the hole


def preview_grid(
    model: EditModel,
    requests: Sequence[EditRequest],
    settings: EditSettings,
    truths: Sequence[Picture] | None = None,
) -> Image.Image:
    """Edit the requests and show them, one row each; the same seeds give the same grid for the same model."""
    return grid(edit(model, requests, settings), truths)


def grid(
    results: Sequence[EditResult], truths: Sequence[Picture] | None = None, cell: int = 256
) -> Image.Image:
    """Rows of: picture with the hole, exemplar, edit, and the truth where it is known.

    Args:
        results: one row each.
        truths: the pictures that the edits should have come near to, one for each result.
        cell: side in pixels of the square that each picture is fitted into; its proportions are kept.
    """
    columns = ["picture with the hole", "exemplar", "edit"] + (["truth"] if truths is not None else [])
    pitch = cell + _MARGIN
    size = (_MARGIN + len(columns) * pitch, _HEADER + len(results) * pitch)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(columns):
        draw.text((_MARGIN + column * pitch, _HEADER // 3), title, fill="black")
    for row, result in enumerate(results):
        pictures = [with_hole(result.request), result.request.exemplar, result.image]
        pictures += [truths[row]] if truths is not None else []
        for column, picture in enumerate(pictures):
            fitted = _fit(picture, cell)
            left = _MARGIN + column * pitch + (cell - fitted.width) // 2
            top = _HEADER + row * pitch + (cell - fitted.height) // 2
            sheet.paste(fitted, (left, top))
    return sheet


def with_hole(request: EditRequest) -> Picture:
    """The picture with mid-grey where it will be repainted."""
    mask = check_mask(request.edit_mask, request.image)
    return np.where(mask[..., None], np.uint8(_HOLE), request.image)


def _fit(picture: Picture, cell: int) -> Image.Image:
    scale = cell / max(picture.shape[:2])
    width, height = (max(1, round(side * scale)) for side in (picture.shape[1], picture.shape[0]))
    resample = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    return Image.fromarray(picture).resize((width, height), resample)
