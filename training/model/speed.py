"""Speed options for a GPU, each with its own switch: number formats, memory layouts, compiled parts."""

import logging
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intarsia.errors import UserError
from training.config import TrainConfig
from training.option_groups import SpeedConfig

_log = logging.getLogger(__name__)
_FP8_MULTIPLE = 16  # fp8 tensor cores need matrix sides that are multiples of it


class HalfGroupNorm(nn.GroupNorm):
    """Group normalisation that returns the dtype of its input; its sums are still fp32.

    Under autocast, torch's own layer returns fp32, so that every convolution has to cast its input again.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, ...] -> the same shape and dtype."""
        weight, bias = _cast(self, input.dtype)
        with _as_it_is(input):
            return F.group_norm(input, self.num_groups, weight, bias, self.eps)


class HalfLayerNorm(nn.LayerNorm):
    """Layer normalisation that returns the dtype of its input; its sums are still fp32."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., width] -> the same shape and dtype."""
        weight, bias = _cast(self, input.dtype)
        with _as_it_is(input):
            return F.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


def set_number_formats(speed: SpeedConfig, device: torch.device) -> None:
    """Set the switches of the whole process, and log switches without effect on this device.

    Args:
        speed: switches of the run.
        device: device of the computation.
    """
    on = [name for name in SpeedConfig.model_fields if getattr(speed, name) not in (False, "default")]
    if on and device.type != "cuda":
        _log.info("speed.%s: little or no effect on a %s", ", speed.".join(on), device.type.upper())
    # torch's own default is TF32 in convolutions and not in matrix products.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = speed.tf32
    if speed.tf32:
        _log.info("fp32 matrix products and convolutions use TF32: 10 bits of mantissa")
    if speed.cudnn_benchmark:
        torch.backends.cudnn.benchmark = True


def lay_out(unet: nn.Module, speed: SpeedConfig) -> None:
    """Change the UNet's layers by the switches; names, values and layout of the weights do not change.

    Convolutions answer with the channels last where their input has them last, so it is enough to hand the
    UNet such an input. Its weights stay as they are, since optimizers and checkpoints see them flat.

    Raises:
        UserError: for fp8 without torchao or without a GPU that supports it.
    """
    if speed.channels_last:
        unet.register_forward_pre_hook(_channels_last_input)
    if speed.half_norms:
        halve_norms(unet)
    if speed.fp8:
        compute_in_fp8(unet)


def _channels_last_input(unet: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return inputs[0].contiguous(memory_format=torch.channels_last), *inputs[1:]


def halve_norms(module: nn.Module) -> int:
    """Make every norm of a module return the dtype of its input; return the number of norms."""
    halved = {nn.GroupNorm: HalfGroupNorm, nn.LayerNorm: HalfLayerNorm}
    norms = [part for part in module.modules() if type(part) in halved]
    for norm in norms:
        norm.__class__ = halved[type(norm)]
    return len(norms)


def compute_in_fp8(module: nn.Module, **options: Any) -> int:
    """Make linear layers multiply in fp8 with dynamic scales (torchao); return the number of layers.

    Args:
        module: network to change in place; weights keep their dtype.
        options: options of torchao's `Float8LinearConfig`.

    Raises:
        UserError: if torchao is not installed or the GPU does not support fp8.
    """
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError as error:
        raise UserError(
            "speed.fp8=true needs torchao, which is not installed; install it with: python -m pip install "
            f"torchao ({error})"
        ) from None
    if not options and torch.cuda.get_device_capability() < (8, 9):
        raise UserError(
            f"speed.fp8=true needs a GPU with fp8 (Ada, Hopper or later), not {torch.cuda.get_device_name()}"
        )

    layers = set(fp8_layers(module))
    # The weight's gradient is a sum over rows, of which the timestep's layers have one per sample.
    settings = Float8LinearConfig(**{"pad_inner_dim": True, **options})
    convert_to_float8_training(module, config=settings, module_filter_fn=lambda layer, _: layer in layers)
    return len(layers)


def fp8_layers(module: nn.Module) -> list[nn.Linear]:
    """The linear layers of a network that `speed.fp8` converts."""
    return [
        layer
        for layer in module.modules()
        if isinstance(layer, nn.Linear)
        and not (layer.in_features % _FP8_MULTIPLE or layer.out_features % _FP8_MULTIPLE)
    ]


def compile_frozen(model: Any, config: TrainConfig, backend: str = "inductor") -> None:
    """Compile the frozen networks with torch.compile; without gradients, they need no gradient check."""
    towers = (model.image_encoder, model.text_encoder)
    for network in (model.vae.encoder, *(tower for tower in towers if tower is not None)):
        network.compile(backend=backend, dynamic=False, **compile_options(config.speed, backend))


def compile_options(speed: SpeedConfig, backend: str = "inductor") -> dict[str, Any]:
    """Options of torch.compile for the run's `compile_mode`; backends other than inductor have none."""
    modes = {"default": None, "max-autotune": "max-autotune-no-cudagraphs", "cuda-graphs": "reduce-overhead"}
    mode = modes[speed.compile_mode]
    return {} if mode is None or backend != "inductor" else {"mode": mode}


def _cast(norm: Any, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    return tuple(None if value is None else value.to(dtype) for value in (norm.weight, norm.bias))  # type: ignore[return-value]


def _as_it_is(input: Tensor) -> Any:
    """A context without autocast, which would compute a norm in fp32."""
    device = input.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
