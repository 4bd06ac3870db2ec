"""Pictures and masks from files into plain upright RGB arrays, and back."""

from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from intarsia.errors import UserError
from intarsia.files import atomic_path

Picture: TypeAlias = NDArray[np.uint8]  # [H, W, 3], RGB
Mask: TypeAlias = NDArray[np.bool_]  # [H, W], True = repaint


def read_picture(path: Path | str) -> Picture:
    """Read any picture: upright by its EXIF tag, 8-bit RGB, transparent parts on white.

    Raises:
        UserError: if the file is missing, damaged or no picture.
    """
    return to_rgb(_open(Path(path)))


def read_mask(path: Path | str) -> Mask:
    """Read an edit mask: white = repaint, black = keep, divided at one half; transparent is black.

    Raises:
        UserError: if the file is missing, damaged, no picture, or marks nothing.
    """
    image = _eight_bit(_open(Path(path)))
    if _has_alpha(image):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    mask = np.asarray(image.convert("L")) >= 128
    if not mask.any():
        raise UserError(f"{path} marks nothing to repaint; paint the area white (128 or more of 255)")
    return mask


def to_rgb(image: Image.Image) -> Picture:
    """A PIL picture of any mode -> uint8 [H, W, 3] RGB; transparent parts on white."""
    image = _eight_bit(image)
    if _has_alpha(image):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def write_png(image: Image.Image | Picture, path: Path | str) -> None:
    """Write a PNG, whole or not at all; missing folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise UserError(f"picture {path} does not exist") from None
    except UnidentifiedImageError:
        raise UserError(f"{path} is not a picture that can be read") from None
    except Image.DecompressionBombError:
        raise UserError(f"{path} has too many pixels to be read safely; scale it down first") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _has_alpha(image: Image.Image) -> bool:
    return "A" in image.getbands() or "transparency" in image.info


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey to 8 bits; Pillow's own conversion would clip everything above 255 to white."""
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.float64) / 257.0
        return Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))
    return image
