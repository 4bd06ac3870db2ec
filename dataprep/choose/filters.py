"""What a user asks of the boxes: options to rules, lists of names, families of classes."""

import csv
import difflib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from dataprep.choose.rules import FILTERS, FLAG_REASONS
from dataprep.pictures.fit import Orientation
from dataprep.records import FilterRules
from intarsia.config import Config
from intarsia.errors import UsageError, UserError
from intarsia.files import read_json

DROPPABLE = tuple(flag.removeprefix("is_") for flag in FLAG_REASONS)


class FilterOptions(Config):
    """What a user asks of the boxes: a named set of rules, and deviations from it (None: as the set has it).

    Attributes are those of `FilterRules`, by the names of the command line; `orientation` and `scale_boxes`
    are explained at `fit_picture`.
    """

    filters: Literal["pbe", "default"] = "default"
    min_area: float | None = Field(None, ge=0, le=1)
    max_area: float | None = Field(None, ge=0, le=1)
    min_side: int | None = Field(None, ge=1)
    max_aspect: float | None = Field(None, ge=1)
    drop: tuple[str, ...] = ()
    only_classes: tuple[str, ...] = ()
    not_classes: tuple[str, ...] = ()
    max_iou: float | None = Field(None, gt=0, le=1)
    per_class_max: int | None = Field(None, ge=1)
    class_temperature: float | None = Field(None, ge=1)
    min_sharpness: float | None = Field(None, ge=0)
    brightness: tuple[float, float] | None = None
    orientation: Orientation = "auto"
    scale_boxes: bool = False

    @field_validator("drop")
    @classmethod
    def _known_flags(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in DROPPABLE:
                raise ValueError(f"{name!r} is not one of {', '.join(DROPPABLE)}")
        return names

    @field_validator("brightness")
    @classmethod
    def _ordered(cls, limits: tuple[float, float] | None) -> tuple[float, float] | None:
        if limits is not None and not 0 <= limits[0] <= limits[1] <= 255:
            raise ValueError("give two grey levels LO,HI with 0 <= LO <= HI <= 255")
        return limits


def rules_of(
    options: FilterOptions,
    families: Mapping[str, Collection[str]] | None = None,
    as_shown: bool = True,
) -> FilterRules:
    """The rules that options mean.

    Args:
        options: options of the build.
        families: class name -> names of the classes that it stands for (`read_hierarchy`); others stand for
            themselves.
        as_shown: whether boxes count as far as pictures show them, see `FilterRules`.
    """
    base = FILTERS[options.filters]
    flags = {*base.dropped_flags, *(f"is_{name}" for name in options.drop)}
    given: dict[str, Any] = {
        "smallest_area": options.min_area,
        "largest_area": options.max_area,
        "smallest_side": options.min_side,
        "largest_aspect": options.max_aspect,
        "largest_iou": options.max_iou,
        "per_class_max": options.per_class_max,
        "class_temperature": options.class_temperature,
        "least_sharpness": options.min_sharpness,
    }
    if options.brightness is not None:
        given["darkest"], given["brightest"] = options.brightness
    if options.only_classes:
        given["classes"] = _expand(options.only_classes, families or {})
    return replace(
        base,
        dropped_flags=tuple(flag for flag in FLAG_REASONS if flag in flags),
        not_classes=_expand(options.not_classes, families or {}),
        as_shown=as_shown,
        either_way=options.orientation != "auto",
        **{name: value for name, value in given.items() if value is not None},
    )


def _expand(names: Iterable[str], families: Mapping[str, Collection[str]]) -> frozenset[str]:
    return frozenset(member for name in names for member in families.get(name, (name,)))


def check_options(options: FilterOptions, flags: Collection[str], names: Collection[str]) -> None:
    """Check that the flags and classes of the options are ones that the annotations know.

    Args:
        options: options of the build.
        flags: flags of the annotations (is_occluded, …).
        names: names of all their classes.

    Raises:
        UsageError: for one that they do not know, with similar names.
    """
    for name in options.drop:
        if f"is_{name}" not in flags:
            known = ", ".join(flag.removeprefix("is_") for flag in sorted(flags)) or "none at all"
            raise UsageError(f"--drop {name}: these annotations have no such flag; they have {known}")
    for option, wanted in (("--only-classes", options.only_classes), ("--not-classes", options.not_classes)):
        for name in wanted:
            if name not in names:
                close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
                hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
                raise UsageError(f"{option} {name!r}: the annotations know no such class{hint}")


def read_names(text: str) -> tuple[str, ...]:
    """The names of `A,B,"C, with comma"`, or of the lines of a file given as `@FILE`.

    Raises:
        UserError: if the file does not exist.
    """
    if text.startswith("@"):
        return tuple(read_lines(Path(text[1:])))
    return tuple(name.strip() for name in next(csv.reader([text], skipinitialspace=True), []) if name.strip())


def read_lines(path: Path) -> list[str]:
    """The lines of a list, without blank ones and those that begin with #.

    Raises:
        UserError: if the file does not exist or is not text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a list ({error})") from None
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def read_hierarchy(path: Path, names: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """Families of classes from Open Images' bbox_labels_600_hierarchy.json.

    Args:
        path: JSON file: a tree of LabelName with lists `Subcategory` (kinds of it) and `Part` (parts of it,
            which are not members of the family: a wheel is not a car).
        names: label code -> class name.

    Returns:
        Class name -> its own and the names of all kinds below it. A class may appear at several places.

    Raises:
        UserError: if the file is not such a tree.
    """
    families: dict[str, set[str]] = {}

    def walk(node: dict[str, Any]) -> set[str]:
        name = names.get(node["LabelName"], node["LabelName"])
        members = {name}.union(*(walk(child) for child in node.get("Subcategory", ())))
        for part in node.get("Part", ()):
            walk(part)
        families.setdefault(name, set()).update(members)
        return members

    try:
        walk(read_json(path))
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError):
        raise UserError(
            f"{path} is not a class hierarchy: a tree of LabelName and Subcategory is needed"
        ) from None
    return {name: frozenset(members) for name, members in families.items()}
