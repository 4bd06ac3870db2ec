"""Fit a picture of any size to the model's square, and put the square back into the picture.

There are three fits. *resize* squashes the whole picture, as Paint by Example's test does. *pad* keeps its
proportions and continues its edges over the rest of the square. *crop* uses a window around the mask. *auto*,
the default, crops if one side of the picture is longer than the model's square and the crop's window has at
most half of the picture's pixels; otherwise it resizes.

The window of a crop is a square whose side is (1 + context) times the longer side of the mask's box, but at
least half the model's size, so that known pixels are enlarged at most twofold. It is centred on the box and
moved into the picture. If the picture is narrower, so is the window, and it is squashed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from intarsia.boxes import Box
from intarsia.errors import UserError
from intarsia.sample import EXEMPLAR_SIZE
from sampling.canvas.seam import inside_weight
from sampling.pictures import Mask, Picture
from sampling.settings import EditSettings


@dataclass(frozen=True)
class Canvas:
    """The position of one picture on the model's square.

    Attributes:
        window: part of the picture that the model sees, in the picture's pixels.
        frame: part of the square that the window fills; `pad` leaves margins around it.
        size: side of the square, in pixels.
    """

    window: Box
    frame: Box
    size: int

    def fit_image(self, image: Picture) -> Picture:
        """Fit the window of a picture, uint8 [H, W, 3], to uint8 [size, size, 3] (bilinear, antialiased)."""
        return self._fit(self.window.cut(image))

    def fit_mask(self, edit_mask: Mask) -> NDArray[np.uint8]:
        """Fit the window of a mask to uint8 [size, size], 255 = repaint; its edge becomes soft.

        Raises:
            UserError: if the marked area is so small that no pixel of the square is half covered.
        """
        fitted = self._fit(self.window.cut(edit_mask).astype(np.uint8) * 255)
        if fitted.max() < 128:
            other = ", or use --fit crop, which samples a window around the mask"
            raise UserError(
                f"a mask marks too small an area for {self.size} x {self.size} pixels; mark a larger area"
                f"{other if self.crop_helps(edit_mask) else ''}"
            )
        return fitted

    def crop_helps(self, edit_mask: Mask) -> bool:
        """Whether this is the whole picture and `--fit crop` would be less of it; for a mask, bool [H, W]."""
        crop = lay_canvas(edit_mask, self.size, EditSettings(fit="crop")).window
        return crop.area < self.window.area == edit_mask.size

    def paste_back(self, edited: Picture, image: Picture, edit_mask: Mask | None, blend: int = 0) -> Picture:
        """Put the model's square back into the picture.

        Only the mask's box is resized to the picture's size (Lanczos), so a large picture costs little.

        Args:
            edited: result of the model, uint8 [size, size, 3], or of an upsampler, without margins.
            image: input picture, uint8 [H, W, 3].
            edit_mask: area that shows the result, bool [H, W]; outside, the input's pixels remain, bit for
                bit. None: the result covers the whole window.
            blend: width in pixels, inside the mask, over which the input fades into the result.
        """
        result = image.copy()
        if edit_mask is None:
            self.window.cut(result)[:] = self._enlarged(edited, self.window)
            return result
        area = mask_box(edit_mask)
        patch, part, inside = self._enlarged(edited, area), area.cut(result), area.cut(edit_mask)
        if blend:
            weight = inside_weight(edit_mask, area, blend)[..., None]
            patch = (part + weight * (patch.astype(np.float32) - part)).round().astype(np.uint8)
        np.copyto(part, patch, where=inside[..., None])
        return result

    def _fit(self, part: NDArray[np.uint8]) -> NDArray[np.uint8]:
        small = _resize(part, self.frame.width, self.frame.height, Image.Resampling.BILINEAR)
        if self.frame.area == self.size**2:
            return small
        # Edges are continued, those of the hole too, so that an edit at the border has no false neighbours.
        margins = [(self.frame.y0, self.size - self.frame.y1), (self.frame.x0, self.size - self.frame.x1)]
        return np.pad(small, margins + [(0, 0)] * (part.ndim - 2), mode="edge")

    def _enlarged(self, edited: Picture, area: Box) -> Picture:
        """The part of the square that belongs to `area` of the picture, at the picture's resolution."""
        across, down = self.frame.width / self.window.width, self.frame.height / self.window.height
        box = (
            self.frame.x0 + (area.x0 - self.window.x0) * across,
            self.frame.y0 + (area.y0 - self.window.y0) * down,
            min(self.frame.x0 + (area.x1 - self.window.x0) * across, edited.shape[1]),
            min(self.frame.y0 + (area.y1 - self.window.y0) * down, edited.shape[0]),
        )
        if across == down == 1.0:
            return Box(*(int(edge) for edge in box)).cut(edited)
        enlarged = Image.fromarray(edited).resize(
            (area.width, area.height), Image.Resampling.LANCZOS, box=box
        )
        return np.asarray(enlarged)


def lay_canvas(edit_mask: Mask, size: int, settings: EditSettings) -> Canvas:
    """Choose the part of a picture that the model sees, by `settings.fit`; see the module's docstring.

    Args:
        edit_mask: mask of the picture's size, bool [H, W], not empty.
        size: side of the model's square, in pixels.
        settings: settings of the edit; only `fit` and `context` are used.
    """
    height, width = edit_mask.shape
    whole, square = Box(0, 0, width, height), Box(0, 0, size, size)
    if settings.fit == "pad":
        return Canvas(whole, _centred(width, height, size), size)
    if settings.fit == "resize":
        return Canvas(whole, square, size)
    window = _window(mask_box(edit_mask), (width, height), size, settings.context)
    small = max(width, height) > size and 2 * window.area <= whole.area
    return Canvas(window if settings.fit == "crop" or small else whole, square, size)


def mask_box(edit_mask: Mask) -> Box:
    """The smallest box that contains all marked pixels of a mask."""
    rows, columns = np.flatnonzero(edit_mask.any(1)), np.flatnonzero(edit_mask.any(0))
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def check_mask(edit_mask: NDArray[np.bool_] | NDArray[np.floating], image: Picture) -> Mask:
    """Check an edit mask and make it bool [H, W], True = repaint; numbers are split at one half.

    Raises:
        UserError: if its size is not the picture's or it marks nothing.
    """
    height, width = image.shape[:2]
    if edit_mask.shape != (height, width):
        sizes = " x ".join(str(side) for side in reversed(edit_mask.shape))
        turned = edit_mask.shape == (width, height)
        advice = "rotate it to match the upright picture" if turned else "give a mask of the same size"
        raise UserError(f"the mask is {sizes} pixels but the picture {width} x {height}; {advice}")
    mask = edit_mask if edit_mask.dtype == np.bool_ else edit_mask >= 0.5
    if not mask.any():
        raise UserError("the mask marks nothing to repaint")
    return mask


def fit_exemplar(exemplar: Picture) -> Picture:
    """Squash an exemplar to uint8 [224, 224, 3], bicubic, as in Paint by Example's test."""
    return _resize(exemplar, EXEMPLAR_SIZE, EXEMPLAR_SIZE, Image.Resampling.BICUBIC)


def _window(marked: Box, size: tuple[int, int], model_size: int, context: float) -> Box:
    side = max(round((1 + context) * max(marked.width, marked.height)), model_size // 2)
    width, height = min(side, size[0]), min(side, size[1])
    x0 = min(max((marked.x0 + marked.x1 - width) // 2, 0), size[0] - width)
    y0 = min(max((marked.y0 + marked.y1 - height) // 2, 0), size[1] - height)
    return Box(x0, y0, x0 + width, y0 + height)


def _centred(width: int, height: int, size: int) -> Box:
    scale = size / max(width, height)
    across, down = (max(1, round(side * scale)) for side in (width, height))
    x0, y0 = (size - across) // 2, (size - down) // 2
    return Box(x0, y0, x0 + across, y0 + down)


def resized(pixels: NDArray[np.uint8], width: int, height: int, blocks: bool = False) -> NDArray[np.uint8]:
    """Pixels uint8 [h, w] or [h, w, 3] at another size: bilinear, antialiased; or by means of areas."""
    return _resize(pixels, width, height, Image.Resampling.BOX if blocks else Image.Resampling.BILINEAR)


def _resize(
    pixels: NDArray[np.uint8], width: int, height: int, resample: Image.Resampling
) -> NDArray[np.uint8]:
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.array(Image.fromarray(pixels).resize((width, height), resample))
