"""A picture file to upright 8-bit RGB, decoded once, or the reason why it cannot be used."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import simplejpeg

from dataprep.pictures.fit import Orientation, fit_picture, same_aspect
from dataprep.pictures.reader import MAX_PIXELS, load_rgb, open_image, orientation_of, turn_upright
from dataprep.pictures.stray_bytes import STRAY_BYTES, without_stray_bytes
from dataprep.records import Rejected, RejectReason
from intarsia.errors import UserError
from intarsia.files import sha256_bytes

_JPEG = b"\xff\xd8\xff"
_MARKER, _SCAN = 0xFF, 0xDA  # the first byte of each segment, and the code of the one before the pixels


@dataclass(frozen=True)
class DecodedPicture:
    """A decoded picture.

    Attributes:
        pixels: uint8 [H, W, 3] RGB, upright.
        file_bytes: size of the file.
        file_sha256: hash of the file.
        jpeg: the file itself, without stray bytes, if it is a JPEG of exactly these pixels; otherwise None.
        drawn_on: (width, height) that the boxes were drawn on, if it is annotated.
        changes: what is not as the file or the annotations have it (`fit`).
    """

    pixels: np.ndarray
    file_bytes: int
    file_sha256: str
    jpeg: bytes | None = None
    drawn_on: tuple[int, int] | None = None
    changes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.pixels.shape[1], self.pixels.shape[0]


def check_source(root: Path, file: str) -> None:
    """Distinguish a missing picture from a missing folder (unmounted, renamed, a dead server).

    Args:
        root: folder of pictures.
        file: path below it of a picture that could not be read.

    Raises:
        UserError: if that picture's folder cannot be listed, or is empty.
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
        """The whole content; OSError if it cannot be read."""


def load_picture(
    path: Readable,
    annotated_size: tuple[int, int] | None = None,
    orientation: Orientation = "auto",
    scale: bool = False,
) -> DecodedPicture | Rejected:
    """Read a file once and decode it once.

    JPEGs go through libjpeg-turbo in strict mode: it alone notices bit rot and cut ends, which other decoders
    paint over in grey; stray bytes between segments are left out. The rest goes through `reader`. EXIF
    orientation is applied.

    Args:
        path: picture file.
        annotated_size: (width, height) that the boxes were drawn on, if known. A picture that has this size
            only without its EXIF rotation is left unrotated; one of another size is rejected.
        orientation: which way up the boxes were drawn (`fit_picture`).
        scale: whether a picture of another size but the same aspect is taken (`fit_picture`).
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        reason = RejectReason.FILE_MISSING if missing else RejectReason.FILE_UNREADABLE
        return Rejected(reason, error.strerror or str(error))  # results do not depend on its place
    decoded, jpeg = decode_picture(content), content
    changes: tuple[str, ...] = ()
    if isinstance(decoded, Rejected):
        decoded, jpeg, changes = _decode_cleaned(content, decoded)
    if isinstance(decoded, Rejected):
        return decoded
    raw, turned = decoded
    size = raw.shape[1], raw.shape[0]
    fit = fit_picture(size, turned, annotated_size, orientation, scale)
    if fit is None:
        assert annotated_size is not None  # every picture fits where none is annotated
        return _of_another_size(annotated_size, size)
    pixels = turn_upright(raw, turned) if fit.upright else raw
    as_it_is = jpeg if jpeg.startswith(_JPEG) and turned == 1 and not _is_cmyk(jpeg) else None
    return DecodedPicture(
        pixels, len(content), sha256_bytes(content), as_it_is, fit.drawn_on, (*changes, *fit.changes)
    )


def _decode_cleaned(
    content: bytes, rejected: Rejected
) -> tuple[tuple[np.ndarray, int] | Rejected, bytes, tuple[str, ...]]:
    """A second try without stray bytes: the result, the bytes that it is of, and what was changed."""
    if rejected.reason == RejectReason.DAMAGED and content.startswith(_JPEG):
        cleaned = without_stray_bytes(content)
        decoded = rejected if cleaned is None else decode_picture(cleaned)
        if cleaned is not None and not isinstance(decoded, Rejected):
            return decoded, cleaned, (STRAY_BYTES,)
    return rejected, content, ()


def _of_another_size(annotated: tuple[int, int], size: tuple[int, int]) -> Rejected:
    detail = f"annotated as {annotated[0]}x{annotated[1]}, is {size[0]}x{size[1]}"
    if same_aspect(annotated, size) or same_aspect(annotated, size[::-1]):
        detail += ", which --scale-boxes accepts"
    return Rejected(RejectReason.SIZE_MISMATCH, detail)


def decode_picture(content: bytes) -> tuple[np.ndarray, int] | Rejected:
    """A picture file's pixels as stored, uint8 [H, W, 3] RGB, and its EXIF orientation (1 … 8)."""
    pixels = _decode_jpeg(content) if content.startswith(_JPEG) else None
    if pixels is None:
        return _decode_with_pillow(content)
    return pixels if isinstance(pixels, Rejected) else (pixels, _jpeg_orientation(content))


def _decode_jpeg(content: bytes) -> np.ndarray | Rejected | None:
    """The pixels, or the reason, or None if the file is for Pillow (CMYK, odd subsampling)."""
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
    image = open_image(content)
    if isinstance(image, Rejected):
        return image
    with image:
        pixels = load_rgb(image)
        return pixels if isinstance(pixels, Rejected) else (pixels, orientation_of(image))


def _jpeg_orientation(content: bytes) -> int:
    if content.find(b"Exif", 0, _start_of_scan(content)) < 0:
        return 1
    image = open_image(content)
    return 1 if isinstance(image, Rejected) else orientation_of(image)


def _start_of_scan(content: bytes) -> int:
    """Where a JPEG's pixels begin, which need not be searched for metadata; 128 KiB at most."""
    place, end = 2, min(len(content), 1 << 17)
    while place + 4 <= end and content[place] == _MARKER:
        code = content[place + 1]
        if code == _SCAN:
            return place
        filling = code == _MARKER
        place += 1 if filling else 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return end


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
