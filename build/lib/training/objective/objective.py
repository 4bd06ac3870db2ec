"""What is learned: to see the noise added to a picture's latents, given its surroundings and an exemplar.

Paint by Example's objective, with one draw of timestep, noise and exemplar dropout per sample.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor, nn

from intarsia.architecture import ModelConfig, NoiseConfig
from intarsia.conditioning import unet_input
from intarsia.model import EditModel
from intarsia.rng import derive_seed
from training.config import ObjectiveConfig, TrainConfig
from training.data.batches import Batch
from training.objective.encode import encode_batch
from training.objective.weighting import error_weight


@dataclass(frozen=True)
class Draws:
    """Every random choice of a micro-batch.

    Attributes:
        timesteps: int64 [B], uniform over the training timesteps.
        dropped: bool [B], whether the null exemplar stands in for the exemplar.
        noise: float32 [B, C, h, w], standard normal: what is added and to be predicted.
        image_noise, masked_noise: the same shape; they sample the autoencoder's posteriors.
    """

    timesteps: Tensor
    dropped: Tensor
    noise: Tensor
    image_noise: Tensor
    masked_noise: Tensor


@dataclass(frozen=True)
class Step:
    """What the trained part gets, and what it should answer.

    Attributes:
        unet_input: [B, 2C + 1, h, w].
        timesteps: int64 [B].
        pooled: [B, width], CLIP's vector of the exemplar.
        dropped: bool [B].
        target: float32 [B, C, h, w]: the noise, or the velocity √ā_t · noise − √(1 − ā_t) · z.
        weight: float32 [B, 1, h, w] or [B, 1, 1, 1], how much each squared error counts; None = once.
    """

    unet_input: Tensor
    timesteps: Tensor
    pooled: Tensor
    dropped: Tensor
    target: Tensor
    weight: Tensor | None = None


class Trainee(nn.Module):
    """The trained part, as one module, so that DeepSpeed's hooks see every trained weight."""

    def __init__(self, model: EditModel) -> None:
        super().__init__()
        self.unet = model.unet
        self.exemplar_encoder = model.exemplar_encoder

    def forward(self, step: Step) -> Tensor:
        """The predicted noise [B, C, h, w]."""
        tokens = self.exemplar_encoder(step.pooled)
        null = self.exemplar_encoder.null_exemplar.to(tokens.dtype)
        tokens = torch.where(step.dropped[:, None, None], null, tokens)
        return self.unet(step.unet_input, step.timesteps, encoder_hidden_states=tokens).sample


def new_noise_scheduler(config: NoiseConfig) -> DDPMScheduler:
    """The noise levels of training; only `add_noise` and `get_velocity` are used."""
    return DDPMScheduler(**config.model_dump())


def draw(
    seed: int, positions: Tensor, config: ModelConfig, dropout: float, offset_noise: float = 0.0
) -> Draws:
    """The draws of the samples at these positions of the global order: a function of seed and position alone.

    Args:
        seed: of the run.
        positions: int64 [B].
        config: of the model; the latents' shape and the number of timesteps are used.
        dropout: share of samples that get the null exemplar.
        offset_noise: deviation of a further noise that is one number per sample and channel, so that whole
            pictures learn to grow lighter and darker (N. Guttenberg 2023, "Diffusion with offset noise",
            crosslabs.org: 0.1). It is drawn last: the other draws are those of a run without it.
    """
    shape = (config.vae.latent_channels, config.latent_size, config.latent_size)
    rows = []
    for position in positions.tolist():
        rng = torch.Generator().manual_seed(derive_seed(seed, "train", position))
        timestep = torch.randint(config.noise.num_train_timesteps, (), generator=rng)
        dropped = torch.rand((), generator=rng) < dropout
        noise, image_noise, masked_noise = (torch.randn(shape, generator=rng) for _ in range(3))
        if offset_noise:
            noise = noise + offset_noise * torch.randn((shape[0], 1, 1), generator=rng)
        rows.append((timestep, dropped, noise, image_noise, masked_noise))
    return Draws(*(torch.stack(column) for column in zip(*rows, strict=True)))


def draw_batch(config: TrainConfig, positions: Tensor) -> Draws:
    """The draws of a run's samples at these positions of its global order, int64 [B]."""
    return draw(config.seed, positions, config.model, config.exemplar_dropout, config.objective.offset_noise)


@torch.no_grad()
def prepare(
    model: EditModel,
    noise_scheduler: DDPMScheduler,
    batch: Batch,
    draws: Draws,
    device: Any,
    objective: ObjectiveConfig | None = None,
) -> Step:
    """Pixels to the trained part's input, on the device; the frozen networks run here, outside the engine.

    z_t = √ā_t · z + √(1 − ā_t) · noise, with z a posterior sample of the picture's latents; the masked
    picture's latents are a sample, too (equation 4 and section 3.4 of the latent diffusion paper; the inputs
    are Paint by Example's). A model of velocities (Salimans & Ho 2022, appendix D) is asked for
    √ā_t · noise − √(1 − ā_t) · z instead of the noise.
    """
    seen = encode_batch(model, batch, draws.image_noise, draws.masked_noise, device)
    noise = draws.noise.to(device, non_blocking=True)
    timesteps = draws.timesteps.to(device, non_blocking=True)
    noisy_latents = noise_scheduler.add_noise(seen.latents, noise, timesteps)
    target = noise
    if model.config.noise.prediction_type == "v_prediction":
        target = noise_scheduler.get_velocity(seen.latents, noise, timesteps)
    return Step(
        unet_input=unet_input(noisy_latents, seen.masked_image_latents, seen.mask),
        timesteps=timesteps,
        pooled=seen.pooled,
        dropped=draws.dropped.to(device, non_blocking=True),
        target=target,
        weight=error_weight(noise_scheduler, timesteps, seen.mask, objective or ObjectiveConfig()),
    )


def loss_of(prediction: Tensor, step: Step) -> Tensor:
    """Mean squared error against the target, in float32; weighted where the step has weights."""
    if step.weight is None:
        return F.mse_loss(prediction.float(), step.target)
    return (step.weight * (prediction.float() - step.target).square()).mean()
