"""Edit pictures: from requests to results."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intarsia.conditioning import decode_latents, unit_to_image
from intarsia.conditions.structure import check_sources, structure_channels
from intarsia.errors import UserError
from intarsia.model import EditModel
from sampling.canvas.canvas import Canvas, check_mask, fit_exemplar, lay_canvas
from sampling.canvas.edits import EditRequest, EditResult
from sampling.canvas.remarks import about_model, after_painting, before_painting
from sampling.canvas.seam import colour_shift, known_ring, match_ring
from sampling.denoise.clip_guidance import (
    check_clip_guidance,
    clip_guidance,
    guided_by_clip,
    remarks_on_guidance,
)
from sampling.denoise.condition import Encoder
from sampling.denoise.guidance import guided_model
from sampling.denoise.machine import visiting
from sampling.denoise.sampler import (
    OnStep,
    StepOptions,
    denoise,
    image_noise,
    new_noise_scheduler,
    step_generators,
)
from sampling.pictures import Mask, Picture
from sampling.settings import EditSettings
from sampling.told import check_scales, check_told, not_default, scales_of
from sampling.upsampler.window import Told, check_upsampler, remarks_on_window, upsample_window


def edit(
    model: EditModel,
    requests: Sequence[EditRequest],
    settings: EditSettings,
    on_step: OnStep | None = None,
    device: torch.device | None = None,
) -> list[EditResult]:
    """Edit pictures; each result depends only on its own request, not on the others or the batch size.

    Args:
        model: model on any device, with any dtype; its parts may have different dtypes.
        requests: requests, any number, with pictures of any size.
        settings: settings of all requests.
        on_step: function called as `on_step(done, total)` after every step of every batch.
        device: device of the computation; by default the model's. Networks on another device are moved to it
            one at a time.

    Raises:
        UserError: for a mask that does not fit its picture, marks nothing, or marks too small an area; for a
            scheduler, known region or structure map that the model does not support; for an exemplar, a
            prompt or a guidance scale that the model does not take, or one that is missing; for guidance by
            a noised encoder that the model does not have; and if the model's output is not finite, which
            would otherwise be a black picture.
    """
    encoder = Encoder(model, device or model.unet.device)
    _check_known_region(model, settings)
    check_clip_guidance(model, settings)
    check_upsampler(model, settings)
    upsampler = Encoder(model.upsampler, encoder.device) if model.upsampler is not None else None
    for request in requests:
        check_told(model.config.parts, request.exemplar is not None, request.prompt)
        check_scales(model.config.parts, not_default(request.own_settings(settings)))
        check_sources(model.config, request.structure)
    results: list[EditResult] = []
    batches = [requests[i : i + settings.batch_size] for i in range(0, len(requests), settings.batch_size)]
    for number, batch in enumerate(batches):
        report: OnStep | None = None
        if on_step:
            # `before` is bound now, because each batch needs its own number of finished batches.
            def report(done: int, total: int, before: int = number) -> None:
                on_step(before * total + done, len(batches) * total)

        results += _edit_batch(encoder, upsampler, batch, settings, report)
    return results


@dataclass(frozen=True)
class _Square:
    """A picture and its mask, bool [H, W], on the model's square: uint8 [S, S, 3] and [S, S]."""

    canvas: Canvas
    edit_mask: Mask
    image: Picture
    fitted_mask: NDArray[np.uint8]


@torch.no_grad()
def _edit_batch(
    encoder: Encoder,
    upsampler: Encoder | None,
    requests: Sequence[EditRequest],
    settings: EditSettings,
    on_step: OnStep | None,
) -> list[EditResult]:
    model, device, seconds = encoder.model, encoder.device, dict[str, float]()
    with _timed(seconds, "fit", device):
        squares = _squares(requests, settings, model.config.image_size)
        image, fitted_mask = _stack([s.image for s in squares]), _stack([s.fitted_mask for s in squares])
        exemplars = _fitted_exemplars(requests)
        shape = (model.config.vae.latent_channels,) + (model.config.latent_size,) * 2
        noise = torch.stack([image_noise(r.seed, shape, draws=2) for r in requests], dim=1)
    with _timed(seconds, "encode", device):
        shown = settings.known_region != "replace"  # otherwise the UNet's mask covers everything
        seen_mask = fitted_mask if shown else fitted_mask | 255
        prompts = [request.prompt for request in requests]
        told = encoder.told(exemplars, prompts)
        structure = _structure(model, requests, squares)
        condition = encoder.condition(image, seen_mask, told, noise[0], structure)
        # Outside the hole a composing model's own latents mean nothing, and the decoder would mix them in.
        held = settings.known_region != "model" or settings.latent_blend or model.config.compose
        known = encoder.known(image, fitted_mask, noise) if held else None
        clip = clip_guidance(encoder, exemplars, prompts, condition.channels, settings.clip_guidance)
    with _timed(seconds, "denoise", device), visiting(model.unet, device) as unet:
        scales = [
            scales_of(model.config.parts, r.own_settings(settings), r.exemplar is not None, r.prompt)
            for r in requests
        ]
        levels = model.config.noise
        predict = guided_model(
            unet, condition, scales, settings.guidance_interval, levels.num_train_timesteps
        )
        scheduler = new_noise_scheduler(levels, settings.scheduler, settings.karras)
        if clip is not None:
            predict = guided_by_clip(
                predict, clip, scheduler.alphas_cumprod, levels.prediction_type == "v_prediction"
            )
        options = StepOptions(
            settings.eta,
            step_generators([request.seed for request in requests]),
            known,
            hold_last_only=settings.known_region == "model",
            resample=settings.resample,
        )
        start, steps = noise[1].to(device), settings.num_inference_steps
        latents = denoise(predict, scheduler, start, steps, on_step, options)
    with _timed(seconds, "decode", device), visiting(model.vae, device) as vae:
        painted = decode_latents(vae, latents.to(vae.dtype)).float()
        edited = unit_to_image(_finite(painted, unet.dtype)).cpu().numpy()
    shown_parts = _matched(squares, edited, settings)
    if upsampler is not None:
        with _timed(seconds, "upsample", device):
            shown_parts = _upsampled(upsampler, requests, squares, exemplars, shown_parts, settings, on_step)
    with _timed(seconds, "paste", device):
        return [
            _result(model, *each, each[0].own_settings(settings), seconds)
            for each in zip(requests, squares, edited, shown_parts, strict=True)
        ]


def _matched(
    squares: Sequence[_Square], edited: NDArray[np.uint8], settings: EditSettings
) -> list[tuple[Canvas, Picture]]:
    """What was painted of each request, [B, S, S, 3], with corrected colours and its position."""
    return [
        (
            square.canvas,
            match_ring(pixels, square.image, known_ring(square.fitted_mask), settings.match_colour),
        )
        for square, pixels in zip(squares, edited, strict=True)
    ]


def _upsampled(
    upsampler: Encoder,
    requests: Sequence[EditRequest],
    squares: Sequence[_Square],
    exemplars: Sequence[Tensor | None],
    painted: Sequence[tuple[Canvas, Picture]],
    settings: EditSettings,
    on_step: OnStep | None,
) -> list[tuple[Canvas, Picture]]:
    """What was painted of each request, with its position; of large windows as the upsampler paints it."""
    large = []
    for request, square, exemplar, small in zip(requests, squares, exemplars, painted, strict=True):
        told = Told(exemplar, request.prompt, request.seed)
        shown = request.image, square.edit_mask
        large.append(upsample_window(upsampler, *small, *shown, told, settings, on_step) or small)
    return large


def _fitted_exemplars(requests: Sequence[EditRequest]) -> list[Tensor | None]:
    """The requests' exemplars, uint8 [224, 224, 3]; one that several requests share is fitted once."""
    fitted = {
        id(request.exemplar): torch.from_numpy(fit_exemplar(request.exemplar))
        for request in {id(request.exemplar): request for request in requests}.values()
        if request.exemplar is not None
    }
    return [fitted.get(id(request.exemplar)) for request in requests]


def _squares(requests: Sequence[EditRequest], settings: EditSettings, size: int) -> list[_Square]:
    """Fit every request to the model's square; pictures that several requests share are fitted once."""
    fitted: dict[tuple[int, int], _Square] = {}
    keys = [(id(request.image), id(request.edit_mask)) for request in requests]
    for key, request in zip(keys, requests, strict=True):
        if key not in fitted:
            edit_mask = check_mask(request.edit_mask, request.image)
            canvas = lay_canvas(edit_mask, size, settings)
            fitted[key] = _Square(
                canvas, edit_mask, canvas.fit_image(request.image), canvas.fit_mask(edit_mask)
            )
    return [fitted[key] for key in keys]


def _structure(
    model: EditModel, requests: Sequence[EditRequest], squares: Sequence[_Square]
) -> Tensor | None:
    """The requests' structure maps on the grid of latents, uint8 [B, K, h, w]; None if no request has any."""
    if not any(request.structure for request in requests):
        return None
    maps = []
    for request, square in zip(requests, squares, strict=True):
        sources = dict(request.structure)
        for name, source in sources.items():
            if not isinstance(source, str):
                _check_size(source, request.image, name)
                sources[name] = square.canvas.fit_image(source)
        shown = square.image, square.fitted_mask, request.exemplar
        maps.append(structure_channels(model.config, sources, *shown))
    return _stack(maps)


def _check_size(pixels: Picture, image: Picture, name: str) -> None:
    if pixels.shape[:2] != image.shape[:2]:
        sizes = [f"{shown.shape[1]} x {shown.shape[0]}" for shown in (pixels, image)]
        raise UserError(
            f"the map {name} is {sizes[0]} pixels but the picture {sizes[1]}; give a map of the same size"
        )


def _result(
    model: EditModel,
    request: EditRequest,
    square: _Square,
    edited: Picture,
    large: tuple[Canvas, Picture],
    settings: EditSettings,
    seconds: Mapping[str, float],
) -> EditResult:
    mask = square.edit_mask if settings.composite else None
    canvas, pixels = large
    image = canvas.paste_back(pixels, request.image, mask, settings.blend)
    remarks = [
        *before_painting(square.canvas, square.edit_mask, square.fitted_mask, request.exemplar, settings),
        *about_model(model, request.prompt, settings),
        *remarks_on_guidance(model, request.exemplar is not None, request.prompt, settings),
        *remarks_on_window(model, square.canvas),
        *after_painting(edited, square.image, square.fitted_mask),
    ]
    shift = colour_shift(edited, square.image, known_ring(square.fitted_mask))
    return EditResult(image, request, settings, tuple(remarks), square.canvas.window, shift, seconds)


def _check_known_region(model: EditModel, settings: EditSettings) -> None:
    config = model.config
    if config.unet.in_channels == config.vae.latent_channels and settings.known_region != "replace":
        raise UserError(
            f"the model's UNet has {config.unet.in_channels} input channels and cannot see the picture "
            "outside the mask; use --known-region replace"
        )


def _finite(painted: Tensor, dtype: torch.dtype) -> Tensor:
    if painted.isfinite().all():
        return painted
    raise UserError(
        f"the model's output has values that are not finite (dtype {dtype}); use float32 or bfloat16 instead "
        "of float16, and if that does not help, the weights are damaged"
    )


@contextmanager
def _timed(seconds: dict[str, float], part: str, device: torch.device) -> Iterator[None]:
    start = time.perf_counter()
    yield
    if device.type == "cuda":  # kernels are asynchronous
        torch.cuda.synchronize(device)
    seconds[part] = time.perf_counter() - start


def _stack(arrays: list[NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))
