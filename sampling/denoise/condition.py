"""Encode pictures, exemplars and prompts as conditions of the UNet; each distinct one is encoded once."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from intarsia.conditioning import (
    image_to_unit,
    known_channels,
    latent_mask,
    latent_moments,
    maps_to_unit,
    mask_image,
    mask_to_unit,
    sample_latents,
    told_mask,
)
from intarsia.conditions.condition import Condition, Part
from intarsia.conditions.low_res import low_res_channels
from intarsia.model import EditModel
from sampling.denoise.machine import visiting
from sampling.denoise.sampler import Known


@dataclass(frozen=True)
class LowRes:
    """What an upsampler is shown: low-resolution pictures, uint8 [B, H/f, W/f, 3], CPU, and their level."""

    pictures: Tensor
    level: int = 0


class Encoder:
    """Encode pictures, exemplars and prompts as conditions, and cache the encodings for the object's life.

    A cached picture takes 131 KB for a square of 512 pixels, a prompt the size of its tokens, an exemplar
    that of its features and tokens.
    """

    def __init__(self, model: EditModel, device: torch.device) -> None:
        self.model = model
        self.device = device
        self._moments: dict[bytes, Tensor] = {}
        self._tokens: dict[bytes, Tensor] = {}
        self._texts: dict[bytes, Tensor] = {}
        self._features: dict[bytes, Tensor] = {}

    def told(self, exemplars: Sequence[Tensor | None], prompts: Sequence[str]) -> tuple[Part, ...]:
        """What the UNet is told in tokens, in the order of its context.

        Args:
            exemplars: exemplars, uint8 [224, 224, 3], CPU; None where there is none.
            prompts: prompts; "" where there is none.
        """
        dtype, parts = self.model.unet.dtype, []
        if "exemplar" in self.model.config.parts:
            null = self.model.exemplar_encoder.null_exemplar.to(self.device, dtype)
            given = [exemplar for exemplar in exemplars if exemplar is not None]
            known = iter(self.tokens(torch.stack(given)).to(dtype) if given else ())
            rows = [null[0] if exemplar is None else next(known) for exemplar in exemplars]
            parts.append(Part("exemplar", torch.stack(rows), null))
        if "text" in self.model.config.parts:
            tokens = self._remembered(self._texts, [*prompts, ""], self._encode_texts)
            tokens = tokens.to(self.device, dtype)
            parts.append(Part("text", tokens[:-1], tokens[-1:]))
        return tuple(parts)

    def condition(
        self,
        image: Tensor,
        edit_mask: Tensor,
        told: tuple[Part, ...],
        noise: Tensor,
        structure: Tensor | None = None,
        low_res: LowRes | None = None,
    ) -> Condition:
        """The condition of a batch.

        Args:
            image: pictures, uint8 [B, S, S, 3], or of other sides of `ModelConfig.multiple`, CPU.
            edit_mask: masks, uint8 [B, S, S], 255 = repaint, CPU.
            told: result of `told`.
            noise: standard normal noise [B, C, h, w] to sample the masked image's latents.
            structure: structure maps, uint8 [B, K, h, w], CPU; None leaves the model's maps blank.
            low_res: low-resolution pictures, for an upsampler.
        """
        dtype, config = self.model.unet.dtype, self.model.config
        layout = config.unet.input_layout
        edit_mask = told_mask(edit_mask, layout)
        grid = latent_mask(mask_to_unit(edit_mask), noise.shape[-2:], layout).to(self.device, dtype)
        known = known_channels(self.latents(image, edit_mask, noise).to(dtype), grid, layout)
        channels = known[:, : config.unet.in_channels - config.vae.latent_channels]
        if config.structure.maps:
            if structure is None:
                structure = torch.zeros(len(image), config.structure.channels, *noise.shape[-2:])
            channels = torch.cat([channels, maps_to_unit(structure).to(self.device, dtype)], dim=1)
        if low_res is None:
            return Condition(told, channels)
        levels = torch.full((len(image),), low_res.level)
        shown = low_res_channels(config, low_res.pictures, levels).to(self.device, dtype)
        return Condition(told, torch.cat([channels, shown], dim=1), levels.to(self.device))

    def known(self, image: Tensor, edit_mask: Tensor, noise: Tensor) -> Known:
        """The latents of the whole pictures, known in the cells without any pixel to repaint.

        Args:
            image: pictures, uint8 [B, S, S, 3], CPU.
            edit_mask: masks, uint8 [B, S, S], 255 = repaint, CPU.
            noise: noise of the autoencoder's sample and x_T, [2, B, C, h, w].
        """
        cell = edit_mask.shape[-1] // noise.shape[-1]
        touched = F.max_pool2d(mask_to_unit(edit_mask), cell)
        latents = self.latents(image, torch.zeros_like(edit_mask), noise[0])
        return Known(latents, noise[1].to(self.device), (touched == 0).to(self.device))

    def latents(self, image: Tensor, edit_mask: Tensor, noise: Tensor) -> Tensor:
        """Scaled latents of pictures with holes, sampled from the posterior: float32 [B, C, h, w]."""
        both = torch.cat([image, edit_mask[..., None]], dim=-1)
        moments = self._remembered(self._moments, both, self._encode_pictures)
        mean, deviation = moments.to(self.device).unbind(1)
        return sample_latents(mean, deviation, noise.to(self.device), self.model.vae.config.scaling_factor)

    def tokens(self, exemplar: Tensor) -> Tensor:
        """Exemplars uint8 [B, 224, 224, 3] -> tokens [B, n, D]."""
        return self._remembered(self._tokens, exemplar, self._encode_exemplars).to(self.device)

    def features(self, exemplars: Sequence[Tensor | None]) -> Tensor:
        """Features of the frozen tower, [B, …]; zeros where there is no exemplar. At least one is there."""
        given = torch.stack([exemplar for exemplar in exemplars if exemplar is not None])
        known = self._remembered(self._features, given, self._see_exemplars).to(self.device)
        rows = iter(known)
        return torch.stack([torch.zeros_like(known[0]) if one is None else next(rows) for one in exemplars])

    def pooled(self, prompts: Sequence[str]) -> Tensor:
        """One vector of each prompt from the frozen tower, [B, D] (`EditModel.pool_text`)."""
        tokens = self._remembered(self._texts, list(prompts), self._encode_texts)
        return self.model.pool_text(prompts, tokens).to(self.device)

    def _remembered(
        self, memory: dict[bytes, Tensor], rows: Tensor | list[str], encode: Callable[[Any], Tensor]
    ) -> Tensor:
        contents = [row.encode() if isinstance(row, str) else row.contiguous().numpy() for row in rows]
        keys = [hashlib.sha256(content).digest() for content in contents]
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in memory}
        if new:
            fresh: Any = list(new.values())
            fresh = torch.stack(fresh) if isinstance(rows, Tensor) else fresh
            memory.update(zip(new, encode(fresh), strict=True))
        return torch.stack([memory[key] for key in keys])

    def _encode_pictures(self, both: Tensor) -> Tensor:
        """uint8 [B, S, S, 4] -> mean and deviation, float32 [B, 2, C, h, w]."""
        image, edit_mask = image_to_unit(both[..., :3]), mask_to_unit(both[..., 3])
        with visiting(self.model.vae, self.device) as vae:
            masked_image = mask_image(image, edit_mask).to(self.device, vae.dtype)
            return torch.stack(latent_moments(vae, masked_image), dim=1).float()

    def _encode_exemplars(self, exemplar: Tensor) -> Tensor:
        encoder = self.model.exemplar_encoder
        features = self._remembered(self._features, exemplar, self._see_exemplars)
        with visiting(encoder, self.device):
            return encoder(features.to(encoder.null_exemplar.dtype))

    def _see_exemplars(self, exemplar: Tensor) -> Tensor:
        pixels = self.model.normalise(exemplar)
        with visiting(self.model.image_encoder, self.device) as tower:
            return self.model.encode_exemplar(pixels.to(self.device, tower.dtype))

    def _encode_texts(self, texts: list[str]) -> Tensor:
        with visiting(self.model.text_encoder, self.device):
            return self.model.encode_text(texts)
