"""DeepSpeed's settings, derived from ours, and the one optimizer step that hides its corners."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from training.config import BatchShape, TrainConfig
from training.ema import EmaAdamW
from training.objective import Step, Trainee, loss_of
from training.schedule import learning_rate


def deepspeed_config(config: TrainConfig, shape: BatchShape) -> dict[str, Any]:
    """DeepSpeed's own configuration for a run; every value follows from `config`."""
    settings: dict[str, Any] = {
        "train_batch_size": shape.global_batch,
        "train_micro_batch_size_per_gpu": shape.micro,
        "gradient_accumulation_steps": shape.accum,
        "gradient_clipping": config.optimizer.grad_clip or 0.0,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
    }
    if config.precision == "bf16":
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    return settings


def make_optimizer(config: TrainConfig, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW over `params`, one group, with averaged weights where the config asks for them."""
    options = config.optimizer
    settings: dict[str, Any] = {
        "lr": learning_rate(options, 0),
        "betas": options.betas,
        "eps": options.eps,
        "weight_decay": options.weight_decay,
        "fused": True,
    }
    if options.ema_decay is None:
        return torch.optim.AdamW(params, **settings)
    return EmaAdamW(params, ema_decay=options.ema_decay, **settings)


def start_engine(config: TrainConfig, shape: BatchShape, trainee: Trainee) -> Any:
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
    return engine


def backward(engine: Any, step: Step, last: bool) -> Tensor:
    """One micro-batch forwards and backwards; its loss, without gradient.

    Args:
        engine: accumulates the gradient.
        step: the micro-batch.
        last: whether it is the optimizer step's last one, which `take_step` must follow.
    """
    loss = loss_of(engine(step), step)
    engine.backward(loss)
    if not last:
        engine.step()  # DeepSpeed counts micro-batches here and updates nothing yet
    return loss.detach()


@dataclass(frozen=True)
class Update:
    """What one optimizer step did. `grad_norm` is that of the whole gradient before clipping."""

    lr: float
    grad_norm: Tensor | float


def take_step(engine: Any, config: TrainConfig, step: int) -> Update:
    """Finish optimizer step number `step` (0 for the first), after the last micro-batch's backward pass."""
    lr = learning_rate(config.optimizer, step)
    for group in engine.optimizer.param_groups:
        group["lr"] = lr
    plain = config.zero_stage == 0
    grad_norm = _gradient_norm(engine.module) if plain else None  # DeepSpeed gives none at stage 0 in fp32
    engine.step()
    return Update(lr, engine.get_global_grad_norm() if grad_norm is None else grad_norm)


def _gradient_norm(module: nn.Module) -> Tensor:
    norms = [param.grad.norm() for param in module.parameters() if param.grad is not None]
    return torch.stack(norms).norm()
