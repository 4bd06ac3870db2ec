"""The painter `manga`: TorchScript files of a line extractor and of a network that continues drawings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from intarsia.errors import UserError
from intarsia.files import fingerprint, sha256_file
from sampling.painters.each import Taking, painting_each
from sampling.painters.lama import CROP_ABOVE
from sampling.painters.painter import Paint, Painter
from sampling.painters.torchscript import check_script, load_script, named_file, padded
from sampling.settings import CANVAS_SETTINGS

if TYPE_CHECKING:
    from sampling.canvas.edits import EditRequest
    from sampling.pictures import Mask, Picture
    from sampling.settings import EditSettings, MachineSettings

_MULTIPLE = 16
_SEED = 42  # of the noise for our seed 0, as lama-cleaner's
_FILES = ("erika.jit", "manga_inpaintor.jit")


def _named(model: Path | None) -> list[Path]:
    folder = named_file("manga", " and ".join(_FILES), model)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; manga needs one with {' and '.join(_FILES)}")
    return [folder / name for name in _FILES]


def _check(model: Path | None) -> None:
    for path in _named(model):
        check_script(path)


def grey_of(image: Picture) -> NDArray[np.uint8]:
    """Grey levels, uint8 [h, w], of a picture, uint8 [h, w, 3] RGB, rounded as OpenCV does."""
    weights = np.array([9798, 19235, 3735], np.int64)  # .299, .587 and .114 times 2^15
    return ((image.astype(np.int64) @ weights + (1 << 14)) >> 15).astype(np.uint8)


def _open(model: Path | None, machine: MachineSettings) -> Paint:
    import torch

    from sampling.denoise.device import pick_device

    device = pick_device(machine.device)
    find_lines, draw = (load_script(path, device) for path in _named(model))

    def erase(image: Picture, mask: Mask, request: EditRequest, settings: EditSettings) -> Picture:
        height, width = mask.shape
        levels = padded(grey_of(image), _MULTIPLE).astype(np.float32)
        grey = torch.from_numpy(levels)[None, None].to(device)
        lines = find_lines(grey).clamp(0, 255)
        marked = torch.from_numpy(padded(mask, _MULTIPLE).astype(np.float32))[None, None]
        noise = torch.randn(marked.shape, generator=torch.Generator().manual_seed(_SEED + request.seed))
        given = [grey / 255 * 2 - 1, lines / 255 * 2 - 1, marked, noise, torch.ones_like(marked)]
        drawn = draw(*(tensor.to(device) for tensor in given))[0, 0].cpu().numpy()
        painted = np.clip(drawn * 127.5 + 127.5, 0, 255).astype(np.uint8)[:height, :width]
        return np.repeat(painted[..., None], 3, axis=2)

    return painting_each(Taking("manga", (), CANVAS_SETTINGS), erase, CROP_ABOVE)


PAINTER = Painter(
    check=_check,
    open=_open,
    fingerprint=lambda model: fingerprint([sha256_file(path) for path in _named(model)]),
    parts=lambda model: (),
    uses=lambda model: (*CANVAS_SETTINGS, "seed"),
    weights=("manga",),
    machine=(),
)
