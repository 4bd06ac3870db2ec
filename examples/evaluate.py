"""How well a model paints back what was there: a list of cases, their edits, and a table of pixel errors.

    make demo                                                   # once: trains the default model in four minutes
    python examples/evaluate.py [--model demo/run/model] [--out demo/evaluate]

Shows a bench of one's own from five bundled pictures: the object's box is the hole, the object itself the
exemplar, the picture the truth. Takes about 20 seconds on one core. A low error means that the model has learned
the task, not that its edits are good: many edits are right, and only one of them is the truth.
"""

import argparse
import csv
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.measures.metrics import mse, psnr, ssim
from sampling import read_mask, read_picture, write_png

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "examples/coco-mini/images"
BOXES = {  # name: (picture, box of the object: x0, y0, x1, y1)
    "hydrant": ("000000015746.jpg", (71, 197, 351, 576)),
    "dog": ("000000017029.jpg", (154, 105, 406, 542)),
    "bear": ("000000020247.jpg", (333, 176, 511, 440)),
    "airplane": ("000000208901.jpg", (232, 148, 426, 285)),
    "toilet": ("000000331352.jpg", (28, 252, 322, 493)),
}


def main() -> None:
    """Write the list, make the edits by the command, print the table."""
    parser = argparse.ArgumentParser(description="A bench of one's own and a table of pixel errors.")
    parser.add_argument("--model", type=Path, default=ROOT / "demo/run/model", help="model folder")
    parser.add_argument("--out", type=Path, default=ROOT / "demo/evaluate", help="output folder")
    parser.add_argument("--steps", type=int, default=25, help="denoising steps (default %(default)s)")
    options = parser.parse_args()
    if not options.model.is_dir():
        sys.exit(
            f"there is no model folder {options.model}; run `make demo` once to make it, or give --model"
        )
    cases, edits = options.out / "cases.csv", options.out / "edits"
    write_cases(cases)
    command = ["-m", "sampling", "batch", str(cases.resolve()), "--model", str(options.model.resolve())]
    command += [
        "--out",
        str(edits.resolve()),
        "--num-inference-steps",
        str(options.steps),
        "--guidance-scale",
        "1.5",
    ]
    print(f"$ python {shlex.join(command)}", flush=True)
    if code := subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode:
        sys.exit(code)

    print(
        "\nInside the mask, against the true picture   (grey: the error of a hole filled with its mean colour)"
    )
    print(f"{'case':10} {'MSE ×10⁴':>9} {'grey':>7} {'PSNR dB':>8} {'SSIM':>6}   outside the mask")
    for name, (file, _) in BOXES.items():
        truth, mask = read_picture(IMAGES / file), read_mask(options.out / f"{name}.mask.png")
        result = read_picture(edits / f"{name}.png")
        grey = truth.copy()
        grey[mask] = truth[mask].mean(axis=0)
        inside = f"{1e4 * mse(result, truth, mask):9.0f} {1e4 * mse(grey, truth, mask):7.0f}"
        kept = "unchanged" if mse(result, truth, ~mask) == 0 else "changed"
        print(
            f"{name:10} {inside} {psnr(result, truth, mask):8.2f} {ssim(result, truth, mask):6.3f}   {kept}"
        )
    print(f"\nWith CLIP's and Inception's weights: python -m evaluation bench {cases} --results {edits}")


def write_cases(path: Path) -> None:
    """Write a mask and an exemplar for each box, and the list of them all as `sampling batch` takes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "image", "mask", "exemplar", "truth"])
        for name, (picture, (x0, y0, x1, y1)) in BOXES.items():
            image = read_picture(IMAGES / picture)
            mask = np.zeros(image.shape[:2], np.uint8)
            mask[y0:y1, x0:x1] = 255
            write_png(Image.fromarray(mask), path.parent / f"{name}.mask.png")
            write_png(image[y0:y1, x0:x1], path.parent / f"{name}.exemplar.png")
            writer.writerow(
                [name, IMAGES / picture, f"{name}.mask.png", f"{name}.exemplar.png", IMAGES / picture]
            )


if __name__ == "__main__":
    main()
