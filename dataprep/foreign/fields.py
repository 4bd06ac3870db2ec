"""`ForeignFields`: which members of another program's samples hold the picture, the hole, the box and so on.

The module loads nothing heavy, since options and configs are checked with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator, model_validator

from dataprep.draw.recipe import PBE, Recipe, RecipeOption
from dataprep.pictures.fit import Orientation
from dataprep.records import BoxUnit
from intarsia.config import Config
from intarsia.errors import UsageError

PICTURE_FIELDS = ("image", "edit_mask", "exemplar", "object_mask")  # fields that are picture files
FIELDS = (*PICTURE_FIELDS, "box", "label", "captions")
HOLES = ("box", "edit_mask", "object_mask")  # one of these says what may be repainted
EXAMPLE = "--field image=jpg --field box=json:bbox --box-format xyxy --box-unit pixels"


@dataclass(frozen=True)
class FieldPlace:
    """Where a field is in a sample.

    Attributes:
        suffixes: members by suffix, without a dot in front; the first that a sample has is taken.
        path: keys to follow in its JSON; none for the whole member.
    """

    suffixes: tuple[str, ...]
    path: tuple[str, ...] = ()


def parse_place(text: str) -> FieldPlace:
    """`jpg`, `jpg;png`, `mask.png`, `json:bbox` or `json:objects.box`; suffixes as webdataset has them.

    Raises:
        ValueError: if a suffix or key is empty.
    """
    suffixes, colon, path = text.partition(":")
    place = FieldPlace(
        tuple(part.strip().lstrip(".").lower() for part in suffixes.split(";")),
        tuple(path.split(".")) if colon else (),
    )
    if not all((*place.suffixes, *place.path)):
        raise ValueError(
            f"{text!r} is not of the form SUFFIX or SUFFIX:KEY, such as jpg, mask.png, json:bbox"
        )
    return place


class ForeignFields(Config):
    """What the members of a sample mean, and which boxes may be chosen."""

    fields: dict[str, str]  # field -> SUFFIX, SUFFIX;SUFFIX or SUFFIX:KEY.KEY
    box_format: Literal["xyxy", "xywh", "cxcywh"] | None = None  # corners, corner and size, centre and size
    box_unit: BoxUnit | None = None
    mask_values: Literal["white", "nonzero", "black"] = "white"  # white, every level but 0, or black counts
    orientation: Orientation = "auto"
    # Shares of the picture that a box may have if the edit mask is drawn from it; Paint by Example's.
    min_area: float = Field(default=0.02, ge=0, le=1)
    max_area: float = Field(default=0.8, ge=0, le=1)

    @field_validator("fields")
    @classmethod
    def _known(cls, fields: dict[str, str]) -> dict[str, str]:
        for name, text in fields.items():
            if name not in FIELDS:
                raise ValueError(f"{name!r} is not a field; fields are {', '.join(FIELDS)}")
            if parse_place(text).path and name in PICTURE_FIELDS:
                raise ValueError(f"{name}={text}: a picture is a whole member; give its suffix alone")
        if "image" not in fields:
            raise ValueError("no field says which member is the picture; add image=jpg or another suffix")
        if not set(HOLES) & set(fields):
            raise ValueError(f"no field says what may be repainted; add one of {', '.join(HOLES)}")
        return fields

    @model_validator(mode="after")
    def _explicit_boxes(self) -> "ForeignFields":
        given = self.box_format is not None, self.box_unit is not None
        if "box" in self.fields and not all(given):
            raise ValueError(
                "the field box needs box_format (xyxy, xywh or cxcywh) and box_unit (pixels or fractions); "
                "neither can be seen in a file with certainty"
            )
        if "box" not in self.fields and any(given):
            raise ValueError("box_format and box_unit belong to the field box; add it, or leave them out")
        return self

    def place(self, field: str) -> FieldPlace | None:
        """Where a field is; None if samples do not have it."""
        text = self.fields.get(field)
        return None if text is None else parse_place(text)

    @property
    def suffixes(self) -> frozenset[str]:
        """All members that are read."""
        return frozenset(suffix for text in self.fields.values() for suffix in parse_place(text).suffixes)


class IndexOptions(ForeignFields):
    """What an index is made by."""

    recipe: RecipeOption = None  # None: Paint by Example's

    @property
    def drawing(self) -> Recipe:
        """The recipe that missing parts are drawn by."""
        return self.recipe or PBE

    @model_validator(mode="after")
    def _object_masks(self) -> "IndexOptions":
        if self.drawing.needs_object and "object_mask" not in self.fields:
            raise ValueError(
                f"the recipe {self.drawing.name} draws from object masks; add the field object_mask, or "
                "choose another recipe"
            )
        return self


class StreamFields(ForeignFields):
    """What training needs to know of tars that it reads as streams."""

    samples: int = Field(ge=1)  # about how many all of them hold: an epoch
    shuffle: int = Field(default=1000, ge=1)  # samples in the buffer of each loader worker


def parse_fields(texts: Sequence[str]) -> dict[str, str]:
    """`NAME=WHERE` texts by name.

    Raises:
        UsageError: for another form, or a field that is given twice.
    """
    fields: dict[str, str] = {}
    for text in texts:
        name, equals, where = text.partition("=")
        if not equals:
            raise UsageError(
                f"--field {text}: not of the form NAME=WHERE, such as image=jpg or box=json:bbox"
            )
        if name in fields:
            raise UsageError(f"--field {name} is given twice; several suffixes go into one: {name}=jpg;png")
        fields[name] = where
    return fields
