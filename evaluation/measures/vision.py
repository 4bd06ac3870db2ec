"""Networks that say what a picture shows, for identity: CLIP, DINO and DINOv2 by transformers, DreamSim.

Weights are found by `weights.find_weights` and never fetched.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.measures import resizing
from evaluation.measures.features import Device, Given, runner
from evaluation.measures.measures import Network
from evaluation.measures.metrics import Picture
from evaluation.measures.weights import (
    UNLISTED,
    Kept,
    fact_of,
    find_weights,
    fingerprint_weights,
    is_published,
)
from intarsia.errors import UserError
from intarsia.files import sha256_file
from intarsia.pretrained import weights_file


@dataclass(frozen=True)
class IdentityEncoder:
    """A network from pictures to a vector.

    Attributes:
        network: normalised pictures [B, 3, 224, 224] -> vectors [B, D].
        square: function from a picture, squashed to 224 × 224 by Pillow's bicubic, to the network's input.
        pooler: network to the folder's own pooler, if its weights have one; only DINO.
    """

    network: Network
    square: Callable[[Picture], NDArray[np.float32]]
    pooler: Network | None = None


def identity_encoder(
    name: str, given: Given | None = None, device: Device = "cpu", kept: Kept | None = None
) -> IdentityEncoder:
    """`dino-s16`, `dinov2-b14` or `dinov2-l14`: the class token after the last LayerNorm.

    Raises:
        UserError: if the weights are not found, or are of another network.
    """
    folder = find_weights(name, given)
    loaded = cache(lambda: _load(name, folder, device))

    def described() -> str:
        model, pooled = loaded()
        state = {key: value for key, value in model.state_dict().items() if not key.startswith("pooler.")}
        return f"{fingerprint_weights(state)} {'pooler' if pooled else 'plain'}"

    file = weights_file(folder, "model", "pytorch_model")
    weights, pooled = fact_of(f"{name}/v1", [file, folder / "config.json"], described, kept).split(" ")
    fingerprint = ("" if is_published(name, file, kept) else UNLISTED) + weights
    network = Network(
        name, fingerprint, runner(lambda x: loaded()[0](pixel_values=x).last_hidden_state[:, 0], device)
    )
    pooler = Network(
        f"{name}-pooler", fingerprint, runner(lambda x: loaded()[0](pixel_values=x).pooler_output, device)
    )
    return IdentityEncoder(network, resizing.imagenet_square, pooler if pooled == "pooler" else None)


def _load(name: str, folder: Path, device: Device) -> tuple[Any, bool]:
    """The model, and whether its weights have a pooler."""
    if not torch.cuda.is_available():  # transformers imports an installed DeepSpeed, which remarks on it
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from transformers import Dinov2Model, ViTModel
    from transformers.utils import logging as remarks

    remarks.disable_progress_bar()
    level = remarks.get_verbosity()
    remarks.set_verbosity_error()  # its table of weights that are missing; those that matter are refused here
    kind = Dinov2Model if name.startswith("dinov2") else ViTModel
    try:
        model, report = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder} cannot be read as the folder of {name}: {reason}") from None
    finally:
        remarks.set_verbosity(level)
    missing = [key for key in report["missing_keys"] if not key.startswith("pooler.")]
    if missing:  # transformers would fill them with random numbers
        raise UserError(f"{folder} lacks {len(missing)} weights (first {missing[0]}); give a whole folder")
    pooled = kind is ViTModel and len(missing) == len(report["missing_keys"])
    return model.float().eval().to(device), pooled


def dreamsim(given: Given | None = None, device: Device = "cpu", kept: Kept | None = None) -> Network:
    """DreamSim's distance: pairs [B, 2, 3, 224, 224] in [0, 1] -> [B], from a TorchScript file of the user.

    Raises:
        UserError: if the file is not found, or is not such a network.
    """
    path = find_weights("dreamsim", given)
    try:
        module = torch.jit.load(str(path), map_location=device).eval()
        with torch.inference_mode():
            shape = tuple(module(*(torch.zeros(2, 3, 224, 224, device=device),) * 2).shape)
    except (RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} is not a TorchScript of two batches of pictures: {reason}; docs/evaluation.md shows how "
            "to make one"
        ) from None
    if shape != (2,):
        raise UserError(f"{path} gives {list(shape)} for two pairs of pictures; one number each is needed")
    run = runner(lambda pairs: module(pairs[:, 0], pairs[:, 1]), device)
    return Network("dreamsim", UNLISTED + (sha256_file if kept is None else kept.hash_of)(path)[:12], run)
