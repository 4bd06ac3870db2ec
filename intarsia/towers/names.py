"""What the weights of a frozen tower are called: in published folders, and by versions of transformers."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

Weights = dict[str, Tensor]


def _as_they_are(weights: Weights) -> Weights:
    return weights


def _as_published(weights: Weights, own: Collection[str]) -> Weights:
    return weights


@dataclass(frozen=True, kw_only=True)
class WeightNames:
    """The names of the weights of one kind of tower.

    Attributes:
        probe: name of a weight that every such tower has; it shows the prefix of all names.
        folder_prefix: what the names of its weights begin with in published folders.
        stale: names of weights that old versions of transformers store and new ones compute.
        published: function from weights under the names of any version of transformers to those of published
            folders.
        current: function (published weights, names of a network's own weights) -> weights under those names.
    """

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

    def in_folder(self, network: nn.Module) -> Weights:
        """The network's weights under the names of published folders, as contiguous tensors on the CPU.

        transformers 5 would write flat names, which transformers 4 silently skips.
        """
        named = {self.folder_prefix + name: value for name, value in self.weights(network).items()}
        return {name: value.detach().cpu().contiguous() for name, value in named.items()}


def own_prefix(tower: WeightNames, network: nn.Module) -> str:
    """What the names of a network's weights begin with in this version of transformers."""
    return cast(str, tower.prefix(network.state_dict().keys()))
