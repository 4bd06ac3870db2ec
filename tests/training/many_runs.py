"""Several training runs in one process, because importing DeepSpeed takes longer than any of them.

    python -m tests.training.many_runs JOBS.json       (or under torchrun)

JOBS.json: a list of {"config": path, "overrides": [...]} and, where wanted,
    "stop_after": steps         a signal comes then, to one rank
    "positions": folder         a file per rank gets every position it draws, a line each
    "poison": [key, ...]        these samples' targets are not a number
    "sleep": [seconds, patience]    the last rank sleeps in its second step; how long the watchdog waits
    "killed": step              the last rank dies (SIGKILL) half-way through writing this step's checkpoint,
                                while the next step is being computed
    "shard_all": true           ZeRO stage 3 keeps no small parameter whole
    "backend": name             of torch.compile, in place of inductor, which takes a minute
    "imports": [module, ...]    imported first, for the rows that they add
    "fails": words              of the error that ends it
    "resave": [from, to]        no training: load that checkpoint and save it into that folder
"""

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from intarsia.config import load_config
from intarsia.errors import UserError
from training.config import TrainConfig, batch_shape
from training.ranks import distributed


class StopAfter(distributed.StopFlag):
    """A signal that comes during step number `steps`; it is looked at once before the first step."""

    def __init__(self, steps: int | None) -> None:
        super().__init__()
        self.looks_left = None if steps is None else steps

    @property
    def raised(self) -> bool:
        if self.looks_left is None:
            return False
        self.looks_left -= 1
        return self.looks_left < 0

    @raised.setter
    def raised(self, value: bool) -> None: ...


@contextmanager
def meddling(job: dict[str, Any], world: distributed.World) -> Iterator[None]:
    """What the job asks to go wrong, or to be noted, goes so inside the block."""
    from training.checkpoint import saver
    from training.model import build as model
    from training.model import compiled
    from training.objective import edit, preparation
    from training.optimizer import engine

    write = saver.write_part
    draw, prepare, settings = preparation.draw_batch, edit.prepare, engine.deepspeed_config
    calls = 0

    def noting_draw(config: TrainConfig, positions: torch.Tensor) -> Any:
        nonlocal calls
        calls += 1
        if "sleep" in job and world.watchdog is not None:
            world.watchdog.timeout_s = job["sleep"][1]
            time.sleep(job["sleep"][0] if calls == 2 and world.rank == world.size - 1 else 0)
        if "positions" in job:
            with (Path(job["positions"]) / f"rank-{world.rank}.txt").open("a") as file:
                file.writelines(f"{position}\n" for position in positions.tolist())
        return draw(config, positions)

    def poisoned_prepare(*arguments: Any) -> Any:
        step = prepare(*arguments)
        keys = next(argument.keys for argument in arguments if hasattr(argument, "edit_mask"))
        sick = torch.tensor([key in job.get("poison", []) for key in keys])
        return replace(step, target=step.target.masked_fill(sick[:, None, None, None], torch.nan))

    def dying_write(path: Path, pieces: Any) -> Any:
        begun = calls  # before it is written: training may come to its next save, and wait here, meanwhile
        written = write(path, pieces)
        if path.parent.name == f".tmp-step-{job['killed']:08d}" and world.rank == world.size - 1:
            os.truncate(path, path.stat().st_size // 2)
            while calls == begun:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return written

    def sharding_settings(*arguments: Any) -> dict[str, Any]:
        made = settings(*arguments)
        made["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return made

    with ExitStack() as stack:
        if {"positions", "sleep", "killed"} & job.keys():
            stack.enter_context(mock.patch.object(preparation, "draw_batch", noting_draw))
        stack.enter_context(mock.patch.object(edit, "TASK", replace(edit.TASK, prepare=poisoned_prepare)))
        if job.get("shard_all"):
            stack.enter_context(mock.patch.object(engine, "deepspeed_config", sharding_settings))
        if "killed" in job:
            stack.enter_context(mock.patch.object(saver, "write_part", dying_write))
        if "backend" in job:
            compile_blocks = partial(compiled.compile_blocks, backend=job["backend"])
            stack.enter_context(mock.patch.object(model, "compile_blocks", compile_blocks))
        yield


def load_and_save(config: TrainConfig, world: distributed.World, source: Path, folder: Path) -> None:
    from training.checkpoint import folder as checkpoint
    from training.checkpoint import resume
    from training.checkpoint.saver import Saver
    from training.model.build import new_model
    from training.objective.edit import EditTrainee
    from training.optimizer import engine

    trainee = EditTrainee(new_model(config, world.device, world.is_main))
    trainer = engine.start_engine(config, batch_shape(config, world.size), trainee)
    state = checkpoint.read_state(source)
    resume.load(trainer, source, state.updates)
    saver = Saver(folder, config.checkpoint, world)
    saver.start(trainer, state)
    saver.finish()


def main(arguments: Sequence[str]) -> None:
    jobs = json.loads(Path(arguments[0]).read_text())
    world = distributed.connect(300)
    from training.loop import train

    for job in jobs:
        for module in job.get("imports", []):
            importlib.import_module(module)
        config = load_config(TrainConfig, job["config"], job["overrides"])
        last = world.rank == world.size - 1  # one rank alone gets the signal
        with meddling(job, world):
            if "resave" in job:
                load_and_save(config, world, *map(Path, job["resave"]))
                continue
            try:
                code = train(config, world, StopAfter(job.get("stop_after") if last else None))
            except UserError as error:
                assert job.get("fails", "nothing") in str(error), (job, error)
                continue
        assert "fails" not in job, job
        assert code == (distributed.EXIT_AGAIN if job.get("stop_after") else 0), (job, code)
    distributed.disconnect(world)


if __name__ == "__main__":
    main(sys.argv[1:])
