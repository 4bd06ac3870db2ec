"""The exemplar as the vectors of an image tower, mapped to tokens.

Paint by Example's condition, the default, is one token made of CLIP's class vector.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intarsia.architecture import ModelConfig
from intarsia.conditions.condition import ConditionKind
from intarsia.towers.settings import count_features, count_tokens
from intarsia.towers.tower import look


class ExemplarEncoder(nn.Module):
    """Map the image tower's vectors of the exemplar to tokens for the UNet's cross-attention.

    The layers are pre-norm transformer blocks, a final LayerNorm and a projection. `null_exemplar` are the
    learned tokens that mean "no exemplar" in guidance. Weight names are those of diffusers'
    `PaintByExampleImageEncoder`, except `null_exemplar` (there `uncond_vector`) and `queries`.

    Args:
        width: width of the tower's vectors.
        depth: number of blocks.
        token_width: width of the tokens.
        tokens: number n of tokens.
        resampled: whether they are made from n learned queries (`queries`) that attend to all vectors and to
            each other; otherwise each vector becomes a token.
    """

    def __init__(
        self, width: int, depth: int, token_width: int, tokens: int = 1, resampled: bool = False
    ) -> None:
        super().__init__()
        self.mapper = nn.ModuleDict({"blocks": nn.ModuleList(MapperBlock(width) for _ in range(depth))})
        self.final_layer_norm = nn.LayerNorm(width)
        self.proj_out = nn.Linear(width, token_width)
        self.null_exemplar = nn.Parameter(torch.randn(1, tokens, token_width))
        self.queries = nn.Parameter(torch.randn(1, tokens, width) * width**-0.5) if resampled else None

    def forward(self, features: Tensor) -> Tensor:
        """The tower's vectors, [B, width] or [B, m, width] -> tokens [B, n, token_width]."""
        vectors = features[:, None] if features.ndim == 2 else features
        tokens, context = vectors, None
        if self.queries is not None:
            tokens, context = self.queries.expand(len(vectors), -1, -1), vectors
        for block in self.mapper["blocks"]:
            tokens = block(tokens, context)
        return self.proj_out(self.final_layer_norm(tokens))


class MapperBlock(nn.Module):
    """One pre-norm transformer block: self-attention with one head, then an MLP of four times the width.

    With a single token the attention's softmax is 1. It is still computed, because its weights exist.
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

    def forward(self, tokens: Tensor, context: Tensor | None = None) -> Tensor:
        """Tokens [B, n, width] and other vectors [B, m, width] that they attend to, too -> [B, n, width]."""
        normed = self.norm1(tokens)
        others = None if context is None else torch.cat([self.norm1(context), normed], dim=1)
        tokens = tokens + self.attn1(normed, others)
        return tokens + self.ff["net"](self.norm3(tokens))


class SelfAttention(nn.Module):
    """Scaled dot-product attention with one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, tokens: Tensor, context: Tensor | None = None) -> Tensor:
        """Tokens [B, n, width]; they attend to themselves, or to `context` [B, m, width] -> [B, n, width]."""
        seen = tokens if context is None else context
        mixed = F.scaled_dot_product_attention(self.to_q(tokens), self.to_k(seen), self.to_v(seen))
        return self.to_out[0](mixed)


class FeedForward(nn.ModuleDict):
    """Linear to four times the width, exact GELU, and back; the keys are diffusers' layer numbers."""

    def __init__(self, width: int) -> None:
        inner = nn.ModuleDict({"proj": nn.Linear(width, 4 * width)})
        super().__init__({"0": inner, "2": nn.Linear(4 * width, width)})

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, n, width] -> [B, n, width]."""
        return self["2"](F.gelu(self["0"]["proj"](tokens)))


def _see(config: ModelConfig, image_encoder: Any, exemplar: Tensor) -> Tensor:
    """The wanted vectors of exemplars, [B, width] or [B, m, width]."""
    return look(config.exemplar, image_encoder, exemplar)


def _feature_shape(config: ModelConfig) -> tuple[int, ...]:
    tower, exemplar = config.image_encoder, config.exemplar
    one = exemplar.tokens == "class"
    return (tower.hidden_size,) if one else (count_features(tower, exemplar), tower.hidden_size)


def _encoder(config: ModelConfig) -> ExemplarEncoder:
    tower, exemplar = config.image_encoder, config.exemplar
    return ExemplarEncoder(
        tower.hidden_size,
        tower.mapper_depth,
        config.unet.cross_attention_dim,
        count_tokens(tower, exemplar),
        resampled=exemplar.tokens == "resampled",
    )


KIND = ConditionKind(feature_shape=_feature_shape, see=_see, encoder=_encoder)
