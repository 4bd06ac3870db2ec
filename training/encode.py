"""What the frozen networks make of a micro-batch: latents of the picture and of its rest, CLIP's vector."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intarsia.conditioning import (
    encode_latents,
    exemplar_to_clip,
    image_to_unit,
    latent_mask,
    mask_image,
    mask_to_unit,
)
from intarsia.model import EditModel
from training.data import Batch


@dataclass(frozen=True)
class Encoded:
    """A micro-batch as the trained part's inputs are made of it, float32.

    Attributes:
        latents: [B, C, h, w], scaled posterior sample of the pictures.
        masked_image_latents: the same of the pictures with their holes.
        mask: [B, 1, h, w], 1 = repaint, on the grid of latents.
        pooled: [B, width], CLIP's vector of the exemplars.
    """

    latents: Tensor
    masked_image_latents: Tensor
    mask: Tensor
    pooled: Tensor


@torch.no_grad()
def encode_batch(
    model: EditModel, batch: Batch, image_noise: Tensor, masked_noise: Tensor, device: Any
) -> Encoded:
    """Pixels through the frozen networks, each in its own dtype; the autoencoder sees both pictures at once.

    Args:
        model: its autoencoder and CLIP tower are used.
        batch: on the CPU.
        image_noise, masked_noise: standard normal [B, C, h, w]; they sample the posteriors.
        device: of the model.
    """
    image = image_to_unit(batch.image.to(device, non_blocking=True))
    edit_mask = mask_to_unit(batch.edit_mask.to(device, non_blocking=True))
    both = torch.cat([image, mask_image(image, edit_mask)])
    both_noise = torch.cat([image_noise, masked_noise]).to(device, non_blocking=True)
    exemplar = batch.exemplar.to(device, non_blocking=True)
    exemplar = exemplar_to_clip(exemplar, model.config.image_encoder.image_size)
    with torch.autocast(image.device.type, enabled=False):  # the engine's precision is none of theirs
        latents = encode_latents(model.vae, both.to(model.vae.dtype), both_noise).float()
        pooled = model.encode_exemplar(exemplar.to(model.image_encoder.dtype)).float()
    latents, masked_image_latents = latents.chunk(2)
    return Encoded(
        latents=latents,
        masked_image_latents=masked_image_latents,
        mask=latent_mask(edit_mask, tuple(latents.shape[-2:])),
        pooled=pooled,
    )
