"""The one reader of picture files, of data prep and of sampling: formats, limits, colours, orientation.

It needs numpy and Pillow only.
"""

import io
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from dataprep.pictures.formats import HEIF, is_heif, name_format, open_heif
from dataprep.records import Rejected, RejectReason
from intarsia.files import LFS_START

PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "PPM", "JPEG2000")
MAX_PIXELS = 120_000_000  # 360 MB decoded; telephones take pictures of 108 million
ORIENTATION = 0x0112  # EXIF tag
TOO_MUCH_BESIDE = "its text or colour profile has more than 1 MiB; save it again without metadata"

# Pillow warns of half the pixels that it refuses, and of broken records; refusals are reported instead.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else Python prints these to standard error
_stderr = threading.Lock()


def open_image(content: bytes) -> Image.Image | Rejected:
    """A picture file with its header read, or why it cannot be used; `load_rgb` decodes it.

    Args:
        content: whole file.
    """
    if not content:
        return Rejected(RejectReason.FILE_EMPTY)
    if content.startswith(LFS_START):
        return Rejected(RejectReason.LFS_POINTER, "fetch the file with `git lfs pull`")
    try:
        opened = _open(content)
    except Image.DecompressionBombError as error:
        return Rejected(RejectReason.TOO_MANY_PIXELS, str(error))
    except Exception as error:  # noqa: BLE001 - decoders raise anything on a damaged file; it is reported
        return _damaged(error)
    if isinstance(opened, Image.Image) and opened.width * opened.height > MAX_PIXELS:
        return Rejected(RejectReason.TOO_MANY_PIXELS, f"{opened.width}x{opened.height}")
    return opened


def _open(content: bytes) -> Image.Image | Rejected:
    try:
        return Image.open(io.BytesIO(content), formats=PICTURE_FORMATS)
    except UnidentifiedImageError:
        if is_heif(content) and (image := open_heif(content)):
            return image
    name = name_format(content)
    if not name:
        return Rejected(RejectReason.NOT_AN_IMAGE, f"{len(content)} bytes of no known picture format")
    remedy = "; `pip install pi-heif` reads it" if name == HEIF else ""
    return Rejected(RejectReason.FORMAT_UNKNOWN, name + remedy)


def load_rgb(image: Image.Image) -> np.ndarray | Rejected:
    """The pixels of an opened picture as stored, uint8 [H, W, 3] RGB, or why they cannot be used.

    Grey, palette and CMYK pictures become RGB, CMYK by its own profile where it has one; of 16 bits of grey
    the nearest of 8 is taken; transparent parts are laid on white; of an animation the first frame counts.
    Other colour profiles are not applied.
    """
    return _decoded(image, _to_rgb)


def load_grey(image: Image.Image) -> np.ndarray | Rejected:
    """The same as one channel, uint8 [H, W], with transparent parts on black: for masks."""
    return _decoded(image, _to_grey)


@contextmanager
def _quiet(image: Image.Image) -> Iterator[None]:
    """Without what libtiff prints to standard error, past Python; what matters of it becomes an exception."""
    if image.format != "TIFF":
        yield
        return
    with _stderr, open(os.devnull, "wb") as nothing:  # noqa: PTH123 - a device
        before = os.dup(2)
        os.dup2(nothing.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)


def _decoded(image: Image.Image, convert: Callable[[Image.Image], np.ndarray]) -> np.ndarray | Rejected:
    try:
        with _quiet(image):
            image.load()
        unsupported = _unsupported(image)
        return Rejected(RejectReason.UNSUPPORTED_PIXELS, unsupported) if unsupported else convert(image)
    except Image.DecompressionBombError as error:
        return Rejected(RejectReason.TOO_MANY_PIXELS, str(error))
    except Exception as error:  # noqa: BLE001 - see `open_image`
        return _damaged(error)


def _damaged(error: Exception) -> Rejected:
    if "MAX_TEXT" in str(error):  # Pillow's limits, against PNGs whose small chunks unpack to gigabytes
        return Rejected(RejectReason.DAMAGED, TOO_MUCH_BESIDE)
    return Rejected(RejectReason.DAMAGED, f"{type(error).__name__}: {error}")


def _unsupported(image: Image.Image) -> str:
    """What the pixels are that have no place in 8 bits; empty where they have."""
    if image.mode == "F":
        return "floating-point pixels"
    if image.mode == "I":  # holds 16 bits too
        levels = np.asarray(image)
        if levels.size and (levels.min() < 0 or levels.max() > 65535):
            return "32-bit integer pixels"
    return ""


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):
        return np.repeat(_eight_bits(image)[:, :, None], 3, axis=2)
    if image.mode == "CMYK":
        image = _from_cmyk(image)
    elif has_alpha(image):
        image = _laid_on("white", image)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _to_grey(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):
        return _eight_bits(image)
    return np.array((_laid_on("black", image) if has_alpha(image) else image).convert("L"))


def _eight_bits(image: Image.Image) -> np.ndarray:
    """The nearest level of 8 bits, 65535 being 255; Pillow itself would clip everything above 255."""
    return ((np.asarray(image).astype(np.int64) + 128) // 257).astype(np.uint8)


def has_alpha(image: Image.Image) -> bool:
    """Whether parts may be transparent. A single level of 16-bit grey that is so does not count."""
    if image.mode.startswith("I"):
        return False
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _laid_on(colour: str, image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, colour), rgba)


def _from_cmyk(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if not profile:
        return image.convert("RGB")
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (OSError, ImageCms.PyCMSError):  # a profile that LittleCMS cannot read
        return image.convert("RGB")
    return converted if converted is not None else image.convert("RGB")


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 … 8; 1 where there is none or it makes no sense."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - EXIF records are broken in more ways than Pillow guards against
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (1 … 8) of [H, W] or [H, W, C] pixels."""
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda p: p,
        2: np.fliplr,
        3: lambda p: np.rot90(p, 2),
        4: np.flipud,
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
        8: np.rot90,
    }
    return np.ascontiguousarray(turns[orientation](pixels))
