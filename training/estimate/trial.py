"""Run a few real training steps on random pictures, and measure their time and memory."""

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from intarsia.conditions.condition import condition_kind
from training.config import BatchShape, TrainConfig, stores_features
from training.data.batches import Batch
from training.model.build import new_model
from training.objective.preparation import Preparation
from training.objective.task import task_of
from training.optimizer import engine
from training.ranks.distributed import World


@dataclass(frozen=True)
class Trial:
    """The measurements.

    Attributes:
        seconds: time of each step in seconds, without the first step.
        peak_bytes: peak memory in bytes; on a GPU torch's allocations, on a CPU the growth of the process's
            resident set since before the model was built.
    """

    seconds: list[float]
    peak_bytes: int


def made_up_batch(config: TrainConfig, seed: int, first: int = 0) -> Batch:
    """A micro-batch of random pixels with a hole in the middle of each picture, positions from `first` on.

    With `data.latents` it has random stored latents instead of pixels.
    """
    rng = torch.Generator().manual_seed(seed)
    samples, side = config.micro_batch_size, config.model.image_size
    positions = torch.arange(first, first + samples)
    keys = [f"made-up-{number}" for number in range(first, first + samples)]
    texts = keys if "text" in config.model.parts else []
    if config.data.latents:
        stored = _made_up_latents(config, rng)
        exemplar = None
        if not stores_features(config):
            stored.pop("features", None)
            exemplar = torch.randint(0, 256, (samples, 224, 224, 3), generator=rng, dtype=torch.uint8)
        maps = _made_up_maps(config, rng)
        return Batch(positions, keys, None, None, exemplar, stored, texts, maps)
    edit_mask = torch.zeros(samples, side, side, dtype=torch.uint8)
    edit_mask[:, side // 4 : -(side // 4), side // 4 : -(side // 4)] = 255
    return Batch(
        positions=positions,
        keys=keys,
        image=torch.randint(0, 256, (samples, side, side, 3), generator=rng, dtype=torch.uint8),
        edit_mask=edit_mask,
        exemplar=torch.randint(0, 256, (samples, 224, 224, 3), generator=rng, dtype=torch.uint8),
        texts=texts,
        structure=_made_up_maps(config, rng),
    )


def _made_up_maps(config: TrainConfig, rng: torch.Generator) -> torch.Tensor | None:
    model, samples = config.model, config.micro_batch_size
    shape = (samples, model.structure.channels, model.latent_size, model.latent_size)
    return torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8) if model.structure.maps else None


def _made_up_latents(config: TrainConfig, rng: torch.Generator) -> dict[str, torch.Tensor]:
    """Random latents in the format of `cache-latents`: moments of two posteriors, mask and features."""
    model, samples = config.model, config.micro_batch_size
    cells = (model.latent_size, model.latent_size)
    moments = (samples, 2, model.vae.latent_channels, *cells)
    mask = torch.zeros(samples, 1, *cells)
    mask[..., cells[0] // 4 : -(cells[0] // 4), cells[1] // 4 : -(cells[1] // 4)] = 1
    stored = {
        "image": torch.rand(moments, generator=rng),
        "masked": torch.rand(moments, generator=rng),
        "mask": mask,
    }
    if "exemplar" in model.parts:
        features = condition_kind(model).feature_shape(model)
        stored["features"] = torch.randn(samples, *features, generator=rng)
    return stored


def run_trial(config: TrainConfig, shape: BatchShape, world: World, steps: int) -> Trial:
    """Train one step without measurement, then `steps` measured steps. Collective; nothing is written.

    Args:
        config: config of the run; its shards are not read.
        shape: shape of its batches.
        world: connected ranks.
        steps: number of measured steps.
    """
    memory = PeakMemory(world.device)
    model = new_model(config, world.device, is_main=False)
    task = task_of(config)
    trainer = engine.start_engine(config, shape, task.trainee(model))
    prepare = Preparation(config, model, world.device)
    batch = made_up_batch(config, seed=world.rank)
    seconds = []
    for step in range(steps + 1):
        if step == 1:
            memory.restart()  # now the model is built, and the optimizer's state exists
        began = time.perf_counter()
        for accum in range(shape.accum):
            engine.backward(trainer, task, prepare(batch), last=accum + 1 == shape.accum)
        engine.take_step(trainer, config, step)
        if world.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        if world.is_main:
            sys.stderr.write(f"step {step} of {steps}: {seconds[-1]:.2f} s\n")
    return Trial(seconds[1:], memory.peak())


class PeakMemory:
    """Peak memory since `restart`: on a GPU the total, on a CPU the growth since the object was made."""

    def __init__(self, device: Any) -> None:
        self._cuda = device.type == "cuda"
        self._base = 0 if self._cuda else _status("VmRSS")

    def restart(self) -> None:
        """Reset the peak."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        """The peak in bytes."""
        return torch.cuda.max_memory_allocated() if self._cuda else _status("VmHWM") - self._base


def _status(key: str) -> int:
    path = Path("/proc/self/status")
    if not path.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next(line for line in path.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024
