"""A tiny Stable Diffusion in diffusers' own folder, and a tiny model that is told text."""

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from intarsia.architecture import TextEncoderConfig
from intarsia.model import EditModel
from intarsia.towers.tokenizer import bytes_tokenizer
from tests.sampling.tiny import tiny_config, tiny_model

LENGTH = 24
TOWER: dict[str, Any] = {
    "vocab_size": 514,  # of bytes
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": LENGTH,
}
TEXT = f"model.text_encoder={json.dumps(TOWER)}"
SD2 = {"hidden_act": "gelu", "num_hidden_layers": 3}  # what else Stable Diffusion 2's tower has


def text_model(seed: int = 0, condition: str = "text", *overrides: str) -> EditModel:
    return tiny_model(seed, f"model.condition={condition}", TEXT, *overrides)


def settings_of(**tower: Any) -> TextEncoderConfig:
    return TextEncoderConfig(**TOWER | tower)


def make_stable_diffusion(folder: Path, in_channels: int = 4, pad: str = "", **tower: Any) -> Path:
    """A folder as diffusers writes it: text-to-image, or inpainting with nine channels."""
    config = tiny_config(f"model.unet.in_channels={in_channels}")
    torch.manual_seed(in_channels)
    own = tiny_model(3)
    geometry = {k: v for k, v in own.unet.config.items() if not k.startswith("_")}
    unet = UNet2DConditionModel(**geometry | {"in_channels": in_channels}).eval()
    vae = AutoencoderKL(**{k: v for k, v in own.vae.config.items() if not k.startswith("_")}).eval()
    ids = {"bos_token_id": 512, "eos_token_id": 513}
    text_encoder = CLIPTextModel(CLIPTextConfig(**TOWER | tower, **ids)).eval()
    (folder / "vocabulary").mkdir(parents=True)
    bytes_tokenizer().save(folder / "vocabulary", LENGTH)
    options = {"pad_token": pad} if pad else {}
    tokenizer = CLIPTokenizer.from_pretrained(folder / "vocabulary", **options)
    kind = "StableDiffusionPipeline" if in_channels == 4 else "StableDiffusionInpaintPipeline"
    levels = config.noise.model_dump()
    del levels["rescale_betas_zero_snr"]
    getattr(diffusers, kind)(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=PNDMScheduler(**levels, steps_offset=1, skip_prk_steps=True, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "sd")
    return folder / "sd"
