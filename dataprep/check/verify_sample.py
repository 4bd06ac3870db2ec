"""One decoded sample against its record, the options of its build, and the plan."""

from collections.abc import Iterator
from math import ceil, floor

import cv2
import numpy as np

from dataprep.check.verify_pair import pair_problems
from dataprep.draw.recipe import DEFAULT
from dataprep.pictures.fit import fit_picture, fit_record
from dataprep.plan.plan import BuildConfig
from dataprep.records import PictureRecord
from intarsia.boxes import Box, scale_box
from intarsia.sample import EXEMPLAR_SIZE, Sample, SampleMeta


def sample_problems(
    sample: Sample, config: BuildConfig, record: PictureRecord | None = None
) -> Iterator[str]:
    """What is wrong with a decoded sample, by the formats' promises.

    Args:
        sample: sample of a shard.
        config: options of its build.
        record: the plan's record of its picture.
    """
    meta = sample.meta
    width, height = meta.image_size if config.profile == "source" else (config.image_size,) * 2
    if sample.image.shape != (height, width, 3):
        yield f"its image is {sample.image.shape[1]}x{sample.image.shape[0]}, not {width}x{height}"
    if config.short_side is not None and min(meta.image_size) > config.short_side:
        yield f"its short side is {min(meta.image_size)}, not {config.short_side}"
    if sample.exemplar.shape != (EXEMPLAR_SIZE, EXEMPLAR_SIZE, 3):
        yield f"its exemplar is {sample.exemplar.shape}"
    if meta.seed != config.seed or meta.source != config.source:
        yield f"it was drawn with seed {meta.seed} from {meta.source}"
    if meta.recipe != ("" if config.recipe is None else config.recipe.name):
        yield f"it was drawn by the recipe {meta.recipe or DEFAULT}"
    if meta.box not in [item.box for item in meta.boxes] or not meta.extended.contains(meta.box):
        yield "its box is not among its boxes, or not in its extended box"
    if record is not None and meta.exemplar_from is not None:
        yield from pair_problems(sample, config, record)
    elif record is not None:
        yield from _origin_problems(meta, record, config.scale_boxes)
    holds_box = config.drawing.crop.holds_box and not meta.squashed
    if holds_box and not meta.window.contains(meta.extended):
        yield "its window does not hold its extended box"
    if not Box(0, 0, *meta.image_size).contains(meta.window) or not meta.window.area:
        yield "its window is not inside its picture"
    else:
        yield from _mask_problems(sample, config)


def _origin_problems(meta: SampleMeta, record: PictureRecord, scaled: bool) -> Iterator[str]:
    if (meta.image_id, meta.file) != (record.image_id, record.file):
        yield f"it is of picture {meta.image_id} ({meta.file}), planned is {record.image_id} ({record.file})"
    size, stored = meta.source_size or meta.image_size, meta.image_size
    if scaled:
        record = fit_record(record, _drawn_on(record, size), size)
    planned = [(scale_box(item.to_box(size, record.unit), size, stored), item.label) for item in record.boxes]
    if not all((item.box, item.label) in planned for item in meta.boxes):
        yield "its boxes are not those of the plan"


def _drawn_on(record: PictureRecord, size: tuple[int, int]) -> tuple[int, int] | None:
    """The size that the boxes of a picture, taken with `size`, were drawn on."""
    fit = fit_picture(size, 5, record.size, "stored", scale=True)  # either way round
    return fit.drawn_on if fit else None


def _mask_problems(sample: Sample, config: BuildConfig) -> Iterator[str]:
    """Whether the edit mask covers and keeps to what its kind promises."""
    meta, repaint = sample.meta, sample.edit_mask >= 128
    height, width = repaint.shape
    kinds = [kind for kind in config.drawing.masks if kind.kind == meta.mask_kind]
    if not kinds:
        yield f"its edit mask is of kind {meta.mask_kind}, which its recipe does not draw"
        return
    if not repaint.any():
        yield "its edit mask has nothing to repaint"
        return
    across, down = width / meta.window.width, height / meta.window.height
    blur = ceil(max(across, down, 1))  # resizing is soft by a pixel of the coarser side
    inner = _in_image(meta.box, meta.window, (across, down), -blur).clipped((width, height))
    holes = int(np.count_nonzero(~inner.cut(repaint))) if inner.area else 0
    whole = meta.box.area * across * down
    share = max(kind.largest_hole for kind in kinds)
    if holes > share * whole + 2 * (abs(inner.width) + abs(inner.height)):
        yield f"its edit mask leaves {holes} of its box's {whole:.0f} pixels uncovered"
    if all(kind.covers_object for kind in kinds) and sample.object_mask is not None:
        soft = cv2.erode((sample.object_mask >= 128).astype(np.uint8), np.ones((3, 3), np.uint8))
        if missed := int(np.count_nonzero(soft[~repaint])):
            yield f"its edit mask leaves {missed} pixels of its object uncovered"
    reaches = [kind.reach for kind in kinds]
    if None in reaches:
        return
    margin = blur + ceil(max(reach or 0 for reach in reaches) * max(across, down))
    outer = _in_image(meta.extended, meta.window, (across, down), margin).clipped((width, height))
    if np.count_nonzero(repaint) != np.count_nonzero(outer.cut(repaint)):
        yield "its edit mask reaches beyond its extended box"


def _in_image(box: Box, window: Box, scale: tuple[float, float], margin: int) -> Box:
    """A box of the picture in pixels of the image that shows `window`, grown by `margin`."""
    across, down = scale
    inward = margin < 0
    low, high = (ceil, floor) if inward else (floor, ceil)
    return Box(
        low((box.x0 - window.x0) * across) - margin,
        low((box.y0 - window.y0) * down) - margin,
        high((box.x1 - window.x0) * across) + margin,
        high((box.y1 - window.y0) * down) + margin,
    )
