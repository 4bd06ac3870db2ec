"""Compare our training step with a plain implementation: speed, share of the peak, memory, time by part.

    python -m benchmarks.training configs/train/demo.yaml
    python -m benchmarks.training configs/train/demo.yaml data.shards=SHARDS   # real pictures and the loader
    python -m benchmarks.training configs/train/pbe-sd14.yaml precision=bf16 micro_batch_size=32 \\
        activation_checkpointing=false compile=true --steps 30                      # one GPU

Ours and the peer (benchmarks/peers/plain_training.py) alternate in separate processes, on the device that
torch finds. On a CPU the time of a step is the CPU time of the best step, because of other work on the
machine; on a GPU it is the wall time, median of the best round. The peak speed is that of a large matrix
product on the same device in the same run; the peer's MFU also uses our step's arithmetic. The parts of our
step are shares of wall time.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from statistics import median
from typing import Any

from intarsia.config import load_config
from training.config import BatchShape, TrainConfig, batch_shape
from training.data.batches import Batch
from training.tracking.stopwatch import PARTS, Stopwatch, matmul_peak

WARM_UP = 2
CONTESTANTS = ("ours", "peer")


def main() -> int:
    """Parse the command line, run the rounds and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c")
    parser.add_argument("--steps", type=int, default=6, help="number of measured steps, after two more (6)")
    parser.add_argument("--rounds", type=int, default=2, help="number of runs of each side (2)")
    parser.add_argument(
        "--only", choices=CONTESTANTS, help="measure one side in this process, and print JSON"
    )
    options = parser.parse_intermixed_args()
    config = load_config(TrainConfig, options.config, options.overrides)
    config = config.model_copy(update={"global_batch_size": None, "grad_accum_steps": None})
    if options.only:
        measured = {"ours": measure_ours, "peer": measure_peer}[options.only](config, options.steps)
        print(json.dumps(measured))
        return 0
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
    for _ in range(options.rounds):
        for name in CONTESTANTS:
            command = [sys.executable, "-m", "benchmarks.training", options.config, *options.overrides]
            command += ["--steps", str(options.steps), "--only", name]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[name].append(json.loads(run.stdout.splitlines()[-1]))
    print(table({name: min(runs, key=lambda run: run["step_s"]) for name, runs in found.items()}))
    return 0


def measure_ours(config: TrainConfig, steps: int) -> dict[str, Any]:
    """Measure our step: time, parts including the loader, and memory."""
    from training.estimate.counting import count_flops
    from training.estimate.trial import PeakMemory
    from training.model.build import new_model
    from training.objective.preparation import Preparation
    from training.objective.task import task_of
    from training.optimizer import engine
    from training.ranks import distributed

    world = distributed.connect()
    shape = batch_shape(config, world.size)
    memory = PeakMemory(world.device)
    model = new_model(config, world.device, is_main=False)
    task = task_of(config)
    trainer = engine.start_engine(config, shape, task.trainee(model))
    prepare = Preparation(config, model, world.device)
    data = pictures(config, shape, model)
    if config.speed.encode_ahead:
        data = prepare.ahead(data)
    watch, clock = Stopwatch(trainer.module, shape, world.device), Clock(world.device)
    first: Any = None  # loss of the first step, before any update
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            clock.lap()
            clock.steps.clear()
            watch.restart()
            memory.restart()
        with watch.waiting():
            batch = next(data)
        loss, _ = engine.backward(trainer, task, prepare(batch), last=True)
        first = loss if step == 0 else first
        watch.lap("backward")
        engine.take_step(trainer, config, step)
        watch.lap("optimizer")
        watch.images += shape.global_batch
        clock.lap()
    parts = watch.values()
    result = about(config, world.device, clock, memory.peak())
    result["work"] += f"; ours at ZeRO stage {trainer.zero_optimization_stage()}"
    distributed.disconnect(world)
    flops = sum(count_flops(config).values())
    return result | {"parts": parts, "flops": flops, "loss": float(first)}


def measure_peer(config: TrainConfig, steps: int) -> dict[str, Any]:
    """Measure the plain step: time and memory."""
    import torch

    from benchmarks.peers.plain_training import PlainTrainer
    from training.estimate.trial import PeakMemory

    memory = PeakMemory(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    trainer = PlainTrainer(config)
    data = pictures(config, batch_shape(config, 1))
    clock = Clock(trainer.device)
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            clock.lap()
            clock.steps.clear()
            memory.restart()
        trainer.step(next(data))
        clock.lap()
    return about(config, trainer.device, clock, memory.peak())


class Clock:
    """The time of each step: wall time on a GPU, after synchronisation, and CPU time on a CPU."""

    def __init__(self, device: Any) -> None:
        self._cuda = device.type == "cuda"
        self.steps: list[float] = []
        self._last = self._now()

    def lap(self) -> None:
        """Record the end of a step."""
        now = self._now()
        self.steps.append(now - self._last)
        self._last = now

    def _now(self) -> float:
        if not self._cuda:
            return time.process_time()
        import torch

        torch.cuda.synchronize()
        return time.perf_counter()


def pictures(config: TrainConfig, shape: BatchShape, model: Any = None) -> Iterator[Batch]:
    """Endless micro-batches: from the config's shards, or one random batch without shards."""
    if not config.data.shards:
        from training.estimate.trial import made_up_batch

        batch = made_up_batch(config, seed=0)
        return (replace(batch, positions=batch.positions + step * shape.global_batch) for step in count())
    from training.data.batches import batches, open_dataset, use_latents
    from training.objective.draws import draw_batch

    dataset = open_dataset(config)
    if model is not None:
        use_latents(config, dataset, model)
    span = range(0, 10**6 * shape.global_batch, shape.global_batch)
    draw = partial(draw_batch, config) if config.speed.draws_in_workers else None
    return batches(config.data, dataset, shape, 0, span, config.speed.pin_memory, draw)


def about(config: TrainConfig, device: Any, clock: Clock, peak_bytes: int) -> dict[str, Any]:
    """The results that both sides report."""
    import torch

    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "samples": config.micro_batch_size,
        "step_s": median(clock.steps) if device.type == "cuda" else min(clock.steps),
        "work": same_work(config),
        "peak_bytes": peak_bytes,
        "matmul": matmul_peak(device, dtype),
    }


def same_work(config: TrainConfig) -> str:
    """The work of both sides in a step besides forward and backward pass, as text."""
    clip, decay = config.optimizer.grad_clip, config.optimizer.ema_decay
    clips = f"clip at {clip:g}" if clip else "do not clip"
    averages = f"average with {decay:g}" if decay else "average nothing"
    return f"both in {config.precision} with AdamW; they {clips} and {averages}"


def table(best: dict[str, dict[str, Any]]) -> str:
    """A table of both sides, and the parts of our step's time."""
    ours, peer = best["ours"], best["peer"]
    peak = max(ours["matmul"], peer["matmul"])
    rows = [["", "ours", "plain peer", "better by"], ["---", "---", "---", "---"]]
    speeds = [run["samples"] / run["step_s"] for run in (ours, peer)]
    rows.append(["images/s", *(f"{speed:.4g}" for speed in speeds), f"**{speeds[0] / speeds[1]:.2f}**"])
    shares = [f"{speed * ours['flops'] / peak:.1%}" for speed in speeds]
    rows.append([f"MFU of {peak / 1e12:.3g} TFLOP/s", *shares, ""])
    sizes = [run["peak_bytes"] / 1e9 for run in (ours, peer)]
    rows.append(["peak memory, GB", *(f"{size:.2f}" for size in sizes), f"**{sizes[1] / sizes[0]:.2f}**"])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    measured = ours["parts"]
    named = {part: measured[f"perf/{part}_s"] / measured["perf/step_s"] for part in PARTS}
    told = ", ".join(f"{part.replace('_', ' ')} {share:.1%}" for part, share in named.items())
    head = f"{ours['device']}, {ours['samples']} pictures a step, {ours['flops'] / 1e9:,.1f} GFLOP each"
    return "\n".join([f"{head}; {ours['work']}", "", *lines, "", f"Our step's time: {told}"])


if __name__ == "__main__":
    sys.exit(main())
