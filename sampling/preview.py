"""Edits that show how far a model is: in every way that the requests allow, or larger."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from PIL import Image

from intarsia.conditions.low_res import area_mean
from intarsia.model import EditModel
from sampling.canvas.canvas import check_mask, fit_exemplar
from sampling.canvas.edits import EditRequest, EditResult
from sampling.canvas.sheets import grid_of_ways
from sampling.denoise.condition import Encoder
from sampling.editing import edit
from sampling.painters.painter import finished
from sampling.pictures import Picture
from sampling.settings import EditSettings
from sampling.upsampler.window import Told, upsample


def preview_grid(
    model: EditModel,
    requests: Sequence[EditRequest],
    settings: EditSettings,
    truths: Sequence[Picture] | None = None,
) -> Image.Image:
    """Edit the requests and show one row each; equal seeds give equal grids for the same model."""
    return grid_of_ways(preview_edits(model, requests, settings), requests, truths)


def preview_edits(
    model: EditModel, requests: Sequence[EditRequest], settings: EditSettings
) -> dict[str, list[EditResult]]:
    """Edit the requests in every way that they allow: title of the way -> the results.

    Requests with exemplar and prompt are edited with each of them alone, too; those with structure maps
    without them, too. An upsampler enlarges their own pictures.
    """
    if model.config.low_res is not None:
        return _upsampled(model, requests, settings)
    several = all(request.prompt and request.exemplar is not None for request in requests)
    ways: dict[str, Sequence[EditRequest]] = {}
    bare = [replace(request, structure={}) for request in requests]
    if several:
        ways["exemplar only"] = [replace(request, prompt="") for request in bare]
        ways["prompt only"] = [replace(request, exemplar=None) for request in bare]
    ways["both" if several else "edit"] = bare
    if any(request.structure for request in requests):
        ways["with structure"] = requests
    return {title: edit(model, way, settings) for title, way in ways.items()}


@torch.no_grad()
def _upsampled(
    model: EditModel, requests: Sequence[EditRequest], settings: EditSettings
) -> dict[str, list[EditResult]]:
    """The requests' own pictures at low resolution, and what an upsampler makes of them."""
    encoder, low_res = Encoder(model, model.unet.device), model.config.low_res
    assert low_res is not None, "the model is no upsampler"
    small, large = [], []
    for request in requests:
        exemplar = None if request.exemplar is None else torch.from_numpy(fit_exemplar(request.exemplar))
        told = Told(exemplar, request.prompt.strip(), request.seed)
        hole = check_mask(request.edit_mask, request.image)
        painted = upsample(encoder, request.image, hole, request.image, told, settings)
        large.append(finished(request, painted, settings))
        low = area_mean(torch.from_numpy(request.image)[None], low_res.factor)[0].numpy()
        small.append(replace(large[-1], image=low))
    return {"low resolution": small, "upsampled": large}
