"""Formats of result files, and what is done to a result before it is measured: resizing, recompression.

A file format decides numbers: an edit that changes nothing, saved as PIE-Bench's published results were, has
a PSNR of about 36 dB.
"""

import io
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin

from evaluation.measures.measures import Measure
from evaluation.scoring.report import ReportColumn
from evaluation.scoring.scoring import Case, Request
from sampling.pictures import Picture

PUBLISHED = "jpeg75"  # JPEG of quality 75 and 4:2:0, what Pillow writes if it is not asked otherwise
SIDE = 512  # pixels of a resized result
_HALVED = 2  # Pillow's number of 4:2:0


def published_jpeg(picture: Picture) -> Picture:
    """A picture as it comes back from the published kind of JPEG.

    A strip of squares whose side is a multiple of 16 gives the same pixels: no block crosses their borders.
    """
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="JPEG", quality=75, subsampling="4:2:0")
    return np.asarray(Image.open(content).convert("RGB"))


def last_square(picture: Picture, side: int = SIDE) -> Picture:
    """The rightmost square of a strip, `bicubic{side}`: resized by Pillow's bicubic if it is of another size.

    Raises:
        ValueError: for a picture that is higher than wide.
    """
    height, width = picture.shape[:2]
    if width < height:
        raise ValueError(
            f"the picture is {width} × {height} pixels; a square or a strip of squares is needed"
        )
    square = np.ascontiguousarray(picture[:, -height:])
    if height == side:
        return square
    return np.asarray(Image.fromarray(square).resize((side, side), Image.Resampling.BICUBIC))


def format_of(path: Path) -> str:
    """`png`, `webp`, ..., for JPEG `jpeg75` if it was saved as the published results were, else `jpeg`."""
    try:
        with Image.open(path) as image:
            kind = (image.format or path.suffix.lstrip(".")).lower()
            if not isinstance(image, JpegImagePlugin.JpegImageFile):
                return kind
            halved = JpegImagePlugin.get_sampling(image) == _HALVED
            return PUBLISHED if halved and image.quantization == _published_tables() else "jpeg"
    except (OSError, ValueError, SyntaxError):  # reading it names what is wrong
        return path.suffix.lstrip(".").lower()


def treat(case: Case, result: Path, recompress: bool, resize: bool) -> Case:
    """The requests of a case with its result treated first; their recipes say so.

    Args:
        case: requests, in which the result is the last picture.
        result: file of the result.
        recompress: whether results in other formats pass through the published kind of JPEG.
        resize: whether results of another size than 512 are resized.
    """
    squeezed = recompress and format_of(result) != PUBLISHED
    if not (squeezed or resize):
        return case

    def treated(request: Request) -> Request:
        measure = request.measure

        def prepare(*arguments: Any) -> Any:
            place = len(request.pictures) - 1
            picture = last_square(arguments[place]) if resize else arguments[place]
            picture = published_jpeg(picture) if squeezed else picture
            return measure.prepare(*arguments[:place], picture, *arguments[place + 1 :])

        what, how, version = measure.recipe.split("/")
        done = [f"bicubic{SIDE}"] * resize + [PUBLISHED] * squeezed
        recipe = f"{what}/{'-'.join([*done, how])}/{version}"
        return replace(request, measure=Measure(recipe, prepare, measure.network, measure.finish))

    return {name: treated(request) for name, request in case.items()}


def named_format(
    columns: Iterable[ReportColumn], results: Iterable[Path], recompress: bool, resize: bool
) -> list[ReportColumn]:
    """The columns with the results' format, and what was done to them, in each recipe."""
    formats = {format_of(path) for path in results}
    if recompress:
        formats = {
            PUBLISHED if kind in (PUBLISHED, "png") else f"{kind} then {PUBLISHED}" for kind in formats
        }
    label = f"{' and '.join(sorted(formats))} results" + (f" resized by bicubic{SIDE}" if resize else "")
    return [replace(column, recipe=f"{column.recipe} of {label}") for column in columns]


def _published_tables() -> dict[int, list[int]]:
    content = io.BytesIO()
    Image.new("RGB", (16, 16)).save(content, format="JPEG", quality=75, subsampling="4:2:0")
    image = Image.open(content)
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    return image.quantization
