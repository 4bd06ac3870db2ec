"""The denoise loop: from noise to latents, over any of diffusers' schedulers."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDIMScheduler, PNDMScheduler
from torch import Tensor

from intarsia.architecture import NoiseConfig
from intarsia.errors import UserError
from sampling.settings import SchedulerName

PredictNoise = Callable[[Tensor, Tensor], Tensor]  # (latents, timestep) -> noise of the same shape
OnStep = Callable[[int, int], None]  # (steps done, steps in all)

# The model says the spacing: "leading" with an offset of 1 gives Paint by Example's timesteps, 1, 21 ... 981
# for 50 steps. Alpha at the last step is the first training step's, not 1. PLMS is diffusers' PNDM without
# its Runge-Kutta start.
_SPACING = {"steps_offset": 1, "set_alpha_to_one": False}
_SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "plms": (PNDMScheduler, {"skip_prk_steps": True, **_SPACING}),
    "ddim": (DDIMScheduler, {"clip_sample": False, **_SPACING}),
}


def new_noise_scheduler(noise: NoiseConfig, name: SchedulerName) -> Any:
    """A fresh diffusers scheduler; it holds the state of one run of `denoise`, so take a new one for each.

    Args:
        noise: the model's; its betas, its timestep spacing and what its UNet answers.
        name: of the scheduler.

    Raises:
        UserError: for PLMS where the last timestep holds no signal: it divides by that signal.
    """
    scheduler, options = _SCHEDULERS[name]
    levels = noise.model_dump()
    if scheduler is PNDMScheduler and levels.pop("rescale_betas_zero_snr"):
        raise UserError(
            "the scheduler plms cannot start where no signal is left, and this model was trained with "
            "rescale_betas_zero_snr; take the scheduler ddim"
        )
    return scheduler(**levels, **options)


def denoise(
    predict_noise: PredictNoise,
    noise_scheduler: Any,
    latents: Tensor,
    num_inference_steps: int,
    on_step: OnStep | None = None,
) -> Tensor:
    """Walk from noise to clean latents.

    Args:
        predict_noise: the model, conditioned and guided.
        noise_scheduler: from `new_noise_scheduler`; deterministic (DDIM's eta is 0).
        latents: x_T, standard normal, float32 [B, C, h, w].
        num_inference_steps: PLMS asks the model once more than this (its second step corrects the first).
        on_step: called after every step.

    Returns:
        Scaled latents [B, C, h, w], float32.
    """
    noise_scheduler.set_timesteps(num_inference_steps, device=latents.device)
    timesteps = noise_scheduler.timesteps
    latents = latents * noise_scheduler.init_noise_sigma
    for done, timestep in enumerate(timesteps, start=1):
        noise = predict_noise(noise_scheduler.scale_model_input(latents, timestep), timestep)
        latents = noise_scheduler.step(noise, timestep, latents).prev_sample
        if on_step:
            on_step(done, len(timesteps))
    return latents


def image_noise(seed: int, shape: tuple[int, int, int], draws: int) -> Tensor:
    """Standard normal noise that belongs to one image, float32 [draws, C, h, w] on the CPU.

    It comes from the image's own seed alone, so the image is the same in any batch and on any device.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn((draws, *shape), generator=generator)
