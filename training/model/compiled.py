"""Compile the UNet block by block with torch.compile, and check the gradients before the run starts.

A whole compiled UNet gave gradients that were wrong by one half, with the correct loss (torch 2.13, inductor
on a CPU); with separately compiled blocks the error was 1.5e-6. A wrong gradient raises no error, so every
run with compilation first compares.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from intarsia.errors import UserError
from training.config import TrainConfig
from training.objective.task import Step, task_of

_BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D")  # almost all of the UNet's arithmetic
_SHAPES = 128  # number of block shapes; above its default limit of 8, torch silently runs uncompiled code
# Largest error of a gradient that rounding can explain, as a share of its norm.
_TOLERANCE = {"fp32": 1e-3, "bf16": 1e-1}


def compile_blocks(unet: nn.Module, backend: str | Callable[..., Any] = "inductor", **options: Any) -> int:
    """Compile each repeated block separately; return the number of blocks. Weight names do not change.

    Args:
        unet: network to change in place, `UNet2DConditionModel`; its first call compiles.
        backend: backend of torch.compile.
        options: further options of torch.compile.
    """
    torch._dynamo.config.recompile_limit = _SHAPES
    blocks = [module for module in unet.modules() if type(module).__name__ in _BLOCKS]
    for block in blocks:
        block.compile(backend=backend, dynamic=False, **options)
    return len(blocks)


def check_gradients(trainee: nn.Module, config: TrainConfig, device: torch.device) -> float:
    """Compare the gradients of the compiled and the uncompiled trained part on a random micro-batch.

    Args:
        trainee: trained part with compiled blocks, on the device; its gradients are removed afterwards.
        config: config of the run; the micro-batch has its shape and precision, so that nothing is compiled
            twice.
        device: device of the trained part.

    Returns:
        The largest error of any weight's gradient (`largest_error`).

    Raises:
        UserError: if rounding cannot explain this error.
    """
    rng = torch.Generator().manual_seed(0)
    step = task_of(config).made_up(config, lambda *shape: torch.randn(shape, generator=rng).to(device))
    with torch.compiler.set_stance("force_eager"):
        plain = _gradients(trainee, step, config, device)
    compiled = _gradients(trainee, step, config, device)
    name, error = largest_error(plain, compiled)
    if not error <= _TOLERANCE[config.precision]:
        raise UserError(
            f"compile: torch {torch.__version__} compiles wrong gradients here ({name} is wrong by "
            f"{error:.1%}, rounding explains {_TOLERANCE[config.precision]:.1%}); set compile=false"
        )
    return error


def largest_error(plain: dict[str, Tensor], compiled: dict[str, Tensor]) -> tuple[str, float]:
    """The weight whose two gradients differ most, and the difference relative to the uncompiled one's norm.

    The divisor is at least one hundredth of the whole gradient's norm, because rounding dominates smaller
    gradients.
    """
    floor = float(torch.stack([gradient.norm() for gradient in plain.values()]).norm()) / 100
    errors = {
        name: float((compiled[name] - gradient).norm()) / max(float(gradient.norm()), floor)
        for name, gradient in plain.items()
    }
    name = max(errors, key=lambda key: (math.isnan(errors[key]), errors[key]))
    return name, errors[name]


def _gradients(
    trainee: nn.Module, step: Step, config: TrainConfig, device: torch.device
) -> dict[str, Tensor]:
    with _precision(config, device):
        loss = task_of(config).loss(trainee(step), step)
    loss.backward()
    found = {name: p.grad.cpu() for name, p in trainee.named_parameters() if p.grad is not None}
    trainee.zero_grad(set_to_none=True)
    return found


def _precision(config: TrainConfig, device: torch.device) -> AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16) if config.precision == "bf16" else nullcontext()
