"""What a plan will give: samples, classes, bytes and hours; no picture of the data set is read."""

import json
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from dataprep.choose.filters import rules_of
from dataprep.choose.rules import judge_sizes
from dataprep.draw.recipe import ObjectRules
from dataprep.pictures.reader import MAX_PIXELS
from dataprep.plan.plan import BuildPlan
from dataprep.records import REASONS, BoxRecord, PictureRecord, RejectReason, View
from dataprep.shards.build_shard import ShardJob, render_record
from dataprep.shards.tally import ShardTally
from dataprep.sources.source import source_of

USUAL_SIZE = (1024, 768)  # of Open Images' pictures; their annotations name none
QUALITY = (
    94  # of the made-up picture as a JPEG, which then has 0.45 bytes a pixel: Open Images has 0.43, COCO 0.5
)
_TAR_BLOCK = 512
_TIMED_SECONDS = 0.5


@dataclass(frozen=True)
class BuildEstimate:
    """What a build will give, as far as annotations show.

    Attributes:
        pictures: number of pictures that will be read and, as far as is known, kept.
        boxes: number of boxes of these pictures.
        samples: number of draws of these pictures.
        too_small: number of boxes that fail by their size in pixels, by reason; empty if sizes are unknown.
        labels: class -> expected samples, the most frequent first.
        picture_size: (width, height) of the picture that was timed.
        cpu_seconds: processor time of one picture with all its samples.
        sample_bytes: bytes of one sample in the tar.
    """

    pictures: int
    boxes: int
    samples: int
    too_small: dict[str, int]
    labels: dict[str, float]
    picture_size: tuple[int, int]
    cpu_seconds: float
    sample_bytes: float

    @property
    def bytes(self) -> int:
        """Bytes of all shards."""
        return int(self.samples * self.sample_bytes)

    @property
    def seconds(self) -> float:
        """Seconds of one processor of this machine, for all pictures."""
        return self.pictures * self.cpu_seconds


def estimate_build(plan: BuildPlan) -> BuildEstimate:
    """Count what the plan keeps and time one made-up picture through the functions of the build.

    Args:
        plan: plan with at least one picture.
    """
    notes, config = plan.annotations, plan.config
    # Boxes that the plan keeps, in pictures that it keeps.
    rows = np.flatnonzero(plan.verdict < 0)
    rows = rows[plan.fate[notes.picture[rows]] < 0]
    # The build checks sides when it reads a picture; if annotations give sizes, the result is known now.
    reasons = _judge_by_annotated_size(plan, rows)
    too_small = Counter(REASONS[code].value for code in reasons[reasons >= 0].tolist())
    rows = rows[reasons < 0]
    of_picture: np.ndarray = np.bincount(notes.picture[rows], minlength=len(plan.fate))
    # A draw chooses one box of its picture, each with the same chance.
    among = np.ones(len(rows)) if config.all_boxes else of_picture[notes.picture[rows]]
    expected = np.bincount(
        notes.label[rows], weights=config.draws_per_image / among, minlength=len(notes.labels)
    )
    labels = {notes.labels[code]: float(expected[code]) for code in np.argsort(-expected, kind="stable")}
    size = _typical_size(plan)
    pictures = int(np.count_nonzero(of_picture))
    # The cost of a picture grows with its pixels and boxes: both are the typical ones here.
    seconds, sample_bytes = time_picture(plan, size, max(round(len(rows) / max(pictures, 1)), 1))
    return BuildEstimate(
        pictures=pictures,
        boxes=len(rows),
        samples=config.draws(pictures, len(rows)),
        too_small=dict(too_small),
        labels={name: number for name, number in labels.items() if number > 0},
        picture_size=size,
        cpu_seconds=seconds,
        sample_bytes=sample_bytes,
    )


def _judge_by_annotated_size(plan: BuildPlan, rows: np.ndarray) -> np.ndarray:
    """int16 [rows]: `judge_sizes` if annotations give the picture's size, otherwise -1."""
    notes = plan.annotations
    reasons: np.ndarray = np.full(len(rows), -1, np.int16)
    sizes = notes.sizes[notes.picture[rows]].astype(np.int64)
    known = (sizes > 0).all(axis=1)
    # As `BoxRecord.to_box`: to pixels, truncated, clipped.
    scale = np.tile(sizes, 2) if notes.unit == "fractions" else 1
    limit = np.tile(sizes, 2)
    corners = np.clip(np.trunc(notes.bounds[rows] * scale), 0, limit).astype(np.int64)
    judged = judge_sizes(corners[:, 2:] - corners[:, :2], rules_of(plan.config))
    reasons[known] = judged[known]
    return reasons


def _typical_size(plan: BuildPlan) -> tuple[int, int]:
    sizes = plan.annotations.sizes[plan.order]
    sizes = sizes[(sizes > 0).all(axis=1)]
    if not len(sizes):
        return USUAL_SIZE
    # The median picture, not a mean of sides, which no picture may have.
    middle = sizes[np.argsort(sizes.prod(axis=1, dtype=np.int64), kind="stable")[len(sizes) // 2]]
    width, height = int(middle[0]), int(middle[1])
    return (width, height) if width * height <= MAX_PIXELS else USUAL_SIZE  # larger ones will be rejected


def time_picture(plan: BuildPlan, size: tuple[int, int], boxes: int) -> tuple[float, float]:
    """Processor seconds of one made-up picture with all its samples, and bytes of a sample in a tar.

    Args:
        plan: plan whose options are used.
        size: (width, height) of the picture.
        boxes: number of boxes that may be chosen.
    """
    # Rules about pixels could drop the made-up picture, and nothing would be timed.
    config = plan.config.model_copy(update={"min_sharpness": 0.0, "brightness": None, "min_side": 1})
    if config.recipe is not None:
        config = config.model_copy(
            update={"recipe": config.recipe.model_copy(update={"rules": ObjectRules()})}
        )
    unit = plan.annotations.unit
    x, y = (1, 1) if unit == "fractions" else size
    bounds = (0.3 * x, 0.3 * y, 0.7 * x, 0.7 * y)
    outline = json.dumps([_octagon(size)]) if config.needs_masks else ""
    pairs = source_of(config.source).pairs
    boxes = max(boxes, 2) if pairs else boxes
    # A pair's two pictures are two files, or two frames that are far enough apart.
    views = [View(f"picture{number % 2}.jpg") if pairs else None for number in range(boxes)]
    records = tuple(BoxRecord(number, bounds, "x", {}, outline, view) for number, view in enumerate(views))
    record = PictureRecord("picture", "picture", "picture.jpg", size, records, unit)
    with tempfile.TemporaryDirectory() as folder:
        for name in {record.file, *(view.file for view in views if view is not None)}:
            made_up_picture(size).save(Path(folder) / name, quality=QUALITY)
        job = ShardJob(folder, folder, 0, "", config)
        render_record(record, job, ShardTally())  # the first call pays for what is loaded late
        # The median of processor times: other work on this machine does not count.
        times: list[float] = []
        spent, made, members = 0.0, 0, []
        while spent < _TIMED_SECONDS or len(times) < 3:
            start = time.process_time()
            samples = render_record(record, job, ShardTally())
            times.append(time.process_time() - start)
            spent += times[-1]
            made += len(samples)
            members += [content for _, parts in samples for content in parts.values()]
    # A member takes a header and whole blocks.
    stored = sum(_TAR_BLOCK * (1 + -(-len(content) // _TAR_BLOCK)) for content in members)
    return float(np.median(times)), stored / max(made, 1)


def _octagon(size: tuple[int, int]) -> list[float]:
    """The outline of an object in the middle of a picture, as x, y, x, y, …, which fills most of its box."""
    places = ((0.4, 0.3), (0.6, 0.3), (0.7, 0.4), (0.7, 0.6), (0.6, 0.7), (0.4, 0.7), (0.3, 0.6), (0.3, 0.4))
    return [value for x, y in places for value in (x * size[0], y * size[1])]


def made_up_picture(size: tuple[int, int]) -> Image.Image:
    """A picture of `size` (width, height) that compresses like a photograph: noise at all scales."""
    rng = np.random.default_rng(0)
    width, height = size
    pixels: np.ndarray = np.full((height, width, 3), 128, np.float32)
    # Coarse noise is strong and fine noise weak, as in photographs.
    for scale, strength in ((1, 10), (16, 15), (64, 40)):
        shape = (-(-height // scale) + 1, -(-width // scale) + 1, 3)
        noise = rng.normal(0, strength, shape).astype(np.float32)
        pixels += cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def amount(bytes_: float) -> str:
    """Bytes for people: MB below one GB."""
    return f"{bytes_ / 1e9:,.1f} GB" if bytes_ >= 1e9 else f"{bytes_ / 1e6:,.1f} MB"


def expected_rejects(plan: BuildPlan, found: BuildEstimate) -> dict[str, dict[str, int]]:
    """The plan's rejects by reason, and those expected from annotated sizes; in the form of a manifest."""
    rejected = plan.counts()["rejected"]
    boxes = Counter(rejected["boxes"]) + Counter(found.too_small)
    pictures = Counter(rejected["pictures"])
    # A picture whose last box is too small is rejected, too.
    pictures[RejectReason.NO_BOX.value] += len(plan.order) - found.pictures
    return rejected | {"pictures": dict(+pictures), "boxes": dict(boxes)}
