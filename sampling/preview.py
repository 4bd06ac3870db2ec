"""Show edits and their inputs side by side in one picture."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from intarsia.model import EditModel
from sampling.canvas.canvas import check_mask
from sampling.editing import EditRequest, EditResult, edit
from sampling.pictures import Picture
from sampling.settings import EditSettings

_MARGIN = 8
_HEADER = 22
_HOLE = 128  # mid-grey, the value of the hole at the model's input


def preview_grid(
    model: EditModel,
    requests: Sequence[EditRequest],
    settings: EditSettings,
    truths: Sequence[Picture] | None = None,
) -> Image.Image:
    """Edit the requests and show one row each; equal seeds give equal grids for the same model.

    If requests have structure maps, there are edits without them and with them.
    """
    alone = edit(model, [replace(request, structure={}) for request in requests], settings)
    if not any(request.structure for request in requests):
        return grid(alone, truths)
    return grid(alone, truths, more={"with structure": edit(model, requests, settings)})


def grid(
    results: Sequence[EditResult],
    truths: Sequence[Picture] | None = None,
    cell: int = 256,
    more: Mapping[str, Sequence[EditResult]] | None = None,
) -> Image.Image:
    """One row per result: picture with the hole, exemplar, edit, and optionally the true picture.

    Args:
        results: results to show.
        truths: true pictures, one per result.
        cell: side of the square around each picture, in pixels; proportions are kept.
        more: other edits of the same requests, by title.
    """
    titles = ["picture with the hole", "exemplar", "edit", *(more or {})]
    titles += ["truth"] if truths is not None else []
    rows = [[with_hole(result.request), result.request.exemplar, result.image] for result in results]
    for others in (more or {}).values():
        for row, other in zip(rows, others, strict=True):
            row.append(other.image)
    for row, truth in zip(rows, truths or [], strict=False):
        row.append(truth)
    return sheet(titles, rows, cell)


def sweep_grid(results: Sequence[EditResult], cell: int = 256) -> Image.Image:
    """One row per seed: picture with the hole, exemplar, then the edit at each guidance scale.

    Args:
        results: results of one picture and exemplar, with every seed at every scale.
        cell: side of the square around each picture, in pixels.
    """
    images = {(r.request.seed, r.settings.guidance_scale): r.image for r in results}
    seeds = list(dict.fromkeys(seed for seed, _ in images))
    scales = list(dict.fromkeys(scale for _, scale in images))
    first = [with_hole(results[0].request), results[0].request.exemplar]
    titles = ["picture with the hole", "exemplar"] + [f"guidance scale {scale:g}" for scale in scales]
    rows = [first + [images[seed, scale] for scale in scales] for seed in seeds]
    return sheet(titles, rows, cell)


def sheet(
    titles: Sequence[str],
    rows: Sequence[Sequence[Picture]],
    cell: int = 256,
    labels: Sequence[str] = (),
) -> Image.Image:
    """Rows of pictures below titles; `labels` are written in the rows' first cells, `cell` as in `grid`."""
    pitch = cell + _MARGIN
    paper = Image.new("RGB", (_MARGIN + len(titles) * pitch, _HEADER + len(rows) * pitch), "white")
    draw = ImageDraw.Draw(paper)
    for column, title in enumerate(titles):
        draw.text((_MARGIN + column * pitch, _HEADER // 3), title, fill="black")
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            fitted = _fit(picture, cell)
            left = _MARGIN + column * pitch + (cell - fitted.width) // 2
            top = _HEADER + row * pitch + (cell - fitted.height) // 2
            paper.paste(fitted, (left, top))
    for row, label in enumerate(labels):
        place = (_MARGIN + 4, _HEADER + row * pitch + 4)
        draw.rectangle(draw.textbbox(place, label), fill="white")
        draw.text(place, label, fill="black")
    return paper


def with_hole(request: EditRequest) -> Picture:
    """The picture with the area to repaint in mid-grey."""
    mask = check_mask(request.edit_mask, request.image)
    return np.where(mask[..., None], np.uint8(_HOLE), request.image)


def _fit(picture: Picture, cell: int) -> Image.Image:
    scale = cell / max(picture.shape[:2])
    width, height = (max(1, round(side * scale)) for side in (picture.shape[1], picture.shape[0]))
    resample = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    return Image.fromarray(picture).resize((width, height), resample)
