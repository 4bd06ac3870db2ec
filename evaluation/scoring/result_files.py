"""Formats of result files, and what is done to a result before it is measured: resizing, recompression.

A file format decides numbers: an edit that changes nothing, saved as PIE-Bench's published results were, has
a PSNR of about 36 dB.
"""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin

from dataprep.pictures.reader import orientation_of
from evaluation.measures.measures import Measure
from evaluation.scoring.report import Report, ReportColumn
from evaluation.scoring.scoring import Case, Request
from intarsia.files import sha256_bytes
from sampling.pictures import Picture

PUBLISHED = "jpeg75"  # JPEG of quality 75 and 4:2:0, what Pillow writes if it is not asked otherwise
SIDE = 512  # pixels of a resized result
_PNG = b"\x89PNG\r\n\x1a\n"  # how such a file begins
_HALVED = 2  # Pillow's number of 4:2:0
_SAMPLINGS = {0: "4:4:4", 1: "4:2:2", _HALVED: "4:2:0"}
_TURNED = range(5, 9)  # orientations that exchange width and height


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
    """A file's format, with its losses: `png`, `webp lossless` ...

    JPEG is `jpeg75` if it was saved as the published results were, else its quality and sampling (`jpeg q95
    4:2:0`), or a hash of its tables where no quality of libjpeg has them. A lossy WebP does not name its
    quality, so it has a hash of its content, and is comparable with itself alone.
    """
    try:
        with Image.open(path) as image:
            if isinstance(image, JpegImagePlugin.JpegImageFile):
                return _jpeg_format(image)
            kind = (image.format or path.suffix.lstrip(".")).lower()
            if kind != "webp":
                return kind
            content = path.read_bytes()
            return "webp lossless" if _is_lossless(content) else f"webp #{_short_hash(content)}"
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
    columns: Iterable[ReportColumn],
    results: Iterable[Path],
    recompress: bool = False,
    resize: bool = False,
) -> list[ReportColumn]:
    """The columns with the results' formats, and what was done to them, in each recipe.

    If there are several formats or sizes, each is counted: 1 of 32 pixels among 512 is another set than 512
    of 32 pixels.
    """
    paths = list(results)
    formats = Counter(format_of(path) for path in paths)
    if recompress:
        formats = _joined((_recompressed(kind), count) for kind, count in formats.items())
    label = f"{_counted(formats)} results"
    if resize:
        label += f" resized by bicubic{SIDE}"
        sizes = Counter(map(_side_of, paths))
        if set(sizes) - {str(SIDE)}:
            label += f" from {_counted(sizes, 'of')}"
    return [replace(column, recipe=f"{column.recipe} of {label}") for column in columns]


def name_formats(report: Report, results: Sequence[Path]) -> Report:
    """The report with the results' formats in each recipe, if not all of them are PNG files.

    The name of a file does not say what is in it: a JPEG file may be called KEY.png.
    """
    if all(map(_is_png, results)):
        return report
    columns = named_format([figure.column for figure in report.figures], results)
    figures = [replace(f, column=column) for f, column in zip(report.figures, columns, strict=True)]
    return replace(report, columns=named_format(report.columns, results), figures=figures)


def _is_png(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_PNG)) == _PNG


def _recompressed(kind: str) -> str:
    return PUBLISHED if kind in (PUBLISHED, "png") else f"{kind} then {PUBLISHED}"


def _joined(counts: Iterable[tuple[str, int]]) -> Counter[str]:
    joined: Counter[str] = Counter()
    for name, count in counts:
        joined[name] += count
    return joined


def _counted(names: Counter[str], between: str = "") -> str:
    """`png`; `1 png and 2 jpeg75`; one hash for all contents that have a hash each."""
    contents = sorted(name for name in names.elements() if name.startswith("webp #"))
    names = Counter({name: count for name, count in names.items() if name not in contents})
    if contents:
        then = f" then {PUBLISHED}" * contents[0].endswith(PUBLISHED)
        names[f"webp #{_short_hash(' '.join(contents).encode())}{then}"] = len(contents)
    if len(names) == 1:
        return next(iter(names))
    space = f" {between} " if between else " "
    return " and ".join(f"{count:,}{space}{name}" for name, count in sorted(names.items()))


def _side_of(path: Path) -> str:
    """The side of a result's last square, in pixels."""
    try:
        with Image.open(path) as image:
            return str(image.width if orientation_of(image) in _TURNED else image.height)
    except (OSError, ValueError, SyntaxError):  # reading it names what is wrong
        return "an unknown size"


def _jpeg_format(image: JpegImagePlugin.JpegImageFile) -> str:
    tables = _tables(image)
    quality = _qualities().get(tables)
    layers = [layer[1:3] for layer in image.layer]
    if quality == 75 and len(layers) == 3 and JpegImagePlugin.get_sampling(image) == _HALVED:
        return PUBLISHED
    sampling = _SAMPLINGS.get(JpegImagePlugin.get_sampling(image)) if len(layers) == 3 else None
    sampling = sampling or "sampling " + "-".join(f"{across}x{down}" for across, down in layers)
    return f"jpeg {f'q{quality}' if quality else f'#{_short_hash(repr(tables).encode())}'} {sampling}"


def _tables(image: JpegImagePlugin.JpegImageFile) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(table) for _, table in sorted(image.quantization.items()))


@cache
def _qualities() -> dict[tuple[tuple[int, ...], ...], int]:
    """Quantization tables -> the quality at which libjpeg writes them, in colour and in grey."""
    found = {}
    for mode in ("RGB", "L"):
        for quality in range(1, 101):
            content = io.BytesIO()
            Image.new(mode, (8, 8)).save(content, format="JPEG", quality=quality)
            image = Image.open(content)
            assert isinstance(image, JpegImagePlugin.JpegImageFile)
            found[_tables(image)] = quality
    return found


def _is_lossless(webp: bytes) -> bool:
    """Whether the picture of a WebP is in a lossless chunk."""
    place = 12  # after RIFF, size, WEBP
    while place + 8 <= len(webp):
        if webp[place : place + 4] == b"VP8L":
            return True
        size = int.from_bytes(webp[place + 4 : place + 8], "little")
        place += 8 + size + size % 2
    return False


def _short_hash(content: bytes) -> str:
    return sha256_bytes(content)[:12]
