"""Measure the parts of an edit of a 24-megapixel picture by a crop.

    python -m benchmarks.large_edit --model DIR --out DIR

A bundled picture is enlarged to 6000 x 4000 pixels; its frisbee is repainted with the hydrant as exemplar.
OUT gets the picture, the mask, the result, and a view of the window before and after.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

from intarsia.errors import run_command

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "examples/coco-mini/images/000000017029.jpg"
EXEMPLAR = ROOT / "examples/edits/hydrant.exemplar.jpg"
SIZE = (6000, 4000)
FRISBEE = (0.47, 0.10, 0.70, 0.23)  # box as shares of the picture's width and height

T = TypeVar("T")


def main() -> int:
    """Run the benchmark; return the exit code."""
    return run_command(lambda argv: benchmark(argv))


def benchmark(argv: list[str]) -> None:
    """Make one edit, from file to file, and print its times."""
    parser = argparse.ArgumentParser(description="Measure the parts of an edit of a 24-megapixel picture.")
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--num-inference-steps", type=int, default=50, metavar="N")
    arguments = parser.parse_args(argv)
    from sampling import EditRequest, EditSettings, edit, load_model, read_exemplar
    from sampling.pictures import open_mask, open_picture, write_png

    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    make_inputs(out)
    seconds: dict[str, tuple[float, float]] = {}  # wall, CPU

    def timed(part: str, work: Callable[[], T]) -> T:
        wall, cpu = time.perf_counter(), time.process_time()
        done = work()
        seconds[part] = time.perf_counter() - wall, time.process_time() - cpu
        return done

    model = timed("load the model", lambda: load_model(arguments.model))
    source = timed("read the picture (JPEG)", lambda: open_picture(out / "large.jpg"))
    mask = timed("read the mask (PNG)", lambda: open_mask(out / "large.mask.png")).edit_mask
    request = EditRequest(source.pixels, mask, read_exemplar(EXEMPLAR))
    settings = EditSettings(num_inference_steps=arguments.num_inference_steps)
    [result] = timed("edit", lambda: edit(model, [request], settings))
    timed("write the result (PNG)", lambda: write_png(result.image, out / "edit.png", source, mask))
    same = bool((result.image[~mask] == source.pixels[~mask]).all())
    window = result.window
    before, after = (Image.fromarray(window.cut(pixels)) for pixels in (source.pixels, result.image))
    Image.fromarray(np.hstack([before.resize((768, 768)), after.resize((768, 768))])).save(out / "window.png")
    print(f"{SIZE[0]} x {SIZE[1]}, window {window}, outside the mask bit for bit: {same}")
    for part, (wall, cpu) in seconds.items():
        print(f"| {part} | {wall:.2f} | {cpu:.2f} |")
    for part, wall in result.seconds.items():
        print(f"| edit: {part} | {wall:.2f} | |")


def make_inputs(out: Path) -> None:
    """Write large.jpg and large.mask.png."""
    width, height = SIZE
    with Image.open(PICTURE) as image:
        image.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS).save(out / "large.jpg", quality=92)
    mask = Image.new("1", SIZE)
    x0, y0, x1, y1 = FRISBEE
    ImageDraw.Draw(mask).ellipse((x0 * width, y0 * height, x1 * width, y1 * height), fill=1)
    mask.save(out / "large.mask.png")


if __name__ == "__main__":
    sys.exit(main())
