"""DINO's vision transformer (Caron et al. 2021), as far as the keys of its last block.

Parameters have the names of the authors' files (`dino_vitbase8_pretrain.pth`); Hugging Face's are translated.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intarsia.errors import UserError
from intarsia.pretrained import State, load_strictly


@dataclass(frozen=True)
class DinoGeometry:
    """The transformer's shape; the defaults are ViT-B/8.

    Attributes:
        width: channels of a token.
        depth: number of blocks.
        heads: number of attention heads.
        patch: side of a patch, pixels.
        size: side of the picture, pixels.
        epsilon: epsilon of layer normalisation; the authors' 1e-6.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    patch: int = 8
    size: int = 224
    epsilon: float = 1e-6


class _Attention(nn.Module):
    def __init__(self, geometry: DinoGeometry) -> None:
        super().__init__()
        self.heads = geometry.heads
        self.qkv = nn.Linear(geometry.width, 3 * geometry.width)
        self.proj = nn.Linear(geometry.width, geometry.width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        query, key, value = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(query, key, value)
        return self.proj(y.transpose(1, 2).reshape(batch, tokens, width))


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    def __init__(self, geometry: DinoGeometry) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(geometry.width, geometry.epsilon)
        self.attn = _Attention(geometry)
        self.norm2 = nn.LayerNorm(geometry.width, geometry.epsilon)
        self.mlp = _Mlp(geometry.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class DinoKeys(nn.Module):
    """Pictures to the keys of the last block, all heads side by side."""

    def __init__(self, geometry: DinoGeometry) -> None:
        super().__init__()
        tokens = (geometry.size // geometry.patch) ** 2 + 1
        self.cls_token = nn.Parameter(torch.zeros(1, 1, geometry.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, geometry.width))
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(3, geometry.width, geometry.patch, geometry.patch)}
        )
        self.blocks = nn.ModuleList(_Block(geometry) for _ in range(geometry.depth))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, size, size], normalised -> [B, 1 + patches, width]; the class token is the first."""
        x = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks[:-1]:
            x = block(x)
        last = self.blocks[-1]
        return last.attn.qkv(last.norm1(x)).chunk(3, -1)[1]


def load_dino(state: State, where: str, geometry: DinoGeometry | None = None) -> DinoKeys:
    """The network with weights of either layout.

    Args:
        state: weights in the authors' layout or Hugging Face's.
        where: name of the file, for errors.
        geometry: shape of the network; None = as the weights say, with heads of 64 channels.

    Raises:
        UserError: for weights of another network.
    """
    state = _from_hugging_face(state) if any("embeddings.cls_token" in name for name in state) else state
    network = DinoKeys(geometry or _geometry(state, where))
    state = {k: v for k, v in state.items() if not k.startswith(("norm.", "head."))}  # behind the last block
    load_strictly(network, state, where)
    return network.eval()


def _geometry(state: State, where: str) -> DinoGeometry:
    try:
        tokens, width = state["pos_embed"].shape[1:]
        patch = state["patch_embed.proj.weight"].shape[-1]
    except KeyError as error:
        raise UserError(f"{where} lacks {error.args[0]}; give weights of a DINO transformer") from None
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    return DinoGeometry(width, depth, width // 64, patch, patch * round((tokens - 1) ** 0.5))


# Hugging Face's names, of transformers 4 and of 5, as patterns.
_NAMES = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"patch_embed.proj.\1"),
    (r"(?:encoder\.layer|layers)\.(\d+)\.layernorm_before\.(\w+)", r"blocks.\1.norm1.\2"),
    (r"(?:encoder\.layer|layers)\.(\d+)\.layernorm_after\.(\w+)", r"blocks.\1.norm2.\2"),
    (
        r"(?:encoder\.layer|layers)\.(\d+)\.attention\.(?:output\.dense|o_proj)\.(\w+)",
        r"blocks.\1.attn.proj.\2",
    ),
    (r"(?:encoder\.layer|layers)\.(\d+)\.(?:intermediate\.dense|mlp\.fc1)\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"(?:encoder\.layer|layers)\.(\d+)\.(?:output\.dense|mlp\.fc2)\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
)
_PROJECTION = re.compile(
    r"(?:encoder\.layer|layers)\.(\d+)\.attention\.(?:attention\.)?(query|key|value|q_proj|k_proj|v_proj)\.(\w+)"
)


def _from_hugging_face(state: State) -> State:
    renamed: State = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for full, value in state.items():
        name = full.removeprefix("vit.")
        if match := _PROJECTION.fullmatch(name):
            number, which, kind = match.groups()
            parts.setdefault(f"blocks.{number}.attn.qkv.{kind}", {})[which[0]] = value
            continue
        for pattern, replacement in _NAMES:
            if re.fullmatch(pattern, name):
                renamed[re.sub(pattern, replacement, name)] = value
                break
        else:
            if not name.startswith(("layernorm.", "pooler.", "classifier.")):
                renamed[name] = value  # reported as unexpected
    return renamed | {name: torch.cat([part[c] for c in "qkv"]) for name, part in parts.items()}
