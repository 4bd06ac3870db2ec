"""Paint the hole of a large window again at high resolution, with an upsampler in place of Lanczos.

The upsampler sees the base's picture as a low-resolution one, the known pixels of the window at their own
resolution, and what the base was told. A window that is too large for one pass is painted in tiles, one after
the other: a tile sees what the tiles before it have painted as known, which is how it continues them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from intarsia.boxes import Box
from intarsia.conditioning import decode_latents, unit_to_image
from intarsia.conditions.condition import Part
from intarsia.conditions.low_res import area_mean
from intarsia.errors import UserError
from intarsia.model import EditModel
from intarsia.rng import derive_seed
from sampling.canvas.canvas import Canvas, resized
from sampling.canvas.seam import known_ring, match_ring
from sampling.denoise.condition import Encoder, LowRes
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
from sampling.upsampler.tiles import tiles

_LARGEST = 2  # a tile's side, in sides of the square that the upsampler was trained on


@dataclass(frozen=True)
class Told:
    """What an upsampler is told of one edit: exemplar, uint8 [224, 224, 3], or None, prompt, and seed."""

    exemplar: Tensor | None
    prompt: str
    seed: int


def check_upsampler(model: EditModel, settings: EditSettings) -> None:
    """Refuse an upsampler that paints alone, and settings that do not go with a model's upsampler.

    Raises:
        UserError: with what to do.
    """
    if model.config.low_res:
        raise UserError(
            "this model is an upsampler, which needs a picture of another model; give it by --upsampler, and "
            "the other model by --model"
        )
    level = settings.low_res_noise
    if model.upsampler is None:
        if level:
            raise UserError(f"low_res_noise={level} needs an upsampler; give its folder, --upsampler")
        return
    config = model.upsampler.config
    new_noise_scheduler(config.noise, settings.scheduler, settings.karras)
    if config.low_res and level >= config.low_res.max_noise_level:
        raise UserError(
            f"low_res_noise={level} is above the levels that the upsampler was trained with; give at most "
            f"{config.low_res.max_noise_level - 1}"
        )


def upsampled_size(window: Box, size: int, factor: int) -> tuple[int, int] | None:
    """Width and height at which a window is upsampled; None if the base's square is large enough for it.

    They are the window's own, or smaller where its longer side is more than `factor` times the square's.

    Args:
        window: part of the picture that the base has painted.
        size: side of the base's square.
        factor: factor of the upsampler.
    """
    longer = max(window.width, window.height)
    if longer <= size:
        return None
    scale = min(1.0, factor * size / longer)
    return max(1, round(window.width * scale)), max(1, round(window.height * scale))


def upsample_window(
    encoder: Encoder,
    canvas: Canvas,
    painted: Picture,
    image: Picture,
    edit_mask: Mask,
    told: Told,
    settings: EditSettings,
    on_step: OnStep | None = None,
) -> tuple[Canvas, Picture] | None:
    """The window at high resolution, and its position; None if the base's square is large enough.

    Args:
        encoder: encoder of the upsampler.
        canvas: position of the window on the base's square.
        painted: result of the base, uint8 [S, S, 3].
        image: whole picture, uint8 [H, W, 3].
        edit_mask: mask of the picture, bool [H, W].
        told: what the upsampler is told.
        settings: settings of the edit.
        on_step: function called as `on_step(done, total)` after every step.
    """
    low_res = encoder.model.config.low_res
    assert low_res is not None, "the model is no upsampler"
    size = upsampled_size(canvas.window, canvas.size, low_res.factor)
    if size is None:
        return None
    known = resized(canvas.window.cut(image), *size)
    hole = resized(canvas.window.cut(edit_mask).astype(np.uint8) * 255, *size) >= 128
    base = resized(canvas.frame.cut(painted), *size, blocks=True)
    large = upsample(encoder, known, hole, base, told, settings, on_step)
    ring = known_ring(hole.astype(np.uint8) * 255)
    large = match_ring(large, known, ring, settings.match_colour)
    return Canvas(canvas.window, Box(0, 0, *size), max(size)), large


@torch.no_grad()
def upsample(
    encoder: Encoder,
    known: Picture,
    edit_mask: Mask,
    base: Picture,
    told: Told,
    settings: EditSettings,
    on_step: OnStep | None = None,
) -> Picture:
    """A picture whose hole an upsampler has painted, uint8 [h, w, 3]; outside are its pixels, too.

    Args:
        encoder: encoder of the upsampler.
        known: picture, uint8 [h, w, 3]; what it shows in the hole is not seen.
        edit_mask: its hole, bool [h, w].
        base: picture whose hole the base has painted, uint8 [h, w, 3]; only its area means are seen.
        told: what the upsampler is told.
        settings: settings of the edit; there is no guidance.
        on_step: function called as `on_step(done, total)` after every step.
    """
    config, (height, width) = encoder.model.config, edit_mask.shape
    assert config.low_res is not None, "the model is no upsampler"
    known, hole, base = (_padded(pixels, config.multiple) for pixels in (known, edit_mask, base))
    low = area_mean(torch.from_numpy(np.where(hole[..., None], base, known))[None], config.low_res.factor)
    cell, seed = config.vae.downsampling, derive_seed(told.seed, "upsample")
    cells = config.vae.latent_channels, hole.shape[0] // cell, hole.shape[1] // cell
    noise = image_noise(seed, cells, draws=2)[:, None]
    tokens = encoder.told([told.exemplar], [told.prompt])
    seen, shown = known.copy(), known.copy()
    todo = tiles(hole, _LARGEST * config.image_size, config.multiple)
    for number, (tile, marked) in enumerate(todo):

        def report(done: int, total: int, before: int = number) -> None:
            if on_step:
                on_step(before * total + done, len(todo) * total)

        factor = config.low_res.factor
        parts = (
            torch.from_numpy(tile.cut(seen))[None],
            torch.from_numpy(marked.astype(np.uint8) * 255)[None],
            _part(tile, factor).cut(low[0])[None],
            _cells(noise, _part(tile, cell)),
        )
        large = _painted(encoder, *parts, tokens, seed, settings, report)
        np.copyto(tile.cut(seen), large, where=marked[..., None])
        fresh = marked | ~tile.cut(hole)  # what an earlier tile has painted stays
        np.copyto(tile.cut(shown), large, where=fresh[..., None])
    return shown[:height, :width]


def _painted(
    encoder: Encoder,
    image: Tensor,
    hole: Tensor,
    low: Tensor,
    noise: Tensor,
    told: tuple[Part, ...],
    seed: int,
    settings: EditSettings,
    on_step: OnStep,
) -> Picture:
    """One tile, uint8 [h, w, 3], from its pixels [1, h, w, 3], hole [1, h, w], low resolution and noise."""
    model, device = encoder.model, encoder.device
    low_res = LowRes(low, settings.low_res_noise)
    condition = encoder.condition(image, hole, told, noise[0], low_res=low_res)
    held = settings.latent_blend or model.config.compose
    known = encoder.known(image, hole, noise) if held else None
    scheduler = new_noise_scheduler(model.config.noise, settings.scheduler, settings.karras)
    options = StepOptions(settings.eta, step_generators([seed]), known, hold_last_only=True)
    with visiting(model.unet, device) as unet:
        predict = guided_model(unet, condition, [1.0])
        start, steps = noise[1].to(device), settings.num_inference_steps
        latents = denoise(predict, scheduler, start, steps, on_step, options)
    with visiting(model.vae, device) as vae:
        pixels = decode_latents(vae, latents.to(vae.dtype)).float()
    if not pixels.isfinite().all():
        raise UserError(
            f"the upsampler's output has values that are not finite (dtype {unet.dtype}); use float32 or "
            "bfloat16 instead of float16, and if that does not help, the weights are damaged"
        )
    return unit_to_image(pixels)[0].cpu().numpy()


def _padded(pixels: np.ndarray, multiple: int) -> np.ndarray:
    """Pixels [h, w, ...] with their last rows and columns continued up to the next multiples."""
    more = [(0, -length % multiple) for length in pixels.shape[:2]]
    return np.pad(pixels, more + [(0, 0)] * (pixels.ndim - 2), mode="edge")


def _part(tile: Box, factor: int) -> Box:
    """A tile on a grid that is `factor` times coarser."""
    return Box(tile.x0 // factor, tile.y0 // factor, tile.x1 // factor, tile.y1 // factor)


def _cells(noise: Tensor, part: Box) -> Tensor:
    return noise[..., part.y0 : part.y1, part.x0 : part.x1]


def remarks_on_window(model: EditModel, canvas: Canvas) -> Sequence[str]:
    """What there is to say of an upsampler for this window: that it is not used, or not up to its size."""
    if model.upsampler is None or model.upsampler.config.low_res is None:
        return ()
    window, factor = canvas.window, model.upsampler.config.low_res.factor
    size = upsampled_size(window, canvas.size, factor)
    if size is None:
        return (
            f"the upsampler was not used: the window of {window.width} x {window.height} pixels is not "
            f"larger than the model's square of {canvas.size}",
        )
    if size != (window.width, window.height):
        return (
            f"the window of {window.width} x {window.height} pixels is upsampled to {size[0]} x {size[1]}, "
            f"{factor} times the model's square, and enlarged from there; --fit crop takes a smaller one",
        )
    return ()
