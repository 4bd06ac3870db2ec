"""Object masks of annotations: from files to a text for each box, and then to pixels.

The text is COCO's `segmentation` as JSON (polygons or run lengths), or the path of a PNG below the folder of
`--segmentations`. It is part of the plan; pixels are made when a box is drawn.
"""

import csv
import json
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from PIL import Image

from dataprep.formats.csv_files import csv_header, find_fault
from dataprep.formats.openimages_csv import read_class_names
from dataprep.formats.run_lengths import mask_of_runs
from dataprep.pictures.index import index_pictures
from dataprep.pictures.reader import MAX_PIXELS
from dataprep.records import Annotations, Rejected, RejectReason
from intarsia.errors import UserError

MASK_BOUNDS = ("BoxXMin", "BoxYMin", "BoxXMax", "BoxYMax")
MASK_NAMES = ("MaskPath", "ImageID", "LabelName")
LONGEST_OUTLINE = 1_000_000  # pixels along all polygons of an object
_NUMBERED = re.compile(r"(\d+)\t(.*)", re.DOTALL)
_VOID = 255
TOLERANCE = 1e-3  # share of the picture, between a box and the box of its mask: both files round


def read_open_images_masks(
    folder: Path | str, annotations: Annotations, classes: Path | str
) -> Callable[[np.ndarray], pa.Array]:
    """Rows of boxes -> paths of their masks below `folder`, text, empty for a box without one.

    Masks have their own box ids, and the coordinates of the annotated box: a mask belongs to the box of its
    picture and class that has the same coordinates; among several masks the one with the nearest box counts.
    A missing PNG keeps its name, so that it is reported when the box is drawn.

    Args:
        folder: folder with one or more CSVs in the published layout (MaskPath, ImageID, LabelName, BoxXMin,
            …) and the PNGs, flat or in sub-folders.
        annotations: annotations whose boxes are in fractions.
        classes: class-descriptions-boxable.csv.

    Raises:
        UserError: if there is no such CSV, a line does not match its header, or no PNG exists.
    """
    root = Path(folder)
    table = pa.concat_tables([_read(path) for path in _tables(root)])
    rows, masks, distance = _pairs(table, annotations, read_class_names(classes))
    order = np.lexsort((masks, distance, rows))
    rows, masks = rows[order], masks[order]
    first = np.diff(rows, prepend=-1) > 0
    rows, masks = rows[first], masks[first]
    names = table["MaskPath"].combine_chunks().take(pa.array(masks))
    found = index_pictures(root).find(names.to_pylist(), names.to_pylist())
    there = np.array([bool(path) for path in found.to_pylist()], bool)
    if len(names) and not there.any():
        raise UserError(
            f"--segmentations {root}: {names[0]} and all other masks that its CSV names are missing"
        )
    paths = pa.concat_arrays([pa.array([""]), pa.array(np.where(there, found, names), pa.string())])
    places: np.ndarray = np.zeros(len(annotations), np.int32)
    places[rows] = np.arange(1, len(rows) + 1)
    return lambda wanted: paths.take(pa.array(places[wanted]))


def _tables(root: Path) -> list[Path]:
    found = []
    for path in sorted(root.rglob("*.csv")):
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            if {*MASK_NAMES, *MASK_BOUNDS} <= set(next(csv.reader(file), ())):
                found.append(path)
    if not found:
        columns = ", ".join((*MASK_NAMES, *MASK_BOUNDS))
        raise UserError(f"--segmentations {root} holds no CSV with the columns {columns}")
    return found


def _read(path: Path) -> pa.Table:
    header = csv_header(path, (*MASK_NAMES, *MASK_BOUNDS))
    types = dict.fromkeys(MASK_NAMES, pa.string()) | dict.fromkeys(MASK_BOUNDS, pa.float64())
    try:
        return pacsv.read_csv(
            path,
            read_options=pacsv.ReadOptions(column_names=header, skip_rows=1),
            convert_options=pacsv.ConvertOptions(include_columns=list(types), column_types=types),
        )
    except pa.ArrowInvalid as error:
        text = " ".join(str(error).split())
        raise UserError(find_fault(path, header, MASK_BOUNDS) or f"{path}: {text}") from None


def _pairs(
    table: pa.Table, notes: Annotations, names: dict[str, str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of boxes, rows of masks with the same coordinates, and their distance: int64, int64, float64."""
    labels = {name: code for code, name in reversed(list(enumerate(notes.labels)))}
    same = np.array([labels[name] for name in notes.labels], np.int64)  # two codes may have one name
    boxes = notes.picture.astype(np.int64) * len(labels) + same[notes.label]
    order = np.argsort(boxes, kind="stable")
    boxes = boxes[order]

    pictures = {name: place for place, name in enumerate(notes.image_ids)}
    picture = _codes(table["ImageID"], lambda name: pictures.get(name, -1))
    label = _codes(table["LabelName"], lambda code: labels.get(names.get(code, code), -1))
    masks = np.flatnonzero((picture >= 0) & (label >= 0))
    wanted = picture[masks] * len(labels) + label[masks]
    starts = np.searchsorted(boxes, wanted)
    numbers = np.searchsorted(boxes, wanted, side="right") - starts
    masks = np.repeat(masks, numbers)
    within = np.arange(len(masks)) - np.repeat(np.cumsum(numbers) - numbers, numbers)
    rows = order[np.repeat(starts, numbers) + within]
    bounds = np.stack([table[name].to_numpy() for name in MASK_BOUNDS], axis=1)
    distance = np.abs(notes.bounds[rows] - bounds[masks]).max(axis=1, initial=0)
    near = distance <= TOLERANCE
    return rows[near], masks[near], distance[near]


def _codes(column: pa.ChunkedArray, code: Callable[[str], int]) -> np.ndarray:
    """int64: the code of each text, computed once for each text; -1 if there is none."""
    coded = column.combine_chunks().dictionary_encode()
    codes = np.array([*(code(name) for name in coded.dictionary.to_pylist()), -1], np.int64)
    return codes[coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]


def object_mask(
    text: str, folder: Path | str, size: tuple[int, int], drawn_on: tuple[int, int] | None = None
) -> np.ndarray | Rejected | None:
    """The object's pixels, uint8 [H, W], 255 = object; None if the box has no mask.

    Args:
        text: outline or path in the plan.
        folder: folder of the mask PNGs, which may have another size than the picture.
        size: (width, height) of the picture.
        drawn_on: (width, height) that outlines were drawn on, if that is another one; they are stretched.
    """
    if not text:
        return None
    try:
        if text[0] in "[{":
            return _from_json(text, size, drawn_on or size)
        if numbered := _NUMBERED.fullmatch(text):
            return _of_number(Path(folder) / numbered[2], int(numbered[1]), size)
        path = Path(folder) / text
        if "\\" in text and not path.exists():  # a path of Windows
            path = Path(folder) / text.replace("\\", "/")
        return _from_png(path, size)
    except FileNotFoundError:
        return Rejected(RejectReason.OBJECT_MASK_MISSING, text)
    except Exception as error:  # noqa: BLE001 - pycocotools and Pillow raise anything on bad input; it is reported
        return Rejected(RejectReason.OBJECT_MASK_UNREADABLE, f"{type(error).__name__}: {error}")


def _from_json(text: str, size: tuple[int, int], drawn_on: tuple[int, int]) -> np.ndarray:
    segmentation = json.loads(text)
    if isinstance(segmentation, dict):
        pixels = mask_of_runs(segmentation, dict.fromkeys((size, drawn_on)))
    elif isinstance(segmentation, list):
        pixels = _filled(segmentation, drawn_on)
    else:
        raise ValueError("neither polygons nor run lengths")
    return _stretched(pixels * np.uint8(255), size)


def _filled(polygons: list[object], size: tuple[int, int]) -> np.ndarray:
    """The pixels inside polygons, uint8 [H, W], 1 = object."""
    from pycocotools import mask as coco_mask

    # pycocotools dies of some nonsense, and walks along each outline in steps of a fifth of a pixel.
    length = sum(map(_outline_length, polygons))
    if length > LONGEST_OUTLINE:
        raise ValueError(f"an outline of {length:,.0f} pixels, of at most {LONGEST_OUTLINE:,}")
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, size[1], size[0])))


def _outline_length(polygon: object) -> float:
    """Pixels along a polygon; ValueError for what is not one."""
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise ValueError("a polygon needs three points at least, as x, y, x, y, …")
    if not all(isinstance(value, int | float) and abs(value) < 1e6 for value in polygon):
        raise ValueError("a polygon's point is not a number, or far outside")
    points = np.array(polygon, np.float64).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())


def numbered_mask(path: str, number: int) -> str:
    """The text of a mask that is where a PNG has this number."""
    return f"{number}\t{path}"


def _of_number(path: Path, number: int, size: tuple[int, int]) -> np.ndarray | Rejected:
    numbers = read_numbers(path)
    if isinstance(numbers, Rejected):
        return numbers
    if numbers.shape != size[::-1]:
        height, width = numbers.shape
        raise ValueError(f"the mask has {width}x{height} pixels, its picture {size[0]}x{size[1]}")
    return np.where(numbers == number, np.uint8(255), np.uint8(0))


@lru_cache(maxsize=4)
def read_numbers(path: Path) -> np.ndarray | Rejected:
    """The objects' numbers in a mask PNG, uint8 [H, W], 0 = background; palette or grey.

    255 beside other numbers is what nobody decided about, and becomes 0; alone it is the object, 1.
    """
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            _check_size(picture)
            if picture.mode not in ("P", "L", "1"):
                raise ValueError(f"its pixels are {picture.mode}, not numbers of objects (palette or grey)")
            numbers = np.array(picture.convert("L") if picture.mode == "1" else picture)
    except FileNotFoundError:
        return Rejected(RejectReason.OBJECT_MASK_MISSING, path.name)
    except Exception as error:  # noqa: BLE001 - see `object_mask`
        return Rejected(RejectReason.OBJECT_MASK_UNREADABLE, f"{type(error).__name__}: {error}")
    alone = not ((numbers > 0) & (numbers < _VOID)).any()
    return np.where(numbers == _VOID, np.uint8(1 if alone else 0), numbers)


def read_mask_png(folder: Path, name: str) -> np.ndarray | Rejected:
    """The mask in a PNG below a folder, uint8 [H, W], 255 = object, in its own size."""
    try:
        return _pixels_of_png(folder / name)
    except FileNotFoundError:
        return Rejected(RejectReason.OBJECT_MASK_MISSING, name)
    except Exception as error:  # noqa: BLE001 - see `object_mask`
        return Rejected(RejectReason.OBJECT_MASK_UNREADABLE, f"{type(error).__name__}: {error}")


def _pixels_of_png(path: Path) -> np.ndarray:
    with Image.open(path, formats=("PNG",)) as picture:
        _check_size(picture)
        return np.where(np.array(picture.convert("L")) > 0, np.uint8(255), np.uint8(0))


def _check_size(picture: Image.Image) -> None:
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(f"{picture.width}x{picture.height} are too many pixels")


def _from_png(path: Path, size: tuple[int, int]) -> np.ndarray:
    return _stretched(_pixels_of_png(path), size)


def _stretched(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return pixels if pixels.shape == size[::-1] else cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST)
