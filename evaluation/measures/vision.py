"""Networks that say what a picture shows, for identity: CLIP, DINO and DINOv2 by transformers, DreamSim.

Weights are found by `weights.find_weights` and never fetched.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.measures import resizing
from evaluation.measures.features import Device, Given, runner
from evaluation.measures.hub_folders import fingerprint_network, load_vision
from evaluation.measures.measures import Network
from evaluation.measures.metrics import Picture
from evaluation.measures.weights import (
    UNLISTED,
    Kept,
    fact_of,
    find_weights,
    fingerprint_weights,
    hash_of,
    is_published,
)
from intarsia.errors import UserError
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
    file = weights_file(folder, "model", "pytorch_model")
    loaded = cache(lambda: load_vision(name, folder, file))
    model = cache(lambda: loaded().model.to(device))

    def described() -> str:
        network = loaded()
        if not name.startswith("dinov2"):  # which interpolates its positions
            resizing.check_side(name, network.fields["image_size"])
        state = network.model.state_dict()
        pooled = not network.missing and any(key.startswith("pooler.") for key in state)
        weights = {key: value for key, value in state.items() if not key.startswith("pooler.")}
        own = fingerprint_network(fingerprint_weights(weights), network.fields)
        return f"{own} {fingerprint_network(network.weights, network.fields) if pooled else 'plain'}"

    own, pooled = fact_of(f"{name}/v2", [file, folder / "config.json"], described, kept).split(" ")
    mark = "" if is_published(name, file, kept) else UNLISTED
    network = Network(
        name, mark + own, runner(lambda x: model()(pixel_values=x).last_hidden_state[:, 0], device)
    )
    pooler = Network(
        f"{name}-pooler", mark + pooled, runner(lambda x: model()(pixel_values=x).pooler_output, device)
    )
    return IdentityEncoder(network, resizing.imagenet_square, None if pooled == "plain" else pooler)


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
    return Network("dreamsim", UNLISTED + hash_of(path, kept)[:12], run)
