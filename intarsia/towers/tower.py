"""What a frozen image tower must say of itself: how it is built and read, and what its weights are called."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn

from intarsia.towers.names import WeightNames
from intarsia.towers.settings import ExemplarConfig, ImageEncoderConfig


@dataclass(frozen=True, kw_only=True)
class Tower(WeightNames):
    """One kind of image tower; its row in TOWERS has its normalisation and whether it has a class token.

    Attributes:
        network: function from a geometry to a new network of transformers.
        vector: function (network, its output) -> class vectors of the last layer [B, D].
        patches: function (network, its output) -> patches of the last layer after its norm [B, P, D].
        model_type: transformers' name of its kind.
        more: function from a geometry to the fields of config.json that `ImageEncoderConfig` lacks.
    """

    network: Callable[[ImageEncoderConfig], nn.Module]
    vector: Callable[[Any, Any], Tensor]
    patches: Callable[[Any, Any], Tensor]
    model_type: str
    more: Callable[[ImageEncoderConfig], dict[str, Any]]


def tower_of(exemplar: ExemplarConfig) -> Tower:
    """The tower that looks at the exemplar; `settings.TOWERS` lists them."""
    return cast(Tower, import_module(exemplar.row.module).TOWER)


def look(exemplar: ExemplarConfig, network: Any, pixels: Tensor) -> Tensor:
    """What a tower sees of exemplars.

    Args:
        exemplar: which tower it is, and which of its vectors are wanted from which layer.
        network: the tower's network.
        pixels: normalised exemplars [B, 3, S, S].

    Returns:
        The class vectors [B, D], or the wanted vectors of each exemplar [B, m, D], the class vector first.
    """
    tower, row = tower_of(exemplar), exemplar.row
    if exemplar.layer == -1:
        output = network(pixel_values=pixels)
        vector, patches = tower.vector, tower.patches
    else:  # hidden_states holds the embeddings and the output of each layer, without the tower's norm
        output = network(pixel_values=pixels, output_hidden_states=True).hidden_states[exemplar.layer]
        vector, patches = _first, (_rest if row.class_token else _all)
    if exemplar.tokens == "class":
        return vector(network, output)
    if exemplar.tokens == "patches" or (exemplar.tokens == "resampled" and not row.class_token):
        return patches(network, output)
    return torch.cat([vector(network, output)[:, None], patches(network, output)], dim=1)


def _first(network: Any, hidden: Tensor) -> Tensor:
    return hidden[:, 0]


def _rest(network: Any, hidden: Tensor) -> Tensor:
    return hidden[:, 1:]


def _all(network: Any, hidden: Tensor) -> Tensor:
    return hidden
