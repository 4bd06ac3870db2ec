"""The random draws of a micro-batch, which depend only on the run's seed and the global positions."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from intarsia.architecture import LowResConfig, ModelConfig, NoiseConfig
from intarsia.rng import derive_seed
from training.config import TrainConfig
from training.data.mixture import mixture_of


@dataclass(frozen=True)
class Draws:
    """All random draws of a micro-batch.

    Attributes:
        timesteps: timesteps, int64 [B], uniform over the training timesteps.
        dropped: rows whose exemplar is replaced by the null exemplar, bool [B].
        noise: standard normal noise that is added and predicted, float32 [B, C, h, w].
        image_noise, masked_noise: noise of the same shape to sample the autoencoder's posteriors.
        text_dropped: rows whose prompt is dropped, bool [B]; None for a model without prompts.
        without_maps: structure maps that are left out, bool [B, maps]; None = none.
        levels: levels of the low-resolution pictures' noise, int64 [B]; None for a model without them.
        low_res_noise: standard normal noise of these pictures, float32 [B, 3, H/f, W/f].
    """

    timesteps: Tensor
    dropped: Tensor
    noise: Tensor
    image_noise: Tensor
    masked_noise: Tensor
    text_dropped: Tensor | None = None
    without_maps: Tensor | None = None
    levels: Tensor | None = None
    low_res_noise: Tensor | None = None


def noise_levels(config: NoiseConfig) -> DDPMScheduler:
    """The noise levels of training; only `add_noise` and `get_velocity` are used."""
    return DDPMScheduler(**config.model_dump())


def draw(
    seed: int,
    positions: Tensor,
    config: ModelConfig,
    dropout: float,
    offset_noise: float = 0.0,
    text_dropout: float = 0.0,
) -> Draws:
    """The draws of the samples at these positions of the global order; they depend on seed and position only.

    Args:
        seed: seed of the run.
        positions: positions in the global order, int64 [B].
        config: model config; only the latents' shape, the number of timesteps, the parts of the condition,
            the structure maps and the low-resolution picture are used.
        dropout: share of samples that get the null exemplar.
        offset_noise: standard deviation of an additional noise with one value per sample and channel, so that
            the model learns very light and very dark pictures (N. Guttenberg 2023, "Diffusion with offset
            noise", crosslabs.org: 0.1). It is drawn after these, so they do not change.
        text_dropout: share of samples whose prompt is dropped, independently of the exemplar. It is drawn
            last, so a model without prompts has the same other draws.
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
        row = (timestep, dropped, noise, image_noise, masked_noise)
        text = (torch.rand((), generator=rng) < text_dropout,) if "text" in config.parts else ()
        rows.append((*row, *text))
    drawn = Draws(*(torch.stack(column) for column in zip(*rows, strict=True)))
    if config.structure.maps:
        drawn = replace(drawn, without_maps=_without_maps(seed, positions, config))
    if config.low_res:
        levels, noise = _low_res_noise(seed, positions, config.low_res, config.image_size)
        drawn = replace(drawn, levels=levels, low_res_noise=noise)
    return drawn


def _without_maps(seed: int, positions: Tensor, config: ModelConfig) -> Tensor:
    """Structure maps that are left out, bool [B, maps]; their draws do not depend on any others."""
    shares = [
        np.random.default_rng(derive_seed(seed, "structure", position)).random(len(config.structure.maps))
        for position in positions.tolist()
    ]
    return torch.from_numpy(np.stack(shares) < config.structure.dropout)


def _low_res_noise(
    seed: int, positions: Tensor, config: LowResConfig, image_size: int
) -> tuple[Tensor, Tensor]:
    """Levels, uniform below the largest, and noise of low-resolution pictures, by draws of their own."""
    side, levels, noise = image_size // config.factor, [], []
    for position in positions.tolist():
        rng = torch.Generator().manual_seed(derive_seed(seed, "low-res", position))
        levels.append(torch.randint(config.max_noise_level, (), generator=rng))
        noise.append(torch.randn(3, side, side, generator=rng))
    return torch.stack(levels), torch.stack(noise)


def draw_batch(config: TrainConfig, positions: Tensor) -> Draws:
    """The draws of a run's samples at these positions, int64 [B], of its global order."""
    offset, dropout = config.objective.offset_noise, (config.exemplar_dropout, config.text_dropout)
    draws = draw(config.seed, positions, config.model, dropout[0], offset, dropout[1])
    if not config.data.timesteps:
        return draws
    return replace(draws, timesteps=timesteps_of_sets(config, positions, draws.timesteps))


def timesteps_of_sets(config: TrainConfig, positions: Tensor, timesteps: Tensor) -> Tensor:
    """Timesteps in the half that each sample's data set is trained at; int64 [B] each.

    A timestep t of T goes to T − ⌈T/2⌉ + ⌊t/2⌋ for noisy and to ⌊t/2⌋ for clean, so that the half is covered
    evenly. A share `data.any_timesteps` of these samples keeps t, as in AnyDoor, whose videos learn at the
    noisier half, stills at the other, and 30 % of both anywhere (its datasets' `dynamic`, `sample_timestep`).

    Args:
        config: config of the run, with data.timesteps.
        positions: positions of the samples in the global order.
        timesteps: timesteps drawn for them.
    """
    mixture, total = mixture_of(config.data, config.seed), config.model.noise.num_train_timesteps
    if mixture is None:
        raise ValueError("timesteps of data sets need their weights")
    moved = []
    for position, timestep in zip(positions.tolist(), timesteps.tolist(), strict=True):
        half = config.data.timesteps[mixture.locate(position)[0]]
        rng = np.random.default_rng(derive_seed(config.seed, "timesteps", position))
        if half != "any" and rng.random() >= config.data.any_timesteps:
            timestep = timestep // 2 + (total - -(-total // 2) if half == "noisy" else 0)
        moved.append(timestep)
    return torch.tensor(moved)
