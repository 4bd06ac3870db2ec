"""Show edits and their inputs side by side in one picture."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from sampling.canvas.canvas import check_mask
from sampling.canvas.edits import EditRequest, EditResult
from sampling.pictures import Picture

_MARGIN = 8
_HEADER = 22
_HOLE = 128  # mid-grey, the value of the hole at the model's input


def grid_of_ways(
    edits: Mapping[str, Sequence[EditResult]],
    requests: Sequence[EditRequest],
    truths: Sequence[Picture] | None = None,
) -> Image.Image:
    """One row per request, one column per input and per way of `preview_edits`."""
    titles, rows = _inputs(requests)
    for results in edits.values():
        for row, result in zip(rows, results, strict=True):
            row.append(result.image)
    return _with_truths([*titles, *edits], rows, truths, [request.prompt for request in requests])


def grid(
    results: Sequence[EditResult],
    truths: Sequence[Picture] | None = None,
    cell: int = 256,
) -> Image.Image:
    """One row per result: picture with the hole and prompt, exemplar, edit, and optionally the true picture.

    Args:
        results: results to show.
        truths: true pictures, one per result.
        cell: side of the square around each picture, in pixels; proportions are kept.
    """
    titles, rows = _inputs([result.request for result in results])
    for row, result in zip(rows, results, strict=True):
        row.append(result.image)
    return _with_truths([*titles, "edit"], rows, truths, [r.request.prompt for r in results], cell)


def _with_truths(
    titles: list[str],
    rows: list[list[Picture]],
    truths: Sequence[Picture] | None,
    labels: Sequence[str],
    cell: int = 256,
) -> Image.Image:
    for row, truth in zip(rows, truths or [], strict=False):
        row.append(truth)
    return sheet(titles + (["truth"] if truths is not None else []), rows, cell, labels)


def _inputs(requests: Sequence[EditRequest]) -> tuple[list[str], list[list[Picture]]]:
    """Titles and rows of what is given: the picture with the hole, and the exemplar if any has one."""
    rows = [[with_hole(request)] for request in requests]
    if all(request.exemplar is None for request in requests):
        return ["picture with the hole"], rows
    nothing: Picture = np.full((_HOLE, _HOLE, 3), 255, np.uint8)
    for row, request in zip(rows, requests, strict=True):
        row.append(nothing if request.exemplar is None else request.exemplar)
    return ["picture with the hole", "exemplar"], rows


def sweep_grid(results: Sequence[EditResult], cell: int = 256) -> Image.Image:
    """One row per seed: picture with the hole, exemplar, then the edit at each pair of guidance scales.

    Args:
        results: results of one picture, exemplar and prompt, with every seed at every scale.
        cell: side of the square around each picture, in pixels.
    """
    images = {(r.request.seed, _scales(r)): r.image for r in results}
    seeds = list(dict.fromkeys(seed for seed, _ in images))
    scales = list(dict.fromkeys(scale for _, scale in images))
    first, [row] = _inputs([results[0].request])
    titles = first + [f"guidance scale {scale}" for scale in scales]
    rows = [row + [images[seed, scale] for scale in scales] for seed in seeds]
    return sheet(titles, rows, cell, [results[0].request.prompt] * len(seeds))


def _scales(result: EditResult) -> str:
    """The guidance scales of what was told."""
    request, settings = result.request, result.settings
    exemplar = [f"{settings.guidance_scale:g}"] if request.exemplar is not None else []
    return ", ".join(exemplar + ([f"{settings.text_guidance_scale:g} (text)"] if request.prompt else []))


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
        if not label:
            continue
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
