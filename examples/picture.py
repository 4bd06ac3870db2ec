"""The README's picture: a base of 64 pixels and an upsampler to 256, trained on the bundled pictures alone.

    python examples/picture.py [--out picture]

Makes shards, trains both models side by side, each on one core, writes them in half precision and paints a
hole of every picture. It takes less than two hours on two cores. Running it again continues: what is done is
kept. The two models are part of the project, examples/picture/base and examples/picture/upsampler; with them
the sheets take a minute:

    python examples/picture.py --show examples/picture --out picture
"""

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from demo import COCO, ROOT, say, step

from intarsia.errors import run_command

BASE, UPSAMPLER = Path("configs/train/picture.yaml"), Path("configs/train/upsampler-picture.yaml")


def main() -> int:
    """Run every step; the exit code of the first that fails."""
    return run_command(lambda argv: picture(argv))


def picture(argv: list[str]) -> None:
    """Shards, trainings, model folders, sheets."""
    parser = argparse.ArgumentParser(description="Train the two models of the README's picture, and make it.")
    parser.add_argument("--out", type=Path, default=Path("picture"), help="folder of everything that is made")
    parser.add_argument("--show", type=Path, help="folder with base/ and upsampler/: paint with these models")
    arguments = parser.parse_args(argv)
    out, models = arguments.out.resolve(), arguments.show and arguments.show.resolve()
    os.chdir(ROOT)
    out.mkdir(parents=True, exist_ok=True)
    if out.is_relative_to(ROOT):
        out = out.relative_to(ROOT)  # the models' cards name the shards
    models = models or train(out)
    step(shards_command(out / "shown", "--image-size", 256))
    from demo_gallery import first_draws
    from picture_sheet import write_sheets

    say(write_sheets(models, first_draws(out / "shown"), out))


def shards_command(out: Path, *options: object) -> list[object]:
    """Shards of the bundled pictures."""
    files = ["--annotations", COCO / "annotations.json", "--images", COCO / "images", "--out", out]
    return ["dataprep", "build", "coco", *files, "--images-per-shard", 8, *options]


def train(out: Path) -> Path:
    """Train base and upsampler; the folder of both models in half precision."""
    step(shards_command(out / "source", "--profile", "source", "--short-side", 300))
    with ThreadPoolExecutor() as pool:
        trainings = [pool.submit(train_base, out), pool.submit(train_upsampler, out)]
    for training in trainings:
        training.result()
    for name in ("base", "upsampler"):
        files = ["--model", out / name / "model", "--out", out / "models" / name]
        step(["sampling", "export", *files, "--format", "diffusers", "--dtype", "float16"])
    return out / "models"


def train_base(out: Path) -> None:
    """Pictures of 64 pixels."""
    step(["training", BASE, f"data.shards={out / 'source'}", f"run={out / 'base'}"])


def train_upsampler(out: Path) -> None:
    """First at all levels of noise, then mostly at the noisier half, where coarse errors are made."""
    step(["training", UPSAMPLER, f"data.shards={out / 'source'}", f"run={out / 'upsampler-1'}"])
    noisy = f"data.shards=[{{path: {out / 'source'}, weight: 1, timesteps: noisy}}]"
    start = ["model.init.vae=null", f"model.init.model_folder={out / 'upsampler-1' / 'model'}", "seed=1"]
    rate = ["optimizer.lr=6.0e-4", "optimizer.warmup_steps=50", "optimizer.decay_until=5000"]
    step(["training", UPSAMPLER, noisy, f"run={out / 'upsampler'}", *start, *rate, "max_steps=5000"])


if __name__ == "__main__":
    sys.exit(main())
