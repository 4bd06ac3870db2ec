"""Any picture onto the model's square and the model's square back into the picture."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from intarsia.errors import UserError
from sampling.pictures import Mask, Picture

EXEMPLAR_SIZE = 224


def check_mask(edit_mask: NDArray[np.bool_] | NDArray[np.floating], image: Picture) -> Mask:
    """An edit mask in the picture's own geometry, True = repaint (numbers are divided at one half).

    Raises:
        UserError: if its size is not the picture's or it marks nothing.
    """
    height, width = image.shape[:2]
    if edit_mask.shape != (height, width):
        sizes = " x ".join(str(side) for side in reversed(edit_mask.shape))
        raise UserError(
            f"the mask is {sizes} pixels but the picture {width} x {height}; give a mask of the same size"
        )
    mask = edit_mask if edit_mask.dtype == np.bool_ else edit_mask >= 0.5
    if not mask.any():
        raise UserError("the mask marks nothing to repaint")
    return mask


def fit_image(image: Picture, size: int) -> Picture:
    """Squash a picture to uint8 [size, size, 3] (bilinear, with antialiasing where it shrinks).

    Paint by Example's test squashes too; the model has seen squashed pictures in training.
    """
    return _resize(image, size, size, Image.Resampling.BILINEAR)


def fit_mask(edit_mask: Mask, size: int) -> NDArray[np.uint8]:
    """Squash an edit mask to uint8 [size, size], 255 = repaint; its edge turns soft.

    Raises:
        UserError: if the marked area is so small that no pixel of the square is half covered.
    """
    fitted = _resize(edit_mask.astype(np.uint8) * 255, size, size, Image.Resampling.BILINEAR)
    if fitted.max() < 128:
        raise UserError(
            f"a mask marks too little to be seen at {size} x {size} pixels; mark a larger area, or crop the "
            "picture around it"
        )
    return fitted


def fit_exemplar(exemplar: Picture) -> Picture:
    """Squash an exemplar to uint8 [224, 224, 3], bicubic, as Paint by Example's test."""
    return _resize(exemplar, EXEMPLAR_SIZE, EXEMPLAR_SIZE, Image.Resampling.BICUBIC)


def paste_back(edited: Picture, image: Picture, edit_mask: Mask | None) -> Picture:
    """Bring the model's square back to the picture's size.

    Args:
        edited: uint8 [size, size, 3], the model's result.
        image: the input picture [H, W, 3].
        edit_mask: where the result is to be seen; everywhere else the input's own pixels stay, bit for bit.
            None: the result covers everything.
    """
    height, width = image.shape[:2]
    whole = _resize(edited, width, height, Image.Resampling.LANCZOS)
    return whole if edit_mask is None else np.where(edit_mask[..., None], whole, image)


def _resize(
    pixels: NDArray[np.uint8], width: int, height: int, resample: Image.Resampling
) -> NDArray[np.uint8]:
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.array(Image.fromarray(pixels).resize((width, height), resample))
