"""What the frozen networks make of a micro-batch: latents of the picture and of its rest, CLIP's vector."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intarsia.conditioning import (
    exemplar_to_clip,
    image_to_unit,
    latent_mask,
    latent_moments,
    mask_image,
    mask_to_unit,
    sample_latents,
)
from intarsia.model import EditModel
from training.data.batches import Batch


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


@dataclass(frozen=True)
class Posteriors:
    """What the frozen networks say of a micro-batch before anything is drawn at random, float32.

    Attributes:
        image: [B, 2, C, h, w], mean and standard deviation of the pictures' latents, unscaled.
        masked: the same of the pictures with their holes.
        mask: [B, 1, h, w], 1 = repaint, on the grid of latents.
        pooled: [B, width], CLIP's vector of the exemplars.
    """

    image: Tensor
    masked: Tensor
    mask: Tensor
    pooled: Tensor


def encode_batch(
    model: EditModel, batch: Batch, image_noise: Tensor, masked_noise: Tensor, device: Any
) -> Encoded:
    """A micro-batch through the frozen networks, or what is stored of that, and samples of the posteriors.

    Args:
        model: its autoencoder and CLIP tower are used for what is not stored.
        batch: on the CPU.
        image_noise, masked_noise: standard normal [B, C, h, w]; they sample the posteriors.
        device: of the model.
    """
    seen = posteriors(model, batch, device)
    factor = model.config.vae.scaling_factor
    (mean, std), (masked_mean, masked_std) = seen.image.unbind(1), seen.masked.unbind(1)
    image_noise = image_noise.to(device, non_blocking=True)
    masked_noise = masked_noise.to(device, non_blocking=True)
    return Encoded(
        latents=sample_latents(mean, std, image_noise, factor),
        masked_image_latents=sample_latents(masked_mean, masked_std, masked_noise, factor),
        mask=seen.mask,
        pooled=seen.pooled,
    )


@torch.no_grad()
def posteriors(model: EditModel, batch: Batch, device: Any) -> Posteriors:
    """What is stored of a micro-batch; the rest through the frozen networks, each in its own dtype.

    The autoencoder sees the whole pictures and those with holes one after the other, because its activations
    are often the most that lives at once; and only the latter where the others' latents are stored.
    """
    stored = {name: value.to(device, non_blocking=True).float() for name, value in batch.stored.items()}
    if batch.image is None or batch.edit_mask is None or batch.exemplar is None:
        return Posteriors(**stored)
    image = image_to_unit(batch.image.to(device, non_blocking=True))
    edit_mask = mask_to_unit(batch.edit_mask.to(device, non_blocking=True))
    pictures = [mask_image(image, edit_mask)] if "image" in stored else [image, mask_image(image, edit_mask)]
    exemplar = batch.exemplar.to(device, non_blocking=True)
    exemplar = exemplar_to_clip(exemplar, model.config.image_encoder.image_size)
    with torch.autocast(image.device.type, enabled=False):  # the engine's precision is none of theirs
        moments = [torch.stack(latent_moments(model.vae, p.to(model.vae.dtype)), dim=1) for p in pictures]
        pooled = model.encode_exemplar(exemplar.to(model.image_encoder.dtype)).float()
    *unstored, masked = (moment.float() for moment in moments)
    return Posteriors(
        image=stored["image"] if "image" in stored else unstored[0],
        masked=masked,
        mask=latent_mask(edit_mask, tuple(masked.shape[-2:])),
        pooled=pooled,
    )
