"""Every inversion with every coupling on one bundled picture: an HTML page with what each pair makes of it.

    make demo                          # once: trains the default model in four minutes
    python examples/cross.py [--model demo/run/model] [--out demo/cross]

Shows a bench of one record in PIE-Bench's layout, and `evaluation piebench run --sheet` on it. A model that
takes an exemplar paints a hydrant in the place of the dog, one that takes prompts a bear. Takes about a
minute on two cores, most of it for null-condition or null-text (`--method` leaves methods out, `--steps 5`
is faster); run it again and only what is missing is made. Under each picture stand error, background PSNR,
calls and seconds.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from intarsia.model_folder import parts_of
from sampling import read_mask, read_picture
from sampling.pictures import Mask

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "examples/coco-mini/images/000000017029.jpg"
MASK, EXEMPLAR = ROOT / "examples/edits/dog.mask.png", ROOT / "examples/edits/hydrant.exemplar.jpg"
KEY, SIDE = "000000000000", 512
EXEMPLAR_CROSS = (
    "ddim,direct,null-condition,negative-condition,ddpm",
    ("background", *(f"{name},background" for name in ("context", "masactrl", "masactrl-masks", "pnp"))),
)
PROMPT_CROSS = (
    "ddim,direct,null-text,negative-prompt,ddpm",
    ("p2p", "masactrl", "masactrl-masks", "pnp", "context", "pix2pix-zero"),
)


def main() -> None:
    """Write the bench and run the command."""
    parser = argparse.ArgumentParser(description="Every inversion with every coupling on one picture.")
    parser.add_argument("--model", type=Path, default=ROOT / "demo/run/model", help="model folder")
    parser.add_argument("--out", type=Path, default=ROOT / "demo/cross", help="output folder")
    parser.add_argument("--steps", default="20", help="steps each way (default %(default)s)")
    parser.add_argument("--method", help="only these methods, with commas between them")
    parser.add_argument("--coupling", action="append", help="only these couplings; may be repeated")
    options = parser.parse_args()
    if not options.model.is_dir():
        sys.exit(f"there is no model folder {options.model}; run `make demo` to make it, or give --model")

    out, prompts = options.out.resolve(), "text" in parts_of(options.model)
    write_bench(out / "bench")
    methods, couplings = PROMPT_CROSS if prompts else EXEMPLAR_CROSS
    files = ["--bench", out / "bench", "--model", options.model.resolve(), "--results", out / "results"]
    command = [sys.executable, "-m", "evaluation", "piebench", "run", *files, "--store", out / "store"]
    command += ["--method", options.method or methods, "--num-inference-steps", options.steps]
    for name in options.coupling or couplings:
        command += ["--coupling", name]
    # Small models want a small scale; numbers that need other networks' weights are left out.
    command += ["--guidance-scale", "2" if prompts else "1.5", "--sheet", KEY, "--only-present"]
    command += ["--no-composite"]  # so that the background's error is the model's own
    for number in ("structure", "lpips", "clip"):
        command += ["--without", number]
    if not prompts:
        command += ["--exemplars", out / "bench/exemplars.csv"]
    sys.exit(subprocess.run(command, cwd=ROOT, check=False).returncode)


def write_bench(folder: Path) -> None:
    """One record: the picture, its mask, and what both kinds of models are told of the edit."""
    path = folder / "annotation_images/1_change" / f"{KEY}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():  # the same bytes, so that earlier results stay
        Image.fromarray(read_picture(PICTURE)).resize((SIDE, SIDE)).save(path, quality=95)
    mask = np.asarray(Image.fromarray(read_mask(MASK)).resize((SIDE, SIDE), Image.Resampling.NEAREST))
    record = {
        "image_path": f"1_change/{KEY}.jpg",
        "original_prompt": "[dog]",
        "editing_prompt": "[bear]",
        "blended_word": "dog bear",
        "editing_type_id": "1",
        "mask": runs_of(mask),
    }
    (folder / "mapping_file.json").write_text(json.dumps({KEY: record}))
    (folder / "exemplars.csv").write_text(f"key,source_exemplar,target_exemplar\n{KEY},,{EXEMPLAR}\n")


def runs_of(mask: Mask) -> list[int]:
    """A mask as PIE-Bench has it: start and length of each run of 1, over the rows one after the other."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.flatten().astype(np.int8), [0]])))
    starts, ends = edges[::2], edges[1::2]
    return [int(value) for pair in zip(starts, ends - starts, strict=True) for value in pair]


if __name__ == "__main__":
    main()
