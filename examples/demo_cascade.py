"""The demo's model with the two helpers that GLIDE has: a noised encoder that guides it, and an upsampler.

    make demo-cascade        (or: python examples/demo_cascade.py [--out demo-cascade])

Trains all three on the bundled pictures. The encoder says which of 23 exemplars belongs to noisy latents, and
the same holes are painted with and without its guidance. The upsampler makes these edits, reduced to 16
pixels, 64 pixels large again, which is compared with bilinear enlargement. Where guidance or upsampler has no
effect, this says so. Running it again continues: what is done is kept.
"""

import os
import sys
import time
from pathlib import Path

from demo import out_folder, say, shards_command, step, training_command

from intarsia.errors import run_command

NOISED, UPSAMPLER = Path("configs/train/noised-demo.yaml"), Path("configs/train/upsampler-demo.yaml")


def main() -> int:
    """Run the demo; the exit code of the first step that fails."""
    return run_command(lambda argv: demo_cascade(argv))


def demo_cascade(argv: list[str]) -> None:
    """Run every step, then measure, write the sheets and say what had an effect."""
    description = "Train a noised encoder and an upsampler for the demo's model, and measure what they do."
    out = out_folder(description, Path("demo-cascade"), argv)
    start = time.monotonic()
    step(shards_command(out))
    step(training_command(out), processes=2)
    base = f"model.init.model_folder={out / 'run' / 'model'}"
    step(["training", "cache-latents", out / "shards", NOISED, base])
    step(["training", NOISED, f"data.shards={out / 'shards'}", f"run={out / 'noised'}", base])
    step([*training_command(out, UPSAMPLER)[:-1], f"run={out / 'upsampler'}", base], processes=2)
    say("\nNow the same holes are painted with and without the encoder's guidance, and again from 16 pixels.")
    import torch
    from demo_cascade_sheet import Cascade, report

    torch.set_num_threads(os.cpu_count() or 1)
    lines = report(Cascade.read(out), out)
    say("\n".join(["", *lines, ""]))
    say(f"All in {time.monotonic() - start:.0f} s. Look at {out}/index.html.")


if __name__ == "__main__":
    sys.exit(main())
