"""Edit from the picture instead of noise, with five methods to find latents that lead back to the picture.

The source condition is the tokens of the picture's own object under the mask, as in training; the target
condition is the exemplar's tokens. Hole and mask are the same for both. All functions work on latents and a
`Denoiser`, a function that predicts the noise for given tokens.

Place 0 has the picture's latents, place n (num_inference_steps) latents that are almost only noise. The
source branch should return to the picture; the target branch, computed in parallel, becomes the edit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from intarsia.architecture import NoiseConfig
from sampling.denoise.guidance import guide
from sampling.denoise.sampler import new_noise_scheduler
from sampling.settings import InversionSettings

# (latents [B, C, h, w], timestep, tokens [B, n, D]) -> noise [B, C, h, w], float32
Denoiser = Callable[[Tensor, int, Tensor], Tensor]
Tidy = Callable[[Tensor], Tensor]  # predicted noise -> noise more like white noise
StepRule = Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Levels:
    """The noise levels of inversion and sampling.

    Attributes:
        timesteps: n increasing timesteps; place i + 1 has timesteps[i].
        signal: decreasing values of ā at the places 0 … n.
    """

    timesteps: tuple[int, ...]
    signal: tuple[float, ...]

    @property
    def steps(self) -> int:
        """Number of steps n."""
        return len(self.timesteps)


@dataclass(frozen=True)
class Tokens:
    """What the UNet is given for each branch, [1, n, D] each.

    Attributes:
        source: tokens of the picture as it is: its object's, or its prompt's.
        target: tokens of the edit.
        null: tokens that describe nothing.
        target_null: tokens in place of `null` for the edit alone: a negative prompt; None = `null`.
    """

    source: Tensor
    target: Tensor
    null: Tensor
    target_null: Tensor | None = None


@dataclass(frozen=True)
class Inverted:
    """Latents [B, C, h, w] at place 0: the end of the source branch, and the edit."""

    reconstruction: Tensor
    edit: Tensor


@dataclass(frozen=True)
class SourceBranch:
    """The source branch from `start` down to place 0, and the step that the target branch uses.

    Attributes:
        latents: latents at each place from `start` down to 0.
        step: function (latents, guided noise, place) -> latents one place below.
        nulls: null tokens for the step down from each place, if they are not the model's.
    """

    latents: Mapping[int, Tensor]
    step: StepRule
    nulls: Mapping[int, Tensor] = field(default_factory=dict)


def new_levels(noise: NoiseConfig, num_inference_steps: int, steps_offset: int = 1) -> Levels:
    """DDIM's levels; place 0 has that of training step 0, as diffusers with `set_alpha_to_one=False`.

    Args:
        noise: noise levels of the model.
        num_inference_steps: number of steps n.
        steps_offset: lowest timestep, 0 or 1. With 0, places 0 and 1 have the same level, so that n steps do
            the work of n - 1.
    """
    scheduler = new_noise_scheduler(noise, "ddim")
    scheduler.register_to_config(steps_offset=steps_offset)
    scheduler.set_timesteps(num_inference_steps)
    timesteps = tuple(sorted(int(timestep) for timestep in scheduler.timesteps))
    return Levels(timesteps, tuple(float(scheduler.alphas_cumprod[t]) for t in (0, *timesteps)))


def invert(
    denoiser: Denoiser,
    latents: Tensor,
    tokens: Tokens,
    settings: InversionSettings,
    levels: Levels,
    keep: Tensor | None = None,
    noise: Tensor | None = None,
) -> Inverted:
    """Reconstruct a picture's latents and edit them.

    Args:
        denoiser: function that predicts the noise; only null-condition optimisation needs its gradient.
        latents: scaled latents of the picture, float32 [B, C, h, w].
        tokens: tokens of source, target and no exemplar.
        settings: method and its settings.
        levels: noise levels from `new_levels`.
        keep: mask [B, 1, h, w], 1 = keep; after every step the source branch's latents replace the edit's
            there. None = no replacement.
        noise: standard normal noise [n, B, C, h, w] for the method "ddpm"; the others need none.
    """
    with torch.no_grad():
        source = find_source(denoiser, latents, tokens, settings, levels, noise)
        start = settings.start(levels.steps)
        edit = source.latents[start]
        for place in range(start, 0, -1):
            pair = (source.nulls.get(place, tokens.null), tokens.target)
            guided = _guided(denoiser, edit, levels.timesteps[place - 1], pair, settings.guidance_scale)
            edit = source.step(edit, guided, place)
            if keep is not None:
                edit = keep * source.latents[place - 1] + (1 - keep) * edit
    return Inverted(source.latents[0], edit)


def find_source(
    denoiser: Denoiser,
    latents: Tensor,
    tokens: Tokens,
    settings: InversionSettings,
    levels: Levels,
    noise: Tensor | None = None,
    tidy: Tidy | None = None,
) -> SourceBranch:
    """The source branch of `settings.method`; the arguments are those of `invert`."""
    if settings.inversion == "ddpm":
        assert noise is not None, "ddpm inversion needs noise"
        return _ddpm(denoiser, latents, tokens, settings, levels, noise)
    upwards = ddim_inversion(denoiser, latents, tokens.source, levels, tidy)

    def step(latents: Tensor, noise: Tensor, place: int) -> Tensor:
        return move(latents, noise, levels.signal[place], levels.signal[place - 1])

    start = settings.start(levels.steps)
    if settings.inversion == "null-condition":
        return _null_condition(denoiser, upwards[: start + 1], tokens, settings, levels, step)
    offset = settings.offset_scale if settings.inversion == "direct" else 0.0
    if offset == 1.0:  # adding the whole difference gives the inversion's latents, except for rounding
        return SourceBranch(dict(enumerate(upwards[: start + 1])), step)
    # If the null tokens are the condition's own, guidance cancels out at every scale.
    negative = settings.inversion == "negative-condition"
    scale = 1.0 if negative else settings.guidance_scale
    downwards = {start: upwards[start]}
    for place in range(start, 0, -1):
        pair = (tokens.null, tokens.source)
        guided = _guided(denoiser, downwards[place], levels.timesteps[place - 1], pair, scale)
        arrived = step(downwards[place], guided, place)
        downwards[place - 1] = arrived + offset * (upwards[place - 1] - arrived)
    return SourceBranch(downwards, step, dict.fromkeys(downwards, tokens.source) if negative else {})


def ddim_inversion(
    denoiser: Denoiser, latents: Tensor, token: Tensor, levels: Levels, tidy: Tidy | None = None
) -> list[Tensor]:
    """The latents at the places 0 … n from the picture to noise, unguided.

    The step between two places uses the noise that the model predicts from the less noisy latents at the
    noisier place's timestep, as diffusers' `DDIMInverseScheduler` does.
    """
    upwards = [latents]
    for place, timestep in enumerate(levels.timesteps):
        noise = denoiser(upwards[-1], timestep, token.expand(len(latents), -1, -1))
        noise = tidy(noise) if tidy else noise
        upwards.append(move(upwards[-1], noise, levels.signal[place], levels.signal[place + 1]))
    return upwards


def move(latents: Tensor, noise: Tensor, signal: float, to: float) -> Tensor:
    """DDIM's step from one ā to another, in either direction (equation 12 of Song et al. 2021, σ = 0)."""
    clean = (latents - (1 - signal) ** 0.5 * noise) / signal**0.5
    return to**0.5 * clean + (1 - to) ** 0.5 * noise


def most_calls(settings: InversionSettings) -> int:
    """The largest number of denoiser calls in `invert`; the null optimisation may stop earlier."""
    steps = settings.num_inference_steps
    start = settings.start(steps)
    up = 0 if settings.inversion == "ddpm" else steps
    down = start * (2 + settings.inner_steps if settings.inversion == "null-condition" else 1)
    stored = settings.inversion == "direct" and settings.offset_scale == 1.0
    return up + (0 if stored else down) + start


def _null_condition(
    denoiser: Denoiser,
    upwards: Sequence[Tensor],
    tokens: Tokens,
    settings: InversionSettings,
    levels: Levels,
    step: StepRule,
) -> SourceBranch:
    """Optimise the null tokens of each place so that the guided source branch follows the inversion.

    This is the counterpart of null-text inversion (Mokady et al. 2023).

    At each place, Adam starts from the tokens of the previous place. Its learning rate decreases linearly
    from 1e-2 to 5e-3, and it stops early at a mean squared error of 1e-5 + 2e-5 · (places done).
    """
    start = len(upwards) - 1
    null = tokens.null
    downwards, nulls = {start: upwards[start]}, {}
    for done, place in enumerate(range(start, 0, -1)):
        timestep, here, wanted = levels.timesteps[place - 1], downwards[place], upwards[place - 1]
        with_source = denoiser(here, timestep, tokens.source.expand(len(here), -1, -1))

        def arrive(null: Tensor) -> Tensor:
            without = denoiser(here, timestep, null.expand(len(here), -1, -1))  # noqa: B023
            return step(here, guide(without, with_source, settings.guidance_scale), place)  # noqa: B023

        null = null.detach().clone().requires_grad_()
        adam = torch.optim.Adam([null], lr=1e-2 * (1 - done / (2 * start)))
        for _ in range(settings.inner_steps):
            with torch.enable_grad():
                loss = F.mse_loss(arrive(null), wanted)
                (null.grad,) = torch.autograd.grad(loss, [null])
            adam.step()
            if loss.item() < 1e-5 + done * 2e-5:
                break
        nulls[place] = null.detach()
        downwards[place - 1] = arrive(nulls[place])
    return SourceBranch(downwards, step, nulls)


def _ddpm(
    denoiser: Denoiser,
    latents: Tensor,
    tokens: Tokens,
    settings: InversionSettings,
    levels: Levels,
    noise: Tensor,
) -> SourceBranch:
    """Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2024).

    Noisy latents are drawn independently for each place, and the noise of each step is computed from two
    neighbours: z = (x_below − μ(x)) / σ. Then x_below = μ(x) + σ z is computed again, so that rounding errors
    do not accumulate. The last step's noise is kept.
    """
    start = settings.start(levels.steps)
    places = {0: latents}
    for place in range(1, start + 1):
        signal = levels.signal[place]
        places[place] = signal**0.5 * latents + (1 - signal) ** 0.5 * noise[place - 1]
    steps_noise: dict[int, Tensor] = {}

    def mean(latents: Tensor, noise: Tensor, place: int) -> tuple[Tensor, float]:
        """μ and σ of the step down from `place` at η = 1 (equations 12 and 16 of Song et al. 2021)."""
        signal, to = levels.signal[place], levels.signal[place - 1]
        variance = (1 - to) / (1 - signal) * (1 - signal / to)
        clean = (latents - (1 - signal) ** 0.5 * noise) / signal**0.5
        return to**0.5 * clean + (1 - to - variance) ** 0.5 * noise, variance**0.5

    for place in range(start, 0, -1):
        predicted = denoiser(
            places[place], levels.timesteps[place - 1], tokens.source.expand(len(latents), -1, -1)
        )
        centre, deviation = mean(places[place], predicted, place)
        steps_noise[place] = (places[place - 1] - centre) / deviation
        places[place - 1] = centre + deviation * steps_noise[place]

    def step(latents: Tensor, noise: Tensor, place: int) -> Tensor:
        centre, deviation = mean(latents, noise, place)
        return centre + deviation * steps_noise[place]

    return SourceBranch(places, step)


def _guided(
    denoiser: Denoiser, latents: Tensor, timestep: int, tokens: tuple[Tensor, Tensor], scale: float
) -> Tensor:
    """Guided noise for (null, condition) tokens, both branches in one call."""
    null, condition = (token.expand(len(latents), -1, -1) for token in tokens)
    if scale == 1.0:
        return denoiser(latents, timestep, condition)
    both = denoiser(torch.cat([latents, latents]), timestep, torch.cat([null, condition]))
    null_noise, exemplar_noise = both.chunk(2)
    return guide(null_noise, exemplar_noise, scale)
