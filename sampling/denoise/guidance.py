"""Classifier-free guidance: combine the predictions with and without what the UNet is told."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from intarsia.conditions.condition import Condition, stack_rows
from sampling.denoise.shared_beginning import shared_beginning


def guide(null_noise: Tensor, exemplar_noise: Tensor, guidance_scale: float | Tensor) -> Tensor:
    """eps_null + w (eps_exemplar - eps_null), equation 6 of Ho & Salimans 2022 with w = their w + 1."""
    return null_noise + guidance_scale * (exemplar_noise - null_noise)


def branches(scales: Sequence[float]) -> dict[int, float]:
    """The branches of guidance that one picture needs.

    With parts p1 … pn and their scales w1 … wn, guidance is e(nothing) + w1 (e(p1) - e(nothing)) + … +
    wn (e(p1 … pn) - e(p1 … pn-1)), as in InstructPix2Pix (Brooks et al. 2023, equation 3): each part is added
    to those before it. A branch whose factor is zero is left out: the one with k parts if w(k) = w(k+1),
    where w(0) = 1.

    Args:
        scales: guidance scale of each part.

    Returns:
        Number of parts that are told -> scale of the difference to the branch before, in order. The first
        branch has no difference; the last one tells all parts.
    """
    steps = [1.0, *scales]
    last = len(scales)
    return {told: scale for told, scale in enumerate(steps) if told == last or scale != steps[told + 1]}


def guided_model(
    unet: UNet2DConditionModel,
    condition: Condition,
    guidance_scale: Sequence[float | Sequence[float]],
    interval: tuple[float, float] = (0.0, 1.0),
    num_train_timesteps: int = 1000,
) -> Callable[[Tensor, Tensor], Tensor]:
    """The UNet as a function for the denoise loop: (latents, timestep) -> guided noise.

    Args:
        unet: denoising network.
        condition: condition of the batch.
        guidance_scale: guidance scale w of each row, or scales of each row's parts.
        interval: range of timestep / num_train_timesteps with guidance (Kynkäänniemi et al. 2024); outside,
            all scales are 1, and only the branch that tells everything is computed.
        num_train_timesteps: number of the model's training timesteps.
    """

    def predict_noise(latents: Tensor, timestep: Tensor) -> Tensor:
        inside = interval[0] <= float(timestep) / num_train_timesteps <= interval[1]
        return guided_noise(unet, latents, timestep, condition, guidance_scale if inside else 1.0)

    return predict_noise


def guided_noise(
    unet: UNet2DConditionModel,
    noisy_latents: Tensor,
    timestep: Tensor,
    condition: Condition,
    guidance_scale: float | Sequence[float | Sequence[float]],
) -> Tensor:
    """The UNet's guided prediction (noise, or velocity) for `noisy_latents`; float32 [B, C, h, w].

    All branches are in one batch and share the layers before the UNet's first cross-attention. Branches that
    cancel out are not computed: with scales of 1 only the one that tells everything is.

    Args:
        unet: denoising network.
        noisy_latents: noisy latents, float32 [B, C, h, w].
        timestep: timestep, scalar.
        condition: condition of the batch.
        guidance_scale: guidance scale w of all rows, of each row, or of each row's parts (`branches`).
    """
    latents, count = noisy_latents.to(unet.dtype), len(noisy_latents)
    names = [part.name for part in condition.parts]
    each = guidance_scale if isinstance(guidance_scale, Sequence) else [guidance_scale] * count
    needed = [branches(s if isinstance(s, Sequence) else [s] * len(names)) for s in each]
    # The batch is: for each number of told parts the rows that need that branch, then all rows, told all.
    groups = {told: [row for row in range(count) if told in needed[row]] for told in range(len(names))}
    groups = {told: group for told, group in groups.items() if group}
    if not groups:
        return condition.predict(unet, latents, timestep).float()
    rows = torch.tensor([*chain(*groups.values()), *range(count)], device=latents.device)
    parts = rows.split([*map(len, groups.values()), count])
    told_less = [condition.select(own, names[:told]) for told, own in zip(groups, parts, strict=False)]
    with shared_beginning(unet, rows, count):
        together = stack_rows(*told_less, condition)
        noise = together.predict(unet, latents[rows], timestep).float()
    order = [(told, row) for told, group in groups.items() for row in group]
    order += [(len(names), row) for row in range(count)]
    answers = dict(zip(order, noise, strict=True))
    return torch.stack([_combined(row, needed[row], answers) for row in range(count)])


def _combined(row: int, needed: dict[int, float], answers: Mapping[tuple[int, int], Tensor]) -> Tensor:
    """The guided noise of a row from its branches' answers, by number of told parts and row."""
    (first, _), *others = needed.items()
    guided = before = answers[first, row]
    for told, scale in others:
        answer = answers[told, row]
        guided, before = guided + scale * (answer - before), answer
    return guided
