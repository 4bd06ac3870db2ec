"""Picture files: where they lie, and one decode to upright 8-bit RGB or a reason why not."""

import io
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from dataprep.records import Rejected, RejectReason
from intarsia.errors import UserError
from intarsia.files import LFS_START, sha256_bytes

MAX_PIXELS = 100_000_000  # 300 MB decoded; photographs are below
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "PPM", "JPEG2000")
_JPEG = b"\xff\xd8\xff"
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: uint8 [H, W, 3] RGB, upright.
        file_bytes: size of its file.
        file_sha256: of its file.
        jpeg: the file itself where that is a JPEG of exactly these pixels; otherwise None.
    """

    pixels: np.ndarray
    file_bytes: int
    file_sha256: str
    jpeg: bytes | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.pixels.shape[1], self.pixels.shape[0]


def check_source(root: Path, file: str) -> None:
    """Tell a picture that is missing from a source that is gone (unmounted, renamed, a dead server).

    Args:
        root: the folder of pictures.
        file: path below it of a picture that could not be read.

    Raises:
        UserError: if that picture's folder cannot be listed, or has nothing in it.
    """
    folder = (root / file).parent
    try:
        with os.scandir(folder) as entries:
            if any(entries):
                return
        what = "is empty"
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
    raise UserError(f"the folder of pictures {folder} {what} now, while it held pictures when planned")


class Readable(Protocol):
    """A file: a path, a member of a tar, something on a server."""

    @property
    def name(self) -> str:
        """For messages."""

    def read_bytes(self) -> bytes:
        """The whole content; OSError where that cannot be had."""


def read_picture(path: Readable, annotated_size: tuple[int, int] | None = None) -> Picture | Rejected:
    """Read a file once and decode it once.

    JPEGs go through libjpeg-turbo in strict mode: it alone notices bit rot and cut ends, which other decoders
    paint over in grey. The rest goes through Pillow. EXIF orientation is applied. Grey, palette, CMYK and
    16-bit pictures become 8-bit RGB; transparent ones are laid on white; of animations the first frame
    counts; colour profiles are not applied.

    Args:
        path: the file.
        annotated_size: (width, height) that the boxes were drawn on, where known. A picture of this size only
            without its EXIF rotation is left unrotated; one of another size is rejected.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        reason = RejectReason.FILE_MISSING if missing else RejectReason.FILE_UNREADABLE
        return Rejected(reason, error.strerror or str(error))  # results do not depend on its place
    decoded = decode_picture(content)
    if isinstance(decoded, Rejected):
        return decoded
    raw, orientation = decoded
    raw_size = raw.shape[1], raw.shape[0]
    upright_size = raw_size[::-1] if orientation >= 5 else raw_size
    if annotated_size is not None and annotated_size != upright_size:
        if annotated_size != raw_size:
            detail = f"annotated as {annotated_size[0]}x{annotated_size[1]}, is {raw_size[0]}x{raw_size[1]}"
            return Rejected(RejectReason.SIZE_MISMATCH, detail)
        pixels = raw
    else:
        pixels = turn_upright(raw, orientation)
    as_it_is = content if content.startswith(_JPEG) and orientation == 1 and not _is_cmyk(content) else None
    return Picture(pixels, len(content), sha256_bytes(content), as_it_is)


def decode_picture(content: bytes) -> tuple[np.ndarray, int] | Rejected:
    """A picture file's pixels as stored, uint8 [H, W, 3] RGB, and its EXIF orientation (1 … 8)."""
    if not content:
        return Rejected(RejectReason.FILE_EMPTY)
    if content.startswith(LFS_START):
        return Rejected(RejectReason.LFS_POINTER, "fetch the file with `git lfs pull`")
    if not content.startswith(_JPEG):
        return _decode_with_pillow(content)
    pixels = _decode_jpeg(content)
    if pixels is None:
        return _decode_with_pillow(content)
    return pixels if isinstance(pixels, Rejected) else (pixels, _jpeg_orientation(content))


def _decode_jpeg(content: bytes) -> np.ndarray | Rejected | None:
    """The pixels, or why not, or None where the file is for Pillow (CMYK, odd subsampling)."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content, strict=True)
        if height * width > MAX_PIXELS:
            return Rejected(RejectReason.TOO_MANY_PIXELS, f"{width}x{height}")
        pixels = simplejpeg.decode_jpeg(content, colorspace="RGB", strict=True)
    except ValueError as error:
        if "subsampling" in str(error):
            return None
        unsupported = str(error).startswith("Unsupported")
        return Rejected(RejectReason.UNSUPPORTED_PIXELS if unsupported else RejectReason.DAMAGED, str(error))
    return None if colours in ("CMYK", "YCCK") else pixels


def _is_cmyk(content: bytes) -> bool:
    try:
        return simplejpeg.decode_jpeg_header(content)[2] in ("CMYK", "YCCK")
    except ValueError:  # one that only Pillow reads
        return True


def _decode_with_pillow(content: bytes) -> tuple[np.ndarray, int] | Rejected:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    detail = f"{picture.width}x{picture.height}"
                    return Rejected(RejectReason.TOO_MANY_PIXELS, detail)
                picture.load()
                orientation = _orientation(picture)
                pixels = _to_rgb(picture)
    except UnidentifiedImageError:
        return Rejected(RejectReason.NOT_AN_IMAGE, f"{len(content)} bytes of no known picture format")
    except Image.DecompressionBombError as error:
        return Rejected(RejectReason.TOO_MANY_PIXELS, str(error))
    except Exception as error:  # noqa: BLE001 - decoders raise anything on a damaged file; it is told, not lost
        return Rejected(RejectReason.DAMAGED, f"{type(error).__name__}: {error}")
    if isinstance(pixels, Rejected):
        return pixels
    return pixels, orientation


def _to_rgb(picture: Image.Image) -> np.ndarray | Rejected:
    """uint8 [H, W, 3] of a loaded picture of any mode."""
    mode = picture.mode
    if mode.startswith("I"):  # 16 bit, held in 16 or 32: the upper byte, never clipped at 255
        grey: np.ndarray = np.array(picture).astype(np.int64)
        if grey.size and (grey.min() < 0 or grey.max() > 65535):
            return Rejected(RejectReason.UNSUPPORTED_PIXELS, "32-bit integer pixels")
        return np.repeat((grey >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    if mode == "F":
        return Rejected(RejectReason.UNSUPPORTED_PIXELS, "floating-point pixels")
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(picture.convert("RGB"))


def _jpeg_orientation(content: bytes) -> int:
    if b"Exif" not in content[: 1 << 17]:
        return 1
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as picture:
            return _orientation(picture)
    except Exception:  # noqa: BLE001 - the pixels are sound; a record beside them that is not counts as absent
        return 1


def _orientation(picture: Image.Image) -> int:
    """1 … 8; 1 where there is none or it makes no sense."""
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - EXIF records are broken in more ways than Pillow guards against
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def squash(pixels: np.ndarray, side: int) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3] as a square of `side` pixels (`resize`)."""
    return resize(pixels, (side, side))


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3] at `size` (width, height).

    Bilinear without antialiasing, as Paint by Example's data set. Below half the size that would skip pixels:
    there it goes bilinearly to a whole multiple of `size`, the smallest that skips none, and from there by
    the mean of blocks. (OpenCV's own area resize takes five times as long.)
    """
    width, height = size
    across, down = max(1, -(-pixels.shape[1] // (2 * width))), max(1, -(-pixels.shape[0] // (2 * height)))
    pixels = cv2.resize(pixels, (width * across, height * down), interpolation=cv2.INTER_LINEAR)
    if across == down == 1:
        return pixels
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (1 … 8) of [H, W, 3] pixels."""
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda p: p,
        2: np.fliplr,
        3: lambda p: np.rot90(p, 2),
        4: np.flipud,
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
        8: np.rot90,
    }
    return np.ascontiguousarray(turns[orientation](pixels))
