"""Fine-tune a model on shards of your own for a few steps, then continue from the checkpoint.

    make demo && python examples/own_boxes.py        # once: the model and the shards
    python examples/finetune.py [--model demo/run/model] [--shards demo/own_boxes/shards]

Shows configs/train/finetune.yaml at the demo's size. Takes half a minute on one core. The second call is
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
    parser.add_argument("--model", type=Path, default=ROOT / "demo/run/model", help="model to begin with")
    parser.add_argument("--shards", type=Path, default=ROOT / "demo/own_boxes/shards", help="shard folder")
    parser.add_argument("--out", type=Path, default=ROOT / "demo/finetune", help="run folder")
    parser.add_argument("--steps", type=int, default=20, help="steps of each call (default %(default)s)")
    options = parser.parse_args()
    for folder, remedy in (options.model, "make demo"), (options.shards, "python examples/own_boxes.py"):
        if not folder.is_dir():
            sys.exit(f"there is no folder {folder}; run `{remedy}` to make it, or give another one")
    folder = options.out.resolve()

    # The demo's geometry, since it starts from the demo's model. For one of Stable Diffusion's size:
    # configs/train/finetune.yaml, and nothing else but shards, run and model folder.
    training = ["configs/train/demo.yaml", f"data.shards={options.shards.resolve()}", f"run={folder}"]
    training += ["model.init.vae=null", f"model.init.model_folder={options.model.resolve()}"]
    # A model that has learned already wants small steps, a short warm-up and no decay.
    training += ["optimizer.lr=1.0e-4", "optimizer.warmup_steps=5", "optimizer.decay_until=null"]
    training += ["global_batch_size=8", "log_every=5", f"preview.every_steps={2 * options.steps}"]
    run("training", *training, f"max_steps={options.steps}")
    run("training", *training, f"max_steps={2 * options.steps}")

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if "train/loss" in line:
            print(f"step {line['step']:4}   loss {line['train/loss']:.4f}")
    print(f"\nLook at {folder / 'previews'}; examples/edit.py --model {folder / 'model'} edits with it.")


def run(*words: object) -> None:
    """Print and run `python -m WORDS`; leave with its exit code where it fails."""
    command = ["-m", *map(str, words)]
    print(f"\n$ python {shlex.join(command)}", flush=True)
    if code := subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode:
        sys.exit(code)


if __name__ == "__main__":
    main()
