"""The base: weights of the trained part that stay as the files have them. Checkpoints leave them out.

A run with adapters trains 2.4 million weights beside 921 million that lie in its model folder already. A hash
of them is in every checkpoint, so that a run does not go on over another base; and one of autoencoder and
CLIP, which are in no run's checkpoints.
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
    """Whether checkpoints leave a parameter out."""
    return getattr(param, _MARK, False)


def mark_base(model: EditModel, config: TrainConfig) -> None:
    """Mark what is frozen and comes from a file: all that a run can have again without its checkpoint.

    What began at random is not marked, even if it is frozen: another processor may draw other numbers.
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
    """Let checkpoints hold these again."""
    for param in params:
        setattr(param, _MARK, False)


def base_hash(model: EditModel) -> str:
    """The sha256 of the marked weights and their names; empty where none is. Before ZeRO shards them."""
    marked = [(name, param) for name, param in model.named_parameters() if is_of_base(param)]
    parts = [[name, sha256_bytes(_bytes(param))] for name, param in marked]
    return fingerprint(parts) if parts else ""


def content_hashes(model: EditModel, world: World) -> dict[str, str]:
    """What no checkpoint holds, for `fresh_state`: a second of work or three, and only rank 0 compares."""
    return {"base_hash": base_hash(model), "frozen_hash": frozen_hash(model)} if world.is_main else {}


def _bytes(param: nn.Parameter) -> memoryview:
    flat = param.detach().to("cpu", torch.float32).contiguous().flatten()
    return memoryview(flat.numpy()).cast("B")
