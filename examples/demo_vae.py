"""Make examples/demo-vae: the small autoencoder that the demo's model stands on.

The demo trains a UNet in minutes; an autoencoder that shows pictures well takes longer, so it is trained
once, by this script, on the bundled pictures alone, and its weights (half precision, under 2 MB) are part of
the project.

    python examples/demo_vae.py --minutes 38
"""

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional

HERE = Path(__file__).parent
SIZE = 64  # pixels; the autoencoder divides by 4
BATCH = 4


def load_pictures(folder: Path) -> list[np.ndarray]:
    """The pictures as uint8 RGB [H, W, 3], short side 96."""
    pictures = []
    for path in sorted(folder.glob("*.jpg")):
        picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        scale = 96 / min(picture.shape[:2])
        pictures.append(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    return pictures


def draw_batch(pictures: list[np.ndarray], rng: np.random.Generator) -> torch.Tensor:
    """Crops, some flipped, some with a mid-grey hole as a masked image has: float32 [B, 3, 64, 64]."""
    batch = np.empty((BATCH, SIZE, SIZE, 3), np.float32)
    for i in range(BATCH):
        picture = pictures[rng.integers(len(pictures))]
        height, width = picture.shape[:2]
        side = int(rng.integers(48, min(height, width) + 1))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        crop = cv2.resize(picture[top : top + side, left : left + side], (SIZE, SIZE)) / np.float32(127.5) - 1
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        batch[i] = crop
        if rng.random() < 0.4:
            x, y = rng.integers(0, 48, 2)
            w, h = rng.integers(12, 48, 2)
            batch[i, y : y + h, x : x + w] = 0
    return torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous()


def loss_of(vae: AutoencoderKL, pixels: torch.Tensor) -> tuple[torch.Tensor, float]:
    """L1 at three scales, so that edges count, a weak pull of the latents to N(0, 1); and the PSNR in dB."""
    posterior = vae.encode(pixels).latent_dist
    decoded = vae.decode(posterior.sample()).sample
    loss = functional.l1_loss(decoded, pixels)
    for factor in (2, 4):
        loss = loss + functional.l1_loss(
            functional.avg_pool2d(decoded, factor), functional.avg_pool2d(pixels, factor)
        )
    psnr = float(10 * torch.log10(4 / functional.mse_loss(decoded.detach(), pixels)))
    return loss + 1e-5 * posterior.kl().mean() / (SIZE / 4) ** 2, psnr


def train(minutes: float, seed: int) -> AutoencoderKL:
    """Train for the given time, learning rate falling to zero at its end."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[16, 32, 64],
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=SIZE,
    )
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=0.0, fused=True)
    pictures = load_pictures(HERE / "coco-mini" / "images")
    history: list[float] = []
    start, step = time.monotonic(), 0
    while (progress := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, step / 50 + 0.02) * (1 - progress)
        loss, psnr = loss_of(vae, draw_batch(pictures, rng))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        history.append(psnr)
        if (step := step + 1) % 100 == 0:
            print(f"step {step}, {progress:4.0%}, PSNR {np.mean(history[-100:]):.2f} dB", flush=True)
    with torch.no_grad():  # latents of unit variance, as Stable Diffusion's .18215 gives for its own
        deviation = torch.cat(
            [vae.encode(draw_batch(pictures, rng)).latent_dist.mean for _ in range(16)]
        ).std()
    vae.register_to_config(scaling_factor=round(1 / deviation.item(), 5))
    return vae


def main() -> None:
    """Train and write the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=38)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "demo-vae")
    arguments = parser.parse_args()
    vae = train(arguments.minutes, arguments.seed)
    vae.half().save_pretrained(arguments.out)
    print(f"wrote {arguments.out}: {sum(p.numel() for p in vae.parameters()):,} parameters")


if __name__ == "__main__":
    main()
