"""Encode a micro-batch with the frozen networks: latents with and without the hole, exemplars' features."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intarsia.conditioning import (
    image_to_unit,
    latent_mask,
    latent_moments,
    mask_image,
    mask_to_unit,
)
from intarsia.model import EditModel
from training.data.batches import Batch


@dataclass(frozen=True)
class Posteriors:
    """The outputs of the frozen networks for a micro-batch, before any random draw; float32.

    Attributes:
        image: mean and standard deviation of the pictures' latents, unscaled, [B, 2, C, h, w].
        masked: mean and standard deviation of the masked pictures' latents, unscaled, [B, 2, C, h, w].
        mask: edit mask on the grid of latents, [B, 1, h, w], 1 = repaint.
        features: features of the exemplars from the frozen tower, [B, *ConditionKind.feature_shape].
    """

    image: Tensor
    masked: Tensor
    mask: Tensor
    features: Tensor


@torch.no_grad()
def posteriors(model: EditModel, batch: Batch, device: Any) -> Posteriors:
    """Use stored latents if there are any; compute the rest with the frozen networks, each in its own dtype.

    The autoencoder processes the whole pictures and those with holes one after the other, because its
    activations often determine the peak memory. If the whole pictures' latents are stored, it processes only
    those with holes.
    """
    stored = {name: value.to(device, non_blocking=True).float() for name, value in batch.stored.items()}
    if batch.exemplar is None:
        return Posteriors(**stored)
    exemplar = model.normalise(batch.exemplar.to(device, non_blocking=True))
    if batch.image is None or batch.edit_mask is None:
        return Posteriors(**stored, features=_look(model, exemplar))
    image = image_to_unit(batch.image.to(device, non_blocking=True))
    edit_mask = mask_to_unit(batch.edit_mask.to(device, non_blocking=True))
    pictures = [mask_image(image, edit_mask)] if "image" in stored else [image, mask_image(image, edit_mask)]
    with torch.autocast(image.device.type, enabled=False):  # they have their own precision
        moments = [torch.stack(latent_moments(model.vae, p.to(model.vae.dtype)), dim=1) for p in pictures]
    *unstored, masked = (moment.float() for moment in moments)
    return Posteriors(
        image=stored["image"] if "image" in stored else unstored[0],
        masked=masked,
        mask=latent_mask(edit_mask, tuple(masked.shape[-2:])),
        features=_look(model, exemplar),
    )


def _look(model: EditModel, exemplar: Tensor) -> Tensor:
    with torch.autocast(exemplar.device.type, enabled=False):
        return model.encode_exemplar(exemplar.to(model.image_encoder.dtype)).float()
