"""Guidance by a noised encoder: each step goes towards latents in which it finds the exemplar."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from intarsia.conditions.noised import NoisedEncoder, read_noised
from intarsia.errors import UsageError, UserError
from intarsia.model import EditModel
from intarsia.model_folder import frozen_hash
from sampling.denoise.sampler import PredictNoise
from sampling.settings import EditSettings


@dataclass(frozen=True)
class ClipGuidance:
    """What guidance by a noised encoder needs for a batch.

    Attributes:
        encoder: noised encoder; it computes in its own dtype.
        scale: W; 1 is the step of Bayes' rule.
        channels: channels of the condition after the noisy latents, [B, K, h, w].
        features: features of the exemplars from the frozen tower.
        told: rows with an exemplar, bool [B]; the others are not guided.
    """

    encoder: NoisedEncoder
    scale: float
    channels: Tensor
    features: Tensor
    told: Tensor

    def gradient(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """∇ log p(exemplar | latents, timestep), float32 [B, C, h, w]; 0 in rows without an exemplar."""
        dtype = self.encoder.places.dtype
        timesteps = timestep.expand(len(latents)).to(latents.device)
        known = self.encoder.know(self.features.to(dtype))
        with torch.enable_grad():
            noisy = latents.detach().requires_grad_()
            seen = self.encoder.see(noisy.to(dtype), timesteps, self.channels.to(dtype))
            logits = self.encoder.scale * (seen * known).sum(dim=-1)
            [gradient] = torch.autograd.grad(logits[self.told].sum(), noisy)
        return gradient.float()


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


def attach_noised(model: EditModel, folder: Path) -> None:
    """Give a model the noised encoder of a folder, in float32 on the model's device.

    Raises:
        UsageError: for a model in float16, whose weights cannot be compared with those of the training.
        UserError: as `intarsia.conditions.noised.read_noised`.
    """
    if model.unet.dtype == torch.float16:
        raise UsageError("--noised-clip works with --dtype float32 or bfloat16, not with float16")
    model.noised = read_noised(folder, model.config, frozen_hash(model)).to(model.unet.device)
