"""The README's picture: a base of 64 pixels and an upsampler to 256, trained on the bundled pictures alone.

    python examples/picture.py [--out picture]

Makes shards, trains both models at once, each on one core, writes them in half precision and paints holes of
all pictures. It takes about two hours on two cores. Running it again continues: what is done is kept. The two
model folders are part of the project: examples/picture/base and examples/picture/upsampler. With them,
`--show` paints the sheets alone, in minutes:

    python examples/picture.py --show examples/picture --out picture
"""

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from demo import COCO, ROOT, say, step

from intarsia.errors import run_command


def main() -> int:
    """Run every step; the exit code of the first that fails."""
    return run_command(lambda argv: picture(argv))


def picture(argv: list[str]) -> None:
    """Shards, both trainings, model folders, sheets."""
    parser = argparse.ArgumentParser(description="Train the two models of the README's picture, and make it.")
    parser.add_argument("--out", type=Path, default=Path("picture"), help="folder of everything that is made")
    parser.add_argument("--show", type=Path, help="folder with base/ and upsampler/: paint with these models")
    arguments = parser.parse_args(argv)
    out, models = arguments.out.resolve(), arguments.show and arguments.show.resolve()
    os.chdir(ROOT)
    out.mkdir(parents=True, exist_ok=True)
    if models is None:
        models = train(out)
    step(shards_command(out / "shown", "--image-size", 256))
    from picture_sheet import write_sheets

    say(write_sheets(models, out))


def shards_command(out: Path, *options: object) -> list[object]:
    """Shards of the bundled pictures."""
    files = ["--annotations", COCO / "annotations.json", "--images", COCO / "images", "--out", out]
    return ["dataprep", "build", "coco", *files, "--images-per-shard", 8, *options]


def train(out: Path) -> Path:
    """Train base and upsampler; the folder of both models."""
    step(shards_command(out / "source", "--profile", "source", "--short-side", 300))
    names = {"base": "picture", "upsampler": "upsampler-picture"}
    trainings = [
        ["training", f"configs/train/{config}.yaml", f"data.shards={out / 'source'}", f"run={out / name}"]
        for name, config in names.items()
    ]
    with ThreadPoolExecutor() as pool:
        list(pool.map(step, trainings))
    for name in names:
        files = ["--model", out / name / "model", "--out", out / "models" / name]
        step(["sampling", "export", *files, "--format", "diffusers", "--dtype", "float16"])
    return out / "models"


if __name__ == "__main__":
    sys.exit(main())
