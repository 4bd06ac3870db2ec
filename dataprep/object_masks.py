"""Instance masks where annotations have them: from files to a text for each box, and then to pixels.

The text is COCO's `segmentation` as JSON (polygons or run lengths), or the path of a PNG below the folder of
`--segmentations`. It travels in the plan; pixels are made when a box is drawn.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dataprep.picture_index import index_pictures
from dataprep.pictures import refuse_lfs_pointer, resize
from dataprep.records import Annotations, Rejected, RejectReason
from intarsia.errors import UserError
from intarsia.files import read_json

COLUMNS = ("MaskPath", "ImageID", "BoxXMin", "BoxYMin", "BoxXMax", "BoxYMax")
TOLERANCE = 1e-3  # of the picture, between a box and the box of its mask: both files round


def read_coco_masks(path: Path | str) -> dict[int, str]:
    """Annotation id -> its segmentation as JSON, for those that have one. The whole file is held in memory.

    Raises:
        UserError: if the file cannot be read.
    """
    refuse_lfs_pointer(Path(path))
    return {
        record["id"]: json.dumps(record["segmentation"], separators=(",", ":"))
        for record in read_json(path)["annotations"]
        if record.get("segmentation")
    }


def read_open_images_masks(folder: Path | str, annotations: Annotations) -> dict[int, str]:
    """Box id -> path of its mask below `folder`, for the boxes that have one.

    Masks have box ids of their own: a mask belongs to the boxes of its picture that lie where its own lies.

    Args:
        folder: holds one or more CSVs in the published layout (MaskPath, ImageID, BoxXMin, …) and the PNGs,
            flat or in sub-folders.
        annotations: whose boxes are in fractions.

    Raises:
        UserError: if there is no such CSV, or not one of its PNGs.
    """
    root = Path(folder)
    numbers = {name: place for place, name in enumerate(annotations.image_ids)}
    order = np.argsort(annotations.picture, kind="stable")
    ends = np.cumsum(np.bincount(annotations.picture[annotations.picture >= 0], minlength=len(numbers)))
    unlisted = int(np.count_nonzero(annotations.picture < 0))  # they stand first
    starts: list[int] = [unlisted, *(ends + unlisted).tolist()]
    rows: list[int] = []
    names: list[str] = []
    for name, image_id, bounds in _mask_rows(root):
        if image_id in numbers:
            place = numbers[image_id]
            boxes = order[starts[place] : starts[place + 1]]
            near = np.abs(annotations.bounds[boxes] - bounds).max(axis=1) <= TOLERANCE
            rows += boxes[near].tolist()
            names += [name] * int(np.count_nonzero(near))
    paths = index_pictures(root).find(names, names).to_pylist()
    if names and not any(paths):
        raise UserError(
            f"--segmentations {root}: {names[0]} and all other masks that its CSV names are missing"
        )
    found = {int(annotations.box_ids[row]): path for row, path in zip(rows, paths, strict=True) if path}
    return dict(sorted(found.items()))


def _mask_rows(root: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """Name, picture and box (x0, y0, x1, y1) of every mask."""
    tables = [path for path in sorted(root.rglob("*.csv")) if _has_columns(path)]
    if not tables:
        raise UserError(f"--segmentations {root} holds no CSV with the columns {', '.join(COLUMNS)}")
    for table in tables:
        with table.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                try:
                    bounds = np.array([float(row[name]) for name in COLUMNS[2:]])
                except (TypeError, ValueError):
                    raise UserError(f"{table}: the box of {row['MaskPath']} is not four numbers") from None
                yield row["MaskPath"], row["ImageID"], bounds


def _has_columns(path: Path) -> bool:
    with path.open(newline="", encoding="utf-8") as file:
        return set(COLUMNS) <= set(next(csv.reader(file), ()))


def object_mask(text: str, folder: Path | str, size: tuple[int, int]) -> np.ndarray | Rejected | None:
    """The object's pixels, uint8 [H, W], 255 = object; None where the box has no mask.

    Args:
        text: of the plan.
        folder: of the mask PNGs, which may have another size than the picture.
        size: (width, height) of the picture.
    """
    if not text:
        return None
    try:
        pixels = _from_json(text, size) if text[0] in "[{" else _from_png(Path(folder) / text)
    except Exception as error:  # noqa: BLE001 - pycocotools and Pillow raise anything on bad input; it is told
        return Rejected(RejectReason.OBJECT_MASK_UNREADABLE, f"{type(error).__name__}: {error}")
    return pixels if pixels.shape == size[::-1] else resize(pixels, size)


def _from_json(text: str, size: tuple[int, int]) -> np.ndarray:
    from pycocotools import mask as coco_mask

    width, height = size
    segmentation = _checked(json.loads(text))
    packed = isinstance(segmentation, dict) and isinstance(segmentation["counts"], str)
    runs: Any = segmentation if packed else coco_mask.frPyObjects(segmentation, height, width)
    return coco_mask.decode(coco_mask.merge(runs) if isinstance(runs, list) else runs) * np.uint8(255)


def _checked(segmentation: object) -> object:
    """pycocotools takes some nonsense for run lengths, and more ends the process: two forms pass."""
    if isinstance(segmentation, list):
        for polygon in segmentation:
            if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
                raise ValueError("a polygon needs three points at least, as x, y, x, y, …")
            if not all(isinstance(value, int | float) and abs(value) < 1e6 for value in polygon):
                raise ValueError("a polygon's point is no number, or far outside")
        return segmentation
    if not isinstance(segmentation, dict):
        raise ValueError("neither polygons nor run lengths")
    height, width = segmentation["size"]
    counts = segmentation["counts"]
    if isinstance(counts, list) and (min(counts) < 0 or sum(counts) != height * width):
        raise ValueError(f"run lengths do not add up to {width}x{height}")
    return segmentation


def _from_png(path: Path) -> np.ndarray:
    with Image.open(path, formats=("PNG",)) as picture:
        return np.where(np.array(picture.convert("L")) > 0, np.uint8(255), np.uint8(0))
