"""The main job on the bundled pictures: boxes -> shards -> training -> edits, and a gallery of it all.

    make demo        (or: python examples/demo.py [--out demo])

Every step is the command a user would type; each is printed before it runs. Running it again continues:
what is done is kept.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from intarsia.errors import UserError, run_command

ROOT = Path(__file__).resolve().parent.parent
COCO = Path("examples/coco-mini")
EDITS = [  # picture, mask and exemplar below examples/
    ("hydrant", "coco-mini/images/000000015746.jpg", "edits/hydrant.mask.png", "edits/hydrant.exemplar.jpg"),
    ("dog", "coco-mini/images/000000017029.jpg", "edits/dog.mask.png", "edits/dog.exemplar.jpg"),
]


def main() -> int:
    """Run the demo; the exit code of the first step that fails."""
    return run_command(lambda argv: demo(argv))


def demo(argv: list[str]) -> None:
    """Run every step, then write the gallery."""
    out = out_folder("Boxes, shards, training, edits: all of it, in four minutes.", Path("demo"), argv)
    start = time.monotonic()
    seconds = {
        "shards": step(shards_command(out)),
        "contact sheet": step(["dataprep", "show", out / "shards", "--out", out / "contact-sheet.png"]),
        "training": step(training_command(out), processes=2),
        "edits": sum(step(edit_command(out, *edit)) for edit in EDITS),
    }
    from demo_gallery import write_gallery

    errors = write_gallery(out, [name for name, *_ in EDITS], seconds)
    say(f"""
Error inside the mask against the true picture: untrained {errors[0]:.4f}, trained {errors[1]:.4f}.
All in {time.monotonic() - start:.0f} s. Look at {out}/index.html. Then:

  python -m sampling edit --model {out}/run/model --out edit.png --image examples/{EDITS[1][1]} \\
      --mask examples/{EDITS[1][2]} --exemplar examples/{EDITS[0][3]}
  python -m dataprep build coco --annotations YOURS.json --images DIR --out shards
  python -m training configs/train/pbe-sd14.yaml --dry-run        # the real thing; see docs/training.md""")


def out_folder(description: str, default: Path, argv: list[str]) -> Path:
    """Read --out and make that folder; the current folder becomes the checkout's root."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=default)
    out = parser.parse_args(argv).out.resolve()
    os.chdir(ROOT)
    out.mkdir(parents=True, exist_ok=True)
    if out.is_relative_to(ROOT):
        out = out.relative_to(ROOT)  # the commands that are shown are the ones a reader would type
    return out


def shards_command(out: Path) -> list[object]:
    """23 pictures, four draws each, in small shards so that there are several."""
    sizes = ["--image-size", 64, "--draws-per-image", 4, "--images-per-shard", 8]
    files = ["--annotations", COCO / "annotations.json", "--images", COCO / "images", "--out", out / "shards"]
    return ["dataprep", "build", "coco", *files, *sizes]


def training_command(out: Path, config: Path = Path("configs/train/demo.yaml")) -> list[object]:
    """Two ranks, one thread each: on two cores quicker than one rank with two."""
    return ["training", config, f"data.shards={out / 'shards'}", f"run={out / 'run'}"]


def edit_command(out: Path, name: str, image: str, mask: str, exemplar: str) -> list[object]:
    """One edit of a bundled picture by the model just trained."""
    files = [f"examples/{path}" for path in (image, mask, exemplar)]
    inputs = [word for pair in zip(["--image", "--mask", "--exemplar"], files, strict=True) for word in pair]
    settings = ["--guidance-scale", 1.5, "--num-inference-steps", 25]
    return [
        "sampling",
        "edit",
        "--model",
        out / "run" / "model",
        *inputs,
        "--out",
        out / f"{name}.png",
        *settings,
    ]


def step(command: list[object], processes: int = 1) -> float:
    """Show and run `python -m COMMAND`; return its seconds.

    Raises:
        UserError: if it fails; it has said why itself.
    """
    words = ["-m", *map(str, command)]
    if processes > 1:
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *words]
    say(f"\n$ python {shlex.join(words)}")
    start = time.monotonic()
    code = subprocess.run([sys.executable, *words], check=False).returncode
    if code:
        raise UserError(f"that step ended with exit code {code}; its own message is above")
    return time.monotonic() - start


def say(text: str) -> None:
    """To the screen at once, in order with what the steps print."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
