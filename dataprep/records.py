"""What annotations say, as records and in columns, and why something is dropped."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from intarsia.boxes import Box, box_from_fractions, box_from_xyxy

if TYPE_CHECKING:  # a command that is only asked for help loads no pyarrow
    import pyarrow as pa

CLIPPED = "clipped"  # kept boxes that reach out of their pictures, in the counts of what was changed
CLIPPED_PX = 1.0  # a box that reaches out of its picture by more is counted as clipped; less is rounding
BoxUnit: TypeAlias = Literal["pixels", "fractions"]  # of the upright picture


class RejectReason(StrEnum):
    """Why a box, a picture or a draw was dropped."""

    # a box, by its annotation
    BAD_BOX = "bad_box"  # a coordinate is not a finite number
    EMPTY_BOX = "empty_box"  # no whole pixel inside the picture
    CROWD = "crowd"
    GROUP_OF = "group_of"
    INSIDE = "inside"
    DEPICTION = "depiction"
    OCCLUDED = "occluded"
    TRUNCATED = "truncated"
    DIFFICULT = "difficult"
    CUT_BY_BORDER = "cut_by_border"  # the object's mask touches the border of its picture
    CLASS_NOT_WANTED = "class_not_wanted"
    AREA_TOO_SMALL = "area_too_small"
    AREA_TOO_LARGE = "area_too_large"
    NEAR_DUPLICATE = "near_duplicate"  # of a larger box in its picture
    OVER_CLASS_MAX = "over_class_max"
    CLASS_TEMPERATURE = "class_temperature"
    PICTURE_UNKNOWN = "picture_unknown"  # an annotation of a picture that the file does not list
    # a box, by its picture's size and pixels
    SIDE_TOO_SHORT = "side_too_short"
    ASPECT_TOO_LARGE = "aspect_too_large"
    TOO_BLURRED = "too_blurred"
    TOO_DARK = "too_dark"
    TOO_BRIGHT = "too_bright"
    # a box, by the object's mask, if the recipe needs one
    NO_OBJECT_MASK = "no_object_mask"
    OBJECT_TOO_SMALL = "object_too_small"
    OBJECT_TOO_LARGE = "object_too_large"
    OBJECT_IN_PIECES = "object_in_pieces"
    # a view of an object that is shown in several pictures
    OBJECT_GONE = "object_gone"  # not in this frame, but in others that are annotated
    NO_PARTNER = "no_partner"  # no other view of the object that may be its partner in a pair
    TOO_ALIKE = "too_alike"  # its mask hardly differs from those of all possible partners
    SAME_FILE = "same_file"  # target and exemplar are one file
    FRAME_MISSING = "frame_missing"  # the video ends before it, or cannot be decoded that far
    OVER_VIEWS_MAX = "over_views_max"
    # a picture (its remaining boxes go with it, under the same reason)
    NO_BOX = "no_box"  # never had one, or none is left
    NOT_ANNOTATED = "not_annotated"  # a picture of the folder that no file of annotations is about
    EXCLUDED = "excluded"  # named in the list of --exclude
    FILE_MISSING = "file_missing"
    FILE_UNREADABLE = "file_unreadable"
    FILE_EMPTY = "file_empty"
    LFS_POINTER = "lfs_pointer"
    FORMAT_UNKNOWN = "format_unknown"  # a picture, of a format that is not read
    NOT_AN_IMAGE = "not_an_image"
    DAMAGED = "damaged"
    TOO_MANY_PIXELS = "too_many_pixels"
    UNSUPPORTED_PIXELS = "unsupported_pixels"
    SIZE_MISMATCH = "size_mismatch"
    QUARANTINED = "quarantined"  # it killed the worker, twice
    RENDER_FAILED = "render_failed"  # an error in our code; its text is the detail
    # a file
    OTHER_FILE = "other_file"  # is among the files of annotations and is not one
    # a draw
    EMPTY_MASK = "empty_mask"
    # a sample's object mask; the sample stays, without it. If the recipe needs one, the box is dropped
    OBJECT_MASK_MISSING = "object_mask_missing"
    OBJECT_MASK_UNREADABLE = "object_mask_unreadable"
    # a sample of another program
    MEMBER_MISSING = "member_missing"
    MEMBER_TWICE = "member_twice"
    RECORD_UNREADABLE = "record_unreadable"  # a text or JSON that does not hold what a field wants


@dataclass(frozen=True)
class Rejected:
    """A reason and, in words, the particulars."""

    reason: RejectReason
    detail: str = ""


@dataclass(frozen=True)
class View:
    """What a box is in a pair: a view of an object that other boxes show, too, in other pictures.

    Attributes:
        file: path of its picture or video below the folder of pictures.
        frame: number of the frame in its video; -1 for a picture that is not of a video.
        track: number of the object among those of its record.
        is_target: whether the object may be repainted in this picture.
        is_exemplar: whether an exemplar may be cut out of it.
        caption: sentence about its picture; empty if there is none.
    """

    file: str
    frame: int = -1
    track: int = 0
    is_target: bool = True
    is_exemplar: bool = True
    caption: str = ""

    def pairs_with(self, other: "View", min_gap: int) -> bool:
        """Whether the other view may be the exemplar of this one: another picture, or a frame far enough."""
        if self.track != other.track or not (self.is_target and other.is_exemplar):
            return False
        if min(self.frame, other.frame) < 0:
            return self.file != other.file
        return abs(self.frame - other.frame) >= min_gap


@dataclass(frozen=True)
class BoxRecord:
    """One annotated box.

    Attributes:
        box_id: name in the annotations, e.g. COCO's annotation id, or the row of a CSV.
        bounds: (x0, y0, x1, y1) as annotated, in the unit of the source.
        label: class name.
        flags: remarks of the annotation by name: 1 yes, 0 no, -1 unknown.
        segmentation: outline of the object (`object_masks`); empty if there is none, or masks are not used.
        view: what it is in a pair; None for a box of its record's own picture.
    """

    box_id: int
    bounds: tuple[float, float, float, float]
    label: str
    flags: dict[str, int] = field(default_factory=dict)
    segmentation: str = ""
    view: View | None = None

    def to_box(self, size: tuple[int, int], unit: BoxUnit) -> Box:
        """The box in whole pixels of a picture of `size` (width, height); may turn out empty."""
        if unit == "fractions":
            return box_from_fractions(self.bounds, size)
        return box_from_xyxy(*self.bounds, size)

    def overhang(self, size: tuple[int, int], unit: BoxUnit) -> float:
        """Pixels by which the box reaches out of a picture of `size` at most; 0 if it is inside."""
        x0, y0, x1, y1 = self.bounds
        width, height = size
        across, down = size if unit == "fractions" else (1, 1)
        return max(0.0, -x0 * across, -y0 * down, x1 * across - width, y1 * down - height)


@dataclass(frozen=True)
class PictureRecord:
    """A picture with the boxes that may be chosen in it.

    Attributes:
        image_id: name of the picture in the annotations.
        key: the same name in the letters that a sample's key may have.
        file: path below the folder of pictures; empty if there is no such file.
        size: (width, height) as annotated; None if the annotations do not give it.
        boxes: annotated boxes in their order.
        unit: unit of their bounds.
        captions: sentences about the picture.
    """

    image_id: str
    key: str
    file: str
    size: tuple[int, int] | None
    boxes: tuple[BoxRecord, ...]
    unit: BoxUnit
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class FilterRules:
    """Which boxes may be chosen.

    Attributes:
        dropped_flags: flags whose value 1 drops a box; unknown (-1) does not.
        smallest_area: smallest share of the picture's area that is kept.
        largest_area: largest share of the picture's area that is kept.
        smallest_side: pixels; checked when the picture is read, since Open Images gives no sizes.
        largest_aspect: longer side to shorter side in pixels; checked when the picture is read.
        classes: class names that are kept; None for all.
        not_classes: class names that are dropped.
        largest_iou: intersection over union with a larger box of the picture, above which a box is dropped.
        per_class_max: largest number of boxes of one class; None for no limit.
        class_temperature: 1 leaves the classes as they are; the higher, the more alike their sizes become.
        least_sharpness: variance of the Laplacian of the box's pixels, see `pixels.crop_figures`.
        darkest: lowest mean grey level of the box's pixels that is kept, 0 … 255.
        brightest: highest mean grey level that is kept, 0 … 255.
        as_shown: whether areas and overlaps are those of the part of a box that its picture shows; folders
            that earlier versions planned go on with boxes as annotated.
        either_way: whether the sides of an annotated picture may be exchanged (`fit_picture`).
    """

    dropped_flags: tuple[str, ...]
    smallest_area: float = 0.02
    largest_area: float = 0.8
    smallest_side: int = 1
    largest_aspect: float = math.inf
    classes: frozenset[str] | None = None
    not_classes: frozenset[str] = frozenset()
    largest_iou: float = 1.0
    per_class_max: int | None = None
    class_temperature: float = 1.0
    least_sharpness: float = 0.0
    darkest: float = 0.0
    brightest: float = 255.0
    as_shown: bool = True
    either_way: bool = False


@dataclass(frozen=True)
class Dropped:
    """Boxes that the rules dropped while the annotations were read: all that is needed to name each.

    Attributes:
        picture: int32 [D], into the image ids.
        box_ids: int32 [D].
        reason: int8 [D], into REASONS.
    """

    picture: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    box_ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    reason: np.ndarray = field(default_factory=lambda: np.empty(0, np.int8))

    def __len__(self) -> int:
        return len(self.picture)


@dataclass(frozen=True)
class Views:
    """`View` in columns.

    Attributes:
        files: paths of pictures and videos.
        file: int32 [N], into `files`.
        frame: int32 [N]; -1 for a picture that is not of a video.
        track: int32 [N].
        is_target: bool [N].
        is_exemplar: bool [N].
        caption: sentence about each one's picture [N]; empty if there are none.
    """

    files: list[str]
    file: np.ndarray
    frame: np.ndarray
    track: np.ndarray
    is_target: np.ndarray
    is_exemplar: np.ndarray
    caption: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Annotations:
    """Annotated boxes in columns: fourteen million of them do not fit into objects.

    Attributes:
        unit: unit of the bounds.
        image_ids: names of the pictures [P].
        files: file names as annotated [P]; if empty, any picture with the name image_id.
        sizes: int32 [P, 2] (width, height); 0 if unknown.
        picture: int [N], picture of each box; -1 for one that is not listed.
        box_ids: int [N].
        bounds: float64 [N, 4], x0, y0, x1, y1.
        label: int32 [N], into `labels`.
        labels: class names.
        flags: int8 [N] each: 1 yes, 0 no, -1 unknown.
        dropped: boxes besides these N that a reader which was given rules did not keep.
        judged: rules that the reader was given.
        other_names: further names of the pictures [P], list after list; each is looked for where the ones
            before it are not found.
        label_files: number of files of annotations that were read, where there is one for each picture.
        other_files: paths of the files among these that are not read.
        remarks: sentences on what the reader decided that the files do not say.
        segmentation: rows of boxes -> outlines of their objects (`object_masks`), text, empty if there is
            none; None if masks are not used.
        views: what the boxes are in pairs; None if each is of its record's own picture.
        captions: place of a picture -> its captions; None if there are none for the data set.
    """

    unit: BoxUnit
    image_ids: list[str]
    files: list[str]
    sizes: np.ndarray
    picture: np.ndarray
    box_ids: np.ndarray
    bounds: np.ndarray
    label: np.ndarray
    labels: list[str]
    flags: dict[str, np.ndarray]
    dropped: Dropped = field(default_factory=Dropped)
    judged: FilterRules | None = None
    other_names: tuple[list[str], ...] = ()
    label_files: int | None = None
    other_files: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    segmentation: "Callable[[np.ndarray], pa.Array] | None" = None
    views: Views | None = None
    captions: Mapping[int, tuple[str, ...]] | None = None

    def __len__(self) -> int:
        return len(self.picture)


REASONS = tuple(RejectReason)  # a reason's place here is its code in an array; -1 means kept
