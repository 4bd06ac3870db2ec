"""Reconstruct and edit a picture by inversion, and measure the reconstruction error."""

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intarsia.architecture import NoiseConfig
from intarsia.conditioning import decode_latents, latent_mask, mask_to_unit, unit_to_image
from intarsia.conditions.condition import Condition
from intarsia.errors import UserError
from intarsia.model import EditModel
from sampling.canvas.canvas import check_mask, fit_exemplar, lay_canvas, mask_box
from sampling.canvas.remarks import before_painting
from sampling.canvas.seam import known_ring, match_ring
from sampling.couplings.attention import coupled
from sampling.couplings.coupling import make_couplings
from sampling.denoise.condition import Encoder
from sampling.denoise.guidance import guided_noise
from sampling.denoise.machine import visiting
from sampling.denoise.sampler import OnStep, image_noise, new_noise_scheduler
from sampling.editing import EditRequest
from sampling.methods.coupled_walk import coupled_calls, invert_coupled
from sampling.methods.inversion import Denoiser, Inverted, Tokens, invert, most_calls, new_levels
from sampling.pictures import Picture
from sampling.settings import EditSettings, InversionSettings


@dataclass(frozen=True)
class InversionResult:
    """The result of one method for one picture.

    Attributes:
        reconstruction: reconstructed picture, uint8 [H, W, 3]; inside the window that the model sees, all
            pixels are the model's.
        image: edited picture, uint8 [H, W, 3], composed according to the canvas settings.
        latent_error: relative error ‖reconstructed − own latents‖ / ‖own latents‖.
        background_psnr: PSNR in dB of the model's edit against the picture outside the mask, at the model's
            size and before compositing; infinite for equal pixels. It includes the autoencoder's error.
        seconds: time of inversion and edit in seconds, without encoding and decoding.
        calls: number of UNet calls.
        remarks: reasons why the edit may disappoint, one sentence each, with what to do.
    """

    reconstruction: Picture
    image: Picture
    latent_error: float
    background_psnr: float
    seconds: float
    calls: int
    remarks: tuple[str, ...]


@torch.no_grad()
def invert_picture(
    model: EditModel,
    request: EditRequest,
    settings: InversionSettings,
    canvas_settings: EditSettings,
    device: torch.device | None = None,
    on_step: OnStep | None = None,
) -> InversionResult:
    """Invert one picture and edit it.

    The source exemplar is the picture's own content in the mask's box. Latents are the autoencoder's means,
    without noise; the seed matters for the method "ddpm" only.

    Args:
        model: model on any device, with any dtype.
        request: request to edit; its guidance scale is ignored.
        settings: method and its settings.
        canvas_settings: settings of the canvas; only fit, context, blend, match_colour and composite are
            used.
        device: device of the computation; by default the model's.
        on_step: function called as on_step(done, most) after every call of the UNet.

    Raises:
        UserError: for a mask that does not fit its picture, marks nothing, or marks too small an area, for a
            coupling without effect on this model, and for a model that is not told an exemplar.
    """
    encoder = Encoder(model, device or model.unet.device)
    edit_mask = check_mask(request.edit_mask, request.image)
    canvas = lay_canvas(edit_mask, model.config.image_size, canvas_settings)
    image, fitted_mask = canvas.fit_image(request.image), canvas.fit_mask(edit_mask)
    exemplars = mask_box(edit_mask).cut(request.image), _exemplar(model, request)
    start = _encode(encoder, image, fitted_mask, exemplars)
    found, seconds, calls = _walk(model, encoder, start, settings, request.seed, on_step)
    rebuilt, edited = _decode(encoder, torch.cat([found.reconstruction, found.edit]))
    matched = match_ring(edited, image, known_ring(fitted_mask), canvas_settings.match_colour)
    where = edit_mask if canvas_settings.composite else None
    return InversionResult(
        reconstruction=canvas.paste_back(rebuilt, request.image, None),
        image=canvas.paste_back(matched, request.image, where, canvas_settings.blend),
        latent_error=float((found.reconstruction - start.latents).norm() / start.latents.norm()),
        background_psnr=_psnr(edited, image, fitted_mask == 0),
        seconds=seconds,
        calls=calls,
        remarks=tuple(before_painting(canvas, edit_mask, fitted_mask, request.exemplar, settings)),
    )


def _exemplar(model: EditModel, request: EditRequest) -> Picture:
    if request.exemplar is None or "exemplar" not in model.config.parts:
        raise UserError("invert needs an exemplar and a model that is told one; use edit for a prompt")
    return request.exemplar


class _Start(NamedTuple):
    """The inputs of inversion: `latents` [1, C, h, w], `keep` [1, 1, h, w], 1 = keep."""

    latents: Tensor
    condition: Condition
    tokens: Tokens
    keep: Tensor


def _walk(
    model: EditModel,
    encoder: Encoder,
    start: _Start,
    settings: InversionSettings,
    seed: int,
    on_step: OnStep | None,
) -> tuple[Inverted, float, int]:
    """What was found, the seconds that it took, and the number of UNet calls."""
    levels = new_levels(model.config.noise, settings.num_inference_steps)
    noise = image_noise(seed, tuple(start.latents.shape[1:]), levels.steps).to(encoder.device)[:, None]
    couplings, most, calls = None, most_calls(settings, levels), 0
    if settings.coupling is not None:
        couplings = make_couplings(settings.coupling, start.keep, start.tokens.source.shape[1])
        most = coupled_calls(settings, levels)

    def heard(latents: Tensor, timestep: int, tokens: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if on_step:
            on_step(calls, most)
        return denoiser(latents, timestep, tokens)

    with visiting(model.unet, encoder.device) as unet:
        denoiser = model_denoiser(unet, start.condition, model.config.noise)
        began, what = time.perf_counter(), (heard, start.latents, start.tokens, settings, levels)
        if couplings is None:
            found = invert(*what, start.keep, noise)
        else:
            found = invert_coupled(*what, couplings, partial(coupled, unet, couplings), noise)
        return found, time.perf_counter() - began, calls


def _encode(
    encoder: Encoder, image: Picture, fitted_mask: np.ndarray, exemplars: tuple[Picture, Picture]
) -> _Start:
    """Encode a square, its mask, and the exemplars of source and target."""
    config = encoder.model.config
    square, mask = torch.from_numpy(image)[None], torch.from_numpy(fitted_mask)[None]
    both = [torch.from_numpy(fit_exemplar(exemplar)) for exemplar in exemplars]
    zeros = torch.zeros(1, config.vae.latent_channels, config.latent_size, config.latent_size)
    told = encoder.told(both, ["", ""])
    first = torch.zeros(1, dtype=torch.int64, device=encoder.device)
    of_source = tuple(part.select(first, told=True) for part in told)
    condition = encoder.condition(square, mask, of_source, zeros)
    source, target = torch.cat([part.tokens for part in told], dim=1)[:, None]
    return _Start(
        encoder.latents(square, torch.zeros_like(mask), zeros),
        condition,
        Tokens(source, target, condition.null),
        1 - latent_mask(mask_to_unit(mask), tuple(zeros.shape[-2:])).to(encoder.device),
    )


def _decode(encoder: Encoder, latents: Tensor) -> NDArray[np.uint8]:
    """Latents [B, C, h, w] -> squares, uint8 [B, S, S, 3]."""
    with visiting(encoder.model.vae, encoder.device) as vae:
        return unit_to_image(decode_latents(vae, latents.to(vae.dtype)).float()).cpu().numpy()


def model_denoiser(unet: torch.nn.Module, condition: Condition, noise: NoiseConfig) -> Denoiser:
    """The UNet as a `Denoiser`: unguided, any batch size, its prediction converted to noise.

    Args:
        unet: denoising network.
        condition: condition of one picture; each call gives its own tokens.
        noise: noise levels; a velocity model predicts v, and the noise is √ā · v + √(1 − ā) · latents.
    """
    alphas = new_noise_scheduler(noise, "ddim").alphas_cumprod

    def name_noise(latents: Tensor, timestep: int, tokens: Tensor) -> Tensor:
        own, when = condition.with_tokens(tokens), torch.tensor(timestep, device=latents.device)
        answer = guided_noise(unet, latents, when, own, 1.0)
        if noise.prediction_type == "epsilon":
            return answer
        signal = float(alphas[timestep])
        return signal**0.5 * answer + (1 - signal) ** 0.5 * latents

    return name_noise


def _psnr(result: Picture, truth: Picture, where: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, peak 255, of the pixels where `where`, bool [S, S], is true."""
    error = float(np.mean((result[where].astype(np.float64) - truth[where]) ** 2)) if where.any() else 0.0
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
