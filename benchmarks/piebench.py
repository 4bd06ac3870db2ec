"""UNet rows for one picture of PIE-Bench by direct inversion and Prompt-to-Prompt: ours and the paper's.

    python -m benchmarks.piebench [--steps N] [--repeats N]

The paper's code (cure-lab/PnPInversion, 07f97f4) needs a row for each step up; four for each step of the
offsets, with source and target, told and untold; four for each step of the reconstruction; and four for each
step of the edit. `invert_edit` needs a row up and three down. Both are run with the same tiny UNet: ours as
it is, the paper's as the calls of these sizes, without its attention control.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from intarsia.architecture import ModelConfig
from intarsia.config import Config, load_config
from intarsia.model import EditModel, build_model
from sampling.methods.request import InversionRequest
from sampling.methods.run_inversion import invert_edit
from sampling.settings import InversionSettings

_TOWER = {
    "vocab_size": 514,  # of bytes
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 24,
}


class _Fragment(Config):
    model: ModelConfig = ModelConfig()


def tiny_text_model() -> EditModel:
    """A tiny model that takes prompts, with random weights."""
    words = ["model.condition=text", "model.unet.in_channels=4", f"model.text_encoder={json.dumps(_TOWER)}"]
    config = load_config(_Fragment, "configs/model/tiny.yaml", words).model
    return build_model(config, 0).eval().requires_grad_(False)


def published_calls(steps: int) -> list[int]:
    """Rows of each UNet call in the paper's code."""
    up, offsets, reconstruction, edit = [1] * steps, [4] * steps, [4] * steps, [4] * steps
    return up + offsets + reconstruction + edit


def rows_of(model: EditModel, work: Callable[[], Any]) -> tuple[int, int, float]:
    """Calls, rows and seconds of the UNet's forward passes in `work`."""
    rows: list[int] = []
    hook = model.unet.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    hook.remove()
    return len(rows), sum(rows), seconds


def compare(steps: int, repeats: int) -> dict[str, tuple[int, int, float]]:
    """Name -> calls, rows and the least seconds of several repeats."""
    model = tiny_text_model()
    side, config = model.config.latent_size, model.config
    picture = np.random.default_rng(0).integers(0, 256, (config.image_size,) * 2 + (3,), dtype=np.uint8)
    request = InversionRequest(picture, source_prompt="a round cake", target_prompt="a square cake")
    settings = InversionSettings(method="direct", coupling=("p2p",), num_inference_steps=steps)

    def theirs() -> None:
        with torch.no_grad():
            for rows in published_calls(steps):
                tokens = torch.zeros(rows, config.num_tokens, config.unet.cross_attention_dim)
                model.unet(torch.zeros(rows, 4, side, side), torch.tensor(500), tokens)

    ways = {"ours": lambda: invert_edit(model, request, settings), "the paper's": theirs}
    found = {name: [rows_of(model, work) for _ in range(repeats)] for name, work in ways.items()}
    return {name: min(runs, key=lambda run: run[2]) for name, runs in found.items()}


def main() -> None:
    """Print calls, rows and seconds of both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    for name, (calls, rows, seconds) in compare(arguments.steps, arguments.repeats).items():
        print(f"{name:12} {calls:4} calls {rows:4} rows {seconds:6.2f} s")


if __name__ == "__main__":
    main()
