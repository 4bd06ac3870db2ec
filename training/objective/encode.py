"""Encode a micro-batch with the frozen networks: latents with and without the hole, exemplars, prompts."""

from collections.abc import Sequence
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
    told_mask,
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
        features: features of the exemplars from the frozen tower, [B, *ConditionKind.feature_shape]; None for
            a model without an exemplar.
    """

    image: Tensor
    masked: Tensor
    mask: Tensor
    features: Tensor | None = None


@torch.no_grad()
def posteriors(model: EditModel, batch: Batch, device: Any) -> Posteriors:
    """Use stored latents if there are any; compute the rest with the frozen networks, each in its own dtype.

    The autoencoder processes the whole pictures and those with holes one after the other, because its
    activations often determine the peak memory. If the whole pictures' latents are stored, it processes only
    those with holes.
    """
    stored = {name: value.to(device, non_blocking=True).float() for name, value in batch.stored.items()}
    if batch.exemplar is not None and model.image_encoder is not None:
        stored["features"] = _look(model, batch.exemplar.to(device, non_blocking=True))
    if batch.image is None or batch.edit_mask is None:
        return Posteriors(**stored)
    layout = model.config.unet.input_layout
    image = image_to_unit(batch.image.to(device, non_blocking=True))
    edit_mask = mask_to_unit(told_mask(batch.edit_mask.to(device, non_blocking=True), layout))
    pictures = [mask_image(image, edit_mask)] if "image" in stored else [image, mask_image(image, edit_mask)]
    with torch.autocast(image.device.type, enabled=False):  # they have their own precision
        moments = [torch.stack(latent_moments(model.vae, p.to(model.vae.dtype)), dim=1) for p in pictures]
    *unstored, masked = (moment.float() for moment in moments)
    return Posteriors(
        image=stored["image"] if "image" in stored else unstored[0],
        masked=masked,
        mask=latent_mask(edit_mask, tuple(masked.shape[-2:]), layout),
        features=stored.get("features"),
    )


def _look(model: EditModel, exemplar: Tensor) -> Tensor:
    pixels = model.normalise(exemplar)
    with torch.autocast(exemplar.device.type, enabled=False):
        return model.encode_exemplar(pixels.to(model.image_encoder.dtype)).float()


@torch.no_grad()
def text_tokens(model: EditModel, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Tokens of a micro-batch's prompts [B, n, D], and those of no prompt [1, n, D]; float32."""
    device = model.text_encoder.device
    with torch.autocast(device.type, enabled=False):  # it has its own precision
        tokens = model.encode_text([*texts, ""]).float()
    return tokens[:-1], tokens[-1:]
