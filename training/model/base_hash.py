"""The base: frozen weights of the trained part that come from files and are not saved in checkpoints.

A run with adapters trains 2.4 million weights; the 921 million others are already in its model folder. Every
checkpoint has a hash of them, so that a run does not continue with another base, and a hash of autoencoder
and towers, which no checkpoint contains.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from intarsia.files import fingerprint, sha256_bytes
from intarsia.model import EditModel
from intarsia.model_folder import frozen_hash
from training.config import TrainConfig
from training.ranks.distributed import World

_MARK = "_of_base"
_SAMPLES = 16  # values of each weight


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
        for param in network.parameters() if network is not None else ():
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
    if not world.is_main:
        return {}
    text = [] if model.text_encoder is None else [model.text_encoder]
    return {"base_hash": base_hash(model), "frozen_hash": frozen_hash(model, *text)}


def weights_facts(model: EditModel, config: TrainConfig) -> dict[str, str]:
    """A hash of a few values of each weight that came from a file, by network; for `agreement.agree`.

    Enough to tell other weights apart, in milliseconds; all of them would cost every rank a second or three.
    What began at random is left out: another processor may draw other numbers, and of what is trained rank 0
    sends its own to all.
    """
    init = config.model.init
    sources = {
        "unet": init.model_folder or init.stable_diffusion,
        "vae": init.model_folder or init.vae or init.stable_diffusion,
        "image_encoder": init.model_folder or init.image_encoder,
        "exemplar_encoder": init.model_folder,
        "text_encoder": init.model_folder or init.stable_diffusion,
    }
    facts = {
        f"the weights of {name}": _sample_hash(model.get_submodule(name)) if source else "random"
        for name, source in sources.items()
        if getattr(model, name) is not None
    }
    if model.tokenizer is not None:
        facts["the tokenizer"] = model.tokenizer.digest[:12]
    return facts


@torch.no_grad()
def _sample_hash(network: nn.Module) -> str:
    names, samples = [], []
    for name, param in network.named_parameters():
        if ".lora_" not in name:
            stored = param.as_strided((param.numel(),), (1,), param.storage_offset())  # in any memory format
            names.append([name, list(param.shape)])
            samples.append(stored[:: -(-param.numel() // _SAMPLES)].float())
    return fingerprint([names, sha256_bytes(_bytes(torch.cat(samples)))])[:12]


def _bytes(param: Tensor) -> memoryview:
    flat = param.detach().to("cpu", torch.float32).contiguous().flatten()
    return memoryview(flat.numpy()).cast("B")
