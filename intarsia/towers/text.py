"""Stable Diffusion's text tower (transformers' `CLIPTextModel`), which turns ids into the UNet's tokens."""

from typing import Any, cast

from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from intarsia.towers.names import WeightNames
from intarsia.towers.settings import TextEncoderConfig
from intarsia.towers.tokenizer import TextTokenizer

TEXT_TOWER = WeightNames(
    probe="embeddings.token_embedding.weight",
    folder_prefix="text_model.",
    stale=frozenset({"embeddings.position_ids"}),
)


def new_text_encoder(config: TextEncoderConfig) -> nn.Module:
    """A text tower with random weights; its last ids are start and end, as in CLIP's vocabulary."""
    size = config.vocab_size
    return CLIPTextModel(CLIPTextConfig(**config.model_dump(), bos_token_id=size - 2, eos_token_id=size - 1))


def read_text(network: Any, ids: Tensor) -> Tensor:
    """Token ids int64 [B, n] -> tokens [B, n, D]: the last layer after its norm.

    Neither Stable Diffusion 1 nor 2 gives its tower an attention mask: padding is read as text.
    """
    return cast(Tensor, network(input_ids=ids).last_hidden_state)


def text_encoder_json(config: TextEncoderConfig, tokenizer: TextTokenizer) -> dict[str, Any]:
    """Content of text_encoder/config.json with every field, because readers have different defaults."""
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        **config.model_dump(),
        "projection_dim": config.hidden_size,
        "bos_token_id": tokenizer.start_id,
        "eos_token_id": tokenizer.end_id,
        "pad_token_id": tokenizer.pad_id,
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "torch_dtype": "float32",
    }
