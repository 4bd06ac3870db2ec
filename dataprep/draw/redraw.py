"""Fresh draws from the samples of a shard: what training sees in later epochs, or by a recipe of its own."""

from dataclasses import replace
from functools import cache, partial

import cv2
import numpy as np

from dataprep.draw.exemplar import bare_exemplar, finished_exemplar, object_bounds
from dataprep.draw.pipeline import open_pipeline
from dataprep.draw.recipe import PBE, Exemplar, Recipe, with_background
from dataprep.draw.render import DRAWS_PER_EPOCH, Subject, SubjectView, draw_sample, recipe_marks
from dataprep.draw.shape import draw_edit_mask, draw_extended
from dataprep.masks.mask_kind import MaskScene
from dataprep.pictures.decode import DecodedPicture, resize, squash
from dataprep.records import Rejected
from intarsia.boxes import Box, pad_box, scale_box
from intarsia.rng import sample_rng
from intarsia.sample import EXEMPLAR_SIZE, Sample, decode_view

_UNDONE = {"flip", "angle", "blur", "shifts"}  # Paint by Example's notes, of which a flip can be undone


def redraw_sample(
    sample: Sample,
    image_size: int | None,
    seed: int,
    epoch: int,
    made_by: Recipe = PBE,
    recipe: Recipe | None = None,
) -> Sample | Rejected:
    """A fresh draw from a sample of a `source` shard; its image, object mask, record and what is given count.

    With the shard's own seed and recipe, epoch 0 gives what data prep drew, from the stored pixels. A sample
    that is its box's own stays with that box.

    Args:
        sample: sample of a shard, with the whole picture.
        image_size: side of the square crop, pixels; None keeps the whole picture.
        seed: seed of the draws.
        epoch: 0 or more.
        made_by: recipe of the shard.
        recipe: recipe to draw by; the shard's if None.
    """
    meta = sample.meta
    subject = Subject(
        source=meta.source,
        image_id=meta.image_id,
        key=meta.key.rpartition("_")[0],
        file=meta.file,
        picture=DecodedPicture(sample.image, meta.source_bytes, meta.source_sha256),
        boxes=meta.boxes,
        source_size=meta.source_size,
        draws_per_box=meta.draws_per_box,
        masks=lambda place: sample.object_mask if meta.draws_per_box else None,
        recipe=recipe or _own(sample, made_by),
        captions=meta.captions,
        edit_mask=sample.edit_mask if "edit_mask" in sample.given else None,
        exemplar=sample.exemplar if "exemplar" in sample.given else None,
    )
    if meta.views:
        subject = _with_views(subject, sample)
    return draw_sample(subject, image_size, seed, meta.draw + epoch * DRAWS_PER_EPOCH)


def _with_views(subject: Subject, sample: Sample) -> Subject:
    """The subject with the stored views of its object, each decoded when a draw asks for it."""

    @cache
    def decoded(place: int) -> tuple[np.ndarray, np.ndarray | None]:
        return decode_view(sample, place)

    def picture(place: int) -> DecodedPicture:
        view = sample.meta.views[place]
        return DecodedPicture(decoded(place)[0], view.source_bytes, view.source_sha256)

    views = tuple(
        SubjectView(
            view.file, view.frame, partial(picture, place), view.partners, view.source_size, view.caption
        )
        for place, view in enumerate(sample.meta.views)
    )
    return replace(subject, views=views, masks=lambda place: decoded(place)[1])


def redraw_crop(
    sample: Sample, seed: int, epoch: int, made_by: Recipe = PBE, recipe: Recipe | None = None
) -> Sample:
    """A fresh edit mask, and where it can be had a fresh exemplar, for the stored crop of a `tuple` shard.

    Box and crop stay. The extended box is drawn again as in data prep, inside the crop. The exemplar is
    augmented again if it can be had without augmentation; otherwise it stays. A box so small that the fresh
    mask is empty after the resize keeps its mask.

    Args:
        sample: sample of a shard.
        seed: seed of the draws.
        epoch: 0 or more; by the shard's own recipe, what is stored counts as epoch 0.
        made_by: recipe of the shard.
        recipe: recipe to draw by; the shard's if None.
    """
    meta, side = sample.meta, sample.image.shape[0]
    own = _own(sample, made_by)
    recipe = recipe or own
    name, draw = meta.key.rpartition("_")[0], meta.draw + epoch * DRAWS_PER_EPOCH
    rng = sample_rng(seed, name, draw)
    extended = draw_extended(recipe.extension, meta.box, meta.image_size, rng, meta.window)
    scene = MaskScene(meta.box, extended, meta.image_size, lambda: meta.window, _in_picture(sample, recipe))
    edit_mask = draw_edit_mask(recipe, scene, rng)
    pixels = squash(meta.window.cut(edit_mask.pixels), side)
    if pixels.max() < 128:
        return sample
    meta = replace(
        meta,
        key=f"{name}_{draw:03d}",
        extended=extended,
        mask_kind=edit_mask.kind,
        polygon=edit_mask.polygon,
        seed=seed,
        draw=draw,
    )
    bare = _bare(sample, own.exemplar, recipe.exemplar, rng)
    if bare is None:
        return replace(sample, edit_mask=pixels, meta=meta)
    exemplar, mask, drawn = open_pipeline(recipe)(bare[0], bare[1], rng)
    meta = replace(meta, augmentation=bare[2] | drawn, **recipe_marks(recipe, sample.object_mask))
    return replace(
        sample, edit_mask=pixels, exemplar=finished_exemplar(exemplar, mask, recipe.exemplar), meta=meta
    )


def _own(sample: Sample, made_by: Recipe) -> Recipe:
    """The recipe that a sample was drawn by: its shard's, with the background that an option asked for."""
    return with_background(made_by, sample.meta.exemplar_background or "keep")


def _in_picture(sample: Sample, recipe: Recipe) -> np.ndarray | None:
    """The object's mask in the picture's geometry, as far as the crop shows it; None if it is not needed."""
    if sample.object_mask is None or not any(kind.needs_object for kind in recipe.masks):
        return None
    window, (width, height) = sample.meta.window, sample.meta.image_size
    pixels: np.ndarray = np.zeros((height, width), np.uint8)
    window.cut(pixels)[:] = resize(sample.object_mask, (window.width, window.height))
    return pixels


def _bare(
    sample: Sample, own: Exemplar, how: Exemplar, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None, dict[str, float]] | None:
    """The exemplar before its augmentation (`bare_exemplar`), from a stored crop; None if it is lost.

    An exemplar that was at most mirrored is mirrored back, if nothing else about it is to change. Otherwise
    it is cut out of the crop, if that shows all of the box with its margin and is not coarser than the
    exemplar itself: at the source's resolution or above, or with 224 pixels per side.
    """
    drawn = sample.meta.augmentation
    undone = set(drawn) <= _UNDONE and not any(drawn.get(name) for name in ("angle", "blur", "shifts"))
    simple = not how.grow and (how.resize, how.cut_out) == ("before", "before")
    if undone and simple and _cut(own) == _cut(how):
        return cv2.flip(sample.exemplar, 1) if drawn.get("flip") else sample.exemplar, None, {}
    if sample.meta.exemplar_from:  # the crop shows another picture
        return None
    meta, (height, width) = sample.meta, sample.image.shape[:2]
    window, size = meta.window, (meta.window.width, meta.window.height)
    box = meta.box
    if how.needs_object and sample.object_mask is None:
        return None
    if how.around == "object" and sample.object_mask is not None:
        bounds = object_bounds(sample.object_mask)
        if bounds is None:
            return None
        inner = scale_box(bounds, (width, height), size)
        box = Box(inner.x0 + window.x0, inner.y0 + window.y0, inner.x1 + window.x0, inner.y1 + window.y0)
    padded = pad_box(box, how.margin, meta.image_size)
    if not window.contains(padded):
        return None
    across, down = width / window.width, height / window.height
    if min(across, down) < 1 and min(padded.width * across, padded.height * down) < EXEMPLAR_SIZE:
        return None
    inner = Box(padded.x0 - window.x0, padded.y0 - window.y0, padded.x1 - window.x0, padded.y1 - window.y0)
    shown = scale_box(inner, size, (width, height))
    return bare_exemplar(sample.image, shown, sample.object_mask, how, rng)


def _cut(how: Exemplar) -> Exemplar:
    """All about an exemplar but its augmentation, to be compared."""
    return how.model_copy(update={"augment": {}})
