"""One training step in the style of diffusers' example scripts: diffusers, accelerate, torch's AdamW.

The networks have the config's sizes and the arithmetic is the same, without the optimisations of `training`:
the autoencoder encodes both pictures one after the other, cross-attention is computed in full, the whole UNet
is trained, and nothing is compiled or channels-last. Mixed precision and activation checkpointing follow the
config.
"""

from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel

from intarsia.conditioning import normalise_exemplar
from intarsia.model import EditModel
from training.config import TrainConfig
from training.data.batches import Batch


class PlainTrainer:
    """Networks and optimizer; `step` trains one micro-batch.

    Args:
        config: training config; only geometry, precision and optimizer are used.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        half = config.precision == "bf16"
        self.accelerator = Accelerator(mixed_precision="bf16" if half else "no")
        self.dtype = torch.bfloat16 if half else torch.float32
        model = EditModel(config.model)
        self.vae = model.vae.to(self.device, self.dtype)
        row = config.model.exemplar.row
        self.clip_input = row.mean, row.deviation
        self.clip = model.image_encoder.to(self.device, self.dtype)
        unet = UNet2DConditionModel.from_config(dict(model.unet.config))
        if config.activation_checkpointing:
            unet.enable_gradient_checkpointing()
        params = [*unet.parameters(), *model.exemplar_encoder.parameters()]
        options = config.optimizer
        optimizer = torch.optim.AdamW(params, options.lr, options.betas, options.eps, options.weight_decay)
        self.unet, self.mapper, self.optimizer = self.accelerator.prepare(
            unet, model.exemplar_encoder, optimizer
        )
        self.params = params
        self.ema = EMAModel(params, decay=options.ema_decay) if options.ema_decay else None
        self.noise_scheduler = DDPMScheduler(**config.model.noise.model_dump())

    @property
    def device(self) -> Any:
        """Device of the training."""
        return self.accelerator.device

    def step(self, batch: Batch) -> float:
        """Train on a micro-batch; return its loss."""
        with torch.no_grad():
            image = batch.image.to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
            mask = batch.edit_mask.to(self.device)[:, None].float() / 255
            latents = self.encode(image)
            masked_image_latents = self.encode(image * (1 - mask))
            keep = F.interpolate(1 - mask, latents.shape[-2:])
            size, pixels = self.clip.config.image_size, batch.exemplar.to(self.device)
            exemplar = normalise_exemplar(pixels, size, *self.clip_input)
            pooled = self.clip(exemplar.to(self.dtype)).pooler_output
        noise = torch.randn_like(latents)
        timesteps = torch.randint(1000, (len(latents),), device=self.device)
        noisy_latents = self.noise_scheduler.add_noise(latents, noise, timesteps)
        with self.accelerator.autocast():
            tokens = self.mapper(pooled)
            null = self.accelerator.unwrap_model(self.mapper).null_exemplar
            dropped = torch.rand(len(latents), 1, 1, device=self.device) < self.config.exemplar_dropout
            tokens = torch.where(dropped, null.to(tokens.dtype), tokens)
            inputs = torch.cat([noisy_latents, masked_image_latents, keep], dim=1)
            prediction = self.unet(inputs, timesteps, encoder_hidden_states=tokens).sample
        loss = F.mse_loss(prediction.float(), noise.float())
        self.accelerator.backward(loss)
        if self.config.optimizer.grad_clip:
            self.accelerator.clip_grad_norm_(self.params, self.config.optimizer.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.step(self.params)
        return loss.item()

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """A sample of the scaled latents, float32."""
        latents = self.vae.encode(image.to(self.dtype)).latent_dist.sample()
        return (latents * self.vae.config.scaling_factor).float()
