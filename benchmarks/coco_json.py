"""Write a synthetic COCO instances file with as many pictures, boxes and outline points as train2017.

    python -m benchmarks.coco_json OUT [--pictures 118287] [--boxes 860001] [--points 28]

It writes OUT/instances.json, and OUT/images with an empty file for each picture.
"""

import argparse
import json
from pathlib import Path

import numpy as np

CLASSES = 80


def main() -> None:
    """Parse the command line and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pictures", type=int, default=118_287)
    parser.add_argument("--boxes", type=int, default=860_001)
    parser.add_argument("--points", type=int, default=28, help="mean number of points of an outline")
    options = parser.parse_args()
    write_coco(options.out, options.pictures, options.boxes, options.points)


def write_coco(out: Path, pictures: int, boxes: int, points: int) -> None:
    """Write instances.json and empty picture files.

    Args:
        out: output folder, made if it is missing.
        pictures: number of pictures, 640 x 480 pixels each.
        boxes: number of boxes, distributed uniformly at random over the pictures.
        points: mean number of points of an outline.
    """
    rng = np.random.default_rng(0)
    (out / "images").mkdir(parents=True, exist_ok=True)
    names = [f"{number:012d}.jpg" for number in range(1, pictures + 1)]
    for name in names:
        (out / "images" / name).touch()
    images = [
        {"license": 3, "file_name": name, "height": 480, "width": 640, "id": number}
        for number, name in enumerate(names, 1)
    ]
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, CLASSES + 1)]
    with (out / "instances.json").open("w") as file:
        file.write(f'{{"info": {{}}, "images": {json.dumps(images)}, "annotations": [')
        for number in range(1, boxes + 1):
            file.write((", " if number > 1 else "") + json.dumps(_annotation(rng, number, pictures, points)))
        file.write(f'], "categories": {json.dumps(categories)}}}\n')


def _annotation(rng: np.random.Generator, number: int, pictures: int, points: int) -> dict:
    x, y, width, height = (rng.random(4) * (320, 240, 320, 240)).round(2).tolist()
    outline = (rng.random(2 * int(rng.integers(3, 2 * points))) * 480).round(2).tolist()
    return {
        "segmentation": [outline],
        "area": round(width * height / 2, 4),
        "iscrowd": 0,
        "image_id": int(rng.integers(1, pictures + 1)),
        "bbox": [x, y, width, height],
        "category_id": int(rng.integers(1, CLASSES + 1)),
        "id": number,
    }


if __name__ == "__main__":
    main()
