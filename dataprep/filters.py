"""Choosing boxes beyond what one annotation says: options to rules, families of classes, overlap, balance."""

import csv
import difflib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from dataprep.records import FILTERS, FLAG_REASONS, REASONS, Annotations, FilterRules, RejectReason
from intarsia.config import Config
from intarsia.errors import UsageError, UserError
from intarsia.files import read_json
from intarsia.rng import derive_seed

DROPPABLE = tuple(flag.removeprefix("is_") for flag in FLAG_REASONS)
_ROWS_AT_ONCE = 1 << 20  # of the overlap search, which bounds its memory


class FilterOptions(Config):
    """What a user asks of the boxes: a named set of rules, and deviations from it (None: as the set has it).

    Attributes are those of `FilterRules`, by the names of the command line.
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

    @field_validator("drop")
    @classmethod
    def _known_flags(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in DROPPABLE:
                raise ValueError(f"{name!r} is none of {', '.join(DROPPABLE)}")
        return names

    @field_validator("brightness")
    @classmethod
    def _ordered(cls, limits: tuple[float, float] | None) -> tuple[float, float] | None:
        if limits is not None and not 0 <= limits[0] <= limits[1] <= 255:
            raise ValueError("two grey levels LO,HI with 0 <= LO <= HI <= 255 are wanted")
        return limits


def rules_of(options: FilterOptions, families: Mapping[str, Collection[str]] | None = None) -> FilterRules:
    """The rules that options come to.

    Args:
        options: of the build.
        families: class name -> the names that it stands for (`read_hierarchy`); others stand for themselves.
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
        **{name: value for name, value in given.items() if value is not None},
    )


def _expand(names: Iterable[str], families: Mapping[str, Collection[str]]) -> frozenset[str]:
    return frozenset(member for name in names for member in families.get(name, (name,)))


def check_options(options: FilterOptions, flags: Collection[str], names: Collection[str]) -> None:
    """Check that the flags and classes of the options are ones that the annotations know.

    Args:
        options: of the build.
        flags: that the annotations carry (is_occluded, …).
        names: of all their classes.

    Raises:
        UsageError: for one that they do not know, with what comes near.
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
        UserError: if there is no such file.
    """
    if text.startswith("@"):
        return tuple(read_lines(Path(text[1:])))
    return tuple(name.strip() for name in next(csv.reader([text], skipinitialspace=True), []) if name.strip())


def read_lines(path: Path) -> list[str]:
    """The lines of a list, without blank ones and those that begin with #.

    Raises:
        UserError: if there is no such file, or it is no text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a list ({error})") from None
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def read_hierarchy(path: Path, names: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """Families of classes from Open Images' bbox_labels_600_hierarchy.json.

    Args:
        path: of the file: a tree of LabelName with lists `Subcategory` (kinds of it) and `Part` (parts of it,
            which are no members of the family: a wheel is no car).
        names: label code -> class name.

    Returns:
        Class name -> its own and the names of all kinds below it. A class may stand at several places.

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
            f"{path} is no class hierarchy: a tree of LabelName and Subcategory is needed"
        ) from None
    return {name: frozenset(members) for name, members in families.items()}


def near_duplicates(notes: Annotations, rows: np.ndarray, largest_iou: float) -> np.ndarray:
    """Those of the boxes `rows` that a larger one of their picture overlaps by more than `largest_iou`.

    Of equally large boxes the smaller id counts as the larger box. A box also goes where the larger one goes
    itself, since of a chain of neighbours the largest is to stay, and since a tighter limit then never keeps
    a box that a looser one drops.

    Args:
        notes: whose boxes have, among `rows`, a positive area.
        rows: int, any order.
        largest_iou: intersection over union, 0 … 1.
    """
    gone = [rows[:0]]
    for piece in _by_picture(notes.picture, rows):
        bounds = notes.bounds[piece]
        area = (bounds[:, 2] - bounds[:, 0]) * (bounds[:, 3] - bounds[:, 1])
        order = np.lexsort((notes.box_ids[piece], -area, notes.picture[piece]))
        piece = piece[order]
        gone.append(piece[_overlapped(notes.picture[piece], bounds[order], area[order], largest_iou)])
    return np.concatenate(gone)


def _by_picture(picture: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """`rows` in pieces, each the rows of some whole pictures: what is computed of them is never all there."""
    rows = rows[np.argsort(picture[rows], kind="stable")]
    first = 0
    while first < len(rows):
        last_picture = picture[rows[min(first + _ROWS_AT_ONCE, len(rows)) - 1]]
        last = int(np.searchsorted(picture[rows], last_picture, side="right"))
        yield rows[first:last]
        first = last


def _overlapped(picture: np.ndarray, bounds: np.ndarray, area: np.ndarray, largest_iou: float) -> np.ndarray:
    """bool [N] of boxes sorted by picture and falling area: row i against row i + 1, i + 2, …"""
    hit: np.ndarray = np.zeros(len(picture), bool)
    large = np.arange(len(picture))
    step = 0
    while len(large):
        step += 1
        large = large[large + step < len(picture)]
        small = large + step
        # Boxes that follow are smaller still: once the areas alone rule it out, this row is through.
        open_still = (picture[large] == picture[small]) & (area[small] > largest_iou * area[large])
        large, small = large[open_still], small[open_still]
        a, b = bounds[large], bounds[small]
        shared = np.prod(
            np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None), axis=1
        )
        hit[small] |= shared > largest_iou * (area[large] + area[small] - shared)
    return hit


def class_quotas(numbers: np.ndarray, temperature: float) -> np.ndarray:
    """How many boxes each class keeps at a temperature T: int64, at most `numbers`.

    A class of n boxes, more than the median m of all classes that have any, keeps n^(1/T) · m^(1 - 1/T) of
    them, rounded up: all at T = 1, m as T grows. Smaller classes stay whole.
    """
    numbers = np.asarray(numbers, np.int64)
    if temperature == 1 or not numbers.any():
        return numbers
    median = float(np.median(numbers[numbers > 0]))
    share = np.minimum(median / np.maximum(numbers, 1), 1.0) ** (1 - 1 / temperature)
    return np.minimum(np.ceil(numbers * share).astype(np.int64), numbers)


def judge_balance(label: np.ndarray, box_ids: np.ndarray, seed: int, rules: FilterRules) -> np.ndarray:
    """Which boxes go so that classes are balanced: int16 [N] as `judge_boxes`.

    Of a class those stay whose hash of seed and id is smallest: a choice at random that depends neither on
    the order of the rows nor on other classes' boxes.

    Args:
        label: int [N], classes of the boxes that all other rules keep.
        box_ids: int [N], each different.
        seed: of the data set.
        rules: per_class_max and class_temperature.
    """
    order = np.lexsort((box_ids, _hash_ids(derive_seed(seed, "balance"), box_ids), label))
    numbers = np.bincount(label)
    place: np.ndarray = np.empty(len(label), np.int64)
    place[order] = np.arange(len(label)) - np.repeat(np.cumsum(numbers) - numbers, numbers)
    verdict: np.ndarray = np.full(len(label), -1, np.int16)
    verdict[place >= class_quotas(numbers, rules.class_temperature)[label]] = REASONS.index(
        RejectReason.CLASS_TEMPERATURE
    )
    if rules.per_class_max is not None:
        verdict[place >= rules.per_class_max] = REASONS.index(RejectReason.OVER_CLASS_MAX)
    return verdict


def _hash_ids(seed: int, ids: np.ndarray) -> np.ndarray:
    """uint64 [N]: splitmix64's finaliser (Steele, Lea and Flood 2014) of seed and id; whole numbers only."""
    x = ids.astype(np.uint64) + np.uint64(seed)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
