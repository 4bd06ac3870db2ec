"""Record and pixels to sample: the one pure function that draws, for data prep and for training."""

from dataclasses import asdict, dataclass

from dataprep.exemplar import augment_exemplar, cut_exemplar, draw_augmentation
from dataprep.pictures import Picture, squash
from dataprep.pixels import judge_crop
from dataprep.records import FilterRules, PictureRecord, Rejected, RejectReason, judge_pixels
from intarsia.boxes import Box, Window, crop_window, extend_box
from intarsia.masks import draw_edit_mask
from intarsia.rng import sample_rng
from intarsia.sample import LabelledBox, Sample, SampleMeta


@dataclass(frozen=True)
class Subject:
    """A decoded picture with the boxes that may be chosen in it.

    Attributes:
        source: "coco" or "openimages".
        image_id: the picture's name in its annotations.
        key: the same as sample keys bear it; with the seed and the draw it decides every random choice.
        file: path below the folder of pictures.
        picture: the pixels.
        boxes: at least one, each with at least one pixel.
    """

    source: str
    image_id: str
    key: str
    file: str
    picture: Picture
    boxes: tuple[LabelledBox, ...]


def choose_boxes(
    record: PictureRecord, picture: Picture, fractions: bool, rules: FilterRules
) -> tuple[tuple[LabelledBox, ...], list[tuple[int, Rejected]]]:
    """Turn a record's boxes into pixels of the picture and drop those that size or pixels speak against.

    Returns:
        The boxes that may be chosen, and (box id, why not) for the others.
    """
    kept: list[LabelledBox] = []
    dropped: list[tuple[int, Rejected]] = []
    for item in record.boxes:
        box = item.to_box(picture.size, fractions)
        rejected = judge_pixels(box, rules) or judge_crop(picture.pixels, box, rules)
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
        seed: of the data set.
        draw: below --draws-per-image in data prep, the epoch in a loader that draws afresh.
    """
    rng = sample_rng(seed, subject.key, draw)
    picture = subject.picture
    chosen = subject.boxes[int(rng.integers(len(subject.boxes)))]
    extended = extend_box(chosen.box, picture.size, rng)
    edit_mask = draw_edit_mask(chosen.box, extended, picture.size, rng)
    window = crop_window(extended, picture.size, rng)
    augmentation = draw_augmentation(rng)
    if image_size is None:
        window = Window(Box(0, 0, *picture.size), squashed=False)
        image, pixels = picture.pixels, edit_mask.pixels
    else:
        image = squash(window.box.cut(picture.pixels), image_size)
        pixels = squash(window.box.cut(edit_mask.pixels), image_size)
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
        augmentation=asdict(augmentation),
        seed=seed,
        draw=draw,
    )
    exemplar = augment_exemplar(cut_exemplar(picture.pixels, chosen.box), augmentation)
    return Sample(image, pixels, exemplar, meta)


def redraw_sample(sample: Sample, image_size: int, seed: int, draw: int) -> Sample | Rejected:
    """A fresh draw from a sample of a `source` shard, whose image is the whole picture.

    From the same file it gives what data prep itself would have drawn with these arguments.
    """
    meta = sample.meta
    picture = Picture(sample.image, meta.source_bytes, meta.source_sha256)
    key = meta.key.rpartition("_")[0]
    subject = Subject(meta.source, meta.image_id, key, meta.file, picture, meta.boxes)
    return draw_sample(subject, image_size, seed, draw)
