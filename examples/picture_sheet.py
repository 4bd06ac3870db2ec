"""Paint the holes of the bundled pictures at 64 pixels, and again at 256, and show both beside the truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from demo_cascade_sheet import psnr
from demo_gallery import save

from intarsia.sample import Sample
from intarsia.weights import read_model
from sampling.canvas.edits import EditRequest
from sampling.canvas.sheets import sheet, with_hole
from sampling.editing import edit
from sampling.pictures import Picture
from sampling.settings import EditSettings

SETTINGS = EditSettings(guidance_scale=1.0, num_inference_steps=5, scheduler="ddim", batch_size=8)
SHOWN = ("15746", "13004", "10444")  # pictures of the README
TITLES = ["hole", "exemplar", "base, 64 px", "with upsampler, 256 px", "truth"]


@dataclass(frozen=True)
class Painted:
    """One picture, uint8 [256, 256, 3], with its edits and their PSNR in the hole, in dB."""

    name: str
    row: tuple[Picture, ...]
    base: float
    upsampled: float


def write_sheets(
    models: Path, samples: Sequence[Sample], out: Path, settings: EditSettings = SETTINGS
) -> str:
    """Write `out`/sheet.png with all pictures and `out`/picture.png with three; what there is to say of them.

    Args:
        models: folder with base/ and upsampler/.
        samples: samples of 256 pixels, one of each picture.
        out: existing folder.
        settings: settings of the edits.
    """
    painted = paint(models, samples, settings)
    save(sheet(TITLES, [one.row for one in painted], 256), out / "sheet.png")
    chosen = [one for one in painted if one.name in SHOWN] or painted[:1]
    save(sheet(TITLES, [one.row for one in chosen], 256), out / "picture.png")
    base, upsampled = (np.mean([getattr(one, name) for one in painted]) for name in ("base", "upsampled"))
    return (
        f"In the holes of {len(painted)} pictures: base {base:.1f} dB, upsampled {upsampled:.1f} dB. "
        f"Look at {out}/picture.png and {out}/sheet.png."
    )


def paint(models: Path, samples: Sequence[Sample], settings: EditSettings) -> list[Painted]:
    """Paint each sample's hole after its own exemplar, by the base alone and with the upsampler."""
    model = read_model(models / "base")
    requests = [
        EditRequest(sample.image, sample.edit_mask >= 128, sample.exemplar, number)
        for number, sample in enumerate(samples)
    ]
    small = [result.image for result in edit(model, requests, settings)]
    model.upsampler = read_model(models / "upsampler")
    large = [result.image for result in edit(model, requests, settings)]
    return [
        Painted(
            sample.meta.image_id,
            (with_hole(request), sample.exemplar, before, after, sample.image),
            psnr(before, sample.image, sample.edit_mask >= 128),
            psnr(after, sample.image, sample.edit_mask >= 128),
        )
        for sample, request, before, after in zip(samples, requests, small, large, strict=True)
    ]
