"""Record and pixels to sample: the one pure function that draws, for data prep and for training."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dataprep.choose.pixels import judge_crop
from dataprep.choose.rules import judge_late_area, judge_pixels
from dataprep.draw.exemplar import (
    MARGIN,
    Augmentation,
    augment_exemplar,
    cut_exemplar,
    cut_shown,
    draw_augmentation,
)
from dataprep.pictures.decode import DecodedPicture, resize, squash
from dataprep.records import FilterRules, PictureRecord, Rejected, RejectReason
from intarsia.boxes import Box, Window, crop_window, extend_box, pad_box, scale_box
from intarsia.masks import draw_edit_mask
from intarsia.rng import sample_rng
from intarsia.sample import EXEMPLAR_SIZE, LabelledBox, Sample, SampleMeta, decode_jpeg, encode_jpeg

DRAWS_PER_EPOCH = 1_000_000  # above the number of draws that any picture has in data prep
SMALLER_QUALITY = 92  # of pictures made smaller by --short-side


def _no_mask(place: int) -> None:
    return None


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
        background: background of the exemplar if the object mask is known: "keep", "grey", "white".
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
    background: str = "keep"


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
    rng = sample_rng(seed, subject.key, draw)
    picture = subject.picture
    place = int(rng.integers(len(subject.boxes)))
    if subject.draws_per_box:
        place = draw % DRAWS_PER_EPOCH // subject.draws_per_box
    chosen, whole = subject.boxes[place], subject.masks(place)
    extended = extend_box(chosen.box, picture.size, rng)
    edit_mask = draw_edit_mask(chosen.box, extended, picture.size, rng)
    window = crop_window(extended, picture.size, rng)
    augmentation = draw_augmentation(rng)
    if image_size is None:
        window = Window(Box(0, 0, *picture.size), squashed=False)
        image, pixels, own = picture.pixels, edit_mask.pixels, whole
    else:
        image = squash(window.box.cut(picture.pixels), image_size)
        pixels = squash(window.box.cut(edit_mask.pixels), image_size)
        own = None if whole is None else squash(window.box.cut(whole), image_size)
    if pixels.max() < 128:
        return Rejected(RejectReason.EMPTY_MASK, f"box {chosen.box.as_list()} leaves no pixel to repaint")
    meta = SampleMeta(
        key=f"{subject.key}_{draw:03d}",
        source=subject.source,
        image_id=subject.image_id,
        file=subject.file,
        image_size=picture.size,
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
        augmentation=dict(vars(augmentation)),
        seed=seed,
        draw=draw,
        source_size=subject.source_size,
        draws_per_box=subject.draws_per_box,
        exemplar_background="" if whole is None or subject.background == "keep" else subject.background,
    )
    cut = cut_exemplar(picture.pixels, chosen.box, whole, subject.background)
    return Sample(image, pixels, augment_exemplar(cut, augmentation), meta, own)


def redraw_sample(sample: Sample, image_size: int | None, seed: int, epoch: int) -> Sample | Rejected:
    """A fresh draw from a sample of a `source` shard; only its image and record are used.

    With the shard's own seed, epoch 0 gives what data prep drew, from the stored pixels. A sample that is its
    box's own stays with that box.

    Args:
        sample: sample of a shard, with the whole picture.
        image_size: side of the square crop, pixels; None keeps the whole picture.
        seed: seed of the draws.
        epoch: 0 or more.
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
        background=meta.exemplar_background or "keep",
    )
    return draw_sample(subject, image_size, seed, meta.draw + epoch * DRAWS_PER_EPOCH)


def redraw_crop(sample: Sample, seed: int, epoch: int) -> Sample:
    """A fresh edit mask, and where it can be had a fresh exemplar, for the stored crop of a `tuple` shard.

    Box and crop stay. The extended box is drawn again as in data prep, inside the crop. The exemplar is
    augmented again if it can be had without augmentation (`_bare_exemplar`); otherwise it stays. A box so
    small that the fresh mask is empty after the resize keeps its mask.

    Args:
        sample: sample of a shard.
        seed: seed of the draws.
        epoch: 1 or more; what is stored counts as epoch 0.
    """
    meta, side = sample.meta, sample.image.shape[0]
    name, draw = meta.key.rpartition("_")[0], meta.draw + epoch * DRAWS_PER_EPOCH
    rng = sample_rng(seed, name, draw)
    extended = extend_box(meta.box, meta.image_size, rng, meta.window)
    edit_mask = draw_edit_mask(meta.box, extended, meta.image_size, rng)
    augmentation = draw_augmentation(rng)
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
    bare = _bare_exemplar(sample)
    if bare is None:
        return replace(sample, edit_mask=pixels, meta=meta)
    meta = replace(meta, augmentation=dict(vars(augmentation)))
    return replace(sample, edit_mask=pixels, exemplar=augment_exemplar(bare, augmentation), meta=meta)


def _bare_exemplar(sample: Sample) -> np.ndarray | None:
    """The exemplar before its augmentation, uint8 [224, 224, 3], from a stored crop; None if it is lost.

    An exemplar that was at most mirrored is mirrored back. Otherwise it is cut out of the crop, if that shows
    all of the box with its margin and is not coarser than the exemplar itself: at the source's resolution or
    above, or with 224 pixels per side.
    """
    meta, (height, width) = sample.meta, sample.image.shape[:2]
    drawn = Augmentation(**meta.augmentation)
    if not (drawn.angle or drawn.blur or drawn.shifts):
        return augment_exemplar(sample.exemplar, drawn)  # a mirror is its own inverse
    padded = pad_box(meta.box, MARGIN, meta.image_size)
    if not meta.window.contains(padded):
        return None
    across, down = (width / meta.window.width, height / meta.window.height)
    coarse = min(across, down) < 1 and min(padded.width * across, padded.height * down) < EXEMPLAR_SIZE
    if coarse or (meta.exemplar_background and sample.object_mask is None):
        return None
    window = meta.window
    box = Box(padded.x0 - window.x0, padded.y0 - window.y0, padded.x1 - window.x0, padded.y1 - window.y0)
    shown = scale_box(box, (window.width, window.height), (width, height))
    return cut_shown(sample.image, shown, sample.object_mask, meta.exemplar_background or "keep")


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
