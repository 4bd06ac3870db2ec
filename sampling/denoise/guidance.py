"""Classifier-free guidance: away from the prediction without an exemplar, towards the one with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from intarsia.conditioning import unet_input
from sampling.denoise.shared_beginning import shared_beginning


@dataclass(frozen=True)
class Condition:
    """What stays the same over the steps of one batch of edits; everything in the UNet's dtype and device.

    Attributes:
        masked_image_latents: [B, C, h, w], scaled.
        edit_mask_latent: [B, 1, h, w], 1 = repaint.
        exemplar_token: [B, 1, D].
        null_exemplar: [1, 1, D].
    """

    masked_image_latents: Tensor
    edit_mask_latent: Tensor
    exemplar_token: Tensor
    null_exemplar: Tensor


def guide(null_noise: Tensor, exemplar_noise: Tensor, guidance_scale: float | Tensor) -> Tensor:
    """eps_null + w (eps_exemplar - eps_null), equation 6 of Ho & Salimans 2022 with w = their w + 1."""
    return null_noise + guidance_scale * (exemplar_noise - null_noise)


def guided_model(
    unet: UNet2DConditionModel,
    condition: Condition,
    guidance_scale: Sequence[float],
    interval: tuple[float, float] = (0.0, 1.0),
    num_train_timesteps: int = 1000,
) -> Callable[[Tensor, Tensor], Tensor]:
    """The UNet as the denoise loop wants it: (latents, timestep) -> guided noise.

    Args:
        unet: 9 channels or 4.
        condition: what is painted where.
        guidance_scale: w of each row.
        interval: guided only where timestep / num_train_timesteps lies within (Kynkäänniemi et al. 2024);
            elsewhere the scale is 1, and the branch without exemplar is not computed.
        num_train_timesteps: of the model.
    """
    unguided = [1.0] * len(guidance_scale)

    def predict_noise(latents: Tensor, timestep: Tensor) -> Tensor:
        inside = interval[0] <= float(timestep) / num_train_timesteps <= interval[1]
        return guided_noise(unet, latents, timestep, condition, guidance_scale if inside else unguided)

    return predict_noise


def guided_noise(
    unet: UNet2DConditionModel,
    noisy_latents: Tensor,
    timestep: Tensor,
    condition: Condition,
    guidance_scale: float | Sequence[float],
) -> Tensor:
    """What the UNet answers to `noisy_latents` (noise, or velocity), guided; float32 [B, C, h, w].

    Both branches are in one batch and share what comes before the UNet's first look at the token. Where the
    scale is 1 the branch without exemplar cancels out and is not computed.

    Args:
        unet: with 9 input channels, or with 4: it is then told nothing about the picture.
        noisy_latents: [B, C, h, w], float32.
        timestep: scalar.
        condition: what is painted where.
        guidance_scale: w, one for all or one for each row.
    """
    model_input = noisy_latents.to(unet.dtype)
    if unet.config.in_channels > model_input.shape[1]:
        model_input = unet_input(model_input, condition.masked_image_latents, condition.edit_mask_latent)
    tokens, count = condition.exemplar_token, len(model_input)
    each = guidance_scale if isinstance(guidance_scale, Sequence) else [guidance_scale] * count
    guided = [row for row, scale in enumerate(each) if scale != 1.0]
    if not guided:
        return unet(model_input, timestep, encoder_hidden_states=tokens).sample.float()
    rows = torch.tensor([*guided, *range(count)], device=tokens.device)
    both = torch.cat([condition.null_exemplar.expand(len(guided), -1, -1), tokens])
    with shared_beginning(unet, rows, count):
        noise = unet(model_input[rows], timestep, encoder_hidden_states=both).sample.float()
    null_noise, exemplar_noise = noise[:-count], noise[-count:]
    some = rows[:-count]
    scales = noise.new_tensor([each[row] for row in guided])[:, None, None, None]
    return exemplar_noise.index_copy(0, some, guide(null_noise, exemplar_noise[some], scales))
