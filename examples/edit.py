"""One edit from Python: a bundled picture, a mask and an exemplar -> a PNG, and the three side by side.

    make demo                          # once: trains the default model in four minutes
    python examples/edit.py [--model demo/run/model] [--out demo/edit]

Shows the public Python API, all of which is in `sampling`. Takes about 10 seconds on one core, most of them
for loading torch. The demo's model has 64 pixels a side and knows 23 pictures; a real one edits better.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from sampling import (
    EditRequest,
    EditSettings,
    edit,
    load_model,
    read_exemplar,
    read_mask,
    read_picture,
    write_png,
)

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "examples/coco-mini/images/000000015746.jpg"
MASK = ROOT / "examples/edits/hydrant.mask.png"  # white: repaint
EXEMPLAR = ROOT / "examples/edits/hydrant.exemplar.jpg"


def main() -> None:
    """Edit once and write both pictures."""
    parser = argparse.ArgumentParser(description="One edit from Python, with a side-by-side picture.")
    parser.add_argument("--model", type=Path, default=ROOT / "demo/run/model", help="model folder")
    parser.add_argument("--out", type=Path, default=ROOT / "demo/edit", help="output folder")
    parser.add_argument("--steps", type=int, default=25, help="denoising steps (default %(default)s)")
    options = parser.parse_args()
    if not options.model.is_dir():
        sys.exit(f"there is no model folder {options.model}; run `make demo` to make it, or give --model")

    # Pictures are uint8 [H, W, 3], masks bool [H, W] with True = repaint. The seed decides the noise.
    request = EditRequest(read_picture(PICTURE), read_mask(MASK), read_exemplar(EXEMPLAR), seed=0)
    settings = EditSettings(num_inference_steps=options.steps, guidance_scale=1.5)
    model = load_model(options.model)  # on the CPU; device="cuda" for a GPU
    [result] = edit(model, [request], settings)
    for remark in result.remarks:
        print(f"note: {remark}")

    # Outside the mask every pixel is the picture's own, whatever the model painted.
    known = ~request.edit_mask
    kept = (result.image == request.image).all(axis=-1) & known
    print(f"{known.sum()} pixels outside the mask, {kept.sum()} of them unchanged")

    options.out.mkdir(parents=True, exist_ok=True)
    write_png(result.image, options.out / "edit.png")
    write_png(side_by_side(request, result.image), options.out / "side-by-side.png")
    print(f"Look at {options.out / 'side-by-side.png'}: the picture with its hole, the exemplar, the edit.")


def side_by_side(request: EditRequest, edited: np.ndarray) -> np.ndarray:
    """The picture with a grey hole, the exemplar at the picture's height, and the edit: uint8 [H, W', 3]."""
    hole = np.where(request.edit_mask[..., None], np.uint8(128), request.image)
    height = len(hole)
    exemplar = Image.fromarray(request.exemplar)
    exemplar = exemplar.resize((height * exemplar.width // exemplar.height, height))
    return np.hstack([hole, np.asarray(exemplar), edited])


if __name__ == "__main__":
    main()
