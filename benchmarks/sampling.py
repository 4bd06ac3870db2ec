"""Compare our sampler with diffusers' PaintByExamplePipeline: same weights, machine and run.

    python -m benchmarks.sampling [--model DIR] [--device cuda] [--num-inference-steps 10] [--rounds 3]

Each side is a separate process with the model loaded; they alternate round by round, so that other load
affects both. There are two cases: one edit; and eight edits of one picture, four seeds for each of two
exemplars, which diffusers makes in one call with lists of eight. Time is the best of the rounds: wall time
and, on a CPU, CPU time, which depends less on other load. Memory is the peak above that of the idle process.

Without --model, a random model with Stable Diffusion's blocks, a fifth of its widths and 256 pixels is made,
which takes seconds on a CPU. diffusers differs from the original in four places (docs/sampling.md), so the
pictures differ.
"""

import argparse
import ctypes
import gc
import multiprocessing
import re
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from intarsia.errors import run_command

ROOT = Path(__file__).resolve().parent.parent
COCO = ROOT / "examples" / "coco-mini" / "images"
FILES = sorted(COCO.glob("*.jpg"))
CASES = {"1 edit": (1, 1), "8 edits, 2 exemplars": (8, 2)}  # edits, distinct exemplars
SMALL = [
    "model.image_size=256",
    "model.unet.block_out_channels=[64,128,256,256]",
    "model.unet.cross_attention_dim=192",
    "model.vae.block_out_channels=[32,64,128,128]",
    "model.image_encoder.hidden_size=256",
    "model.image_encoder.intermediate_size=1024",
    "model.image_encoder.num_hidden_layers=10",
    "model.image_encoder.num_attention_heads=4",
]


class Job(NamedTuple):
    """The work of both sides, as paths and numbers only."""

    model: str
    device: str
    dtype: str
    steps: int
    size: int  # side of the model's square, in pixels


class Cost(NamedTuple):
    """Cost of one case: seconds, and bytes above the memory of the loaded model."""

    wall: float
    cpu: float
    memory: int


def main() -> int:
    """Run the benchmark; return the exit code."""
    return run_command(lambda argv: benchmark(argv))


def benchmark(argv: list[str]) -> None:
    """Measure both sides alternately, and print a table."""
    parser = argparse.ArgumentParser(description="Wall time and peak memory against diffusers.")
    parser.add_argument("--model", help="model folder (default: a small random one)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--num-inference-steps", type=int, default=10, metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or small_model(Path(folder) / "model")
        where = arguments.device, arguments.dtype
        job = Job(str(model), *where, arguments.num_inference_steps, square_of(str(model)))
        sides = {"diffusers": Side(diffusers_side, job), "ours": Side(our_side, job)}
        costs: dict[tuple[str, str], list[Cost]] = {}
        for side in sides.values():
            side.run(next(iter(CASES)))  # warm-up
        for number in range(arguments.rounds):
            for case in CASES:
                for name, side in sides.items():
                    cost = side.run(case)
                    costs.setdefault((case, name), []).append(cost)
                    seconds = f"{cost.wall:8.2f} s, CPU {cost.cpu:8.2f} s"
                    say(f"round {number + 1}  {case:22} {name:10} {seconds}  {cost.memory >> 20} MiB")
        for side in sides.values():
            side.stop()
    report(costs)


def report(costs: dict[tuple[str, str], list[Cost]]) -> None:
    """Print the best of the rounds, and diffusers' values divided by ours."""
    say("\n| | diffusers | ours | ratio |\n|---|---|---|---|")
    for case in CASES:
        for what, show in (("wall", "{:.2f} s"), ("cpu", "{:.2f} s"), ("memory", "{:.0f} MiB")):
            unit = 2**20 if what == "memory" else 1
            theirs, ours = (
                min(getattr(cost, what) for cost in costs[case, name]) / unit
                for name in ("diffusers", "ours")
            )
            cells = show.format(theirs), show.format(ours), f"{theirs / max(ours, 1e-9):.2f}"
            say(f"| {case}, {what} | {' | '.join(cells)} |")


class Side:
    """A process that has a model loaded and runs the requested cases."""

    def __init__(self, work: Callable[[Job], Callable[[int, int], object]], job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self.line, other = context.Pipe()
        self.process = context.Process(target=serve, args=(work, job, other), daemon=True)
        self.process.start()

    def run(self, case: str) -> Cost:
        """Run a case once."""
        self.line.send(CASES[case])
        return self.line.recv()

    def stop(self) -> None:
        """End the process."""
        self.line.send(None)
        self.process.join()


def serve(work: Callable[[Job], Callable[[int, int], object]], job: Job, line: Connection) -> None:
    """Main function of the process: load the model, then run cases until None is received."""
    import torch

    paint = work(job)
    cuda = job.device.startswith("cuda")
    while (case := line.recv()) is not None:
        gc.collect()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        else:
            before = reset_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        paint(*case)
        if cuda:
            torch.cuda.synchronize()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = torch.cuda.max_memory_allocated() if cuda else memory_of("VmHWM")
        line.send(Cost(wall, cpu, peak - before))


def our_side(job: Job) -> Callable[[int, int], object]:
    """A function that runs a case with `sampling.edit` and its default batch size."""
    from sampling import EditRequest, EditSettings, edit
    from sampling.denoise.machine import open_model
    from sampling.settings import MachineSettings

    model, device = open_model(job.model, MachineSettings(device=job.device, dtype=job.dtype))
    settings = EditSettings(num_inference_steps=job.steps, fit="resize")
    picture, mask, exemplars = inputs(job.size)

    def paint(count: int, distinct: int) -> object:
        requests = [
            EditRequest(picture, mask, exemplars[i * distinct // count], seed=i % (count // distinct))
            for i in range(count)
        ]
        return edit(model, requests, settings, device=device)

    return paint


def diffusers_side(job: Job) -> Callable[[int, int], object]:
    """A function that runs a case with the deprecated pipeline, imported under the name in the folder."""
    import diffusers.pipelines
    import torch
    from diffusers.pipelines.deprecated import paint_by_example

    diffusers.pipelines.paint_by_example = paint_by_example
    pipeline: Any = paint_by_example.PaintByExamplePipeline.from_pretrained(
        job.model, requires_safety_checker=False, torch_dtype=getattr(torch, job.dtype)
    ).to(job.device)
    pipeline.set_progress_bar_config(disable=True)
    picture, mask, exemplars = inputs(job.size)

    def paint(count: int, distinct: int) -> object:
        generators = [torch.Generator(job.device).manual_seed(i % (count // distinct)) for i in range(count)]
        return pipeline(
            example_image=[Image.fromarray(exemplars[i * distinct // count]) for i in range(count)],
            image=[Image.fromarray(picture)] * count,
            mask_image=[Image.fromarray(mask)] * count,
            num_inference_steps=job.steps,
            generator=generators,
        )

    return paint


def inputs(size: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """A picture of the model's size, so that neither side resizes, its mask, and two exemplars."""
    picture = np.asarray(Image.open(FILES[0]).convert("RGB").resize((size, size)))
    mask = np.zeros((size, size), bool)
    mask[size // 4 : size * 3 // 4, size // 4 : size * 3 // 4] = True
    return picture, mask, [np.asarray(Image.open(path).convert("RGB")) for path in FILES[1:3]]


def small_model(folder: Path) -> Path:
    """Write a small random model with Stable Diffusion's blocks."""
    from intarsia.architecture import ModelConfig
    from intarsia.config import Config, load_config
    from intarsia.model import build_model
    from intarsia.weights import save_model

    class Fragment(Config):
        model: ModelConfig = ModelConfig()

    config = load_config(Fragment, ROOT / "configs/model/sd14.yaml", SMALL).model
    save_model(build_model(config, seed=0), folder)
    return folder


def square_of(model: str) -> int:
    """The side of a model's square in pixels."""
    from intarsia.weights import read_model

    return read_model(model).config.image_size


def reset_peak() -> int:
    """Release free memory, reset the peak, and return the memory in use, in bytes (Linux)."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return memory_of("VmRSS")


def memory_of(field: str) -> int:
    """The value of a line in /proc/self/status, in bytes."""
    [kilobytes] = re.findall(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1024


def say(text: str) -> None:
    """Print a line and flush."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
