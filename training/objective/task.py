"""The interface of a task, which defines the trained part and the loss for loop, engine and trackers."""

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
    """The input of the trained part for a micro-batch, with the target.

    Attributes:
        noisy_latents: noisy latents, [B, C, h, w].
        timesteps: timesteps, int64 [B].
        channels: input channels after the noisy latents, [B, K, h, w] (`Condition.channels`).
        features: features of the exemplars from the frozen tower, [B, *ConditionKind.feature_shape]; None
            without an exemplar.
        dropped: rows that get the exemplar's null tokens, bool [B].
        target: noise, or velocity √ā_t · noise − √(1 − ā_t) · z, float32 [B, C, h, w].
        weight: weight of each squared error, float32 [B, 1, h, w] or [B, 1, 1, 1]; None = 1.
        text: tokens of the prompts, [B, n, D]; None without prompts.
        null_text: tokens of no prompt, [1, n, D].
        text_dropped: rows that get these, bool [B].
        cells: weight of each cell in the samples' errors, float32 [B, 1, h, w], with mean 1; None = 1.
        levels: levels of the low-resolution pictures' noise, int64 [B]; None without these pictures.
        pooled_text: vectors of the prompts, [B, D], for a noised encoder that compares with them.
    """

    noisy_latents: Tensor
    timesteps: Tensor
    channels: Tensor
    features: Tensor | None
    dropped: Tensor
    target: Tensor
    weight: Tensor | None = None
    text: Tensor | None = None
    null_text: Tensor | None = None
    text_dropped: Tensor | None = None
    cells: Tensor | None = None
    levels: Tensor | None = None
    pooled_text: Tensor | None = None


@dataclass(frozen=True)
class Task:
    """The functions that define what a run learns.

    Attributes:
        trainee: function from a model to its trained part, one module that maps a `Step` to a prediction.
        prepare: function (model, noise scheduler, batch, draws, device, objective) -> `Step`, which calls the
            frozen networks.
        loss: function (prediction, step) -> float32 scalar.
        errors: function (prediction, step) -> float32 [B], the error of each sample without weights and
            gradient, for validation and the losses by noise level.
        sick: function (prediction, step) -> bool [B], the samples whose error is not finite.
        made_up: function (config, make) -> `Step` with the run's shapes and values from `make(*shape)`.
        told: function (config, step) -> the same samples told more or less, by name; validation measures
            each; "" for what all runs have.
    """

    trainee: Callable[[EditModel], nn.Module]
    prepare: Callable[..., Step]
    loss: Callable[[Tensor, Step], Tensor]
    errors: Callable[[Tensor, Step], Tensor]
    sick: Callable[[Tensor, Step], Tensor]
    made_up: Callable[[TrainConfig, MakeTensor], Step]
    told: Callable[[TrainConfig, Step], dict[str, Step]] = lambda config, step: {"": step}


def task_of(config: TrainConfig) -> Task:
    """The task of a run; `config.TASKS` lists them."""
    return cast(Task, import_module(TASKS[config.task]).TASK)
