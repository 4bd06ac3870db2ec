"""The base: frozen weights of the trained part that come from files and are not saved in checkpoints.

A run with adapters trains 2.4 million weights; the 921 million others are already in its model folder. Every
checkpoint has a hash of them, so that a run does not continue with another base, and a hash of autoencoder
and CLIP, which no checkpoint contains.
"""

from collections.abc import Iterable

import torch
from torch import nn

from intarsia.files import fingerprint, sha256_bytes
from intarsia.model import EditModel
from training.config import TrainConfig
from training.data.latents import frozen_hash
from training.ranks.distributed import World

_MARK = "_of_base"


def is_of_base(param: nn.Parameter) -> bool:
    """Whether checkpoints omit a parameter."""
    return getattr(param, _MARK, False)


def mark_base(model: EditModel, config: TrainConfig) -> None:
    """Mark frozen weights that come from a file, which a run can load again without its checkpoint.

    Frozen weights with random values are not marked, because another processor may draw other numbers.
    """
    init = config.model.init
    for network, source in (
        (model.unet, init.model_folder or init.stable_diffusion),
        (model.exemplar_encoder, init.model_folder),
    ):
        for param in network.parameters():
            if source and not param.requires_grad:
                setattr(param, _MARK, True)


def unmark(params: Iterable[nn.Parameter]) -> None:
    """Include these parameters in checkpoints again."""
    for param in params:
        setattr(param, _MARK, False)


def base_hash(model: EditModel) -> str:
    """The sha256 of the marked weights and their names; empty if there are none. Call it before ZeRO."""
    marked = [(name, param) for name, param in model.named_parameters() if is_of_base(param)]
    parts = [[name, sha256_bytes(_bytes(param))] for name, param in marked]
    return fingerprint(parts) if parts else ""


def content_hashes(model: EditModel, world: World) -> dict[str, str]:
    """The hashes of weights outside checkpoints for `fresh_state`; rank 0 only, in one to three seconds."""
    return {"base_hash": base_hash(model), "frozen_hash": frozen_hash(model)} if world.is_main else {}


def _bytes(param: nn.Parameter) -> memoryview:
    flat = param.detach().to("cpu", torch.float32).contiguous().flatten()
    return memoryview(flat.numpy()).cast("B")
