"""How annotated boxes lie on a picture file: which way up it is taken, and the size they were drawn on."""

from dataclasses import replace
from typing import Literal, NamedTuple, TypeAlias

from dataprep.records import PictureRecord

Orientation: TypeAlias = Literal["auto", "upright", "stored"]
Size: TypeAlias = tuple[int, int]  # (width, height)

LEFT_AS_STORED = "left_as_stored"
BOXES_SCALED = "boxes_scaled"


class PictureFit(NamedTuple):
    """How a picture is taken.

    Attributes:
        upright: whether its EXIF rotation is applied.
        drawn_on: size that the boxes were drawn on; None if it is not annotated.
        changes: names of what is not as the file or the annotations have it, for the counts.
    """

    upright: bool
    drawn_on: Size | None
    changes: tuple[str, ...] = ()


def fit_picture(
    stored: Size,
    orientation: int,
    annotated: Size | None,
    option: Orientation = "auto",
    scale: bool = False,
) -> PictureFit | None:
    """How a picture is taken; None if it does not have the annotated size.

    With the option `auto`, a picture that has the annotated size only without its EXIF rotation is left as
    stored, and this is counted: nobody can see whether its boxes were drawn on it so.

    Args:
        stored: size without the EXIF rotation.
        orientation: EXIF orientation, 1 … 8.
        annotated: size in the annotations, if known.
        option: which way up the boxes were drawn; `auto`: as the annotated size says, otherwise upright.
        scale: whether a picture of another size, but of the same aspect, has the boxes scaled to it.
    """
    turned = orientation >= 5
    turns = {True: stored[::-1] if turned else stored, False: stored}
    if annotated is None:
        return PictureFit(option != "stored", None)
    upright_first = [True, False] if option == "auto" else [option == "upright"]
    # With a decided direction the annotated size may be of either.
    sizes = [annotated] if option == "auto" or not turned else [annotated, annotated[::-1]]
    pairs = [(upright, size) for upright in upright_first for size in sizes]
    for upright, size in pairs:
        if size == turns[upright]:
            return PictureFit(upright, size, (LEFT_AS_STORED,) if option == "auto" and not upright else ())
    for upright, size in pairs if scale else ():
        if same_aspect(size, turns[upright]):
            left = option == "auto" and not upright
            return PictureFit(upright, size, (BOXES_SCALED, *((LEFT_AS_STORED,) if left else ())))
    return None


def same_aspect(one: Size, other: Size) -> bool:
    """Whether one size is the other scaled and rounded: their sides agree to a pixel of the smaller one."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(*one, *other)


def fit_record(record: PictureRecord, drawn_on: Size | None, size: Size) -> PictureRecord:
    """The record with its boxes in pixels of the picture as it is taken.

    Args:
        record: record of the plan.
        drawn_on: size that its boxes were drawn on, if known.
        size: size of the picture.
    """
    if record.unit != "pixels" or record.size is None or drawn_on is None or record.size == size:
        return record
    across, down = size[0] / drawn_on[0], size[1] / drawn_on[1]
    boxes = tuple(
        replace(
            box,
            bounds=(
                box.bounds[0] * across,
                box.bounds[1] * down,
                box.bounds[2] * across,
                box.bounds[3] * down,
            ),
        )
        for box in record.boxes
    )
    # Without a size, the area rule looks at the boxes again: the plan knew the picture another way up.
    return replace(record, boxes=boxes, size=size if drawn_on == record.size else None)
