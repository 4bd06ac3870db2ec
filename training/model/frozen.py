"""Freeze weights: parts named in the config, weights without gradient, and the frozen networks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from intarsia.conditions.one_token import cannot_learn
from intarsia.errors import UsageError
from intarsia.model import EditModel

_EXACT = "_exact_weights"  # attribute for the exact weights of a halved network, on the CPU


def freeze_parts(trainee: nn.Module, parts: Sequence[str]) -> int:
    """Freeze the named parts of the trained part; return the number of weights frozen.

    Args:
        trainee: trained part, whose parameters have names such as unet.conv_in.weight.
        parts: names, beginnings of names up to a dot (unet.down_blocks), or patterns of these with *.

    Raises:
        UsageError: for a part without weights, and if no weight is left to train.
    """
    weights = dict(trainee.named_parameters())
    before = _trained(trainee)
    for part in parts:
        names = [name for name in weights if fnmatchcase(name, part) or fnmatchcase(name, f"{part}.*")]
        if not names:
            known = sorted({".".join(name.split(".")[:2]) for name in weights})
            raise UsageError(f"freeze={part}: the model has no such part; it has {', '.join(known)}")
        for name in names:
            weights[name].requires_grad_(False)
    if not _trained(trainee):
        raise UsageError(f"freeze={', '.join(parts)} leaves nothing to train; remove a part")
    return before - _trained(trainee)


def _trained(module: nn.Module) -> int:
    return sum(param.numel() for param in module.parameters() if param.requires_grad)


def freeze_unused(model: EditModel) -> int:
    """Freeze the UNet's weights that get no gradient with the model's condition; return their number."""
    before = _trained(model)
    for name, param in model.unet.named_parameters():
        if cannot_learn(name, model.config.num_tokens):
            param.requires_grad_(False)
    return before - _trained(model)


def halve_frozen(model: EditModel, keep_exact: bool) -> None:
    """Convert autoencoder and towers to bfloat16: half the memory, and at least twice the speed on GPUs.

    Args:
        model: model whose frozen networks are changed in place.
        keep_exact: whether to keep the exact weights in the CPU's memory, for `exact_frozen`.
    """
    for network in model.frozen_networks.values():
        if keep_exact:
            own = {key: value.detach().to("cpu", copy=True) for key, value in network.state_dict().items()}
            network.__dict__[_EXACT] = own
        _cast(network, torch.bfloat16)


def halve_base(trainee: nn.Module) -> int:
    """Keep the frozen weights of linear layers and convolutions in bfloat16; return the number of weights.

    Autocast rounds them so in every forward pass: no number changes. Norms compute in fp32 and stay so.
    """
    halved = 0
    for layer in trainee.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            for param in layer.parameters(recurse=False):
                if not param.requires_grad:
                    param.data = param.data.to(torch.bfloat16)
                    halved += param.numel()
    return halved


@contextmanager
def exact_frozen(model: EditModel) -> Iterator[None]:
    """Restore the exact weights of halved networks inside the context, so that a saved model is exact."""
    halved = []
    for network in model.frozen_networks.values():
        own: dict[str, Tensor] | None = network.__dict__.get(_EXACT)
        if own is not None:
            halved.append(network)
            _cast(network, torch.float32)
            network.load_state_dict(own)
    try:
        yield
    finally:
        for network in halved:
            _cast(network, torch.bfloat16)


def _cast(network: nn.Module, dtype: torch.dtype) -> None:
    nn.Module.to(network, dtype)  # diffusers' own `to` warns about missing layers
