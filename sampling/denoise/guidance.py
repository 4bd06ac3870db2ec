"""Classifier-free guidance: combine the predictions with and without the exemplar."""

from collections.abc import Callable, Sequence

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from intarsia.conditions.condition import Condition, stack_rows
from sampling.denoise.shared_beginning import shared_beginning


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
    """The UNet as a function for the denoise loop: (latents, timestep) -> guided noise.

    Args:
        unet: denoising network.
        condition: condition of the batch.
        guidance_scale: guidance scale w of each row.
        interval: range of timestep / num_train_timesteps with guidance (Kynkäänniemi et al. 2024); outside,
            the scale is 1, and the branch without exemplar is not computed.
        num_train_timesteps: number of the model's training timesteps.
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
    """The UNet's guided prediction (noise, or velocity) for `noisy_latents`; float32 [B, C, h, w].

    Both branches are in one batch and share the layers before the UNet's first cross-attention. In rows with
    scale 1 the branch without exemplar cancels out and is not computed.

    Args:
        unet: denoising network.
        noisy_latents: noisy latents, float32 [B, C, h, w].
        timestep: timestep, scalar.
        condition: condition of the batch.
        guidance_scale: guidance scale w, one for all rows or one per row.
    """
    latents, count = noisy_latents.to(unet.dtype), len(noisy_latents)
    each = guidance_scale if isinstance(guidance_scale, Sequence) else [guidance_scale] * count
    guided = [row for row, scale in enumerate(each) if scale != 1.0]
    if not guided:
        return condition.predict(unet, latents, timestep).float()
    # The batch is: guided rows with null tokens, then all rows with their own tokens.
    rows = torch.tensor([*guided, *range(count)], device=latents.device)
    some = rows[:-count]
    both = stack_rows(condition.null_rows(some), condition)
    with shared_beginning(unet, rows, count):
        noise = both.predict(unet, latents[rows], timestep).float()
    null_noise, exemplar_noise = noise[:-count], noise[-count:]
    scales = noise.new_tensor([each[row] for row in guided])[:, None, None, None]
    return exemplar_noise.index_copy(0, some, guide(null_noise, exemplar_noise[some], scales))
