"""Guidance by a noised encoder: each step goes towards latents in which it finds exemplar or prompt."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from intarsia.conditions.noised import NoisedEncoder
from intarsia.errors import UserError
from intarsia.model import EditModel
from sampling.denoise.condition import Encoder
from sampling.denoise.sampler import PredictNoise
from sampling.settings import EditSettings


class Wanted(NamedTuple):
    """What a batch is guided towards.

    Attributes:
        part: exemplar or text, one of the encoder's parts.
        features: features of the exemplars, or vectors of the prompts, from the frozen tower.
        told: rows that have one, bool [B]; the others are not guided by it.
    """

    part: str
    features: Tensor
    told: Tensor


@dataclass(frozen=True)
class ClipGuidance:
    """What guidance by a noised encoder needs for a batch.

    Attributes:
        encoder: noised encoder; it computes in its own dtype.
        scale: W; 1 is the step of Bayes' rule.
        channels: channels of the condition after the noisy latents, [B, K, h, w].
        wanted: exemplars, prompts, or both. The gradients of both are added, which is Bayes' rule where the
            two say different things.
    """

    encoder: NoisedEncoder
    scale: float
    channels: Tensor
    wanted: Sequence[Wanted]

    def gradient(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """∇ log p(wanted | latents, timestep), float32 [B, C, h, w]; 0 in rows that want nothing."""
        dtype = self.encoder.places.dtype
        timesteps = timestep.expand(len(latents)).to(latents.device)
        with torch.enable_grad():
            noisy = latents.detach().requires_grad_()
            seen = self.encoder.see(noisy.to(dtype), timesteps, self.channels.to(dtype))
            found = []
            for part, features, told in self.wanted:
                known = self.encoder.know(features.to(dtype), part)
                logits = self.encoder.scale(part) * (seen * known).sum(dim=-1)
                found.append(logits[told].sum())
            [gradient] = torch.autograd.grad(sum(found[1:], found[0]), noisy)
        return gradient.float()


def clip_guidance(
    encoder: Encoder,
    exemplars: Sequence[Tensor | None],
    prompts: Sequence[str],
    channels: Tensor,
    scale: float,
) -> ClipGuidance | None:
    """Guidance by the model's noised encoder; None without it, or where nothing is told that it knows.

    Args:
        encoder: encoder of the model.
        exemplars: exemplars, uint8 [224, 224, 3], CPU; None where there is none.
        prompts: prompts; "" where there is none.
        channels: channels of the condition, [B, K, h, w].
        scale: W.
    """
    noised, wanted = encoder.model.noised, []
    for part in noised.parts if noised is not None and scale else ():
        told = [one is not None for one in exemplars] if part == "exemplar" else list(map(bool, prompts))
        if any(told):
            features = encoder.features(exemplars) if part == "exemplar" else encoder.pooled(prompts)
            wanted.append(Wanted(part, features, torch.tensor(told, device=encoder.device)))
    if noised is None or not wanted:
        return None
    return ClipGuidance(noised.to(encoder.device), scale, channels, wanted)


def remarks_on_guidance(
    model: EditModel, has_exemplar: bool, prompt: str, settings: EditSettings
) -> Iterator[str]:
    """Says that an edit was not guided, because it has nothing that the noised encoder compares with."""
    if model.noised is None or not settings.clip_guidance:
        return
    told = {"exemplar": has_exemplar, "text": bool(prompt)}
    if not any(told[part] for part in model.noised.parts):
        wanted = "an exemplar" if "exemplar" in model.noised.parts else "a prompt"
        yield (
            f"clip_guidance={settings.clip_guidance:g} had no effect: the noised encoder compares with "
            f"{wanted}, which this edit does not have"
        )


def guided_by_clip(
    predict: PredictNoise, guidance: ClipGuidance, levels: Tensor, velocity: bool
) -> PredictNoise:
    """A prediction that is also guided by a noised encoder.

    Noise ε becomes ε − W √(1 − ā) g, equation 14 of Dhariwal & Nichol 2021 with the gradient g; velocity v
    becomes v − W √((1 − ā) / ā) g, which is the same step. Where no signal is left (ā = 0) there is nothing
    to find, and velocity would have no value: the prediction stays as it is.

    Args:
        predict: prediction to guide.
        guidance: encoder, scale and exemplars.
        levels: ā of each training timestep.
        velocity: whether velocity is predicted, not noise.
    """

    def guided(latents: Tensor, timestep: Tensor) -> Tensor:
        prediction = predict(latents, timestep)
        kept = float(levels[int(timestep.round())])
        if kept <= 0.0:
            return prediction
        factor = ((1.0 - kept) / (kept if velocity else 1.0)) ** 0.5
        return prediction - guidance.scale * factor * guidance.gradient(latents, timestep)

    return guided


def check_clip_guidance(model: EditModel, settings: EditSettings) -> None:
    """Refuse guidance by a noised encoder for a model without one.

    Raises:
        UserError: with the option to add.
    """
    if settings.clip_guidance and model.noised is None:
        raise UserError(
            f"clip_guidance={settings.clip_guidance:g} needs a noised encoder; give its folder, --noised-clip"
        )
