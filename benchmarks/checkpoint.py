"""Measure the cost of a checkpoint: the same steps without a save, with a synchronous, an asynchronous one.

    python -m benchmarks.checkpoint CONFIG.yaml [a.b=c ...] [--steps N] [--rounds N] --out FOLDER

It runs on one rank with random pictures; the three cases alternate in one process. There are two figures for
each: the time that training stands still in the calls that save (median of the rounds), and the total delay
of the steps, including the writer's use of the machine (best round with a save minus best round without).
"""

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from intarsia.config import load_config
from intarsia.errors import run_command
from training.config import TrainConfig, batch_shape
from training.option_groups import CheckpointConfig

KINDS = ("none", "synchronous", "asynchronous")


@dataclass(frozen=True)
class Seconds:
    """Times of one round in seconds.

    Attributes:
        steps: time from just before the start of the save to the end of the last step.
        still: part of this time in the saver's calls.
        left: time that the next save would have to wait.
    """

    steps: float
    still: float = 0.0
    left: float = 0.0


def one_round(step: Callable[[], None], steps: int, start: Callable[[], None] | None, saver: Any) -> Seconds:
    """Time `steps` steps after the start of a save (None = no save), polled as in the training loop."""
    began, still = time.perf_counter(), 0.0
    if start is not None:
        start()
        still = time.perf_counter() - began
    for _ in range(steps):
        step()
        polled = time.perf_counter()
        saver.poll()
        still += time.perf_counter() - polled
    trained = time.perf_counter()
    saver.finish()
    return Seconds(trained - began, still, time.perf_counter() - trained)


def report(rounds: dict[str, list[Seconds]], steps: int, size: int) -> str:
    """The table with the costs of saves of `size` bytes."""
    best = {kind: min(seconds.steps for seconds in rounds[kind]) for kind in KINDS}
    lines = [
        f"checkpoint of {size / 1e6:.0f} MB, {len(rounds['none'])} rounds of {steps} steps, "
        f"{best['none'] / steps:.3f} s each",
        "save              stands still    steps later    next save waits",
    ]
    still = {}
    for kind in KINDS[1:]:
        still[kind] = median(seconds.still for seconds in rounds[kind])
        left = median(seconds.left for seconds in rounds[kind])
        later = best[kind] - best["none"]
        lines.append(f"{kind.ljust(16)}{still[kind]:>12.3f} s{later:>13.3f} s{left:>17.3f} s")
    ratio = still["asynchronous"] / still["synchronous"]
    lines.append(f"standing still, asynchronous / synchronous: {ratio:.2f}")
    return "\n".join(lines) + "\n"


def _command(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoint", description=__doc__)
    parser.add_argument("config", help="YAML file of a training run")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="value of a dotted key")
    parser.add_argument("--steps", type=int, default=10, help="number of steps after each save (10)")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (5)")
    parser.add_argument("--out", type=Path, required=True, help="folder on the disk to measure, then deleted")
    options = parser.parse_intermixed_args(argv)
    config = load_config(TrainConfig, options.config, options.overrides)
    rounds, size = _measure(config, options.steps, options.rounds, options.out)
    sys.stdout.write(report(rounds, options.steps, size))
    return 0


def _measure(config: TrainConfig, steps: int, count: int, out: Path) -> tuple[dict[str, list[Seconds]], int]:
    from training.checkpoint.saver import Saver
    from training.estimate.trial import made_up_batch
    from training.model.build import new_model
    from training.objective.draws import draw_batch, noise_levels
    from training.objective.task import task_of
    from training.optimizer import engine
    from training.ranks import distributed
    from training.run.state import TrainState

    world = distributed.connect()
    shape, state = batch_shape(config, 1), TrainState()
    model = new_model(config, world.device, is_main=True)
    task = task_of(config)
    trainer = engine.start_engine(config, shape, task.trainee(model))
    batch, noise_scheduler = made_up_batch(config, seed=0), noise_levels(config.model.noise)
    draws = draw_batch(config, batch.positions)
    savers = {
        kind: Saver(out, CheckpointConfig(keep_last=1, asynchronous=kind == "asynchronous"), world)
        for kind in KINDS
    }

    def step() -> None:
        inputs = task.prepare(model, noise_scheduler, batch, draws, world.device, config.objective)
        engine.backward(trainer, task, inputs, last=True)
        float(engine.take_step(trainer, config, state.step).grad_norm)  # waits for a GPU
        state.step += 1

    rounds: dict[str, list[Seconds]] = {kind: [] for kind in KINDS}
    for number in range(count + 1):
        for kind in KINDS:
            saver = savers[kind]
            start = None if kind == "none" else lambda saver=saver: saver.start(trainer, state)
            seconds = one_round(step, steps, start, saver)
            if number:  # the first round makes buffers and warms caches
                rounds[kind].append(seconds)
    (checkpoint,) = out.glob("step-*")
    size = sum(path.stat().st_size for path in checkpoint.iterdir())
    shutil.rmtree(out)
    distributed.disconnect(world)
    return rounds, size


if __name__ == "__main__":
    sys.exit(run_command(_command))
