"""Count the arithmetic and the memory of a training step on tensors without content.

Every operation runs on fake tensors (torch's `FakeTensorMode`: meta tensors with a nominal device), so the
real model is counted in seconds on any machine, without memory for its weights.
"""

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from intarsia.conditioning import encode_latents
from intarsia.model import EditModel
from intarsia.towers.text import read_text
from training.config import TrainConfig, stores_features
from training.estimate.linear import linear_flops
from training.model.build import choose_trained
from training.model.speed import fp8_layers
from training.objective.task import task_of

_aten = torch.ops.aten


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))


# The attention operations of fake CPU tensors, which torch's counter lacks; it calls these with shapes.
_CPU_ATTENTION = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


@dataclass(frozen=True)
class Counts:
    """Counts of one rank's micro-batch, forward and backward pass.

    Attributes:
        trained, frozen: numbers of weights.
        frozen_bytes: bytes of the frozen weights, in the precision of their computation.
        flops: floating-point operations per sample by part: vae, clip (the image tower), text (the text tower
            of a model that is told text), forward, backward. A multiplication
            and an addition count as two; only matrix products, convolutions and attention are counted.
        saved_bytes: bytes that the forward pass saves for the backward pass (`saved_tensors_hooks`), without
            weights.
        step_bytes: peak bytes during forward and backward pass, without weights and gradients.
        step_and_grads_bytes: peak bytes during forward and backward pass, without weights, with gradients.
        encode_bytes: peak bytes while the frozen networks run, without weights.
        fp8_flops: floating-point operations per sample of the layers that `speed.fp8` converts; part of
            forward and backward; 0 without `speed.fp8`.
    """

    trained: int
    frozen: int
    frozen_bytes: int
    flops: dict[str, float]
    saved_bytes: int
    step_bytes: int
    step_and_grads_bytes: int
    encode_bytes: int
    fp8_flops: float = 0.0


class LiveBytes(TorchDispatchMode):
    """Count the bytes of all storages that operations create inside the context, while they exist.

    Args:
        known: modules whose weights are not counted.
    """

    def __init__(self, *known: nn.Module) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes = {_storage(param): 0 for module in known for param in module.parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count the storages that it creates."""
        out = func(*args, **(kwargs or {}))
        for value in tree_iter(out):
            # Views and in-place results share a storage that is already counted; `known` weights have size 0.
            if isinstance(value, Tensor) and _storage(value) not in self._sizes:
                storage = value.untyped_storage()
                self._sizes[_storage(value)] = storage.nbytes()
                self.live += storage.nbytes()
                weakref.finalize(storage, self._died, _storage(value))
        self.peak = max(self.peak, self.live)
        return out

    def _died(self, storage: int) -> None:
        self.live -= self._sizes.pop(storage)


def count(config: TrainConfig, on_gpu: bool = True) -> Counts:
    """Count a micro-batch of a run.

    Args:
        config: config of the run; nothing is read from disk.
        on_gpu: whether to count bf16 with CUDA's rules, where norms compute and return fp32.
    """
    model = _described(config)
    with FakeTensorMode(), torch.device("cpu"):
        trainee = _networks(model, config, on_gpu)
        frozen_flops, encode_bytes = _count_frozen(model, config)
        compute = _computation(trainee, config)
        with linear_flops(fp8_layers(model.unet) if config.speed.fp8 else ()) as in_fp8:
            trained_flops = _count_trained(trainee, compute, config.micro_batch_size)
        saved, peak, peak_with_gradients = _count_memory(trainee, compute)
        sizes = [(param.numel(), param.nbytes, param.requires_grad) for param in model.parameters()]
    return Counts(
        trained=sum(number for number, _, trained in sizes if trained),
        frozen=sum(number for number, _, trained in sizes if not trained),
        frozen_bytes=sum(size for _, size, trained in sizes if not trained),
        flops=frozen_flops | trained_flops,
        saved_bytes=saved,
        step_bytes=peak,
        step_and_grads_bytes=peak_with_gradients,
        encode_bytes=encode_bytes,
        fp8_flops=in_fp8.total / config.micro_batch_size,
    )


def count_flops(config: TrainConfig) -> dict[str, float]:
    """Floating-point operations per sample by part, as in `Counts`: the fast part of `count`."""
    model = _described(config)
    with FakeTensorMode(), torch.device("cpu"):
        trainee = _networks(model, config, on_gpu=False)
        frozen, _ = _count_frozen(model, config)
        return frozen | _count_trained(trainee, _computation(trainee, config), config.micro_batch_size)


def _described(config: TrainConfig) -> EditModel:
    """The model without weights, on meta tensors, because adapters cannot be added to fake tensors."""
    with torch.device("meta"):
        model = EditModel(config.model)
        choose_trained(model, config)
    return model


def _networks(model: EditModel, config: TrainConfig, on_gpu: bool) -> nn.Module:
    _fake(model)
    trainee = task_of(config).trainee(model)
    if config.precision == "bf16":
        # Fake CPU tensors follow the CPU's autocast rules, where norms keep bf16.
        if on_gpu:
            _norms_in_fp32(trainee)
        for network in model.frozen_networks.values():
            _halve(network)
    if config.lora and config.lora.base == "bf16":
        for layer in trainee.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                _halve(layer, frozen_only=True)
    return trainee


def _computation(trainee: nn.Module, config: TrainConfig) -> Callable[[], Tensor]:
    """A function that runs the forward pass of a micro-batch without content and returns its loss."""
    task = task_of(config)
    step = task.made_up(config, torch.empty)

    def compute() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16) if config.precision == "bf16" else nullcontext():
            prediction = trainee(step)
        return task.loss(prediction, step)

    return compute


def _count_frozen(model: EditModel, config: TrainConfig) -> tuple[dict[str, float], int]:
    """FLOPs per sample of autoencoder (both pictures) and towers, and the peak bytes."""
    samples, side = config.micro_batch_size, config.model.exemplar_size
    image = torch.empty(samples, 3, config.model.image_size, config.model.image_size)
    exemplar = torch.empty(samples, 3, side, side)
    # One batch is encoded here; a step encodes two, one after the other, so the peak is the same.
    with torch.no_grad(), LiveBytes(model) as memory:
        with _flops() as vae:
            encode_latents(model.vae, image.to(model.vae.dtype), None)
        with _flops() as clip:
            if model.image_encoder is not None:
                model.encode_exemplar(exemplar.to(model.image_encoder.dtype))
        with _flops() as text:
            if model.text_encoder is not None:
                length = config.model.text_encoder.max_position_embeddings
                read_text(model.text_encoder, torch.zeros(samples, length, dtype=torch.int64))
    # Stored latents replace both pictures; with redraw, the masked picture is still encoded. Of many tokens
    # they replace the image tower only on request.
    fresh = config.data.redraw or config.data.recipe is not None
    asked = 1.0 if not config.data.latents else 0.5 if fresh else 0.0
    parts = {
        "vae": asked * 2 * vae.get_total_flops() / samples,
        "clip": (1.0 if asked or not stores_features(config) else 0.0) * clip.get_total_flops() / samples,
    }
    if model.text_encoder is not None:
        parts["text"] = text.get_total_flops() / samples
    return parts, memory.peak + 2 * image.nbytes + exemplar.nbytes


def _flops() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)


def _count_trained(trainee: nn.Module, compute: Callable[[], Tensor], samples: int) -> dict[str, float]:
    """FLOPs per sample of the trained part."""
    with _flops() as counter:
        loss = compute()
        forward = counter.get_total_flops()
        loss.backward()
    _drop_gradients(trainee)
    return {"forward": forward / samples, "backward": (counter.get_total_flops() - forward) / samples}


def _count_memory(trainee: nn.Module, compute: Callable[[], Tensor]) -> tuple[int, int, int]:
    """Bytes saved by the forward pass, and the peak bytes without and with gradients."""
    # Saved weights take no extra memory, and several saved tensors may share one storage.
    weights = {_storage(param) for param in trainee.parameters()}
    saved: dict[int, int] = {}  # bytes of storages that are still there

    def note(tensor: Tensor) -> Tensor:
        key, storage = _storage(tensor), tensor.untyped_storage()
        if key not in weights and key not in saved:
            saved[key] = storage.nbytes()
            weakref.finalize(storage, saved.pop, key)
        return tensor

    # First pass: gradients stay until the end, as in ZeRO stages 0 and 1.
    with LiveBytes(trainee) as with_gradients:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = compute()
        kept = sum(saved.values())
        loss.backward()
    _drop_gradients(trainee)
    # Second pass: each gradient is given away at once, as in stages 2 and 3.
    with _gradients_dropped(trainee), LiveBytes(trainee) as without:
        compute().backward()
    return kept, without.peak, with_gradients.peak


def _gradients_dropped(module: nn.Module) -> AbstractContextManager:
    """Drop each gradient inside the context as soon as it is computed."""

    def forget(param: Tensor) -> None:
        param.grad = None

    handles = [
        param.register_post_accumulate_grad_hook(forget)
        for param in module.parameters()
        if param.requires_grad
    ]
    return _Undo(lambda: [handle.remove() for handle in handles])


class _Undo(AbstractContextManager):
    def __init__(self, undo: Callable[[], Any]) -> None:
        self._undo = undo

    def __exit__(self, *_: object) -> None:
        self._undo()


def _fake(network: nn.Module) -> None:
    for module in network.modules():  # `to_empty` cannot make fake tensors from meta tensors
        for name, param in module._parameters.items():
            if param is not None:
                empty = torch.empty(param.shape, dtype=param.dtype)
                module._parameters[name] = nn.Parameter(empty, requires_grad=param.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _halve(network: nn.Module, frozen_only: bool = False) -> None:
    for module in network.modules():  # `to` cannot convert weights that are fake tensors
        for name, param in module._parameters.items():
            if param is not None and not (frozen_only and param.requires_grad):
                module._parameters[name] = nn.Parameter(param.to(torch.bfloat16), requires_grad=False)


def _norms_in_fp32(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.GroupNorm | nn.LayerNorm):
            part.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(), *inputs[1:]))


def _drop_gradients(module: nn.Module) -> None:
    for param in module.parameters():
        param.grad = None


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
