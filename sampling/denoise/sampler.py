"""The denoise loop, from noise to latents, with several of diffusers' schedulers."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
    """The known part of the latents, which replaces the sampled values at every step (GLIDE's inpainting).

    Attributes:
        latents: scaled latents of the whole picture, [B, C, h, w].
        noise: standard normal noise, the image's own x_T, [B, C, h, w].
        cells: mask of the known latents, bool [B, 1, h, w], True = known.
    """

    latents: Tensor
    noise: Tensor
    cells: Tensor


@dataclass(frozen=True)
class StepOptions:
    """Options of the steps.

    Attributes:
        eta: DDIM's share of fresh noise; other schedulers ignore it.
        generators: random generators of the fresh noise of stochastic steps, one per row, on the CPU.
        known: known latents; their cells replace the sampled ones after every step, with noise of the current
            level, and without noise after the last step.
        hold_last_only: whether to replace the cells after the last step only.
        resample: number of times that each step but the last is made (RePaint, Lugmayr et al. 2022, algorithm
            1): between two of them, noise takes the latents back to the step's level. Only for schedulers
            with `Sampler.repeats`, with known latents and generators.
    """

    eta: float = 0.0
    generators: Sequence[torch.Generator] | None = None
    known: Known | None = None
    hold_last_only: bool = False
    resample: int = 1


def new_noise_scheduler(noise: NoiseConfig, name: SchedulerName, karras: bool = False) -> Any:
    """A new diffusers scheduler; it has the state of one run of `denoise`, so make a new one for each run.

    Args:
        noise: noise levels of the model, with its timestep spacing and prediction type.
        name: scheduler name, a key of `SAMPLERS`.
        karras: whether to use Karras et al. 2022's spacing of the noise levels (equation 5), if the scheduler
            supports it.

    Raises:
        UserError: for a scheduler that does not support an option of the model. For example, PLMS divides by
            the signal and cannot start at a timestep without signal.
    """
    kind = getattr(diffusers, SAMPLERS[name].scheduler)
    accepted = inspect.signature(kind).parameters
    # The spacing comes from the model: "leading" with an offset of 1 gives Paint by Example's timesteps,
    # 1, 21 ... 981 for 50 steps.
    levels = noise.model_dump() | {"steps_offset": 1}
    if "use_karras_sigmas" in accepted:
        levels["use_karras_sigmas"] = karras
    for option in levels.keys() - accepted.keys():
        if levels.pop(option):
            raise UserError(
                f"the scheduler {name} does not support {option}, but this model was trained with it; "
                "use the scheduler ddim"
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
    """Denoise from pure noise to clean latents.

    Args:
        predict_noise: function (latents, timestep) -> conditioned and guided noise.
        noise_scheduler: scheduler from `new_noise_scheduler`.
        latents: start x_T, standard normal, float32 [B, C, h, w].
        num_inference_steps: number of steps. PLMS calls the model once more (its second step corrects the
            first), Heun twice per step except the last.
        on_step: function called after every step of the scheduler, one per call of the model.
        options: options of the steps: fresh noise and known latents.

    Returns:
        Scaled latents, float32 [B, C, h, w].
    """
    options = options or StepOptions()
    noise_scheduler.set_timesteps(num_inference_steps, device=latents.device)
    if hasattr(noise_scheduler, "set_begin_index"):  # add_noise then uses the step, not the timestep
        noise_scheduler.set_begin_index(0)
    timesteps = noise_scheduler.timesteps
    extra = _step_arguments(noise_scheduler, options)
    latents = latents * noise_scheduler.init_noise_sigma
    plan = [number for number in range(len(timesteps) - 1) for _ in range(options.resample)]
    plan.append(len(timesteps) - 1)
    for done, number in enumerate(plan, start=1):
        timestep, after = timesteps[number], timesteps[number + 1 : number + 2]
        noise = predict_noise(noise_scheduler.scale_model_input(latents, timestep), timestep)
        latents = noise_scheduler.step(noise, timestep, latents, **extra).prev_sample
        if options.known and (len(after) == 0 or not options.hold_last_only):
            known = options.known
            if options.resample > 1:  # as in RePaint
                known = replace(known, noise=_fresh(latents, options.generators or ()))
            latents = _held(latents, known, noise_scheduler, after)
        if on_step:
            on_step(done, len(plan))
        if plan[done : done + 1] == [number]:
            latents = _noised_again(latents, noise_scheduler, after[0], timestep, options.generators or ())
    return latents


def image_noise(seed: int, shape: tuple[int, int, int], draws: int) -> Tensor:
    """Standard normal noise of one image, float32 [draws, C, h, w] on the CPU.

    It depends only on the image's own seed, so the image is the same in any batch and on any device.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn((draws, *shape), generator=generator)


def step_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """Random generators of the fresh noise of stochastic steps, one per image, from the image's seed."""
    return [torch.Generator("cpu").manual_seed(derive_seed(seed, "steps")) for seed in seeds]


def _held(latents: Tensor, known: Known, noise_scheduler: Any, level: Tensor) -> Tensor:
    """`latents` with the known cells replaced; `level` is their timestep, or empty after the last step."""
    clean = len(level) == 0
    noised = known.latents if clean else noise_scheduler.add_noise(known.latents, known.noise, level)
    return torch.where(known.cells, noised, latents)


def _noised_again(
    latents: Tensor, noise_scheduler: Any, low: Tensor, high: Tensor, generators: Sequence[torch.Generator]
) -> Tensor:
    """Latents at timestep `low` with the fresh noise that takes them to `high`."""
    levels = noise_scheduler.alphas_cumprod.to(latents.device)
    kept = levels[high.long()] / levels[low.long()]
    return kept.sqrt() * latents + (1 - kept).sqrt() * _fresh(latents, generators)


def _fresh(latents: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise of the latents' shape, each row from its own generator."""
    rows = [torch.randn(latents.shape[1:], generator=generator) for generator in generators]
    return torch.stack(rows).to(latents)


def _step_arguments(noise_scheduler: Any, options: StepOptions) -> dict[str, Any]:
    """Those of our options that this scheduler's `step` accepts."""
    offered = {"eta": options.eta, "generator": list(options.generators) if options.generators else None}
    accepted = inspect.signature(noise_scheduler.step).parameters
    return {name: value for name, value in offered.items() if name in accepted}
