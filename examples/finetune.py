"""Fine-tune a model on shards of your own for a few steps, go on from the checkpoint, and edit with the result.

    make demo && python examples/own_boxes.py                   # once: the model and the shards
    python examples/finetune.py [--model demo/run/model] [--shards demo/own_boxes/shards] [--out demo/finetune]

Shows configs/train/finetune.yaml at the demo's size. Takes about one minute on one core. The second call is
the first one with more steps: it continues from the checkpoint, as it would after a crash.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Train, go on, and print what the loss did."""
    parser = argparse.ArgumentParser(description="Fine-tune a model on shards of your own, in two calls.")
    parser.add_argument(
        "--model", type=Path, default=ROOT / "demo/run/model", help="model folder to start from"
    )
    parser.add_argument("--shards", type=Path, default=ROOT / "demo/own_boxes/shards", help="shard folder")
    parser.add_argument("--out", type=Path, default=ROOT / "demo/finetune", help="run folder")
    parser.add_argument("--steps", type=int, default=20, help="steps of each call (default %(default)s)")
    options = parser.parse_args()
    for folder, remedy in (options.model, "make demo"), (options.shards, "python examples/own_boxes.py"):
        if not folder.is_dir():
            sys.exit(f"there is no folder {folder}; run `{remedy}` once to make it, or give another one")
    run = options.out.resolve()

    # The demo's geometry, since the demo's model is what it starts from. With a model of Stable Diffusion's size:
    # configs/train/finetune.yaml in its place, and nothing else but shards, run, model folder.
    training = ["configs/train/demo.yaml", f"data.shards={options.shards.resolve()}", f"run={run}"]
    training += ["model.init.vae=null", f"model.init.model_folder={options.model.resolve()}"]
    # A model that has learned already wants small steps, a short warm-up and no decay.
    training += ["optimizer.lr=1.0e-4", "optimizer.warmup_steps=5", "optimizer.decay_until=null"]
    training += ["global_batch_size=8", "log_every=5", f"preview.every_steps={2 * options.steps}"]
    train(*training, f"max_steps={options.steps}")
    train(*training, f"max_steps={2 * options.steps}")

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if "train/loss" in line:
            print(f"step {line['step']:4}   loss {line['train/loss']:.4f}")
    print(
        f"\nLook at {run / 'previews'}; python examples/edit.py --model {run / 'model'} edits with the result."
    )


def train(*words: str) -> None:
    """Print and run `python -m training WORDS`; leave with its exit code where it fails."""
    command = ["-m", "training", *words]
    print(f"\n$ python {shlex.join(command)}", flush=True)
    if code := subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode:
        sys.exit(code)


if __name__ == "__main__":
    main()
