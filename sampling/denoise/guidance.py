"""Classifier-free guidance: away from the prediction without an exemplar, towards the one with it."""

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
    """The UNet as the denoise loop wants it: (latents, timestep) -> guided noise.

    Args:
        unet: the UNet.
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

    Both branches are in one batch and share what comes before the UNet's first look at the tokens. Where the
    scale is 1 the branch without exemplar cancels out and is not computed.

    Args:
        unet: the UNet.
        noisy_latents: [B, C, h, w], float32.
        timestep: scalar.
        condition: what is painted where.
        guidance_scale: w, one for all or one for each row.
    """
    latents, count = noisy_latents.to(unet.dtype), len(noisy_latents)
    each = guidance_scale if isinstance(guidance_scale, Sequence) else [guidance_scale] * count
    guided = [row for row, scale in enumerate(each) if scale != 1.0]
    if not guided:
        return condition.predict(unet, latents, timestep).float()
    rows = torch.tensor([*guided, *range(count)], device=latents.device)
    some = rows[:-count]
    both = stack_rows(condition.null_rows(some), condition)
    with shared_beginning(unet, rows, count):
        noise = both.predict(unet, latents[rows], timestep).float()
    null_noise, exemplar_noise = noise[:-count], noise[-count:]
    scales = noise.new_tensor([each[row] for row in guided])[:, None, None, None]
    return exemplar_noise.index_copy(0, some, guide(null_noise, exemplar_noise[some], scales))
