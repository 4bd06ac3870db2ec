"""COCO instance annotations to columns, read as a stream; no pixels are read."""

import json
import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataprep.sources.json_stream import EMPTY, stream_object
from dataprep.sources.source import Source, SourceInput
from intarsia.errors import UserError
from intarsia.files import refuse_lfs_pointer

if TYPE_CHECKING:
    from dataprep.records import Annotations, FilterRules
    from dataprep.sources.columns import TextColumn

_BAD_BOUNDS = (float("nan"),) * 4
_LISTS = ("images", "annotations", "categories")


def read_coco(path: Path | str, outlines: bool = False) -> "Annotations":
    """Read an instances file record by record; segmentations, most of the file, are skipped or stored apart.

    A record whose box is not four numbers is kept with bounds that are not numbers, so that it is counted as
    a bad box; one of a picture that the file does not list is kept as an unknown picture's.

    Args:
        path: COCO JSON file with `images`, `annotations` and `categories`, in any order.
        outlines: whether to keep the segmentations.

    Raises:
        UserError: if the file is missing, a git-LFS pointer, not JSON, or not COCO's; with line or record.
    """
    from dataprep.sources.columns import TextColumn

    path = Path(path)
    refuse_lfs_pointer(path)
    records = _Records(outlines=TextColumn() if outlines else None)
    takers = {"images": records.image, "annotations": records.annotation, "categories": records.category}
    seen = set()
    for name, element in stream_object(path):
        if name not in takers:
            continue
        seen.add(name)
        if element is EMPTY:
            continue
        try:
            takers[name](element)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            known = f" with id {element['id']!r}" if isinstance(element, dict) and "id" in element else ""
            raise UserError(
                f"{path} is not a COCO instances file: an element of `{name}`{known} is not valid "
                f"({type(error).__name__}: {error})"
            ) from None
    missing = [name for name in _LISTS if name not in seen]
    if missing:
        raise UserError(
            f"{path} is not a COCO instances file: it has no list `{missing[0]}`; "
            "`images`, `annotations` and `categories` are needed"
        )
    return records.annotations(path)


@dataclass
class _Records:
    """What has been read so far."""

    outlines: "TextColumn | None"  # one for each box; empty where it has none

    keys: set[str] = field(default_factory=set)  # of pictures
    places: dict[Any, int] = field(default_factory=dict)  # of pictures, by their id
    files: list[str] = field(default_factory=list)
    sizes: array = field(default_factory=lambda: array("i"))
    names: dict[Any, str] = field(default_factory=dict)  # of categories, by their id
    box_ids: array = field(default_factory=lambda: array("q"))
    bounds: array = field(default_factory=lambda: array("d"))
    crowd: array = field(default_factory=lambda: array("b"))
    pictures: list[Any] = field(default_factory=list)  # ids, which may come before the pictures themselves
    categories: list[Any] = field(default_factory=list)

    def image(self, record: dict[str, Any]) -> None:
        """Take in a picture."""
        key = coco_key(_text(record["id"]))
        if key in self.keys:  # 7, "7" and "07" would give one sample key
            raise ValueError("the id appears twice")
        self.keys.add(key)
        self.places[record["id"]] = len(self.places)
        self.files.append(_text(record.get("file_name") or ""))
        self.sizes.extend((int(record.get("width") or 0), int(record.get("height") or 0)))

    def annotation(self, record: dict[str, Any]) -> None:
        """Take in a box."""
        picture, category = record.get("image_id"), record.get("category_id")
        hash((picture, category))  # a list would be found out too late
        self.box_ids.append(record["id"])
        self.bounds.extend(_bounds(record.get("bbox")))
        self.crowd.append(int(bool(record.get("iscrowd", 0))))
        self.pictures.append(picture)
        if self.outlines is not None:
            outline = record.get("segmentation")
            self.outlines.append(json.dumps(outline, separators=(",", ":")) if outline else "")
        self.categories.append(category)

    def category(self, record: dict[str, Any]) -> None:
        """Take in a class."""
        self.names[record["id"]] = _text(record["name"])

    def annotations(self, path: Path) -> "Annotations":
        """Everything in columns."""
        import numpy as np

        from dataprep.records import Annotations

        box_ids = np.array(self.box_ids, np.int64)
        ids, numbers = np.unique(box_ids, return_counts=True)
        if (numbers > 1).any():
            raise UserError(f"{path}: the annotation id {ids[np.argmax(numbers > 1)]} appears twice")
        labels = sorted(set(self.names.values()))
        codes = {name: code for code, name in enumerate(labels)}
        of_category = {category: codes[name] for category, name in self.names.items()}
        unknown = [category for category in self.categories if category not in of_category]
        if unknown:
            raise UserError(
                f"{path}: category_id {unknown[0]!r} of an annotation is not among its categories"
            )
        return Annotations(
            unit=SOURCE.unit,
            image_ids=[str(image_id) for image_id in self.places],
            files=self.files,
            sizes=np.array(self.sizes, np.int32).reshape(-1, 2),
            picture=np.array([self.places.get(picture, -1) for picture in self.pictures], np.int32),
            box_ids=box_ids,
            bounds=np.array(self.bounds, np.float64).reshape(-1, 4),
            label=np.array([of_category[category] for category in self.categories], np.int32),
            labels=labels,
            flags={"is_crowd": np.array(self.crowd, np.int8)},
            segmentation=self.outlines.take if self.outlines is not None else None,
        )


def _text(value: Any) -> str:
    """A name; TypeError or ValueError for what is not one, such as null, or half of a character."""
    text = str(value)
    text.encode()
    if not isinstance(value, str | int | float):
        raise TypeError(f"{text} is not a name")
    return text


def _bounds(bbox: Any) -> tuple[float, float, float, float]:
    """COCO's (x, y, width, height) to corners; not-a-numbers for anything else."""
    try:
        x, y, width, height = (float(value) for value in bbox)
    except (TypeError, ValueError):
        return _BAD_BOUNDS
    return x, y, x + width, y + height


def coco_key(image_id: str) -> str:
    """The picture's part of a sample key: COCO pads its numbers to twelve digits."""
    return image_id.zfill(12) if re.fullmatch(r"\d+", image_id) else image_id


def _read(inputs: Mapping[str, Path], rules: "FilterRules", masks: bool) -> "Annotations":
    return read_coco(inputs["annotations"], masks)


SOURCE = Source(
    help="from a COCO instances file",
    inputs=(SourceInput("annotations", "instances_*.json"),),
    unit="pixels",
    licence="annotations CC BY 4.0 (COCO Consortium); each picture has the licence that its author gave it "
    "on Flickr, named in the annotation file",
    read=_read,
    key=coco_key,
    has_masks=True,
)
