"""SigLIP's vision tower (transformers' `SiglipVisionModel`), and SigLIP 2's with fixed sizes.

It has no class token: its head pools the patches of the last layer into one vector.
"""

from typing import Any

from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from intarsia.towers.settings import ImageEncoderConfig
from intarsia.towers.tower import Tower


def _network(config: ImageEncoderConfig) -> nn.Module:
    return SiglipVisionModel(SiglipVisionConfig(**config.fields()))


def _vector(network: Any, output: Any) -> Tensor:
    """The vector [B, D] of the pooling head."""
    return output.pooler_output


def _patches(network: Any, output: Any) -> Tensor:
    """The patches [B, P, D]; transformers applies the last LayerNorm to all."""
    return output.last_hidden_state


TOWER = Tower(
    network=_network,
    vector=_vector,
    patches=_patches,
    model_type="siglip_vision_model",
    more=lambda config: {"num_channels": 3},
    probe="head.probe",
    folder_prefix="vision_model.",
    stale=frozenset({"embeddings.position_ids"}),
)
