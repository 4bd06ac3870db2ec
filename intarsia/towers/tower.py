"""What a frozen image tower must say of itself: how it is built and read, and what its weights are called."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn

from intarsia.towers.settings import ExemplarConfig, ImageEncoderConfig

Weights = dict[str, Tensor]


def _as_they_are(weights: Weights) -> Weights:
    return weights


def _as_published(weights: Weights, own: Collection[str]) -> Weights:
    return weights


@dataclass(frozen=True)
class Tower:
    """One kind of image tower; its row in TOWERS has its normalisation and whether it has a class token.

    Attributes:
        network: function from a geometry to a new network of transformers.
        vector: function (network, its output) -> class vectors of the last layer [B, D].
        patches: function (network, its output) -> patches of the last layer after its norm [B, P, D].
        model_type: transformers' name of its kind.
        more: function from a geometry to the fields of config.json that `ImageEncoderConfig` lacks.
        probe: name of a weight that every such tower has; it shows the prefix of all names.
        folder_prefix: what the names of its weights begin with in published folders.
        stale: names of weights that old versions of transformers store and new ones compute.
        published: function from weights under the names of any version of transformers to those of published
            folders.
        current: function (published weights, names of a network's own weights) -> weights under those names.
    """

    network: Callable[[ImageEncoderConfig], nn.Module]
    vector: Callable[[Any, Any], Tensor]
    patches: Callable[[Any, Any], Tensor]
    model_type: str
    more: Callable[[ImageEncoderConfig], dict[str, Any]]
    probe: str
    folder_prefix: str
    stale: frozenset[str] = frozenset()
    published: Callable[[Weights], Weights] = _as_they_are
    current: Callable[[Weights, Collection[str]], Weights] = _as_published

    def prefix(self, names: Collection[str]) -> str | None:
        """What the tower's own names begin with among these; None if there is no tower, or several."""
        found = [name.removesuffix(self.probe) for name in names if name.endswith(self.probe)]
        return found[0] if len(found) == 1 else None

    def weights(self, network: nn.Module) -> Weights:
        """The network's weights under the names of published folders, without their prefix."""
        state = network.state_dict()
        prefix = own_prefix(self, network)
        return self.published(
            {
                key: value
                for name, value in state.items()
                if (key := name.removeprefix(prefix)) not in self.stale
            }
        )


def own_prefix(tower: Tower, network: nn.Module) -> str:
    """What the names of a network's weights begin with in this version of transformers."""
    return cast(str, tower.prefix(network.state_dict().keys()))


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
