"""The low-resolution picture that an upsampler sees: its pixels, its noise, and its input channels.

The picture is the area mean of the whole high-resolution one, rounded to 8 bits. Each cell of the latent
grid gets the low-resolution pixels that it covers, in [-1, 1], as channels. In training they have noise of a
random level, of which a class embedding informs the UNet, because the pictures that it is later given are
painted, not true (Ho et al. 2022, cascaded diffusion models). The levels are those of Stable Diffusion's x4
upscaler.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from intarsia.architecture import LOW_RES_LEVELS, ModelConfig
from intarsia.conditioning import image_to_unit


def area_mean(image: Tensor, factor: int) -> Tensor:
    """Means of blocks of factor x factor pixels, rounded to nearest: uint8 [B, H, W, 3] -> [B, H/f, W/f, 3].

    The arithmetic is whole-numbered, so it is equal on every device.
    """
    count, height, width, colours = image.shape
    blocks = image.reshape(count, height // factor, factor, width // factor, factor, colours)
    number = factor * factor
    return ((2 * blocks.int().sum(dim=(2, 4)) + number) // (2 * number)).to(torch.uint8)


@cache
def level_signal() -> Tensor:
    """√ā of each level, float32 [1000]; its noise is √(1 − ā). Betas rise in a line from 1e-4 to .02."""
    betas = torch.linspace(1e-4, 2e-2, LOW_RES_LEVELS, dtype=torch.float64)
    return (1.0 - betas).cumprod(0).sqrt().float()


def level_of_error(error: float) -> int:
    """The level whose noise, as a share of its signal, is nearest to an error of pixels in [-1, 1]."""
    signal = level_signal().double()
    return int(((1 - signal**2).sqrt() / signal - error).abs().argmin())


def low_res_channels(
    config: ModelConfig, low_res: Tensor, levels: Tensor, noise: Tensor | None = None
) -> Tensor:
    """The channels of low-resolution pictures on the grid of latents, float32 [B, K, h, w].

    Args:
        config: config of the upsampler.
        low_res: low-resolution pictures, uint8 [B, H/f, W/f, 3] (`area_mean`).
        levels: levels of noise of which the UNet is informed, int64 [B].
        noise: standard normal noise that is added, [B, 3, H/f, W/f]; None if the pictures already have an
            error of this size, as painted ones do.
    """
    signal = level_signal().to(low_res.device)[levels.to(low_res.device)][:, None, None, None]
    unit = signal * image_to_unit(low_res)
    if noise is not None:
        unit = unit + (1 - signal.square()).sqrt() * noise
    assert config.low_res is not None, "the model is no upsampler"
    return F.pixel_unshuffle(unit, config.vae.downsampling // config.low_res.factor)
