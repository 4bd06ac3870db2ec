"""The random draws of a micro-batch, which depend only on the run's seed and the global positions."""

from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from intarsia.architecture import ModelConfig, NoiseConfig
from intarsia.rng import derive_seed
from training.config import TrainConfig


@dataclass(frozen=True)
class Draws:
    """All random draws of a micro-batch.

    Attributes:
        timesteps: timesteps, int64 [B], uniform over the training timesteps.
        dropped: rows whose exemplar is replaced by the null exemplar, bool [B].
        noise: standard normal noise that is added and predicted, float32 [B, C, h, w].
        image_noise, masked_noise: noise of the same shape to sample the autoencoder's posteriors.
    """

    timesteps: Tensor
    dropped: Tensor
    noise: Tensor
    image_noise: Tensor
    masked_noise: Tensor


def noise_levels(config: NoiseConfig) -> DDPMScheduler:
    """The noise levels of training; only `add_noise` and `get_velocity` are used."""
    return DDPMScheduler(**config.model_dump())


def draw(
    seed: int, positions: Tensor, config: ModelConfig, dropout: float, offset_noise: float = 0.0
) -> Draws:
    """The draws of the samples at these positions of the global order; they depend on seed and position only.

    Args:
        seed: seed of the run.
        positions: positions in the global order, int64 [B].
        config: model config; only the latents' shape and the number of timesteps are used.
        dropout: share of samples that get the null exemplar.
        offset_noise: standard deviation of an additional noise with one value per sample and channel, so that
            the model learns very light and very dark pictures (N. Guttenberg 2023, "Diffusion with offset
            noise", crosslabs.org: 0.1). It is drawn last, so the other draws do not change.
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
    """The draws of a run's samples at these positions, int64 [B], of its global order."""
    return draw(config.seed, positions, config.model, config.exemplar_dropout, config.objective.offset_noise)
