"""How well a model paints back what was there: a list of cases, their edits, and a table of pixel errors.

    make demo                          # once: trains the default model in four minutes
    python examples/evaluate.py [--model demo/run/model] [--out demo/evaluate]

Shows a bench of one's own from four bundled pictures: the object's box is the hole, the object itself the
exemplar, the picture the truth. Takes about 10 seconds on one core. A low error shows that the model has
learned the task, not that its edits are good: many edits are right, and only one of them is the truth.
"""

import argparse
import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.measures.metrics import mse, psnr, ssim
from sampling import read_mask, read_picture, write_png

ROOT = Path(__file__).resolve().parent.parent
BOXES = {  # name: (picture, box of the object: x0, y0, x1, y1)
    "hydrant": ("000000015746.jpg", (71, 197, 351, 576)),
    "dog": ("000000017029.jpg", (154, 105, 406, 542)),
    "bear": ("000000020247.jpg", (333, 176, 511, 440)),
    "airplane": ("000000208901.jpg", (232, 148, 426, 285)),
}


def main() -> None:
    """Write the list, make the edits by the command, print the table."""
    parser = argparse.ArgumentParser(description="A bench of one's own and a table of pixel errors.")
    parser.add_argument("--model", type=Path, default=ROOT / "demo/run/model", help="model folder")
    parser.add_argument("--out", type=Path, default=ROOT / "demo/evaluate", help="output folder")
    parser.add_argument("--steps", default="25", help="denoising steps (default %(default)s)")
    options = parser.parse_args()
    if not options.model.is_dir():
        sys.exit(f"there is no model folder {options.model}; run `make demo` to make it, or give --model")

    cases, edits = write_cases(options.out.resolve()), options.out.resolve() / "edits"
    command = [sys.executable, "-m", "sampling", "batch", cases, "--model", options.model.resolve()]
    command += ["--out", edits, "--num-inference-steps", options.steps, "--guidance-scale", "1.5"]
    if code := subprocess.run(command, cwd=ROOT, check=False).returncode:
        sys.exit(code)  # the command has printed what is wrong

    # Beside each error that of a hole filled with its own mean colour: a model that has learned is below it.
    print(f"\n{'in the mask':12} {'MSE ×10⁴':>9} {'mean colour':>12} {'PSNR dB':>8} {'SSIM':>6}")
    for row in csv.DictReader(cases.open()):
        truth, mask = read_picture(row["truth"]), read_mask(row["mask"])
        result = read_picture(edits / f"{row['name']}.png")
        plain = np.where(mask[..., None], truth[mask].mean(axis=0).astype(np.uint8), truth)
        errors = f"{1e4 * mse(result, truth, mask):9.0f} {1e4 * mse(plain, truth, mask):12.0f}"
        print(f"{row['name']:12} {errors} {psnr(result, truth, mask):8.2f} {ssim(result, truth, mask):6.3f}")
        assert (result[~mask] == truth[~mask]).all()  # outside the mask nothing changes, ever
    print(f"\nWith CLIP's and Inception's weights: python -m evaluation bench {cases} --results {edits}")


def write_cases(folder: Path) -> Path:
    """Write a mask and an exemplar for each box, and the list of them all as `sampling batch` takes it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "image", "mask", "exemplar", "truth"])
        for name, (picture, (x0, y0, x1, y1)) in BOXES.items():
            path = ROOT / "examples/coco-mini/images" / picture
            image = read_picture(path)
            mask = np.zeros(image.shape[:2], np.uint8)
            mask[y0:y1, x0:x1] = 255
            inputs = folder / f"{name}.mask.png", folder / f"{name}.exemplar.png"
            write_png(Image.fromarray(mask), inputs[0])
            write_png(image[y0:y1, x0:x1], inputs[1])
            writer.writerow([name, path, *inputs, path])
    return folder / "cases.csv"


if __name__ == "__main__":
    main()
