"""CLIP's vision tower (transformers' `CLIPVisionModel`): Paint by Example's, and the default."""

from typing import Any

from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from intarsia.towers.settings import ImageEncoderConfig
from intarsia.towers.tower import Tower


def _network(config: ImageEncoderConfig) -> nn.Module:
    return CLIPVisionModel(CLIPVisionConfig(**config.fields()))


def _vector(network: Any, output: Any) -> Tensor:
    """The class token [B, D] after the last LayerNorm."""
    return output.pooler_output


def _patches(network: Any, output: Any) -> Tensor:
    """The patches [B, P, D] after the same LayerNorm, which transformers applies to the class token only."""
    norm = next(part for name, part in network.named_modules() if name.endswith("post_layernorm"))
    return norm(output.last_hidden_state[:, 1:])


def _more(config: ImageEncoderConfig) -> dict[str, Any]:
    return {
        "num_channels": 3,
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
    }


TOWER = Tower(
    network=_network,
    vector=_vector,
    patches=_patches,
    model_type="clip_vision_model",
    more=_more,
    probe="embeddings.class_embedding",
    folder_prefix="vision_model.",
    stale=frozenset({"embeddings.position_ids"}),
)
