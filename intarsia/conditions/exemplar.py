"""The exemplar as CLIP's pooled vector, mapped to one token: Paint by Example's condition."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intarsia.architecture import ModelConfig
from intarsia.conditions.condition import ConditionKind


class ExemplarEncoder(nn.Module):
    """Map the pooled CLIP vector of the exemplar to one token for the UNet's cross-attention.

    The layers are pre-norm transformer blocks, a final LayerNorm and a projection. `null_exemplar` is the
    learned token that means "no exemplar" in guidance. Weight names are those of diffusers'
    `PaintByExampleImageEncoder`, except `null_exemplar` (there `uncond_vector`).
    """

    def __init__(self, width: int, depth: int, token_width: int) -> None:
        super().__init__()
        self.mapper = nn.ModuleDict({"blocks": nn.ModuleList(MapperBlock(width) for _ in range(depth))})
        self.final_layer_norm = nn.LayerNorm(width)
        self.proj_out = nn.Linear(width, token_width)
        self.null_exemplar = nn.Parameter(torch.randn(1, 1, token_width))

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled CLIP vectors [B, width] -> tokens [B, 1, token_width]."""
        tokens = pooled[:, None]
        for block in self.mapper["blocks"]:
            tokens = block(tokens)
        return self.proj_out(self.final_layer_norm(tokens))


class MapperBlock(nn.Module):
    """One pre-norm transformer block: self-attention with one head, then an MLP of four times the width.

    With a single token the attention's softmax is 1. The attention is still computed, because its weights
    exist and other conditions may have more tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = SelfAttention(width)
        self.norm3 = nn.LayerNorm(width)
        self.ff = nn.ModuleDict({"net": FeedForward(width)})
        # GLIDE initialises its transformer like this, and Paint by Example's mapper comes from GLIDE.
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=width**-0.5)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, n, width] -> [B, n, width]."""
        tokens = tokens + self.attn1(self.norm1(tokens))
        return tokens + self.ff["net"](self.norm3(tokens))


class SelfAttention(nn.Module):
    """Scaled dot-product attention with one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, n, width] -> [B, n, width]."""
        mixed = F.scaled_dot_product_attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        return self.to_out[0](mixed)


class FeedForward(nn.ModuleDict):
    """Linear to four times the width, exact GELU, and back; the keys are diffusers' layer numbers."""

    def __init__(self, width: int) -> None:
        inner = nn.ModuleDict({"proj": nn.Linear(width, 4 * width)})
        super().__init__({"0": inner, "2": nn.Linear(4 * width, width)})

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, n, width] -> [B, n, width]."""
        return self["2"](F.gelu(self["0"]["proj"](tokens)))


def _see(image_encoder: Any, exemplar: Tensor) -> Tensor:
    """The class token [B, width] after CLIP's last LayerNorm."""
    return image_encoder(pixel_values=exemplar).pooler_output


def _encoder(config: ModelConfig) -> ExemplarEncoder:
    tower = config.image_encoder
    return ExemplarEncoder(tower.hidden_size, tower.mapper_depth, config.unet.cross_attention_dim)


KIND = ConditionKind(
    feature_shape=lambda config: (config.image_encoder.hidden_size,),
    see=_see,
    encoder=_encoder,
)
