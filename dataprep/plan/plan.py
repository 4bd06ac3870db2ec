"""What will be built: the options, the boxes and pictures that are kept, and their seeded order."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from dataprep.choose.filters import FilterOptions, rules_of
from dataprep.choose.joint_rules import judge_balance, near_duplicates
from dataprep.choose.partners import judge_partners
from dataprep.choose.rules import judge_boxes, shown_bounds
from dataprep.draw.recipe import PBE, Recipe, RecipeOption, with_background
from dataprep.pictures.index import PictureIndex
from dataprep.pictures.video import is_video
from dataprep.records import REASONS, Annotations, FilterRules, RejectReason, Views
from dataprep.sources.source import SOURCES, source_of
from intarsia.config import one_of
from intarsia.rng import derive_seeds

# Options of later versions, with their defaults.
_NEWER = {
    "orientation": "auto",
    "scale_boxes": False,
    **dict.fromkeys(("recipe", "min_gap", "max_mask_iou", "max_views")),
}


class BuildConfig(FilterOptions):
    """Every option that decides what the shards hold; two builds with equal ones are the same build."""

    source: Annotated[str, one_of(SOURCES)]
    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    split: str = Field("train", pattern=r"^[A-Za-z0-9_-]+$")
    seed: int = 0
    profile: Literal["tuple", "source"] = "tuple"
    image_size: int = Field(512, ge=16, le=4096, multiple_of=8)
    images_per_shard: int = Field(1000, ge=1)
    draws_per_image: int = Field(1, ge=1, le=1000)
    short_side: int | None = Field(None, ge=64, le=8192)
    all_boxes: bool = False
    object_masks: bool = False
    exemplar_background: Literal["keep", "grey", "white"] = "keep"
    recipe: RecipeOption = None  # Paint by Example's
    min_gap: int | None = Field(None, ge=1)
    max_mask_iou: float | None = Field(None, gt=0, le=1)
    max_views: int | None = Field(None, ge=2)

    @model_serializer(mode="wrap")
    def _newer_defaults_are_left_out(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A folder that is built without newer options has the fingerprint that it had before them."""
        content = dump(self)
        return {name: value for name, value in content.items() if _NEWER.get(name, ...) != value}

    @model_validator(mode="after")
    def _of_the_profile(self) -> "BuildConfig":
        if self.short_side is not None and self.profile != "source":
            raise ValueError("short_side is for whole pictures: give --profile source, or leave it out")
        cut_out = self.exemplar_background != "keep"
        if cut_out and self.profile == "source" and not (self.all_boxes and self.object_masks):
            raise ValueError(
                f"--exemplar-background {self.exemplar_background} with --profile source needs --all-boxes "
                "and --object-masks: a loader that draws again knows only the mask of a sample's own box"
            )
        if self.requires_masks and self.profile == "source" and not (self.all_boxes and self.object_masks):
            raise ValueError(
                f"--recipe {self.drawing.name} with --profile source needs --all-boxes and --object-masks: a "
                "loader that draws again knows only the mask of a sample's own box"
            )
        return self

    @property
    def drawing(self) -> Recipe:
        """The recipe that samples are drawn by."""
        return with_background(self.recipe or PBE, self.exemplar_background)

    @property
    def needs_masks(self) -> bool:
        """Whether object masks are used."""
        return self.object_masks or self.exemplar_background != "keep" or self.requires_masks

    @property
    def requires_masks(self) -> bool:
        """Whether a box without an object mask cannot be used."""
        return self.recipe is not None and self.recipe.needs_object

    @property
    def accounts(self) -> tuple[str, ...]:
        """What is counted: in = kept + rejected. Masks are those of samples whose box has one."""
        return ("pictures", "boxes", "draws", *(("masks",) if self.needs_masks else ()))

    def draws(self, pictures: int, boxes: int) -> int:
        """The number of draws of so many kept pictures with so many kept boxes."""
        return self.draws_per_image * (boxes if self.all_boxes else pictures)

    def shard_name(self, shard: int) -> str:
        """The name of a shard without its extension."""
        return f"{self.name}-{self.split}-{shard:06d}"


@dataclass(frozen=True)
class BuildPlan:
    """A plan in columns.

    Attributes:
        config: options of the build.
        annotations: everything that was read.
        verdict: int16 [N]: -1 for a box kept so far, otherwise an index into REASONS.
        fate: int16 [P]: the same for pictures.
        order: int64 [K]: the kept pictures, in the order of the shards.
        files: path below the folder of pictures, text [P]; empty if there is no such file.
        rows: int32: the boxes of the kept pictures in the order of the shards.
        ends: int64 [K + 1]: picture `order[i]` has the boxes `rows[ends[i] : ends[i + 1]]`.
        remarks: sentences on what looks like a mistake in the inputs.
    """

    config: BuildConfig
    annotations: Annotations
    verdict: np.ndarray
    fate: np.ndarray
    order: np.ndarray
    files: pa.Array
    rows: np.ndarray
    ends: np.ndarray
    remarks: tuple[str, ...] = ()

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-len(self.order) // self.config.images_per_shard)

    def counts(self) -> dict[str, Any]:
        """Boxes and pictures in, and rejected so far. Boxes of a rejected picture count with it."""
        notes, dropped = self.annotations, self.annotations.dropped
        # Boxes are dropped by a rule here, by a rule while reading, or with their picture.
        boxes = _count(self.verdict) + _count(dropped.reason)
        boxes += _count(self.fate[notes.picture[self.verdict < 0]])
        given = {"pictures": len(self.fate), "boxes": len(notes) + len(dropped)}
        rejected = {
            "pictures": {REASONS[c].value: n for c, n in sorted(_count(self.fate).items())},
            "boxes": dict(sorted((REASONS[c].value, n) for c, n in boxes.items())),
        }
        if notes.label_files is not None:
            others = len(notes.other_files)
            given["files"] = notes.label_files + others
            rejected["files"] = {RejectReason.OTHER_FILE.value: others} if others else {}
        return {"in": given, "rejected": rejected}


def make_build_plan(
    annotations: Annotations,
    index: PictureIndex,
    config: BuildConfig,
    families: Mapping[str, Collection[str]] | None = None,
    excluded: Collection[str] = frozenset(),
    as_shown: bool = True,
) -> BuildPlan:
    """Filter the boxes, group them by picture, and order the pictures by a hash of seed and name.

    Args:
        annotations: annotations of the data set.
        index: index of the picture files.
        config: options of the build.
        families: class name -> names of the classes that it stands for.
        excluded: names or annotated files of pictures to leave out.
        as_shown: whether boxes count as far as pictures show them, see `FilterRules`.
    """
    notes, rules = annotations, rules_of(config, families, as_shown)
    notes, verdict = _judge_alone(notes, rules, index)
    # Pictures: the file of each one. If there is none, its boxes are rejected with it.
    files = _find_files(notes, index) if notes.views is None else pa.array(notes.files, pa.string())
    annotated = len(files)
    if source_of(config.source).all_pictures:
        notes, files = _with_other_pictures(notes, files, index)
    fate: np.ndarray = np.full(len(files), -1, np.int16)
    fate[pc.equal(files, "").to_numpy(zero_copy_only=False)] = REASONS.index(RejectReason.FILE_MISSING)
    if excluded:  # wins over a missing file: a picture that is left out is not looked for
        excluded = {*excluded, *(name.replace("\\", "/") for name in excluded)}
        pictures = zip(notes.image_ids, notes.files, strict=True)
        named = np.array(
            [not excluded.isdisjoint((name, file, file.replace("\\", "/"))) for name, file in pictures], bool
        )
        fate[named] = REASONS.index(RejectReason.EXCLUDED)
    _judge_together(notes, rules, config.seed, fate, verdict)
    if notes.views is not None:
        judge_partners(notes, config.min_gap or 1, verdict)
    # Only now is it known which pictures have a box left.
    boxes_left = np.bincount(notes.picture[verdict < 0], minlength=len(files))
    fate[(boxes_left == 0) & (fate != REASONS.index(RejectReason.EXCLUDED))] = REASONS.index(
        RejectReason.NO_BOX
    )
    # Pictures that no annotation is about have their own reason.
    rest = fate[annotated:]
    rest[rest == REASONS.index(RejectReason.NO_BOX)] = REASONS.index(RejectReason.NOT_ANNOTATED)
    # By a hash of seed and name: one more picture does not change the order of the others.
    order = np.flatnonzero(fate < 0)
    ranks = derive_seeds((config.seed, "order"), (notes.image_ids[p] for p in order.tolist()))
    order = order[np.argsort(ranks, kind="stable")]
    # Boxes are sorted by picture, so that those of a shard are one slice.
    rows = _rows_in_order(notes.picture, verdict < 0, order)
    ends = np.concatenate([[0], np.cumsum(boxes_left[order])])
    return BuildPlan(config, notes, verdict, fate, order, files, rows, ends)


def _judge_alone(
    notes: Annotations, rules: FilterRules, index: PictureIndex
) -> tuple[Annotations, np.ndarray]:
    """The annotations, with the paths of views as the store has them, and `judge_boxes` of them."""
    # A reader that was given these rules has already set aside what they drop.
    known = notes.judged == rules
    verdict = np.full(len(notes), -1, np.int16) if known else judge_boxes(notes, rules)
    if notes.views is None:
        return notes, verdict
    views = _find_views(notes.views, index)
    missing = np.array([not file for file in views.files], bool)[views.file]
    verdict[missing & (verdict < 0)] = REASONS.index(RejectReason.FILE_MISSING)
    return replace(notes, views=views), verdict


def _find_files(notes: Annotations, index: PictureIndex) -> pa.Array:
    """The file of each picture, text [P]; empty if none of its names is that of a file."""
    files = index.find(notes.files, notes.image_ids)
    for names in notes.other_names:
        columns = files.to_pylist()
        missing = [place for place, name in enumerate(names) if name and not columns[place]]
        if not missing:
            continue
        found = index.find([names[p] for p in missing], [""] * len(missing)).to_pylist()
        # A file that another picture has, or that two ask for, would get the boxes of the wrong one.
        claims = Counter([*found, *columns])
        for place, file in zip(missing, found, strict=True):
            columns[place] = file if claims[file] == 1 else ""
        files = pa.array(columns, pa.string())
    return files


def _find_views(views: Views, index: PictureIndex) -> Views:
    """The views with the paths of their pictures as the store has them; empty where there is none."""
    found = index.find(views.files, views.files).to_pylist()
    files = [file if is_video(file) else there for file, there in zip(views.files, found, strict=True)]
    return replace(views, files=files)


def _with_other_pictures(
    notes: Annotations, files: pa.Array, index: PictureIndex
) -> tuple[Annotations, pa.Array]:
    """Add the pictures of the folder that no annotation is about, without boxes."""
    others = index.paths.filter(pc.invert(pc.is_in(index.paths, value_set=files)))
    names = others.to_pylist()
    more = replace(
        notes,
        image_ids=notes.image_ids + names,
        files=notes.files + names,
        sizes=np.concatenate([notes.sizes, np.zeros((len(names), 2), np.int32)]),
    )
    return more, pa.concat_arrays([files, others])


def _rows_in_order(picture: np.ndarray, kept: np.ndarray, order: np.ndarray) -> np.ndarray:
    """int32: the kept boxes of the pictures in `order`, in that order; in a picture as annotated."""
    # Picture -> its place in the order: a table, since sorting millions of rows twice is slow.
    place: np.ndarray = np.full(max(int(picture.max(initial=0)), int(order.max(initial=0))) + 1, -1, np.int32)
    place[order] = np.arange(len(order))
    rows: np.ndarray = np.flatnonzero(kept).astype(np.int32)
    places = place[picture[rows]]
    rows, places = rows[places >= 0], places[places >= 0]
    # Stable: within a picture, the order of the annotations decides what a draw chooses.
    return rows[np.argsort(places, kind="stable")]


def _judge_together(
    notes: Annotations, rules: FilterRules, seed: int, fate: np.ndarray, verdict: np.ndarray
) -> None:
    """The rules about several boxes, among those that are left in usable pictures; writes into `verdict`."""
    if rules.largest_iou < 1 and notes.views is None:
        rows: np.ndarray = np.flatnonzero(verdict < 0).astype(np.int32)
        shown = replace(notes, bounds=shown_bounds(notes, rules))
        # Before the balance, which counts the boxes that are left.
        verdict[near_duplicates(shown, rows, rules.largest_iou)] = REASONS.index(RejectReason.NEAR_DUPLICATE)
    if rules.per_class_max is not None or rules.class_temperature > 1:
        # Boxes of pictures that do not exist must not use up the share of their class.
        rows = np.flatnonzero(verdict < 0)
        rows = rows[fate[notes.picture[rows]] < 0]
        verdict[rows] = judge_balance(notes.label[rows], notes.box_ids[rows], seed, rules)


def _count(codes: np.ndarray) -> Counter[int]:
    values, numbers = np.unique(codes[codes >= 0], return_counts=True)
    return Counter(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
