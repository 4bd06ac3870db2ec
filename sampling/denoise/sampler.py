"""The denoise loop: from noise to latents, over any of diffusers' schedulers."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor

from intarsia.architecture import NoiseConfig
from intarsia.errors import UserError
from intarsia.rng import derive_seed
from sampling.samplers import SAMPLERS
from sampling.settings import SchedulerName

PredictNoise = Callable[[Tensor, Tensor], Tensor]  # (latents, timestep) -> noise of the same shape
OnStep = Callable[[int, int], None]  # (steps done, steps in all)


@dataclass(frozen=True)
class Known:
    """The part of the latents that is known, held at every step: GLIDE's way of inpainting.

    Attributes:
        latents: [B, C, h, w], scaled, of the whole picture.
        noise: standard normal [B, C, h, w], the image's own x_T.
        cells: bool [B, 1, h, w], True where the latents are known.
    """

    latents: Tensor
    noise: Tensor
    cells: Tensor


@dataclass(frozen=True)
class StepOptions:
    """What a step may need besides the model.

    Attributes:
        eta: DDIM's share of fresh noise; other schedulers leave it alone.
        generators: one for each row, on the CPU; where the fresh noise of stochastic steps comes from.
        known: replaces its cells after every step, noised to the level that the latents then have; after the
            last one as it is.
        hold_last_only: replaces them after the last step only.
    """

    eta: float = 0.0
    generators: Sequence[torch.Generator] | None = None
    known: Known | None = None
    hold_last_only: bool = False


def new_noise_scheduler(noise: NoiseConfig, name: SchedulerName, karras: bool = False) -> Any:
    """A fresh diffusers scheduler; it holds the state of one run of `denoise`, so take a new one for each.

    Args:
        noise: noise levels of the model: its betas, its timestep spacing and what its UNet answers.
        name: a key of `SAMPLERS`.
        karras: Karras et al. 2022's spacing of the noise levels (equation 5), for those that take it.

    Raises:
        UserError: for a scheduler that does not take what the model was trained with, such as PLMS, which
            divides by the signal, and a last timestep without any.
    """
    kind = getattr(diffusers, SAMPLERS[name].scheduler)
    accepted = inspect.signature(kind).parameters
    # The model says the spacing: "leading" with an offset of 1 gives Paint by Example's timesteps, 1, 21 ...
    # 981 for 50 steps.
    levels = noise.model_dump() | {"steps_offset": 1}
    if "use_karras_sigmas" in accepted:
        levels["use_karras_sigmas"] = karras
    for option in levels.keys() - accepted.keys():
        if levels.pop(option):
            raise UserError(
                f"the scheduler {name} does not take {option}, and this model was trained with it; take the "
                "scheduler ddim"
            )
    return kind(**levels, **SAMPLERS[name].options)


def denoise(
    predict_noise: PredictNoise,
    noise_scheduler: Any,
    latents: Tensor,
    num_inference_steps: int,
    on_step: OnStep | None = None,
    options: StepOptions | None = None,
) -> Tensor:
    """Walk from noise to clean latents.

    Args:
        predict_noise: the model, conditioned and guided.
        noise_scheduler: from `new_noise_scheduler`.
        latents: x_T, standard normal, float32 [B, C, h, w].
        num_inference_steps: number of steps. PLMS asks the model once more (its second step corrects the
            first), Heun twice in each step but the last.
        on_step: called after every step of the scheduler, of which there is one for each call of the model.
        options: fresh noise, and what is known.

    Returns:
        Scaled latents [B, C, h, w], float32.
    """
    options = options or StepOptions()
    noise_scheduler.set_timesteps(num_inference_steps, device=latents.device)
    if hasattr(noise_scheduler, "set_begin_index"):  # so that add_noise goes by the step, not by the timestep
        noise_scheduler.set_begin_index(0)
    timesteps = noise_scheduler.timesteps
    extra = _step_arguments(noise_scheduler, options)
    latents = latents * noise_scheduler.init_noise_sigma
    for done, timestep in enumerate(timesteps, start=1):
        noise = predict_noise(noise_scheduler.scale_model_input(latents, timestep), timestep)
        latents = noise_scheduler.step(noise, timestep, latents, **extra).prev_sample
        if options.known and (done == len(timesteps) or not options.hold_last_only):
            latents = _held(latents, options.known, noise_scheduler, timesteps[done : done + 1])
        if on_step:
            on_step(done, len(timesteps))
    return latents


def image_noise(seed: int, shape: tuple[int, int, int], draws: int) -> Tensor:
    """Standard normal noise that belongs to one image, float32 [draws, C, h, w] on the CPU.

    It comes from the image's own seed alone, so the image is the same in any batch and on any device.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn((draws, *shape), generator=generator)


def step_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """Where the fresh noise of stochastic steps comes from: one generator for each image, by its own seed."""
    return [torch.Generator("cpu").manual_seed(derive_seed(seed, "steps")) for seed in seeds]


def _held(latents: Tensor, known: Known, noise_scheduler: Any, level: Tensor) -> Tensor:
    """`latents` with the known cells replaced; `level` is the timestep they are at, empty at the end."""
    clean = len(level) == 0
    noised = known.latents if clean else noise_scheduler.add_noise(known.latents, known.noise, level)
    return torch.where(known.cells, noised, latents)


def _step_arguments(noise_scheduler: Any, options: StepOptions) -> dict[str, Any]:
    """What this scheduler's `step` takes of our options; they differ."""
    offered = {"eta": options.eta, "generator": list(options.generators) if options.generators else None}
    accepted = inspect.signature(noise_scheduler.step).parameters
    return {name: value for name, value in offered.items() if name in accepted}
