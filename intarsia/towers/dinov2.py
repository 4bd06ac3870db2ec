"""DINOv2's vision tower (transformers' `Dinov2Model`), which interpolates its positions to any size."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from intarsia.towers.names import Weights
from intarsia.towers.settings import ImageEncoderConfig
from intarsia.towers.tower import Tower

# transformers 5's names on the left, those of transformers 4 and of published folders on the right.
_NAMES = (
    ("attention.q_proj.", "attention.attention.query."),
    ("attention.k_proj.", "attention.attention.key."),
    ("attention.v_proj.", "attention.attention.value."),
    ("attention.o_proj.", "attention.output.dense."),
    ("mlp.down_proj.", "mlp.weights_out."),
)
_GATE, _UP, _JOINED = "mlp.gate_proj.", "mlp.up_proj.", "mlp.weights_in."  # one tensor in published folders


def _network(config: ImageEncoderConfig) -> nn.Module:
    fields = config.fields()
    ratio = fields.pop("intermediate_size") // config.hidden_size
    return Dinov2Model(Dinov2Config(**fields, mlp_ratio=ratio))


def _vector(network: Any, output: Any) -> Tensor:
    """The class token [B, D] after the last LayerNorm."""
    return output.pooler_output


def _patches(network: Any, output: Any) -> Tensor:
    """The patches [B, P, D] after the last LayerNorm."""
    return output.last_hidden_state[:, 1:]


def _more(config: ImageEncoderConfig) -> dict[str, Any]:
    return {
        "mlp_ratio": config.intermediate_size // config.hidden_size,
        "num_channels": 3,
        "qkv_bias": True,
        "use_mask_token": True,
    }


def _published(weights: Weights) -> Weights:
    renamed: Weights = {}
    for name, value in weights.items():
        for new, old in _NAMES:
            name = name.replace(new, old)
        if _GATE in name:
            value = torch.cat([value, weights[name.replace(_GATE, _UP)]])
            name = name.replace(_GATE, _JOINED)
        if _UP not in name:
            renamed[name] = value
    return renamed


def _current(weights: Weights, own: Collection[str]) -> Weights:
    if not any(_NAMES[0][0] in name for name in own):  # transformers 4 has the published names
        return weights
    renamed: Weights = {}
    for name, value in weights.items():
        for new, old in _NAMES:
            name = name.replace(old, new)
        if _JOINED in name:
            gate, up = value.chunk(2)
            renamed |= {name.replace(_JOINED, _GATE): gate, name.replace(_JOINED, _UP): up}
        else:
            renamed[name] = value
    return renamed


TOWER = Tower(
    network=_network,
    vector=_vector,
    patches=_patches,
    model_type="dinov2",
    more=_more,
    probe="embeddings.cls_token",
    folder_prefix="",
    published=_published,
    current=_current,
)
