"""Edit requests to edited pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intarsia.conditioning import (
    decode_latents,
    encode_latents,
    exemplar_to_clip,
    image_to_unit,
    latent_mask,
    mask_image,
    mask_to_unit,
    unit_to_image,
)
from intarsia.errors import UserError
from intarsia.model import EditModel
from sampling.canvas import check_mask, fit_exemplar, fit_image, fit_mask, paste_back
from sampling.guidance import Condition, guided_noise
from sampling.pictures import Picture
from sampling.sampler import OnStep, denoise, image_noise, new_noise_scheduler
from sampling.settings import EditSettings


@dataclass(frozen=True)
class EditRequest:
    """One picture to edit.

    Attributes:
        image: uint8 [H, W, 3] RGB, any size.
        edit_mask: bool or float [H, W], 1 = repaint.
        exemplar: uint8 [h, w, 3] RGB, any size; what to paint.
        seed: of this picture's noise.
    """

    image: Picture
    edit_mask: NDArray[np.bool_] | NDArray[np.floating]
    exemplar: Picture
    seed: int = 0


@dataclass(frozen=True)
class EditResult:
    """One edited picture, uint8 [H, W, 3] RGB of the input's size, and what it was made from."""

    image: Picture
    request: EditRequest
    settings: EditSettings


def edit(
    model: EditModel,
    requests: Sequence[EditRequest],
    settings: EditSettings,
    on_step: OnStep | None = None,
) -> list[EditResult]:
    """Edit pictures; each result depends on its own request alone, not on the others or the batch size.

    Args:
        model: any device and dtype; its parts may differ in dtype.
        requests: any number, of any sizes.
        settings: the same for all.
        on_step: called as `on_step(done, total)` after every step of every batch.

    Raises:
        UserError: for a mask that does not fit its picture, marks nothing, or marks too little to be seen;
            and if the model's output is not finite, which would otherwise be a black picture.
    """
    results: list[EditResult] = []
    batches = [requests[i : i + settings.batch_size] for i in range(0, len(requests), settings.batch_size)]
    for number, batch in enumerate(batches):
        report: OnStep | None = None
        if on_step:
            # Bound now: the callback of each batch knows how many batches went before.
            def report(done: int, total: int, before: int = number) -> None:
                on_step(before * total + done, len(batches) * total)

        results += _edit_batch(model, batch, settings, report)
    return results


@torch.no_grad()
def _edit_batch(
    model: EditModel, requests: Sequence[EditRequest], settings: EditSettings, on_step: OnStep | None
) -> list[EditResult]:
    size = model.config.image_size
    masks = [check_mask(request.edit_mask, request.image) for request in requests]
    device = model.unet.device
    image = _stack([fit_image(request.image, size) for request in requests], device)
    edit_mask = _stack([fit_mask(mask, size) for mask in masks], device)
    exemplar = _stack([fit_exemplar(request.exemplar) for request in requests], device)
    latent_shape = (model.config.vae.latent_channels,) + (model.config.latent_size,) * 2
    noise = torch.stack([image_noise(r.seed, latent_shape, draws=2) for r in requests], dim=1).to(device)

    condition = prepare(model, image_to_unit(image), mask_to_unit(edit_mask), exemplar, noise[0])
    painted = paint(model, condition, noise[1], settings, on_step)
    if not painted.isfinite().all():
        raise UserError(
            f"the model painted values that are not numbers (dtype {model.unet.dtype}); take float32 or "
            "bfloat16 instead of float16, and if that does not help, the weights are broken"
        )
    edited = unit_to_image(painted).cpu().numpy()
    return [
        EditResult(paste_back(square, request.image, mask if settings.composite else None), request, settings)
        for square, request, mask in zip(edited, requests, masks, strict=True)
    ]


def prepare(
    model: EditModel, image: Tensor, edit_mask: Tensor, exemplar: Tensor, posterior_noise: Tensor
) -> Condition:
    """Everything that the UNet is told besides the noisy latents.

    Args:
        model: the edit model.
        image: float32 [B, 3, S, S] in [-1, 1].
        edit_mask: float32 [B, 1, S, S] in [0, 1], 1 = repaint.
        exemplar: uint8 [B, 224, 224, 3].
        posterior_noise: float32 [B, C, h, w], for the sample of the masked image's latents.
    """
    dtype = model.unet.dtype
    grid_mask = latent_mask(edit_mask, (model.config.latent_size,) * 2)
    masked_image = mask_image(image, edit_mask).to(model.vae.dtype)
    pooled = model.encode_exemplar(
        exemplar_to_clip(exemplar, model.config.image_encoder.image_size).to(model.image_encoder.dtype)
    )
    encoder = model.exemplar_encoder
    return Condition(
        encode_latents(model.vae, masked_image, posterior_noise.to(masked_image.dtype)).to(dtype),
        grid_mask.to(dtype),
        encoder(pooled.to(encoder.null_exemplar.dtype)).to(dtype),
        encoder.null_exemplar.to(dtype),
    )


def paint(
    model: EditModel,
    condition: Condition,
    start_noise: Tensor,
    settings: EditSettings,
    on_step: OnStep | None = None,
) -> Tensor:
    """From x_T [B, C, h, w] to pictures float32 [B, 3, S, S], about [-1, 1] and not clamped."""

    def predict_noise(latents: Tensor, timestep: Tensor) -> Tensor:
        return guided_noise(model.unet, latents, timestep, condition, settings.guidance_scale)

    scheduler = new_noise_scheduler(model.config.noise, settings.scheduler)
    latents = denoise(predict_noise, scheduler, start_noise, settings.num_inference_steps, on_step)
    return decode_latents(model.vae, latents.to(model.vae.dtype)).float()


def _stack(arrays: list[NDArray[np.uint8]], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(arrays)).to(device)
