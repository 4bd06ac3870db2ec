"""One sample of another program, by the fields that say what its members mean; or why it cannot be used."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataprep.draw.exemplar import object_bounds
from dataprep.draw.render import choose_boxes
from dataprep.foreign.fields import FieldPlace, ForeignFields
from dataprep.foreign.tars import first_suffix
from dataprep.pictures.decode import DecodedPicture, load_picture
from dataprep.pictures.reader import load_grey, open_image
from dataprep.records import BoxRecord, FilterRules, PictureRecord, Rejected, RejectReason
from intarsia.boxes import Box
from intarsia.sample import NO_PIXELS, LabelledBox, Sample, SampleMeta

SOURCE_NAME = "foreign"  # of the records
_NUMBERS = re.compile(r"[\s,;]+")
Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Content:
    """A member of a sample, as `load_picture` takes files."""

    name: str
    content: bytes

    def read_bytes(self) -> bytes:
        return self.content


class _Unusable(Exception):
    """A sample that cannot be used."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(detail)
        self.rejected = Rejected(reason, detail)


def read_foreign(
    members: Mapping[str, bytes], key: str, fields: ForeignFields, dropped: list[Rejected] | None = None
) -> Sample | Rejected:
    """The sample with its whole picture, from which `redraw_sample` draws what is not given.

    Args:
        members: content by suffix.
        key: name of the sample; with its tar's name in front it should be unique, since it decides the draws.
        fields: what the members mean.
        dropped: gets the reason of each box that may not be chosen, if the sample is kept.
    """
    try:
        return _read(members, key, fields, [] if dropped is None else dropped)
    except _Unusable as error:
        return error.rejected


def _read(members: Mapping[str, bytes], key: str, fields: ForeignFields, dropped: list[Rejected]) -> Sample:
    masks = {name: _mask(members, name, fields) for name in ("edit_mask", "object_mask")}
    drawn_on = next((mask.shape[::-1] for mask in masks.values() if mask is not None), None)
    picture = _picture(members, "image", fields, drawn_on)
    edit_mask, object_mask = masks["edit_mask"], masks["object_mask"]
    for name, mask in masks.items():
        if mask is not None and mask.shape != picture.pixels.shape[:2]:
            raise _Unusable(
                RejectReason.SIZE_MISMATCH, f"{name} is {_size(mask)}, the image {_size(picture.pixels)}"
            )
    boxes, out = _boxes(members, key, picture, masks, fields)
    dropped += out
    width, height = picture.size
    meta = SampleMeta(
        key=f"{key}_000",
        source=SOURCE_NAME,
        image_id=key,
        file=key,
        image_size=picture.size,
        source_bytes=picture.file_bytes,
        source_sha256=picture.file_sha256,
        boxes=boxes,
        box=boxes[0].box,
        label=boxes[0].label,
        extended=boxes[0].box,
        window=Box(0, 0, width, height),
        squashed=False,
        mask_kind="",
        polygon=(),
        augmentation={},
        seed=0,
        draw=0,
        draws_per_box=0 if object_mask is None else 1,  # the mask is that of the only box
        captions=tuple(text for text in _texts(members, "captions", fields) if text),
    )
    exemplar = None if fields.place("exemplar") is None else _picture(members, "exemplar", fields).pixels
    given = tuple(
        name for name, part in (("edit_mask", edit_mask), ("exemplar", exemplar)) if part is not None
    )
    return Sample(
        picture.pixels,
        NO_PIXELS if edit_mask is None else edit_mask,
        NO_PIXELS if exemplar is None else exemplar,
        meta,
        object_mask,
        given=given,
    )


def _member(members: Mapping[str, bytes], name: str, fields: ForeignFields) -> tuple[FieldPlace, str, bytes]:
    """Place, suffix and content of a field that samples must have."""
    place = fields.place(name)
    assert place is not None  # the caller asks for fields that were named
    suffix = first_suffix(members, place.suffixes)
    if suffix is None:
        has = ", ".join(sorted(members)) or "none"
        raise _Unusable(
            RejectReason.MEMBER_MISSING, f"{name}: no member {' or '.join(place.suffixes)}, only {has}"
        )
    return place, suffix, members[suffix]


def _picture(
    members: Mapping[str, bytes], name: str, fields: ForeignFields, drawn_on: tuple[int, int] | None = None
) -> DecodedPicture:
    _, suffix, content = _member(members, name, fields)
    picture = load_picture(_Content(suffix, content), drawn_on, fields.orientation)
    if isinstance(picture, Rejected):
        raise _Unusable(picture.reason, f"{name}: {picture.detail}" if picture.detail else name)
    return picture


def _mask(members: Mapping[str, bytes], name: str, fields: ForeignFields) -> np.ndarray | None:
    """A mask, uint8 [H, W], 255 = repaint or object; None if samples have no such field."""
    if fields.place(name) is None:
        return None
    image = open_image(_member(members, name, fields)[2])
    pixels = image if isinstance(image, Rejected) else load_grey(image)
    if isinstance(pixels, Rejected):
        raise _Unusable(pixels.reason, f"{name}: {pixels.detail}" if pixels.detail else name)
    if fields.mask_values == "nonzero":
        mask: np.ndarray = np.where(pixels > 0, 255, 0).astype(np.uint8)
    else:
        mask = 255 - pixels if fields.mask_values == "black" else pixels
    if mask.max() < 128:
        hint = "; its largest level is 1, which mask_values nonzero reads" if pixels.max() == 1 else ""
        raise _Unusable(RejectReason.EMPTY_MASK, f"{name} marks no pixel{hint}")
    return mask


def _boxes(
    members: Mapping[str, bytes],
    key: str,
    picture: DecodedPicture,
    masks: Mapping[str, np.ndarray | None],
    fields: ForeignFields,
) -> tuple[tuple[LabelledBox, ...], list[Rejected]]:
    """Boxes that may be chosen, and why others may not.

    They are those annotated, else the bounds of the object mask, else of the edit mask.
    """
    bounds = _annotated(members, fields)
    if bounds is None:
        mask = masks["edit_mask"] if masks["object_mask"] is None else masks["object_mask"]
        assert mask is not None  # one of the three fields is there
        box = object_bounds(mask)
        assert box is not None  # an empty mask was refused
        bounds = [(float(box.x0), float(box.y0), float(box.x1), float(box.y1))]
    if masks["object_mask"] is not None and len(bounds) != 1:
        raise _Unusable(RejectReason.RECORD_UNREADABLE, f"{len(bounds)} boxes and one object mask")
    labels = _labels(members, len(bounds), fields)
    drawn = masks["edit_mask"] is None
    rules = FilterRules((), fields.min_area, fields.max_area) if drawn else FilterRules((), 0.0, 1.0)
    if fields.box_unit == "fractions":
        width, height = picture.size
        bounds = [(x0 * width, y0 * height, x1 * width, y1 * height) for x0, y0, x1, y1 in bounds]
    records = tuple(BoxRecord(place, box, labels[place]) for place, box in enumerate(bounds))
    record = PictureRecord(key, key, "", None, records, "pixels")
    kept, dropped = choose_boxes(record, picture, rules)
    if not kept:
        if not dropped:
            raise _Unusable(RejectReason.NO_BOX, "")
        place, first = dropped[0]
        raise _Unusable(first.reason, f"box {place}: {first.detail}")
    return kept, [rejected for _, rejected in dropped]


def annotated_boxes(members: Mapping[str, bytes], fields: ForeignFields) -> list[Corners]:
    """The boxes of a sample as (x0, y0, x1, y1) in the unit of the fields; none if they cannot be read."""
    try:
        return _annotated(members, fields) or []
    except _Unusable:
        return []


def _annotated(members: Mapping[str, bytes], fields: ForeignFields) -> list[Corners] | None:
    """The same; None if the fields name no box.

    Raises:
        _Unusable: for what is not a box.
    """
    if fields.place("box") is None:
        return None
    value = _value(members, "box", fields)
    if isinstance(value, str):
        value = [part for part in _NUMBERS.split(value.strip("[]() \n\t")) if part]
    several = isinstance(value, list) and all(isinstance(item, list) for item in value)  # none at all, too
    rows = value if several else [value]
    boxes: list[Corners] = []
    for row in rows:
        try:
            a, b, c, d = (float(number) for number in row)
        except (TypeError, ValueError):
            text = json.dumps(row)
            shown = text if len(text) < 60 else f"{text[:60]}…"
            raise _Unusable(RejectReason.RECORD_UNREADABLE, f"box: {shown} is not four numbers") from None
        if not np.isfinite((a, b, c, d)).all():
            raise _Unusable(RejectReason.BAD_BOX, f"box: {row} has a coordinate that is not finite")
        corners = {
            "xyxy": (a, b, c, d),
            "xywh": (a, b, a + c, b + d),
            "cxcywh": (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
        }
        boxes.append(corners[fields.box_format or "xyxy"])
    return boxes


def _labels(members: Mapping[str, bytes], number: int, fields: ForeignFields) -> list[str]:
    """A class name for each box: one for all, or as many as there are boxes."""
    labels = list(_texts(members, "label", fields)) or [""]
    if len(labels) not in (1, number):
        raise _Unusable(RejectReason.RECORD_UNREADABLE, f"{len(labels)} labels for {number} boxes")
    return labels * number if len(labels) == 1 else labels


def _texts(members: Mapping[str, bytes], name: str, fields: ForeignFields) -> tuple[str, ...]:
    """The texts of a field: a whole member, or one text or several in its JSON."""
    if fields.place(name) is None:
        return ()
    value = _value(members, name, fields)
    values = value if isinstance(value, list) else [value]
    if any(not isinstance(text, str | int | float) for text in values):
        raise _Unusable(RejectReason.RECORD_UNREADABLE, f"{name}: {json.dumps(value)[:60]} is not text")
    return tuple(str(text).strip() for text in values)


def _value(members: Mapping[str, bytes], name: str, fields: ForeignFields) -> Any:
    """What a field holds: a member's text, or a value of its JSON; lists of objects give a list of values."""
    place, suffix, content = _member(members, name, fields)
    try:
        text = content.decode("utf-8-sig")
        value = json.loads(text) if place.path or suffix.rpartition(".")[2] == "json" else text
    except ValueError as error:
        raise _Unusable(
            RejectReason.RECORD_UNREADABLE, f"{name}: {suffix} cannot be read ({error})"
        ) from None
    for step in place.path:
        value = _follow(value, step, f"{name}: {suffix}")
    return value


def _follow(value: Any, step: str, where: str) -> Any:
    if isinstance(value, list) and not step.isdigit():
        return [_follow(item, step, where) for item in value]
    try:
        return value[int(step)] if isinstance(value, list) else value[step]
    except (KeyError, IndexError, TypeError):
        has = (
            f"; its keys are {', '.join(map(str, value))}"[:200] if value and isinstance(value, dict) else ""
        )
        raise _Unusable(RejectReason.RECORD_UNREADABLE, f"{where} has no {step}{has}") from None


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
