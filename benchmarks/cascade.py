"""What an upsampler makes of low-resolution pictures and of known pixels, on pictures with known answers.

    python -m benchmarks.cascade [--steps 1500]

A grey picture of 16 pixels is a smooth pattern, which 8 pixels determine, and a grating of period 2, of
which they show nothing: its phase, one of two, is that of the known pixels around the hole. The autoencoder
is exact (it only rearranges pixels), so that all errors are those of the UNet. Beside the upsampler, one is
trained that is blind to the known pixels: its hole is the whole picture.
"""

import argparse
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intarsia.architecture import ModelConfig
from intarsia.conditioning import image_to_unit
from intarsia.conditions.low_res import area_mean
from intarsia.config import build_config
from intarsia.model import EditModel, build_model
from sampling.denoise.condition import Encoder
from sampling.settings import EditSettings
from sampling.upsampler.window import Told, upsample
from training.data.batch import Batch
from training.objective.draws import draw, noise_levels
from training.objective.edit import EditTrainee, loss_of, prepare

SIDE, FACTOR = 16, 2
GRATING, STRENGTH, WAVES = 30.0, 12.0, 3  # amplitudes in levels of 255; largest number of waves per picture
HOLE = (slice(4, 12), slice(4, 12))
_SIGNS = np.where(np.arange(SIDE) % 2, -1.0, 1.0)  # the grating along a row, before its sign

CONFIG = build_config(
    ModelConfig,
    {
        "image_size": SIDE,
        "low_res": {"factor": FACTOR, "max_noise_level": 30},
        "unet": {
            "block_out_channels": [32],
            "down_block_types": ["CrossAttnDownBlock2D"],
            "layers_per_block": 1,
            "cross_attention_dim": 8,
            "attention_head_dim": 2,
            "norm_num_groups": 8,
        },
        "vae": {
            "block_out_channels": [8, 8],
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "scaling_factor": 2.0,
        },
        "image_encoder": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 5,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        "noise": {"beta_end": 0.02, "prediction_type": "v_prediction"},
    },
    where="benchmarks.cascade",
)


class ExactAutoencoder(nn.Module):
    """Latents that are the grey pixels of their cell, with the interface of `AutoencoderKL`."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(scaling_factor=CONFIG.vae.scaling_factor)
        self.nothing = nn.Parameter(torch.zeros(1), requires_grad=False)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights that it does not have."""
        return torch.float32

    def encode(self, image: Tensor) -> Any:
        """Pictures [B, 3, H, W] -> a posterior without deviation."""
        mean = F.pixel_unshuffle(image[:, :1], FACTOR)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=torch.zeros_like(mean)))

    def decode(self, latents: Tensor) -> Any:
        """Latents [B, 4, h, w] -> pictures [B, 3, H, W]."""
        return SimpleNamespace(sample=F.pixel_shuffle(latents, FACTOR).expand(-1, 3, -1, -1))


def pictures(number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures, uint8 [n, S, S, 3], their smooth part, float of the same shape, and their gratings' signs."""
    places, smooth = np.arange(SIDE) / SIDE, np.full((number, SIDE, SIDE, 1), 127.5)
    for x in range(WAVES + 1):
        for y in range(WAVES + 1):
            wave = 2 * math.pi * (x * places[None, :, None] + y * places[:, None, None])
            phase = 2 * math.pi * rng.random((number, 1, 1, 1))
            smooth += (
                (max(x, y) > 1) * STRENGTH * rng.standard_normal((number, 1, 1, 1)) * np.cos(wave + phase)
            )
    signs = rng.choice([-1.0, 1.0], number)
    smooth = smooth.repeat(3, axis=-1)
    whole = smooth + GRATING * signs[:, None, None, None] * _SIGNS[None, None, :, None]
    return whole.round().clip(0, 255).astype(np.uint8), smooth, signs


def holes(number: int, rng: np.random.Generator, blind: bool) -> np.ndarray:
    """Rectangles, uint8 [n, S, S], 255 = repaint; of a blind upsampler all of the picture."""
    masks: np.ndarray = np.zeros((number, SIDE, SIDE), np.uint8)
    for mask in masks:
        (x0, y0), (width, height) = rng.integers(1, 8, 2), rng.integers(4, 10, 2)
        mask[y0 : y0 + height, x0 : x0 + width] = 255
    return masks | 255 if blind else masks


def batches(size: int, blind: bool) -> Iterator[Batch]:
    """Micro-batches without end."""
    rng, first = np.random.default_rng(1), 0
    features = torch.zeros(size, CONFIG.image_encoder.hidden_size)
    while True:
        image, _, _ = pictures(size, rng)
        positions = torch.arange(first, first + size)
        mask = torch.from_numpy(holes(size, rng, blind))
        stored = {"features": features}
        yield Batch(positions, [""] * size, torch.from_numpy(image), mask, None, stored)
        first += size


def new_upsampler() -> EditModel:
    """The upsampler before training."""
    model = build_model(CONFIG, 0)
    model.vae = ExactAutoencoder()
    return model


def trained(steps: int, blind: bool = False, size: int = 16, lr: float = 4e-3) -> EditModel:
    """An upsampler after so many steps."""
    model = new_upsampler()
    trainee, levels = EditTrainee(model), noise_levels(CONFIG.noise)
    optimizer = torch.optim.AdamW(trainee.parameters(), lr, weight_decay=0.0)
    for step, batch in zip(range(steps), batches(size, blind), strict=False):
        wave = (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.param_groups[0]["lr"] = lr * wave * min(1.0, (step + 1) / 50)
        ready = prepare(model, levels, batch, draw(0, batch.positions, CONFIG, 0.0), "cpu")
        optimizer.zero_grad()
        loss_of(trainee(ready), ready).backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def figures(model: EditModel, blind: bool = False, number: int = 40, steps: int = 20) -> dict[str, float]:
    """What it makes of pictures that it has not seen, measured in the hole.

    Returns:
        smooth_db: PSNR of the smooth part, in dB; bilinear_db: that of bilinear interpolation.
        amplitude: size of the grating, as a share of the true one; phase: share with the true phase.
        mean_error: root mean square difference of the area means from the low-resolution picture, levels of
            255; outside: largest difference outside the hole once it is pasted, 0.
    """
    image, smooth, signs = pictures(number, np.random.default_rng(9))
    mask = np.zeros((SIDE, SIDE), bool)
    mask[HOLE] = True
    seen, settings = mask | blind, EditSettings(num_inference_steps=steps, scheduler="ddim")
    encoder, made = Encoder(model, torch.device("cpu")), []
    for seed, picture in enumerate(image):
        made.append(upsample(encoder, picture, seen, picture, Told(None, "", seed), settings))
    large = np.stack(made).astype(np.float64)
    stripes = _SIGNS[None, None, :, None]
    size = (large * stripes)[:, *HOLE].mean(axis=(1, 2, 3)) / GRATING
    rest = large - GRATING * size[:, None, None, None] * stripes
    low = area_mean(torch.from_numpy(image), FACTOR)
    plain = F.interpolate(image_to_unit(low), SIDE, mode="bilinear", align_corners=False)
    enlarged = (plain.permute(0, 2, 3, 1).numpy() + 1) * 127.5
    blocks = [
        area_mean(torch.from_numpy(np.ascontiguousarray(pixels[:, *HOLE])), FACTOR).double()
        for pixels in (large.astype(np.uint8), image)
    ]
    return {
        "smooth_db": psnr(rest[:, *HOLE], smooth[:, *HOLE]),
        "bilinear_db": psnr(enlarged[:, *HOLE], smooth[:, *HOLE]),
        "amplitude": float((size * signs).mean()),
        "phase": float((size * signs > 0).mean()),
        "mean_error": float((blocks[0] - blocks[1]).square().mean().sqrt()),
    }


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio of pixels in levels of 255, in dB."""
    return float(10 * np.log10(255.0**2 / np.square(one - other).mean()))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    steps = parser.parse_args().steps
    print("| | smooth part | bilinear | grating's size | phase of the known pixels | error of area means |")
    print("|---|---|---|---|---|---|")
    for name, blind in (("sees known pixels", False), ("blind to them", True)):
        found = figures(trained(steps, blind), blind)
        row = [f"{found[key]:.1f} dB" for key in ("smooth_db", "bilinear_db")]
        row += [f"{found[key]:.2f}" for key in ("amplitude", "phase")]
        print("|", " | ".join([name, *row, f"{found['mean_error']:.1f} of 255"]), "|", flush=True)


if __name__ == "__main__":
    main()
