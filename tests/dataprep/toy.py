"""A small COCO data set with one of everything that goes wrong, and the counts to expect of it."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from dataprep.plan.inputs import BuildRequest
from dataprep.plan.plan import BuildConfig

GOOD = 12
# Kept: two boxes of each good picture. Pictures: good, missing, damaged, other size, small boxes, boxless.
EXPECTED = {
    "in": {"pictures": GOOD + 5, "boxes": 2 * GOOD + 4 + 4 + 4},
    "kept": {"pictures": GOOD, "boxes": 2 * GOOD},
    "rejected": {
        "pictures": {"file_missing": 1, "damaged": 1, "size_mismatch": 1, "no_box": 2},
        "boxes": {
            "area_too_small": 1,
            "area_too_large": 1,
            "crowd": 1,
            "picture_unknown": 1,
            "bad_box": 1,
            "empty_box": 1,
            "file_missing": 1,
            "damaged": 2,
            "size_mismatch": 1,
            "side_too_short": 2,
        },
    },
}


def toy_picture(width: int, height: int, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def make_coco(folder: Path) -> tuple[Path, Path]:
    """Write annotations and pictures; returns (annotations file, folder of pictures)."""
    images, records, boxes = folder / "images", [], []
    images.mkdir(parents=True)

    def picture(image_id: int, width: int, height: int, name: str | None = None) -> Path:
        file = name or f"{image_id:012d}.jpg"
        records.append({"id": image_id, "file_name": file, "width": width, "height": height})
        return images / file

    def box(image_id: int, bbox: list, crowd: int = 0, category: int = 3) -> None:
        number = len(boxes) + 1
        boxes.append(
            {"id": number, "image_id": image_id, "category_id": category, "bbox": bbox, "iscrowd": crowd}
        )

    for number in range(1, GOOD + 1):
        width, height = ((160, 120), (120, 160), (140, 140))[number % 3]
        toy_picture(width, height, number).save(picture(number, width, height), quality=92)
        box(number, [10.5, 12.25, 60, 50], category=3)
        box(number, [70, 60, 45.9, 50.3], category=5)
    box(1, [5, 5, 8, 8])  # too small
    box(1, [0, 0, 120, 160])  # the whole picture
    box(1, [5, 5, 60, 60], crowd=1)
    box(999, [5, 5, 60, 60])  # of a picture that is not listed
    box(2, [5, 5, float("nan"), 60])
    box(2, [5, 5, -3, 60])

    picture(101, 160, 120)  # never written
    box(101, [10, 10, 60, 60])
    damaged = picture(102, 160, 120)
    toy_picture(160, 120, 102).save(damaged)
    damaged.write_bytes(damaged.read_bytes()[:-400])
    box(102, [10, 10, 60, 60])
    box(102, [20, 20, 60, 60])
    toy_picture(80, 120, 103).save(picture(103, 160, 120))
    box(103, [10, 10, 60, 60])
    toy_picture(70, 70, 104).save(picture(104, 70, 70))
    box(104, [10, 10, 31, 40])
    box(104, [10, 10, 40, 31.9])
    toy_picture(160, 120, 105).save(picture(105, 160, 120))

    annotations = folder / "instances.json"
    categories = [{"id": 3, "name": "car"}, {"id": 5, "name": "stop sign"}]
    content = {"images": records, "annotations": boxes, "categories": categories}
    annotations.write_text(json.dumps(content))
    return annotations, images


def toy_request(
    folder: Path, out: Path, *, inputs: tuple[Path, Path] | None = None, **options: object
) -> BuildRequest:
    """A request for the toy data set, which is written below `folder` unless `inputs` names one."""
    annotations, images = inputs or make_coco(folder)
    content = {"source": "coco", "name": "toy", "image_size": 64, "images_per_shard": 4} | options
    return BuildRequest(
        BuildConfig(**content), {"annotations": annotations}, images, out, command="a command"
    )
