"""DeepSpeed's settings, derived from ours, and the one optimizer step that hides its corners."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from training.config import BatchShape, TrainConfig, zero_stage_of
from training.model.frozen import halve_base
from training.objective.task import Step, Task
from training.optimizer.ema import EmaAdamW
from training.optimizer.fragments import begin
from training.optimizer.moments8 import EightBitAdamW
from training.option_groups import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """The learning rate of the update that follows `step` finished updates.

    Linear from warmup_start × lr at step 0 to lr at warmup_steps, then constant: the schedule Paint by
    Example was trained with. With decay_until it falls from there to decay_to × lr at that step, in a line or
    in half a cosine wave (Loshchilov & Hutter 2017, equation 5).
    """
    if step < config.warmup_steps:
        return config.lr * _between(config.warmup_start, 1.0, step / config.warmup_steps)
    if config.decay_until is None:
        return config.lr
    done = (step - config.warmup_steps) / (config.decay_until - config.warmup_steps)
    done = min(done, 1.0)
    return config.lr * _between(1.0, config.decay_to, done if config.decay == "linear" else _wave(done))


def _between(start: float, end: float, share: float) -> float:
    return start + (end - start) * share


def _wave(share: float) -> float:
    """From 0 to 1, flat at both ends."""
    return (1.0 - math.cos(math.pi * share)) / 2


def deepspeed_config(config: TrainConfig, shape: BatchShape) -> dict[str, Any]:
    """DeepSpeed's own configuration for a run; every value follows from `config`."""
    stage = zero_stage_of(config, shape.world)
    settings: dict[str, Any] = {
        "train_batch_size": shape.global_batch,
        "train_micro_batch_size_per_gpu": shape.micro,
        "gradient_accumulation_steps": shape.accum,
        "gradient_clipping": (config.optimizer.grad_clip or 0.0) if stage else 0.0,  # see `_check_and_clip`
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # it would compile for a minute and is no faster than torch's
        "steps_per_print": None,
    }
    if config.speed.overlap_comm:
        settings["zero_optimization"]["overlap_comm"] = True
    if config.offload_optimizer:
        pin = torch.cuda.is_available()
        settings["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": pin}
    if config.precision == "bf16":
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    return settings


def make_optimizer(config: TrainConfig, params: Iterable[nn.Parameter]) -> EmaAdamW:
    """AdamW over `params`, one group, with averaged weights if the config has them.

    Raises:
        UserError: for moments in 8 bits without torchao.
    """
    options = config.optimizer
    settings: dict[str, Any] = {
        "lr": learning_rate(options, 0),
        "betas": options.betas,
        "eps": options.eps,
        "weight_decay": options.weight_decay,
        "fused": True,
    }
    kind = EightBitAdamW if options.moments == "8bit" else EmaAdamW
    return kind(params, **options.averages, foreach_averages=config.speed.foreach_averages, **settings)


def start_engine(config: TrainConfig, shape: BatchShape, trainee: nn.Module) -> Any:
    """The DeepSpeed engine around the trained part. Collective; torch.distributed must have been started."""
    import deepspeed

    params = [param for param in trainee.parameters() if param.requires_grad]
    engine, *_ = deepspeed.initialize(
        model=trainee,
        optimizer=make_optimizer(config, params),
        model_parameters=params,
        config=deepspeed_config(config, shape),
        dist_init_required=False,
    )
    if shape.world == 1 and engine.zero_optimization_stage() == 0:
        engine.enable_backward_allreduce = False  # it copies all gradients into a buffer and back
    begin(engine)
    if config.lora and config.lora.base == "bf16":
        halve_base(trainee)  # DeepSpeed takes modules of one precision only
    return engine


def backward(engine: Any, task: Task, step: Step, last: bool) -> tuple[Tensor, Tensor]:
    """One micro-batch forwards and backwards.

    A loss that is not finite makes the whole gradient NaN, on all ranks once they have exchanged it, so that
    `take_step` needs to look at nothing but the gradient's norm.

    Args:
        engine: accumulates the gradient.
        task: task whose loss is computed.
        step: the micro-batch.
        last: whether it is the optimizer step's last one, which `take_step` must follow.

    Returns:
        The loss, without gradient, and bool [B]: samples whose error is not finite.
    """
    prediction = engine(step)
    loss = task.loss(prediction, step)
    engine.backward(loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan))
    if not last:
        engine.step()  # DeepSpeed counts micro-batches here and updates nothing yet
    return loss.detach(), task.sick(prediction, step)


@dataclass(frozen=True)
class Update:
    """What one optimizer step did.

    Attributes:
        lr: the learning rate.
        grad_norm: norm of the whole gradient, before clipping.
        applied: false where the gradient was not finite: no rank has updated anything.
    """

    lr: float
    grad_norm: Tensor | float
    applied: bool


def take_step(engine: Any, config: TrainConfig, step: int) -> Update:
    """Finish optimizer step number `step` (0 for the first), after the last micro-batch's backward pass."""
    lr = learning_rate(config.optimizer, step)
    for group in engine.optimizer.param_groups:
        group["lr"] = lr
    grad_norm = None
    if engine.zero_optimization_stage() == 0:
        grad_norm = _check_and_clip(engine, config.optimizer.grad_clip)
    engine.step()
    norm = engine.get_global_grad_norm() if grad_norm is None else grad_norm
    return Update(lr, norm, engine.was_step_applied())


def _check_and_clip(engine: Any, largest: float | None) -> float:
    """The gradient's norm, which DeepSpeed neither gives nor looks at in stage 0, and clips by on its own."""
    params = [param for param in engine.module.parameters() if param.grad is not None]
    norm = get_total_norm([param.grad for param in params])
    value = float(norm)
    engine.optimizer.overflow = not math.isfinite(value)
    if largest is not None and value > largest:
        clip_grads_with_norm_(params, largest, norm)
    return value
