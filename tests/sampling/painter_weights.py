"""Tiny weights for every painter: networks of its kind, or a server in the place of one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn

from intarsia.weights import save_model
from tests.sampling.tiny import tiny_model
from tests.text import make_stable_diffusion

NO_CHECKER: dict[str, Any] = {"safety_checker": None, "requires_safety_checker": False}


class Lama(nn.Module):
    """Red: the picture, which it gets unmasked; green: the mask; blue: the size of its input."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        size = torch.full_like(image[:, :1], image.shape[2] * 0.001 + image.shape[3] * 0.000001)
        return torch.cat([image[:, :1] + 0.001, mask.to(image.dtype) * 2.0, size], 1)


class MangaLines(nn.Module):
    """Lines beyond the range on both sides."""

    def forward(self, grey: Tensor) -> Tensor:
        return grey * 4.0 - 300.0


class MangaDraws(nn.Module):
    """A mixture of everything it gets, inside [-1, 1]."""

    def forward(self, grey: Tensor, lines: Tensor, mask: Tensor, noise: Tensor, ones: Tensor) -> Tensor:
        return (grey + lines + mask + torch.tanh(noise) + ones) / 5.0


def scripted(network: nn.Module, path: Path) -> Path:
    """Write a network as TorchScript."""
    torch.jit.save(torch.jit.script(network), str(path))
    return path


def make_lama(folder: Path) -> Path:
    return scripted(Lama(), folder / "big-lama.pt")


def make_manga(folder: Path) -> Path:
    own = folder / "manga"
    own.mkdir()
    scripted(MangaLines(), own / "erika.jit")
    scripted(MangaDraws(), own / "manga_inpaintor.jit")
    return own


def make_inpainting(folder: Path) -> Path:
    return make_stable_diffusion(folder / "inpainting", 9)


def make_instruct(folder: Path) -> Path:
    """The parts of Stable Diffusion with a UNet of eight channels, as InstructPix2Pix has them."""
    parts = StableDiffusionInpaintPipeline.from_pretrained(make_inpainting(folder), **NO_CHECKER).components
    geometry = {name: value for name, value in parts["unet"].config.items() if not name.startswith("_")}
    torch.manual_seed(8)
    own = parts | {"unet": UNet2DConditionModel(**geometry | {"in_channels": 8}), **NO_CHECKER}
    del own["image_encoder"]
    StableDiffusionInstructPix2PixPipeline(**own).save_pretrained(folder / "instruct")
    return folder / "instruct"


def make_own(folder: Path) -> Path:
    save_model(tiny_model(2), folder / "model")
    return folder / "model"


# Painter -> function that makes its weights in a folder; iopaint's are a server's.
MAKERS: dict[str, Callable[[Path], Path | None]] = {
    "own": make_own,
    "cv2": lambda folder: None,
    "lama": make_lama,
    "manga": make_manga,
    "sd1.5": make_inpainting,
    "sd2": make_inpainting,
    "instruct_pix2pix": make_instruct,
    "iopaint": lambda folder: Path("lama"),
}
