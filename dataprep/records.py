"""What annotations say, in columns; why something is dropped; and the rules that keep or drop a box."""

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from intarsia.boxes import Box, box_from_fractions, box_from_xyxy


class RejectReason(StrEnum):
    """Why a box, a picture or a draw was dropped."""

    # a box, by its annotation
    BAD_BOX = "bad_box"  # a coordinate is no finite number
    EMPTY_BOX = "empty_box"  # no whole pixel inside the picture
    CROWD = "crowd"
    GROUP_OF = "group_of"
    INSIDE = "inside"
    AREA_TOO_SMALL = "area_too_small"
    AREA_TOO_LARGE = "area_too_large"
    SIDE_TOO_SHORT = "side_too_short"
    PICTURE_UNKNOWN = "picture_unknown"  # an annotation of a picture that the file does not list
    # a picture (its remaining boxes go with it, under the same reason)
    NO_BOX = "no_box"  # never had one, or none is left
    FILE_MISSING = "file_missing"
    FILE_UNREADABLE = "file_unreadable"
    FILE_EMPTY = "file_empty"
    LFS_POINTER = "lfs_pointer"
    NOT_AN_IMAGE = "not_an_image"
    DAMAGED = "damaged"
    TOO_MANY_PIXELS = "too_many_pixels"
    UNSUPPORTED_PIXELS = "unsupported_pixels"
    SIZE_MISMATCH = "size_mismatch"
    QUARANTINED = "quarantined"  # it killed the worker, twice
    RENDER_FAILED = "render_failed"  # an error of ours; its text is the detail
    # a draw
    EMPTY_MASK = "empty_mask"


@dataclass(frozen=True)
class Rejected:
    """A reason and, in words, the particulars."""

    reason: RejectReason
    detail: str = ""


FLAG_REASONS = {
    "is_crowd": RejectReason.CROWD,
    "is_group_of": RejectReason.GROUP_OF,
    "is_inside": RejectReason.INSIDE,
}


@dataclass(frozen=True)
class FilterRules:
    """Which boxes may be chosen.

    Attributes:
        dropped_flags: flags whose value 1 drops a box; unknown (-1) does not.
        smallest_area: of the picture's area, kept from here.
        largest_area: of the picture's area, kept up to here.
        smallest_side: pixels; looked at when the picture is read, since Open Images gives no sizes.
    """

    dropped_flags: tuple[str, ...]
    smallest_area: float = 0.02
    largest_area: float = 0.8
    smallest_side: int = 1


# "pbe" is Paint by Example's own rule. A crowd region of COCO is no object: it is dropped under both.
FILTERS = {
    "pbe": FilterRules(dropped_flags=("is_crowd",)),
    "default": FilterRules(dropped_flags=("is_crowd", "is_group_of", "is_inside"), smallest_side=32),
}


@dataclass(frozen=True)
class BoxRecord:
    """One annotated box.

    Attributes:
        box_id: its name in the annotations: COCO's annotation id, or the row of a CSV.
        bounds: (x0, y0, x1, y1) as annotated: pixels, or fractions of the picture.
        label: the class's name.
        flags: remarks by name: 1 yes, 0 no, -1 unknown.
    """

    box_id: int
    bounds: tuple[float, float, float, float]
    label: str
    flags: dict[str, int] = field(default_factory=dict)

    def to_box(self, size: tuple[int, int], fractions: bool) -> Box:
        """The box in whole pixels of a picture of `size` (width, height); may turn out empty."""
        return box_from_fractions(self.bounds, size) if fractions else box_from_xyxy(*self.bounds, size)


@dataclass(frozen=True)
class PictureRecord:
    """A picture with the boxes that may be chosen in it.

    Attributes:
        image_id: its name in the annotations.
        key: the same as a sample's key may bear it.
        file: its path below the folder of pictures; empty where it was not found.
        size: (width, height) as annotated; None where the annotations do not say.
        boxes: in annotation order.
    """

    image_id: str
    key: str
    file: str
    size: tuple[int, int] | None
    boxes: tuple[BoxRecord, ...]


@dataclass(frozen=True)
class Annotations:
    """All annotated boxes in columns: fourteen million of them do not fit into objects.

    Attributes:
        source: "coco" or "openimages".
        fractions: whether bounds are fractions of the picture; otherwise pixels.
        image_ids: names of the pictures [P].
        files: their file names as annotated [P]; where empty, any picture called image_id.
        sizes: int32 [P, 2] (width, height); 0 where unknown.
        picture: int64 [N], each box's picture; -1 for one that is not listed.
        box_ids: int64 [N].
        bounds: float64 [N, 4], x0, y0, x1, y1.
        label: int32 [N], into `labels`.
        labels: class names.
        flags: int8 [N] each: 1 yes, 0 no, -1 unknown.
    """

    source: str
    fractions: bool
    image_ids: list[str]
    files: list[str]
    sizes: np.ndarray
    picture: np.ndarray
    box_ids: np.ndarray
    bounds: np.ndarray
    label: np.ndarray
    labels: list[str]
    flags: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.picture)


REASONS = tuple(RejectReason)  # a reason's place here is its code in an array; -1 means kept


def judge_boxes(annotations: Annotations, rules: FilterRules) -> np.ndarray:
    """Which boxes go, and why: int16 [N], -1 for a kept box, otherwise an index into REASONS.

    The area rule is Paint by Example's `read_bbox.py`: keep 0.02 <= (x1 - x0) * (y1 - y0) <= 0.8, in
    fractions of the picture, everything else untouched. Where several reasons hold the first in this function
    counts.
    """
    x0, y0, x1, y1 = annotations.bounds.T
    area = (x1 - x0) * (y1 - y0)
    if not annotations.fractions:
        width, height = annotations.sizes[annotations.picture].T.astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            area = area / (width * height)
    checks: list[tuple[np.ndarray, RejectReason]] = [
        (annotations.picture < 0, RejectReason.PICTURE_UNKNOWN),
        (~np.isfinite(annotations.bounds).all(axis=1), RejectReason.BAD_BOX),
        ((x1 <= x0) | (y1 <= y0), RejectReason.EMPTY_BOX),
        *(
            (annotations.flags[flag] == 1, FLAG_REASONS[flag])
            for flag in rules.dropped_flags
            if flag in annotations.flags
        ),
        (area < rules.smallest_area, RejectReason.AREA_TOO_SMALL),
        (area > rules.largest_area, RejectReason.AREA_TOO_LARGE),
    ]
    verdict: np.ndarray = np.full(len(annotations), -1, np.int16)
    for hit, reason in checks:
        verdict[hit & (verdict < 0)] = REASONS.index(reason)
    return verdict


def judge_pixels(box: Box, rules: FilterRules) -> Rejected | None:
    """The rule that needs the picture's size: a box has whole pixels, and enough of them on each side."""
    if box.area == 0:
        return Rejected(RejectReason.EMPTY_BOX, "no whole pixel inside the picture")
    side = min(box.width, box.height)
    if side < rules.smallest_side:
        return Rejected(RejectReason.SIDE_TOO_SHORT, f"{side} px, at least {rules.smallest_side} wanted")
    return None
