"""A task: what a run trains, and by what loss. Loop, engine and trackers ask it and know no more."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from torch import Tensor, nn

from intarsia.model import EditModel
from training.config import TASKS, TrainConfig

MakeTensor = Callable[..., Tensor]  # (*shape) -> float32 of that shape


@dataclass(frozen=True)
class Step:
    """A micro-batch as the trained part gets it, and what it should answer.

    Attributes:
        noisy_latents: [B, C, h, w].
        timesteps: int64 [B].
        channels: [B, K, h, w], further input channels (`Condition.channels`).
        features: [B, ...], what the frozen tower says of the exemplars (`ConditionKind.feature_shape`).
        dropped: bool [B], rows that get the null tokens.
        target: float32 [B, C, h, w]: the noise, or the velocity √ā_t · noise − √(1 − ā_t) · z.
        weight: float32 [B, 1, h, w] or [B, 1, 1, 1], how much each squared error counts; None = once.
    """

    noisy_latents: Tensor
    timesteps: Tensor
    channels: Tensor
    features: Tensor
    dropped: Tensor
    target: Tensor
    weight: Tensor | None = None


@dataclass(frozen=True)
class Task:
    """What a run learns.

    Attributes:
        trainee: trained part of a model as one module, from a `Step` to a prediction.
        prepare: (model, noise scheduler, batch, draws, device, objective) -> `Step`; asks frozen networks.
        loss: (prediction, step) -> scalar, float32.
        errors: (prediction, step) -> float32 [B], each sample's own error, without weights or gradient; what
            validation and the losses by noise level are made of.
        sick: (prediction, step) -> bool [B], samples whose error is not finite.
        made_up: (config, make) -> `Step` of the run's shapes with values from `make(*shape)`.
    """

    trainee: Callable[[EditModel], nn.Module]
    prepare: Callable[..., Step]
    loss: Callable[[Tensor, Step], Tensor]
    errors: Callable[[Tensor, Step], Tensor]
    sick: Callable[[Tensor, Step], Tensor]
    made_up: Callable[[TrainConfig, MakeTensor], Step]


def task_of(config: TrainConfig) -> Task:
    """The task of a run; `config.TASKS` lists them."""
    return cast(Task, import_module(TASKS[config.task]).TASK)
