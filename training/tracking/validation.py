"""The loss that compares between steps and runs: fixed samples, masks, noise and timesteps."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from intarsia.model import EditModel
from training.config import TrainConfig
from training.data.batches import Batch, RunDataset, collate, open_dataset
from training.objective.draws import Draws, draw, noise_levels
from training.objective.task import Step, task_of
from training.optimizer.ema import decays_of
from training.optimizer.fragments import swapped
from training.ranks.distributed import World
from training.tracking.losses import QUARTERS, by_quarter, quarter_means
from training.tracking.previews import fixed_samples

_SEED = 0  # not the run's: runs of different seeds see the same noise
_GOLDEN = 0.6180339887498949


def fixed_draws(config: TrainConfig, places: list[int]) -> Draws:
    """The draws of the validation samples at these places: the same in every run of the same latent shape.

    Timesteps are spread evenly by the golden ratio, for any number of samples; nothing is dropped.
    """
    drawn = draw(_SEED, torch.tensor(places), config.model, dropout=0.0)
    total = config.model.noise.num_train_timesteps
    timesteps = [int(total * ((place + 0.5) * _GOLDEN % 1)) for place in places]
    return replace(drawn, timesteps=torch.tensor(timesteps), without_maps=None)


class Validation:
    """val/* and val_ema/*, when they are due.

    Args:
        config: training config.
        dataset: training dataset, for runs without validation.shards.
        world: the ranks; they share the samples.
    """

    def __init__(self, config: TrainConfig, dataset: RunDataset, world: World) -> None:
        self._config, self._dataset, self._world = config, dataset, world
        self._task = task_of(config)
        self._steps: list[Step] | None = None  # what the frozen networks made of the samples stays
        self._counts: list[float] = []  # 1 for each of these, or 0 where another rank has it

    def values(self, engine: Any, model: EditModel, step: int) -> dict[str, float]:
        """val/* of the present weights and val_ema/* of averaged ones where due, else nothing. Collective.

        Args:
            engine: engine whose module is called, without gradient.
            model: model whose frozen networks are called.
            step: the number of finished steps, at a line of metrics.
        """
        every, log_every = self._config.validation.every_steps, self._config.log_every
        if not every or step // every == (step - min(log_every, step)) // every:
            return {}
        values = self.measure(engine, model, "val")
        averages = decays_of(**self._config.optimizer.averages) if self._config.validation.averaged else ()
        for kind in averages:
            with swapped(engine, kind):
                values |= self.measure(engine, model, f"val_{kind}")
        return values

    @torch.no_grad()
    def measure(self, module: Callable[[Step], Tensor], model: EditModel, name: str) -> dict[str, float]:
        """`name`/loss and `name`/loss_q1 … q4 of a module's weights as they are. Collective.

        Told exemplar and prompt without structure maps; `name`/loss_exemplar and `name`/loss_text: told one
        of these only, `name`/loss_structure: with structure maps.

        Args:
            module: the trained part, or the engine around it.
            model: model whose frozen networks are called the first time.
            name: the keys begin with it.
        """
        if self._steps is None:
            self._steps = self._prepare(model)
        total, sums = self._config.model.noise.num_train_timesteps, dict[str, Tensor]()
        for prepared, counts in zip(self._steps, self._counts, strict=True):
            for way, step in self._task.told(self._config, prepared).items():
                errors = self._task.errors(module(step), step)
                row = counts * by_quarter(errors, step.timesteps, total).cpu()
                sums[way] = sums[way] + row if way in sums else row
        values: dict[str, float] = {}
        for way, of_way in sums.items():
            means = self._world.mean(of_way.tolist())
            key = f"{name}/loss_{way}" if way else f"{name}/loss"
            values[key] = sum(means[:QUARTERS]) / sum(means[QUARTERS:])
            values |= {} if way else quarter_means([means], key)
        return values

    def _prepare(self, model: EditModel) -> list[Step]:
        """This rank's micro-batches, the same number on each rank; repeated samples are counted once."""
        config, world, dataset = self._config, self._world, self._dataset
        if config.validation.shards:
            data = config.data.model_copy(
                update={"shards": config.validation.shards, "latents": False, "stream": None}
            )
            dataset = open_dataset(config.model_copy(update={"data": data}))
        number = min(config.validation.num_samples, sum(shard.count for shard in dataset.shards))
        chunks = list(_batched(range(number), config.micro_batch_size))
        rounds = -(-len(chunks) // world.size)
        scheduler = noise_levels(config.model.noise)
        steps = []
        for chunk in range(world.rank, rounds * world.size, world.size):
            places = chunks[chunk % len(chunks)]
            samples = zip(places, fixed_samples(dataset, number, places), strict=True)
            batch = collate([(place, dataset.item(sample, place)) for place, sample in samples])
            assert isinstance(batch, Batch)
            draws = fixed_draws(config, places)
            steps.append(self._task.prepare(model, scheduler, batch, draws, world.device))
            self._counts.append(float(chunk < len(chunks)))
        return steps


def _batched(numbers: Iterable[int], size: int) -> Iterator[list[int]]:
    left = iter(numbers)
    while batch := list(islice(left, size)):
        yield batch
