"""What each condition is good for: a small model told exemplar, label and edges, and a sheet of its edits.

    make demo-conditions        (or: python examples/demo_conditions.py [--out demo-conditions])

Trains the demo's model on the bundled pictures, told all three, and paints the same holes told exemplar,
text or both, with and without edges. Below each column stands its error, and the error with the conditions of
two pictures swapped. Running it again continues: what is done is kept.
"""

import os
import sys
import time
from pathlib import Path

from demo import COCO, out_folder, say, step, training_command

from intarsia.errors import run_command

CONFIG, RECIPE = Path("configs/train/demo-conditions.yaml"), Path("examples/demo-conditions-recipe.yaml")


def main() -> int:
    """Run the demo; the exit code of the first step that fails."""
    return run_command(lambda argv: demo_conditions(argv))


def demo_conditions(argv: list[str]) -> None:
    """Run every step, then measure, write the sheet and say what had an effect."""
    description = "Train a small model told exemplar, text and edges, and measure what each does."
    out = out_folder(description, Path("demo-conditions"), argv)
    start = time.monotonic()
    step(shards_command(out))
    step(["training", "cache-latents", out / "shards", CONFIG])
    step(training_command(out, CONFIG), processes=2)
    say("\nNow the same holes are painted, told each condition, and that of another picture.")
    import torch
    from demo_conditions_sheet import choose_samples, measure, sentences, table, write_page
    from demo_gallery import read_samples

    from intarsia.weights import read_model
    from sampling.painters.own import painting_with

    torch.set_num_threads(os.cpu_count() or 1)
    samples = choose_samples(read_samples(out / "shards"))
    columns = measure(painting_with(read_model(out / "run" / "model")), samples)
    write_page(out, samples, columns)
    say("\n".join(["", *table(columns), "", *sentences(columns)]))
    say(f"\nAll in {time.monotonic() - start:.0f} s. Look at {out}/index.html.")


def shards_command(out: Path) -> list[object]:
    """Four draws of each box, with the object cut out: patches of whole crops would copy."""
    sizes = ["--image-size", 64, "--all-boxes", "--draws-per-image", 4, "--images-per-shard", 8]
    files = ["--annotations", COCO / "annotations.json", "--images", COCO / "images", "--out", out / "shards"]
    return ["dataprep", "build", "coco", *files, "--recipe", RECIPE, *sizes]


if __name__ == "__main__":
    sys.exit(main())
