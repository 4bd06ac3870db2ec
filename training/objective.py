"""What is learned: to see the noise added to a picture's latents, given its surroundings and an exemplar.

Paint by Example's objective, with one draw of timestep, noise and exemplar dropout per sample.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor, nn

from intarsia.architecture import ModelConfig, NoiseConfig
from intarsia.conditioning import unet_input
from intarsia.errors import UserError
from intarsia.model import EditModel
from intarsia.rng import derive_seed
from training.data import Batch
from training.encode import encode_batch


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
    """

    unet_input: Tensor
    timesteps: Tensor
    pooled: Tensor
    dropped: Tensor
    target: Tensor


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


def draw(seed: int, positions: Tensor, config: ModelConfig, dropout: float) -> Draws:
    """The draws of the samples at these positions of the global order: a function of seed and position alone.

    Args:
        seed: of the run.
        positions: int64 [B].
        config: of the model; the latents' shape and the number of timesteps are used.
        dropout: share of samples that get the null exemplar.
    """
    shape = (config.vae.latent_channels, config.latent_size, config.latent_size)
    rows = []
    for position in positions.tolist():
        rng = torch.Generator().manual_seed(derive_seed(seed, "train", position))
        rows.append(
            (
                torch.randint(config.noise.num_train_timesteps, (), generator=rng),
                torch.rand((), generator=rng) < dropout,
                *(torch.randn(shape, generator=rng) for _ in range(3)),
            )
        )
    return Draws(*(torch.stack(column) for column in zip(*rows, strict=True)))


@torch.no_grad()
def prepare(
    model: EditModel, noise_scheduler: DDPMScheduler, batch: Batch, draws: Draws, device: Any
) -> Step:
    """Pixels to the trained part's input, on the device; the frozen networks run here, outside the engine.

    z_t = √ā_t · z + √(1 − ā_t) · noise, with z a posterior sample of the picture's latents; the masked
    picture's latents are a sample, too (equation 4 and section 3.4 of the latent diffusion paper; the inputs
    are Paint by Example's). A model of velocities (Salimans & Ho 2022, appendix D) is asked for
    √ā_t · noise − √(1 − ā_t) · z instead of the noise.
    """
    seen = encode_batch(model, batch, draws.image_noise, draws.masked_noise, device)
    noise, timesteps = draws.noise.to(device), draws.timesteps.to(device)
    noisy_latents = noise_scheduler.add_noise(seen.latents, noise, timesteps)
    target = noise
    if model.config.noise.prediction_type == "v_prediction":
        target = noise_scheduler.get_velocity(seen.latents, noise, timesteps)
    return Step(
        unet_input=unet_input(noisy_latents, seen.masked_image_latents, seen.mask),
        timesteps=timesteps,
        pooled=seen.pooled,
        dropped=draws.dropped.to(device),
        target=target,
    )


def loss_of(prediction: Tensor, step: Step) -> Tensor:
    """Mean squared error against the target, in float32."""
    return F.mse_loss(prediction.float(), step.target)


def finite(losses: list[float], step: int) -> list[float]:
    """The losses of the steps up to `step`, all of them finite.

    Raises:
        UserError: naming the first step whose loss is not: going on would save ruined weights.
    """
    for place, loss in enumerate(losses):
        if not math.isfinite(loss):
            raise UserError(
                f"the loss of step {step - len(losses) + 1 + place} is {loss}; continue from the checkpoint "
                "before it in a new run folder with a lower optimizer.lr or with optimizer.grad_clip=1"
            )
    return losses


def freeze_unused(model: EditModel) -> int:
    """Freeze the weights that a single context token can give no gradient; return how many that are.

    The cross-attention's softmax over one token is 1, so attn2's query and key and the norm before the query
    have no influence on the output.
    """
    frozen = 0
    for name, param in model.unet.named_parameters():
        if any(part in name for part in (".attn2.to_q.", ".attn2.to_k.", ".norm2.")) and "attentions" in name:
            param.requires_grad_(False)
            frozen += param.numel()
    return frozen
