"""What is not trained: parts that the config names, weights that cannot learn, and the frozen networks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from intarsia.conditions.one_token import cannot_learn
from intarsia.errors import UsageError
from intarsia.model import EditModel

_FROZEN_NETWORKS = ("vae", "image_encoder")
_EXACT = "_exact_weights"  # where a halved network keeps its own weights, on the CPU


def freeze_parts(trainee: nn.Module, parts: Sequence[str]) -> int:
    """Freeze the named parts of what is trained; return how many weights that are.

    Args:
        trainee: its parameters' names are meant, such as unet.conv_in.weight.
        parts: a name, the beginning of names up to a dot (unet.down_blocks), or a pattern with * for either.

    Raises:
        UsageError: for a part that no weight belongs to, and if nothing is left to train.
    """
    weights = dict(trainee.named_parameters())
    before = _trained(trainee)
    for part in parts:
        names = [name for name in weights if fnmatchcase(name, part) or fnmatchcase(name, f"{part}.*")]
        if not names:
            known = sorted({".".join(name.split(".")[:2]) for name in weights})
            raise UsageError(f"freeze={part}: the model has no such part; there are {', '.join(known)}")
        for name in names:
            weights[name].requires_grad_(False)
    if not _trained(trainee):
        raise UsageError(f"freeze={', '.join(parts)} leaves nothing to train; remove a part")
    return before - _trained(trainee)


def _trained(module: nn.Module) -> int:
    return sum(param.numel() for param in module.parameters() if param.requires_grad)


def freeze_unused(model: EditModel) -> int:
    """Freeze the UNet's weights that the model's condition gives no gradient; return how many that are."""
    before = _trained(model)
    for name, param in model.unet.named_parameters():
        if cannot_learn(name, model.config.num_tokens):
            param.requires_grad_(False)
    return before - _trained(model)


def halve_frozen(model: EditModel, keep_exact: bool) -> None:
    """Let the autoencoder and CLIP compute in bfloat16: half the memory, and twice the speed or more on GPUs.

    Args:
        model: its frozen networks are changed in place.
        keep_exact: whether `exact_frozen` will be asked for; their own weights then stay in the CPU's memory.
    """
    for name in _FROZEN_NETWORKS:
        network = model.get_submodule(name)
        if keep_exact:
            own = {key: value.detach().to("cpu", copy=True) for key, value in network.state_dict().items()}
            network.__dict__[_EXACT] = own
        _cast(network, torch.bfloat16)


@contextmanager
def exact_frozen(model: EditModel) -> Iterator[None]:
    """Inside the block halved networks have their own weights again, so that a saved model lost nothing."""
    halved = []
    for name in _FROZEN_NETWORKS:
        network = model.get_submodule(name)
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
    nn.Module.to(network, dtype)  # diffusers' own `to` warns of layers that are not there
