"""Classifier-free guidance: away from the prediction without an exemplar, towards the one with it."""

from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from intarsia.conditioning import unet_input


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


def guide(null_noise: Tensor, exemplar_noise: Tensor, guidance_scale: float) -> Tensor:
    """eps_null + w (eps_exemplar - eps_null), equation 6 of Ho & Salimans 2022 with w = their w + 1."""
    return null_noise + guidance_scale * (exemplar_noise - null_noise)


def guided_noise(
    unet: UNet2DConditionModel,
    noisy_latents: Tensor,
    timestep: Tensor,
    condition: Condition,
    guidance_scale: float,
) -> Tensor:
    """The noise that the UNet sees in `noisy_latents`, guided; float32 [B, C, h, w].

    One forward pass with both branches in the batch; at a scale of 1 the branch without exemplar cancels out
    and is not computed.

    Args:
        unet: the 9-channel UNet.
        noisy_latents: [B, C, h, w], float32.
        timestep: scalar.
        condition: what is painted where.
        guidance_scale: w.
    """
    model_input = unet_input(
        noisy_latents.to(unet.dtype), condition.masked_image_latents, condition.edit_mask_latent
    )
    tokens = condition.exemplar_token
    if guidance_scale == 1.0:
        return unet(model_input, timestep, encoder_hidden_states=tokens).sample.float()
    both = torch.cat([condition.null_exemplar.expand_as(tokens), tokens])
    noise = unet(torch.cat([model_input] * 2), timestep, encoder_hidden_states=both).sample.float()
    null_noise, exemplar_noise = noise.chunk(2)
    return guide(null_noise, exemplar_noise, guidance_scale)
