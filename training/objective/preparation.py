"""Prepare micro-batches for the trained part, immediately or one batch ahead on a separate CUDA stream."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from intarsia.model import EditModel
from training.config import BatchShape, TrainConfig
from training.data.batches import Batch, RunDataset, batches
from training.objective.draws import draw_batch, noise_levels
from training.objective.task import Step, task_of


class Preparation:
    """Turn batches into `Step`s.

    Args:
        config: config of the run.
        model: model with the frozen networks.
        device: device of the computation.
    """

    def __init__(self, config: TrainConfig, model: EditModel, device: torch.device) -> None:
        self._config, self._model, self._device = config, model, device
        self._prepare = task_of(config).prepare
        self._levels = noise_levels(config.model.noise)
        self._ready: dict[int, tuple[Step, Any]] = {}  # keys: first positions of the batches
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: Batch) -> Step:
        """The step of a batch; if it was prepared ahead, the GPU waits for it, not the CPU."""
        if self._config.speed.compile_mode == "cuda-graphs":
            torch.compiler.cudagraph_mark_step_begin()
        step, done = self._ready.pop(int(batch.positions[0]), (None, None))
        if step is None:
            return self._now(batch)
        if done is not None:
            here = torch.cuda.current_stream(self._device)
            here.wait_event(done)
            for value in vars(step).values():  # prevents that the other stream reuses its memory early
                if value is not None:
                    value.record_stream(here)
        return step

    def batches(self, dataset: RunDataset, shape: BatchShape, rank: int, span: range) -> Iterator[Batch]:
        """The batches of `data.batches.batches` with the run's speed switches; call this object with each."""
        speed = self._config.speed
        draw = partial(draw_batch, self._config) if speed.draws_in_workers else None
        found = batches(self._config.data, dataset, shape, rank, span, speed.pin_memory, draw)
        return self.ahead(found) if speed.encode_ahead else found

    def ahead(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches; each is prepared while the previous one is trained."""
        current = self._begin(next(batches, None))
        while current is not None:
            coming = self._begin(next(batches, None))
            yield current
            current = coming

    def _begin(self, batch: Batch | None) -> Batch | None:
        """Start to prepare a later batch, which is possible because frozen networks do not change."""
        if batch is None:
            return None
        if self._stream is None:
            self._ready[int(batch.positions[0])] = self._now(batch), None
            return batch
        with torch.cuda.stream(self._stream):
            step, done = self._now(batch), torch.cuda.Event()
            done.record(self._stream)
        self._ready[int(batch.positions[0])] = step, done
        return batch

    def _now(self, batch: Batch) -> Step:
        draws = draw_batch(self._config, batch.positions) if batch.draws is None else batch.draws
        objective = self._config.objective
        return self._prepare(self._model, self._levels, batch, draws, self._device, objective)
