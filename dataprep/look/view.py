"""How one sample is shown: picture with its mask laid over, mask, exemplar, and a caption."""

import cv2
import numpy as np
from PIL import Image, ImageDraw

from dataprep.shards.tally import mask_coverage
from intarsia.sample import ExemplarOrigin, Sample

CELL_SIDE = 224
TINT = (255, 40, 80)
BOX_OUTLINE = (255, 220, 0)
OUTLINE = (40, 130, 255)  # of the object's own mask


def overlay_mask(sample: Sample) -> Image.Image:
    """The image with the edit mask tinted, and outlines of the annotated box and of the object's own mask."""
    strength = sample.edit_mask[:, :, None] / 255 * 0.45
    mixed = sample.image * (1 - strength) + np.array(TINT) * strength
    if sample.object_mask is not None:
        width = max(sample.image.shape[1] // 150, 1)
        inside = (sample.object_mask >= 128).astype(np.uint8)
        mixed[(inside > 0) & (cv2.erode(inside, np.ones((2 * width + 1,) * 2, np.uint8)) == 0)] = OUTLINE
    picture = Image.fromarray(mixed.round().astype(np.uint8))
    window, box = sample.meta.window, sample.meta.box
    scale_x, scale_y = picture.width / window.width, picture.height / window.height
    corners = (
        (box.x0 - window.x0) * scale_x,
        (box.y0 - window.y0) * scale_y,
        (box.x1 - window.x0) * scale_x - 1,
        (box.y1 - window.y0) * scale_y - 1,
    )
    if corners[0] <= corners[2] and corners[1] <= corners[3]:
        ImageDraw.Draw(picture).rectangle(corners, outline=BOX_OUTLINE, width=max(picture.width // 150, 1))
    return picture


def sample_cells(sample: Sample, origin: np.ndarray | None = None) -> list[Image.Image]:
    """Picture with overlay, mask and exemplar, each with a longer side of 224 pixels.

    Of a pair there is one more before the exemplar: the exemplar's own picture with its box.

    Args:
        sample: sample to show.
        origin: the exemplar's own picture, uint8 [H, W, 3] RGB; None if it is not known.
    """
    pictures = [overlay_mask(sample), Image.fromarray(sample.edit_mask)]
    if sample.meta.exemplar_from is not None:
        pictures.append(_origin(sample.meta.exemplar_from, origin))
    pictures.append(Image.fromarray(sample.exemplar))
    cells = []
    for picture in pictures:
        picture = picture.convert("RGB")
        scale = CELL_SIDE / max(picture.size)
        size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
        cells.append(picture.resize(size, Image.Resampling.BICUBIC))
    return cells


def _origin(origin: ExemplarOrigin, pixels: np.ndarray | None) -> Image.Image:
    """The exemplar's own picture with its box; grey with a line of words if it is not known."""
    if pixels is None:
        picture = Image.new("RGB", origin.image_size, (128, 128, 128))
        ImageDraw.Draw(picture).text((4, 4), "the picture is not there any more", fill="white")
    else:
        picture = Image.fromarray(pixels).resize(origin.image_size)
    box = origin.box
    corners = (box.x0, box.y0, box.x1 - 1, box.y1 - 1)
    ImageDraw.Draw(picture).rectangle(corners, outline=BOX_OUTLINE, width=max(picture.width // 150, 1))
    return picture


def sample_caption(sample: Sample) -> str:
    """Key, class, kind of mask and its share of the image."""
    meta = sample.meta
    squashed = ", squashed" if meta.squashed else ""
    frames = ""
    if meta.exemplar_from is not None:
        one, other = meta.frame, meta.exemplar_from.frame
        frames = f", frame {one} from {other}" if one is not None else f", from {meta.exemplar_from.file}"
    share = f"{mask_coverage(sample.edit_mask):.0%}"
    return f"{meta.key}, {meta.label}, {meta.mask_kind} mask {share}{squashed}{frames}"
