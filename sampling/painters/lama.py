"""The painter `lama`: LaMa's network from a TorchScript file, which erases; so is anime-lama's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from intarsia.files import sha256_file
from sampling.painters.each import Taking, painting_each
from sampling.painters.painter import Paint, Painter
from sampling.painters.torchscript import check_script, load_script, named_file, padded
from sampling.settings import CANVAS_SETTINGS

if TYPE_CHECKING:
    from sampling.canvas.edits import EditRequest
    from sampling.pictures import Mask, Picture
    from sampling.settings import EditSettings, MachineSettings

CROP_ABOVE = 800  # pixels of the longer side above which lama-cleaner looks at the surroundings only
_MULTIPLE = 8
_FILES = ("big-lama.pt", "lama.pt")


def _named(model: Path | None) -> Path:
    return named_file("lama", _FILES[0], model)


def _open(model: Path | None, machine: MachineSettings) -> Paint:
    import torch

    from sampling.denoise.device import pick_device

    device = pick_device(machine.device)
    network = load_script(_named(model), device)

    def erase(image: Picture, mask: Mask, request: EditRequest, settings: EditSettings) -> Picture:
        height, width = mask.shape
        # The network itself hides what is marked.
        pixels = padded(image, _MULTIPLE).transpose(2, 0, 1).astype(np.float32) / 255
        marked = padded(mask, _MULTIPLE).astype(np.int64)
        inputs = torch.from_numpy(pixels)[None].to(device), torch.from_numpy(marked)[None, None].to(device)
        painted = network(*inputs)[0].permute(1, 2, 0).cpu().numpy()
        return np.clip(painted * 255, 0, 255).astype(np.uint8)[:height, :width]

    return painting_each(Taking("lama", (), CANVAS_SETTINGS), erase, CROP_ABOVE)


PAINTER = Painter(
    check=lambda model: check_script(_named(model)),
    open=_open,
    fingerprint=lambda model: sha256_file(_named(model)),
    parts=lambda model: (),
    uses=lambda model: CANVAS_SETTINGS,
    weights=_FILES,
    machine=(),
)
