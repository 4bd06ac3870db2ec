"""Record and pixels to sample: the one pure function that draws, for data prep and for training."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from dataprep.choose.pixels import judge_crop
from dataprep.choose.rules import judge_late_area, judge_pixels
from dataprep.draw.exemplar import bare_exemplar, finished_exemplar, object_bounds, shown_box
from dataprep.draw.pipeline import open_pipeline
from dataprep.draw.recipe import DEFAULT, PBE, Recipe
from dataprep.draw.shape import draw_edit_mask, draw_extended
from dataprep.masks.mask_kind import MaskScene
from dataprep.pictures.decode import DecodedPicture, resize, squash
from dataprep.records import FilterRules, PictureRecord, Rejected, RejectReason
from intarsia.boxes import Box, Window, scale_box
from intarsia.masks import EditMask
from intarsia.rng import sample_rng
from intarsia.sample import (
    EXEMPLAR_SIZE,
    ExemplarOrigin,
    LabelledBox,
    Sample,
    SampleMeta,
    ViewMeta,
    decode_jpeg,
    encode_jpeg,
)

DRAWS_PER_EPOCH = 1_000_000  # above the number of draws that any picture has in data prep
GIVEN = "given"  # the kind of an edit mask that is not drawn
SMALLER_QUALITY = 92  # of pictures made smaller by --short-side


def _no_mask(place: int) -> None:
    return None


@dataclass(frozen=True)
class SubjectView:
    """What a box of a subject is in a pair: its own picture, and which boxes may be its partner.

    Attributes:
        file: path of the picture or video, relative to the folder of pictures.
        frame: number of the frame in its video; None for a picture that is not of a video.
        picture: function that gives the decoded picture.
        partners: places among the subject's boxes of those that may show the exemplar; empty if the object is
            not repainted in this one.
        source_size: (width, height) of the source picture if `picture` is smaller.
        caption: sentence about the picture; empty if there is none.
    """

    file: str
    frame: int | None
    picture: Callable[[], DecodedPicture]
    partners: tuple[int, ...]
    source_size: tuple[int, int] | None = None
    caption: str = ""


@dataclass(frozen=True)
class Subject:
    """A decoded picture with the boxes that may be chosen in it.

    Attributes:
        source: name of the annotations' source.
        image_id: the picture's name in its annotations.
        key: the same name in the letters of sample keys; decides every random choice, with seed and draw.
        file: path below the folder of pictures.
        picture: decoded picture.
        boxes: boxes that may be chosen, at least one, each with at least one pixel.
        source_size: (width, height) of the source picture if `picture` is smaller.
        draws_per_box: number of draws of each box, in the boxes' order; 0 if each draw chooses among all.
        masks: a box's place among `boxes` -> its object mask, uint8 [H, W], 255 = object, or None.
        recipe: recipe that is drawn by. A background of its exemplar is replaced if the object mask is known.
        captions: sentences about the picture.
        views: one for each box, if the boxes are views of one object in several pictures; otherwise empty,
            and all boxes are in `picture`.
        edit_mask: uint8 [H, W], 255 = repaint, to take instead of drawing one; the crop is drawn round it.
        exemplar: uint8 [h, w, 3] RGB, to take, squashed and not augmented, instead of cutting one out.
    """

    source: str
    image_id: str
    key: str
    file: str
    picture: DecodedPicture
    boxes: tuple[LabelledBox, ...]
    source_size: tuple[int, int] | None = None
    draws_per_box: int = 0
    masks: Callable[[int], np.ndarray | None] = _no_mask
    recipe: Recipe = PBE
    captions: tuple[str, ...] = ()
    views: tuple[SubjectView, ...] = ()
    edit_mask: np.ndarray | None = None
    exemplar: np.ndarray | None = None

    def choose(self, rng: np.random.Generator, draw: int) -> tuple[int, int]:
        """The places of a draw's box and of the one that its exemplar shows: without views, the same."""
        own = draw % DRAWS_PER_EPOCH // self.draws_per_box if self.draws_per_box else None
        if not self.views:
            place = int(rng.integers(len(self.boxes)))
            return (place, place) if own is None else (own, own)
        targets = [place for place, view in enumerate(self.views) if view.partners]
        place = targets[int(rng.integers(len(targets))) if own is None else own]
        partners = self.views[place].partners
        return place, partners[int(rng.integers(len(partners)))]

    def picture_of(self, place: int) -> DecodedPicture:
        """The picture that a box is in."""
        return self.views[place].picture() if self.views else self.picture

    def extend(self, box: Box, size: tuple[int, int], rng: np.random.Generator) -> Box:
        """The extended box of a chosen box: drawn, or the bounds of an edit mask that is given."""
        if self.edit_mask is None:
            return draw_extended(self.recipe.extension, box, size, rng)
        return object_bounds(self.edit_mask) or box

    def cover(self, scene: MaskScene, rng: np.random.Generator) -> EditMask:
        """The edit mask: drawn, or as given."""
        if self.edit_mask is None:
            return draw_edit_mask(self.recipe, scene, rng)
        return EditMask(self.edit_mask, GIVEN, ())

    def show(
        self, partner: int, mask: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, dict[str, object]]:
        """The exemplar of a box, uint8 [224, 224, 3], and what was drawn for it.

        Args:
            partner: place of the box that it shows.
            mask: object mask of this box, if it is known.
            rng: generator of the sample.
        """
        if self.exemplar is not None:
            return squash(self.exemplar, EXEMPLAR_SIZE), {}
        picture = self.picture_of(partner)
        shown = shown_box(self.boxes[partner].box, mask, self.recipe.exemplar, picture.size)
        return draw_exemplar(picture.pixels, shown, mask, self.recipe, rng)


def choose_boxes(
    record: PictureRecord, picture: DecodedPicture, rules: FilterRules
) -> tuple[tuple[LabelledBox, ...], list[tuple[int, Rejected]]]:
    """Turn a record's boxes into pixels of the picture, and drop those that fail by size or pixels.

    Returns:
        The boxes that may be chosen, and (box id, reason) for the others.
    """
    kept: list[LabelledBox] = []
    dropped: list[tuple[int, Rejected]] = []
    boxes = [item.to_box(picture.size, record.unit) for item in record.boxes]
    for item, box, by_size in zip(record.boxes, boxes, judge_pixels(boxes, rules), strict=True):
        if record.unit == "pixels" and record.size is None:
            by_size = by_size or judge_late_area(item.bounds, picture.size, rules)
        rejected = by_size or judge_crop(picture.pixels, box, rules)
        if rejected:
            dropped.append((item.box_id, rejected))
        else:
            kept.append(LabelledBox(box, item.label, item.flags))
    return tuple(kept), dropped


def draw_sample(subject: Subject, image_size: int | None, seed: int, draw: int) -> Sample | Rejected:
    """Draw box, edit mask, crop and exemplar. Equal arguments give equal samples.

    Args:
        subject: picture and boxes.
        image_size: side of the square crop, pixels; None keeps the whole picture in its own geometry.
        seed: seed of the data set.
        draw: number from 0 on in data prep, from epoch * DRAWS_PER_EPOCH on in a loader that draws afresh.
    """
    rng, recipe = sample_rng(seed, subject.key, draw), subject.recipe
    place, partner = subject.choose(rng, draw)
    picture = subject.picture_of(place)
    size, chosen, whole = picture.size, subject.boxes[place], subject.masks(place)
    extended = subject.extend(chosen.box, size, rng)
    draw_window = cache(lambda: recipe.crop.draw(extended, size, rng))  # a kind of mask may ask for it first
    scene = MaskScene(chosen.box, extended, size, lambda: draw_window().box, whole)
    edit_mask = subject.cover(scene, rng)
    window = draw_window()
    if image_size is None:
        window = Window(Box(0, 0, *size), squashed=False)
        image, pixels, own = picture.pixels, edit_mask.pixels, whole
    else:
        image = squash(window.box.cut(picture.pixels), image_size)
        pixels = squash(window.box.cut(edit_mask.pixels), image_size)
        own = None if whole is None else squash(window.box.cut(whole), image_size)
    if pixels.max() < 128:
        return Rejected(RejectReason.EMPTY_MASK, f"box {chosen.box.as_list()} leaves no pixel to repaint")
    shows = whole if partner == place else subject.masks(partner)
    exemplar, drawn = subject.show(partner, shows, rng)
    meta = SampleMeta(
        key=f"{subject.key}_{draw:03d}",
        source=subject.source,
        image_id=subject.image_id,
        file=subject.file,
        image_size=size,
        source_bytes=picture.file_bytes,
        source_sha256=picture.file_sha256,
        boxes=subject.boxes,
        box=chosen.box,
        label=chosen.label,
        extended=extended,
        window=window.box,
        squashed=window.squashed,
        mask_kind=edit_mask.kind,
        polygon=edit_mask.polygon,
        augmentation=drawn,
        seed=seed,
        draw=draw,
        source_size=subject.source_size,
        draws_per_box=subject.draws_per_box,
        captions=subject.captions,
        **recipe_marks(recipe, shows),
    )
    if subject.views:
        meta = _of_pair(meta, subject, place, partner, all_views=image_size is None)
    return Sample(image, pixels, exemplar, meta, own)


def _of_pair(meta: SampleMeta, subject: Subject, place: int, partner: int, all_views: bool) -> SampleMeta:
    """The record with the origin of target and exemplar, and with all views if the sample stores them."""
    view, other, source = subject.views[place], subject.views[partner], subject.picture_of(partner)
    origin = ExemplarOrigin(
        other.file, other.frame, source.size, subject.boxes[partner].box, source.file_sha256
    )
    meta = replace(
        meta,
        file=view.file,
        frame=view.frame,
        source_size=view.source_size,
        exemplar_from=origin,
        captions=(view.caption,) if view.caption else (),
    )
    if not all_views:
        return replace(meta, boxes=(subject.boxes[place],))
    pictures = [one.picture() for one in subject.views]
    views = tuple(
        ViewMeta(
            one.file,
            one.frame,
            one.partners,
            one.source_size,
            picture.file_bytes,
            picture.file_sha256,
            one.caption,
        )
        for one, picture in zip(subject.views, pictures, strict=True)
    )
    return replace(meta, views=views)


def draw_exemplar(
    pixels: np.ndarray,
    shown: Box,
    object_mask: np.ndarray | None,
    recipe: Recipe,
    rng: np.random.Generator,
) -> tuple[np.ndarray, dict[str, object]]:
    """The exemplar, uint8 [224, 224, 3], and what was drawn for it.

    Args:
        pixels: uint8 [H, W, 3] RGB, the picture.
        shown: part of it that the exemplar shows.
        object_mask: uint8 [H, W], 255 = object, or None.
        recipe: recipe that is drawn by.
        rng: generator of the sample.
    """
    how = recipe.exemplar
    bare, mask, grown = bare_exemplar(pixels, shown, object_mask, how, rng)
    augmented, mask, drawn = open_pipeline(recipe)(bare, mask, rng)
    return finished_exemplar(augmented, mask, how), grown | drawn


def recipe_marks(recipe: Recipe, object_mask: np.ndarray | None) -> dict[str, Any]:
    """A record's fields about the recipe: a replaced background, and its name unless it is the default."""
    replaced = object_mask is not None and recipe.exemplar.background != "keep"
    return {
        "exemplar_background": recipe.exemplar.background if replaced else "",
        "recipe": "" if recipe.name == DEFAULT else recipe.name,
    }


def store_picture(picture: DecodedPicture, short_side: int | None) -> DecodedPicture:
    """The picture as profile `source` stores it: `jpeg` is stored, and `pixels` are decoded from that.

    An upright JPEG is kept as it is if its short side is not above `short_side` pixels; everything else is
    encoded again, at quality 95, or 92 if it is made smaller.
    """
    width, height = picture.size
    short = min(width, height)
    if short_side is not None and short > short_side:
        size = (_scaled(width, short_side, short), _scaled(height, short_side, short))
        jpeg = encode_jpeg(resize(picture.pixels, size), SMALLER_QUALITY)
    elif picture.jpeg is not None:
        return picture
    else:
        jpeg = encode_jpeg(picture.pixels)
    return replace(picture, pixels=decode_jpeg(jpeg), jpeg=jpeg)


def _scaled(length: int, numerator: int, denominator: int) -> int:
    """length * numerator / denominator, to the nearest whole number."""
    return (2 * length * numerator + denominator) // (2 * denominator)


def scale_boxes(
    boxes: tuple[LabelledBox, ...], size: tuple[int, int], new_size: tuple[int, int]
) -> tuple[LabelledBox, ...]:
    """Boxes of a picture of `size` (width, height) in pixels of the same picture at `new_size`."""
    if size == new_size:
        return boxes
    return tuple(replace(item, box=scale_box(item.box, size, new_size)) for item in boxes)
