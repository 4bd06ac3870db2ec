"""COCO instance annotations to columns, read as a stream; no pixels are read."""

import json
import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from dataprep.formats.json_stream import EMPTY, stream_object
from dataprep.sources.source import Source, SourceInput
from intarsia.errors import UserError
from intarsia.files import refuse_lfs_pointer

if TYPE_CHECKING:
    import numpy as np

    from dataprep.formats.columns import TextColumn
    from dataprep.records import Annotations, FilterRules

_BAD_BOUNDS = (float("nan"),) * 4
_LISTS = ("images", "annotations", "categories")
_NO = (None, False, 0, "", "0", "false", "False")  # an `iscrowd` that does not hold
_MOST_PIXELS = 1 << 31  # of a side that is believed


class _Fault(ValueError):
    """What is wrong with an element, in words."""


def read_coco(path: Path | str, outlines: bool = False) -> "Annotations":
    """Read an instances file record by record; segmentations, most of the file, are skipped or stored apart.

    A record whose box is not four numbers is kept with bounds that are not numbers, so that it is counted as
    a bad box; one of a picture that the file does not list is kept as an unknown picture's. If not every
    annotation has a whole number as its id, the boxes are numbered from 1 on, and `remarks` say so. A picture
    without `file_name` is looked for by the end of its `coco_url` (LVIS has nothing else), and by its id.

    Args:
        path: COCO JSON file with `images`, `annotations` and `categories`, in any order.
        outlines: whether to keep the segmentations.

    Raises:
        UserError: if the file is missing, a git-LFS pointer, not JSON, or not COCO's; with line or record.
    """
    from dataprep.formats.columns import TextColumn

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
            if not isinstance(element, dict):
                raise _Fault(f"it is {json.dumps(element)[:40]}, not an object")
            takers[name](element)
        except _Fault as fault:
            known = f" with id {element['id']!r}" if isinstance(element, dict) and "id" in element else ""
            raise UserError(
                f"{path} is not a COCO instances file: an element of `{name}`{known} is not valid: {fault}"
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

    keys: dict[str, int] = field(default_factory=dict)  # places of pictures, by sample key
    places: dict[Any, int] = field(default_factory=dict)  # of pictures, by their id
    files: list[str] = field(default_factory=list)
    nameless: set[int] = field(default_factory=set)  # places of pictures without `file_name`
    sizes: array = field(default_factory=lambda: array("i"))
    names: dict[Any, str] = field(default_factory=dict)  # of categories, by their id
    box_ids: array = field(default_factory=lambda: array("q"))
    no_number: str = ""  # the first annotation id that is not a whole number, in words
    bounds: array = field(default_factory=lambda: array("d"))
    crowd: array = field(default_factory=lambda: array("b"))
    pictures: list[Any] = field(default_factory=list)  # ids, which may come before the pictures themselves
    categories: list[Any] = field(default_factory=list)

    def image(self, record: dict[str, Any]) -> None:
        """Take in a picture."""
        image_id = _name(record, "id")
        key = coco_key(image_id)
        if key in self.keys:  # 7, "7" and "07" would give one sample key
            raise _Fault("the id appears twice")
        self.keys[key] = self.places[record["id"]] = place = len(self.places)
        if record.get("file_name"):
            self.files.append(_name(record, "file_name"))
        else:
            self.nameless.add(place)
            self.files.append(_end_of_url(record.get("coco_url")) or f"{key}.jpg")
        self.sizes.extend((_side(record, "width"), _side(record, "height")))

    def annotation(self, record: dict[str, Any]) -> None:
        """Take in a box."""
        number = _whole(record.get("id"))
        if number is None and not self.no_number:
            which = f"the id {json.dumps(record.get('id'))[:40]}, which is not a whole number"
            self.no_number = which if "id" in record else "no id"
        self.box_ids.append(number or 0)
        for name, ids in (("image_id", self.pictures), ("category_id", self.categories)):
            value = record.get(name)
            if isinstance(value, list | dict):
                raise _Fault(f"its {name} is {json.dumps(value)[:40]}, not a number or a text")
            ids.append(value)
        if self.categories[-1] is None:
            raise _Fault("its category_id is missing")
        self.bounds.extend(_bounds(record.get("bbox")))
        self.crowd.append(record.get("iscrowd") not in _NO)
        if self.outlines is not None:
            outline = record.get("segmentation")
            self.outlines.append(json.dumps(outline, separators=(",", ":")) if outline else "")

    def category(self, record: dict[str, Any]) -> None:
        """Take in a class."""
        _name(record, "id")
        self.names[record["id"]] = _name(record, "name")

    def annotations(self, path: Path) -> "Annotations":
        """Everything in columns."""
        import numpy as np

        from dataprep.records import Annotations

        labels = sorted(set(self.names.values()))
        image_ids = [str(image_id) for image_id in self.places]
        padded = [f"{key}.jpg" for key in self.keys]
        return Annotations(
            unit=SOURCE.unit,
            image_ids=image_ids,
            files=self.files,
            sizes=np.array(self.sizes, np.int32).reshape(-1, 2),
            picture=np.array([self._place(image_id) for image_id in self.pictures], np.int32),
            box_ids=self._numbers(path),
            bounds=np.array(self.bounds, np.float64).reshape(-1, 4),
            label=self._labels(path, labels),
            labels=labels,
            flags={"is_crowd": np.array(self.crowd, np.int8)},
            other_names=tuple(map(self._of_nameless, (image_ids, padded))) if self.nameless else (),
            remarks=(
                f"{path}: an annotation has {self.no_number}; the boxes are numbered from 1 in the order of "
                "the file",
            )
            if self.no_number
            else (),
            segmentation=self.outlines.take if self.outlines is not None else None,
        )

    def _place(self, image_id: Any) -> int:
        """The place of a picture; 7 and "7" mean the same one. -1 if there is none."""
        place = -1 if image_id is None else self.places.get(image_id)
        return self.keys.get(coco_key(str(image_id)), -1) if place is None else place

    def _of_nameless(self, names: list[str]) -> list[str]:
        return [name if place in self.nameless else "" for place, name in enumerate(names)]

    def _numbers(self, path: Path) -> "np.ndarray":
        """int64: the boxes' ids if all are whole numbers, otherwise their numbers in the file."""
        import numpy as np

        if self.no_number:
            return np.arange(1, 1 + len(self.box_ids))
        box_ids = np.array(self.box_ids, np.int64)
        ids, numbers = np.unique(box_ids, return_counts=True)
        if (numbers > 1).any():
            raise UserError(
                f"{path}: the annotation id {ids[np.argmax(numbers > 1)]} appears twice; remove the copy, or "
                "leave out all ids, which numbers the boxes"
            )
        return box_ids

    def _labels(self, path: Path, labels: list[str]) -> "np.ndarray":
        """int32 into `labels`."""
        import numpy as np

        codes = {name: code for code, name in enumerate(labels)}
        as_text = {str(category): name for category, name in self.names.items()}
        found = {}
        for category in dict.fromkeys(self.categories):
            name = self.names.get(category, as_text.get(str(category)))
            if name is None:
                raise UserError(
                    f"{path}: category_id {category!r} of an annotation is not among its categories"
                )
            found[category] = codes[name]
        return np.array([found[category] for category in self.categories], np.int32)


def _name(record: dict[str, Any], name: str) -> str:
    """A name as text; a fault for what is not one, such as null, or half of a character."""
    value = record.get(name)
    if not isinstance(value, str | int | float) or value == "":
        what = "missing" if name not in record else f"{json.dumps(value)[:40]}, not a number or a text"
        raise _Fault(f"its {name} is {what}")
    try:
        text = str(value)
        text.encode()
    except ValueError:
        raise _Fault(f"its {name} is {ascii(value)[:40]}, which is not text") from None
    return text


def _side(record: dict[str, Any], name: str) -> int:
    """Pixels of a side; 0, unknown, where it is missing or not a size."""
    value = record.get(name) or 0
    try:
        pixels = float(value)
    except (TypeError, ValueError, OverflowError):
        raise _Fault(f"its {name} is {json.dumps(value)[:40]}, not a number of pixels") from None
    return int(pixels) if 0 < pixels < _MOST_PIXELS else 0


def _whole(value: Any) -> int | None:
    """A whole number of 64 bits, also as text or with a zero fraction; None for anything else."""
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value, re.ASCII):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(value) if -(1 << 63) <= value < 1 << 63 else None


def _end_of_url(url: Any) -> str:
    """The file name at the end of an address; empty if there is none."""
    path = re.match(r"(?:\w+://[^/?#]*)?([^?#]*)", url) if isinstance(url, str) else None
    return unquote(path.group(1).rpartition("/")[2], errors="replace") if path else ""


def _bounds(bbox: Any) -> tuple[float, float, float, float]:
    """COCO's (x, y, width, height) to corners; not-a-numbers for anything else."""
    try:
        x, y, width, height = (float(value) for value in bbox)
    except (TypeError, ValueError, OverflowError):
        return _BAD_BOUNDS
    return x, y, x + width, y + height


def coco_key(image_id: str) -> str:
    """The picture's part of a sample key: COCO pads its numbers to twelve digits."""
    return image_id.zfill(12) if re.fullmatch(r"\d+", image_id) else image_id


def _read(inputs: Mapping[str, Path], rules: "FilterRules", masks: bool) -> "Annotations":
    from dataprep.formats.captions import read_coco_captions, with_captions

    notes = read_coco(inputs["annotations"], masks)
    if "captions" not in inputs:
        return notes
    return with_captions(notes, read_coco_captions(inputs["captions"]), inputs["captions"], coco_key)


SOURCE = Source(
    help="from a COCO instances file",
    inputs=(
        SourceInput("annotations", "instances_*.json", is_file=True),
        SourceInput(
            "captions",
            "captions_*.json, for text-conditioned training",
            required=False,
            is_file=True,
        ),
    ),
    unit="pixels",
    licence="annotations CC BY 4.0 (COCO Consortium); each picture has the licence that its author gave it "
    "on Flickr, named in the annotation file",
    read=_read,
    key=coco_key,
    has_masks=True,
)
