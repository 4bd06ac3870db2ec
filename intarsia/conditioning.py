"""From pixels to the UNet's input: value ranges, the hole, latents, the latent mask, the channel order.

This arithmetic exists only here; data loading, training, sampling and evaluation call it. It is Paint by
Example's, except that our mask is 1 = repaint; only `known_channels` turns it into the UNet's keep mask. With
`unet.input_layout: sd` it is that of Stable Diffusion's inpainting model.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Colour = tuple[float, float, float]  # of values in [0, 1], red, green and blue


def image_to_unit(image: Tensor) -> Tensor:
    """Pictures uint8 [B, H, W, 3] RGB -> float32 [B, 3, H, W] in [-1, 1]."""
    return image.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def unit_to_image(image: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in [-1, 1] (clamped) -> uint8 [B, H, W, 3] RGB, rounded to nearest."""
    levels = ((image.float() + 1.0) * 127.5).round().clamp(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 1)


def mask_to_unit(mask: Tensor) -> Tensor:
    """Edit masks uint8 [B, H, W], 255 = repaint -> float32 [B, 1, H, W] in [0, 1], 1 = repaint."""
    return mask[:, None].float() / 255.0


def maps_to_unit(maps: Tensor) -> Tensor:
    """Structure maps uint8 [B, K, h, w] -> float32 of the same shape in [0, 1]."""
    return maps.float() / 255.0


def normalise_exemplar(exemplar: Tensor, size: int, mean: Colour, deviation: Colour) -> Tensor:
    """Exemplars uint8 [B, h, w, 3] RGB -> float32 [B, 3, size, size] as an image tower was trained on them.

    CLIP's size is 224, the same as the exemplar's, so nothing is resized. Other sizes are interpolated
    bilinearly with antialiasing.

    Args:
        exemplar: pixels.
        size: side at which the tower looks at them.
        mean, deviation: the tower's normalisation.
    """
    unit = exemplar.permute(0, 3, 1, 2).float() / 255.0
    if unit.shape[-2:] != (size, size):
        unit = F.interpolate(unit, (size, size), mode="bilinear", align_corners=False, antialias=True)
    # Channel by channel: a tensor of the constants would make the processor wait for the GPU.
    channels = zip(unit.unbind(1), mean, deviation, strict=True)
    return torch.stack([(channel - mean) / std for channel, mean, std in channels], dim=1)


def mask_image(image: Tensor, edit_mask: Tensor) -> Tensor:
    """The picture with its hole, image [B, 3, H, W] x (1 - edit_mask [B, 1, H, W]); 0 is mid-grey."""
    return image * (1.0 - edit_mask)


def encode_latents(vae: Any, image: Tensor, noise: Tensor | None) -> Tensor:
    """Scaled latents of pictures.

    Args:
        vae: autoencoder (`AutoencoderKL`).
        image: pictures [B, 3, H, W] in [-1, 1].
        noise: standard normal noise [B, C, h, w] for a sample of the posterior, as in Paint by Example; None
            for its mode.

    Returns:
        [B, C, h, w], scaling_factor x (mean + deviation x noise).
    """
    mean, std = latent_moments(vae, image)
    return sample_latents(mean, std, noise, vae.config.scaling_factor)


def latent_moments(vae: Any, image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, [B, C, h, w] each, unscaled, of the posterior of pictures in [-1, 1]."""
    posterior = vae.encode(image).latent_dist
    return posterior.mean, posterior.std


def sample_latents(mean: Tensor, std: Tensor, noise: Tensor | None, scaling_factor: float) -> Tensor:
    """Scaled latents of a posterior: scaling_factor x (mean + std x noise); without noise, its mode."""
    return (mean if noise is None else mean + std * noise) * scaling_factor


def decode_latents(vae: Any, latents: Tensor) -> Tensor:
    """Scaled latents [B, C, h, w] -> pictures [B, 3, H, W], about [-1, 1], not clamped."""
    return vae.decode(latents / vae.config.scaling_factor).sample


def told_mask(edit_mask: Tensor, layout: str = "pbe") -> Tensor:
    """Edit masks uint8 [B, H, W], 255 = repaint, as a UNet is told them.

    Paint by Example keeps soft edges; Stable Diffusion's inpainting model (layout sd) knows 0 and 255 only,
    with the border at .5, as in diffusers.
    """
    return edit_mask if layout == "pbe" else (edit_mask >= 128).to(torch.uint8) * 255


def latent_mask(edit_mask: Tensor, size: tuple[int, int], layout: str = "pbe") -> Tensor:
    """Edit mask [B, 1, H, W] -> [B, 1, h, w] on the grid of latents, size = (h, w).

    For Paint by Example (layout pbe) bilinear without antialiasing, as in the original code: at a factor of
    8, cell i is the mean of pixels 8i+3 and 8i+4 along each axis, so a binary mask gives 0, 1/4, 1/2, 3/4 or
    1. For Stable Diffusion (layout sd) nearest neighbour: cell i is pixel 8i.
    """
    if layout == "sd":
        return F.interpolate(edit_mask, size, mode="nearest")
    return F.interpolate(edit_mask, size, mode="bilinear", align_corners=False, antialias=False)


def composed(model_input: Tensor, latent_channels: int, layout: str = "pbe") -> Tensor:
    """A UNet input whose noisy latents outside the hole are replaced by the known ones.

    m · z_t + (1 − m) · z, GLIDE's composed input, where z are the latents of the picture with its hole: those
    of the whole picture would show the hole's content, which the autoencoder spreads to its surroundings.

    Args:
        model_input: noisy latents, `known_channels` and structure maps, [B, C + C + 1 + K, h, w].
        latent_channels: number C of latent channels.
        layout: order of the known channels, `UNetConfig.input_layout`.
    """
    noisy, rest = model_input[:, :latent_channels], model_input[:, latent_channels:]
    if layout == "sd":
        hole, known = rest[:, :1], rest[:, 1 : latent_channels + 1]
    else:
        known, hole = rest[:, :latent_channels], 1.0 - rest[:, latent_channels : latent_channels + 1]
    return torch.cat([hole * noisy + (1.0 - hole) * known, rest], dim=1)


def known_channels(masked_image_latents: Tensor, edit_mask_latent: Tensor, layout: str = "pbe") -> Tensor:
    """UNet input channels after the noisy latents, [B, C + 1, h, w].

    Paint by Example (layout pbe): masked image latents, KEEP mask. Stable Diffusion's inpainting UNet (layout
    sd): edit mask, masked image latents. Neither can be turned into the other by its weights: the mask is
    padded with 0 at the border of the picture, which means "repaint" in one and "keep" in the other.
    """
    if layout == "sd":
        return torch.cat([edit_mask_latent, masked_image_latents], dim=1)
    return torch.cat([masked_image_latents, 1.0 - edit_mask_latent], dim=1)
