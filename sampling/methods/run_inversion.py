"""Reconstruct and edit a picture by inversion, and measure the reconstruction error."""

import math
import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intarsia.architecture import NoiseConfig
from intarsia.conditioning import decode_latents, unit_to_image
from intarsia.conditions.condition import Condition
from intarsia.model import EditModel
from sampling.canvas.canvas import check_mask, lay_canvas
from sampling.canvas.edits import EditRequest
from sampling.canvas.remarks import about_prompts, before_painting
from sampling.canvas.seam import known_ring, match_ring
from sampling.couplings.attention import coupled
from sampling.couplings.coupling import make_couplings
from sampling.denoise.condition import Encoder
from sampling.denoise.guidance import guided_noise
from sampling.denoise.machine import visiting
from sampling.denoise.sampler import OnStep, image_noise, new_noise_scheduler
from sampling.denoise.style_tower import check_style_tower
from sampling.methods.coupled_walk import coupled_calls, invert_coupled
from sampling.methods.inversion import Denoiser, Inverted, invert, most_calls, new_levels
from sampling.methods.regularise import whitened
from sampling.methods.request import InversionRequest, check_method, check_words
from sampling.methods.start import Start, encode_start
from sampling.methods.style import Look
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
            size and before compositing; infinite for equal pixels. It includes the autoencoder's error. None
            without a mask.
        seconds: time of inversion and edit in seconds, without encoding and decoding.
        calls: number of UNet calls.
        rows: number of rows in all calls of the UNet, the measure of their cost.
        remarks: reasons why the edit may disappoint, one sentence each, with what to do.
    """

    reconstruction: Picture
    image: Picture
    latent_error: float
    background_psnr: float | None
    seconds: float
    calls: int
    rows: int
    remarks: tuple[str, ...]


def invert_picture(
    model: EditModel,
    request: EditRequest,
    settings: InversionSettings,
    canvas_settings: EditSettings,
    device: torch.device | None = None,
    on_step: OnStep | None = None,
) -> InversionResult:
    """Invert and edit a picture towards an exemplar; see `invert_edit`.

    Args:
        model: model that takes an exemplar.
        request: request to edit; only picture, mask, exemplar and seed are used.
        settings: method and its settings.
        canvas_settings: settings of the canvas.
        device: device of the computation; by default the model's.
        on_step: function called as on_step(done, most) after every call of the UNet.

    Raises:
        UserError: as `invert_edit`.
    """
    own = InversionRequest(request.image, request.edit_mask, request.exemplar, seed=request.seed)
    return invert_edit(model, own, settings, canvas_settings, device, on_step)


@torch.no_grad()
def invert_edit(
    model: EditModel,
    request: InversionRequest,
    settings: InversionSettings,
    canvas_settings: EditSettings | None = None,
    device: torch.device | None = None,
    on_step: OnStep | None = None,
) -> InversionResult:
    """Invert one picture and edit it.

    The latents are the autoencoder's means, without noise; the seed matters for the method "ddpm" only, and
    for `regularise`. Without a mask everything may change, and a model that sees the picture around a mask is
    shown a mask over everything.

    Args:
        model: model on any device, with any dtype.
        request: picture, and what the model is told of it and of the edit.
        settings: method, couplings and their settings.
        canvas_settings: settings of the canvas; only fit, context, blend, match_colour and composite are
            used. None = the default ones.
        device: device of the computation; by default the model's.
        on_step: function called as on_step(done, most) after every call of the UNet.

    Raises:
        UserError: for a mask that does not fit its picture, marks nothing, or marks too small an area, for a
            coupling without effect on this model, for a style tower that does not fit it, and for a request
            that says too little or too much.
    """
    request.check(model.config.parts)
    check_method(settings, model.config.parts, model.style_tower is not None)
    if settings.inversion == "style":
        check_style_tower(model)
    masked = request.edit_mask is not None
    check_words(settings, request.words, request.reweight, request.caption, masked)
    own = canvas_settings or EditSettings()
    encoder = Encoder(model, device or model.unet.device)
    given = np.ones(request.image.shape[:2], bool) if request.edit_mask is None else request.edit_mask
    edit_mask = check_mask(given, request.image)
    canvas = lay_canvas(edit_mask, model.config.image_size, own)
    image, fitted_mask = canvas.fit_image(request.image), canvas.fit_mask(edit_mask)
    start = encode_start(encoder, request, settings, image, fitted_mask)
    found, seconds, counted = _walk(encoder, start, settings, request.seed, on_step)
    rebuilt, edited = _decode(encoder, torch.cat([found.reconstruction, found.edit]))
    matched = match_ring(edited, image, known_ring(fitted_mask), own.match_colour) if masked else edited
    where = edit_mask if own.composite and masked else None
    remarks = before_painting(canvas, edit_mask, fitted_mask, request.exemplar, settings) if masked else ()
    return InversionResult(
        reconstruction=canvas.paste_back(rebuilt, request.image, None),
        image=canvas.paste_back(matched, request.image, where, own.blend),
        latent_error=float((found.reconstruction - start.latents).norm() / start.latents.norm()),
        background_psnr=_psnr(edited, image, fitted_mask == 0) if masked else None,
        seconds=seconds,
        calls=counted.calls,
        rows=counted.rows,
        remarks=(*remarks, *about_prompts(model, request.prompts())),
    )


class _Counted:
    """A denoiser that counts its calls and their rows, and reports them."""

    def __init__(self, denoiser: Denoiser, most: int, on_step: OnStep | None) -> None:
        self.denoiser, self.most, self.on_step, self.calls, self.rows = denoiser, most, on_step, 0, 0

    def __call__(self, latents: Tensor, timestep: int, tokens: Tensor) -> Tensor:
        self.calls, self.rows = self.calls + 1, self.rows + len(latents)
        if self.on_step:
            self.on_step(self.calls, max(self.most, self.calls))
        return self.denoiser(latents, timestep, tokens)


def _walk(
    encoder: Encoder, start: Start, settings: InversionSettings, seed: int, on_step: OnStep | None
) -> tuple[Inverted, float, _Counted]:
    """What was found, the seconds that it took, and the counted UNet calls."""
    config = encoder.model.config
    levels = new_levels(config.noise, settings.num_inference_steps, settings.steps_offset)
    noise = image_noise(seed, tuple(start.latents.shape[1:]), levels.steps).to(encoder.device)[:, None]
    alone = (
        settings.coupling is None
        and start.keep is not None
        and settings.is_plain()
        and start.tokens.target_null is None
        and start.features is None
    )
    couplings = [] if alone else make_couplings(_coupling(settings, start), start.given)
    most = most_calls(settings) if alone else coupled_calls(settings, couplings)
    with visiting(encoder.model.unet, encoder.device) as unet:
        denoiser = _Counted(model_denoiser(unet, start.condition, config.noise), most, on_step)
        began, what = time.perf_counter(), (denoiser, start.latents, start.tokens, settings, levels)
        if alone:
            found = invert(*what, start.keep, noise)
        else:
            tidy = (
                partial(whitened, generator=torch.Generator().manual_seed(seed))
                if settings.regularise
                else None
            )
            look = None if start.features is None else Look(start.features, seed)
            found = invert_coupled(*what, couplings, partial(coupled, unet), noise, tidy, look)
        return found, time.perf_counter() - began, denoiser


def _coupling(settings: InversionSettings, start: Start) -> tuple[str, ...]:
    """The names of the couplings: by default the background if there is a mask."""
    if settings.coupling is not None:
        return settings.coupling
    return () if start.keep is None else ("background",)


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
