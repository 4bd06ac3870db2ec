"""Own boxes: a CSV of boxes for your pictures -> shards, checked, and a contact sheet to look at.

    python examples/own_boxes.py [--out demo/own_boxes]

Shows the shortest way from annotations of your own to training data. Takes about 10 seconds on two cores,
most of them for starting Ray. The same command again continues: finished shards are left as they are.
"""

import argparse
import csv
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "examples/coco-mini/images"

# One row for each object: x0, y0 is the first pixel inside the box, x1, y1 the first one outside.
BOXES = [
    {"path": "000000015746.jpg", "x0": 71, "y0": 197, "x1": 351, "y1": 576, "label": "hydrant"},
    {"path": "000000017029.jpg", "x0": 154, "y0": 105, "x1": 406, "y1": 542, "label": "dog"},
    {"path": "000000020247.jpg", "x0": 333, "y0": 176, "x1": 511, "y1": 440, "label": "bear"},
    {"path": "000000020247.jpg", "x0": 1, "y0": 15, "x1": 87, "y1": 265, "label": "bear"},
    {"path": "000000208901.jpg", "x0": 232, "y0": 148, "x1": 426, "y1": 285, "label": "airplane"},
    {"path": "000000010125.jpg", "x0": 470, "y0": 315, "x1": 639, "y1": 432, "label": "truck"},
]


def main() -> None:
    """Write the CSV, then run the three commands that a user would type."""
    parser = argparse.ArgumentParser(description="A CSV of boxes, shards, a check, a contact sheet.")
    parser.add_argument("--out", type=Path, default=ROOT / "demo/own_boxes", help="output folder")
    out = parser.parse_args().out.resolve()
    out.mkdir(parents=True, exist_ok=True)

    boxes = out / "boxes.csv"
    with boxes.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=BOXES[0])
        writer.writeheader()
        writer.writerows(BOXES)

    # Two draws of each box, at the demo model's 64 pixels; leave --image-size out for the real model's 512.
    settings = ["--all-boxes", "--draws-per-image", 2, "--image-size", 64, "--images-per-shard", 2]
    run(
        "dataprep", "build", "boxes", "--boxes", boxes, "--images", IMAGES, "--out", out / "shards", *settings
    )
    run("dataprep", "verify", out / "shards", "--full")
    run("dataprep", "show", out / "shards", "--out", out / "contact-sheet.png")
    print(
        f"\nLook at {out / 'contact-sheet.png'}; examples/finetune.py --shards {out / 'shards'} trains on it."
    )


def run(*words: object) -> None:
    """Print and run `python -m WORDS`; leave with its exit code where it fails."""
    command = ["-m", *map(str, words)]
    print(f"\n$ python {shlex.join(command)}", flush=True)
    if code := subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode:
        sys.exit(code)


if __name__ == "__main__":
    main()
