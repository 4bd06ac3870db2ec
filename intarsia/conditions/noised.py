"""The noised encoder: which exemplar, or prompt, belongs to latents that are still full of noise.

GLIDE's noised CLIP (Nichol et al. 2021, section 2.3), for exemplars, too. A transformer sees what the UNet
sees, noisy latents with the channels of their surroundings, and its vector is compared with projections of
the frozen towers' vectors of exemplar and prompt. Trained to find an exemplar among others, the scaled cosine
becomes log p(exemplar | latents) - log p(exemplar) plus a constant, so that its gradient is that of Bayes'
rule (van den Oord et al. 2018, section 2.3).
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from intarsia.architecture import NOISED_SIZES, ModelConfig, NoisedConfig
from intarsia.conditions.condition import condition_kind
from intarsia.config import build_config
from intarsia.errors import UserError
from intarsia.files import atomic_folder, read_json, write_json
from intarsia.model_folder import NOISED_ENCODER, frozen_hash

WEIGHTS = "noised.safetensors"
_LARGEST_SCALE = 100.0  # CLIP's
_NOUNS = {"exemplar": "exemplars", "text": "prompts"}


class NoisedEncoder(nn.Module):
    """Vectors of noisy latents, exemplars and prompts whose scaled cosine says whether they belong together.

    A Vision Transformer whose class token is an embedding of the timestep, as in GLIDE; the embedding is the
    UNet's, waves and two layers, which learns faster than GLIDE's table and takes any timestep.

    Args:
        config: config of the edit model whose UNet's input it sees; `noised` is set.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        settings = config.noised or NoisedConfig()
        width, layers, heads = NOISED_SIZES[settings.size]
        patches = (config.latent_size // settings.patch) ** 2
        self.patches = nn.Conv2d(config.in_channels, width, settings.patch, settings.patch)
        self.waves = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.times = TimestepEmbedding(width, width)
        self.places = nn.Parameter(0.02 * torch.randn(1, patches + 1, width))
        self.layers = nn.ModuleList(_layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, settings.dim, bias=False)
        self.parts = config.noised_parts
        if "exemplar" in self.parts:
            features = condition_kind(config).feature_shape(config)
            self.project_exemplar = nn.Linear(features[-1], settings.dim, bias=False)
            self.log_scale = _log_scale()
        if "text" in self.parts:
            self.project_text = nn.Linear(config.text_encoder.hidden_size, settings.dim, bias=False)
            self.log_scale_text = _log_scale()

    def see(self, noisy_latents: Tensor, timesteps: Tensor, channels: Tensor) -> Tensor:
        """Vectors of the UNet's input, float [B, dim], of length 1.

        Args:
            noisy_latents: noisy latents, [B, C, h, w].
            timesteps: timesteps, [B].
            channels: input channels after the noisy latents, [B, K, h, w].
        """
        cells = self.patches(torch.cat([noisy_latents, channels], dim=1)).flatten(2).transpose(1, 2)
        times = self.times(self.waves(timesteps).to(cells.dtype))
        hidden = torch.cat([times[:, None], cells], dim=1) + self.places
        for layer in self.layers:
            hidden = layer(hidden)
        return F.normalize(self.project(self.norm(hidden[:, 0])), dim=-1)

    def know(self, features: Tensor, part: str = "exemplar") -> Tensor:
        """Vectors of exemplars or prompts, float [B, dim], of length 1.

        Args:
            features: features of the frozen tower, [B, D], or [B, n, D], of which the mean is taken.
            part: one of `parts`.
        """
        pooled = features if features.ndim == 2 else features.mean(dim=1)
        project = self.project_exemplar if part == "exemplar" else self.project_text
        return F.normalize(project(pooled), dim=-1)

    def scale(self, part: str = "exemplar") -> Tensor:
        """Factor of the cosines with one of `parts`, float [1], at most 100."""
        logarithm = self.log_scale if part == "exemplar" else self.log_scale_text
        return logarithm.exp().clamp(max=_LARGEST_SCALE)


def _log_scale() -> nn.Parameter:
    return nn.Parameter(torch.tensor([math.log(1 / 0.07)]))  # DeepSpeed takes no scalars


def _layer(width: int, heads: int) -> nn.Module:
    return nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )


def save_noised(encoder: NoisedEncoder, config: ModelConfig, frozen: str, folder: Path, card: str) -> None:
    """Write a folder with the encoder; an existing one is replaced.

    Args:
        encoder: encoder to write.
        config: config of its edit model.
        frozen: `noised_hash` of its edit model.
        folder: folder to make.
        card: Markdown text of README.md.

    Raises:
        UsageError: if the folder exists and contains something else.
    """
    with atomic_folder(folder, NOISED_ENCODER) as out:
        state = {name: value.detach().float().contiguous() for name, value in encoder.state_dict().items()}
        save_file(state, out / WEIGHTS)
        assert config.noised is not None, "the config has a noised encoder"
        noised = config.noised.model_dump(mode="json", exclude={"condition"})
        if "text" in config.noised_parts:  # a folder without this compares with exemplars alone
            noised["condition"] = "both" if "exemplar" in config.noised_parts else "text"
        write_json(out / NOISED_ENCODER, {"noised": noised, "sees": _sees(config), "frozen_hash": frozen})
        (out / "README.md").write_text(card, encoding="utf-8")


def read_noised(folder: Path, model: Any) -> NoisedEncoder:
    """The encoder of a folder, for an `EditModel`; in evaluation mode, float32 on the CPU.

    Args:
        folder: folder that `save_noised` wrote.
        model: the edit model.

    Raises:
        UserError: if it is no such folder, or was trained for another model.
    """
    if not (folder / NOISED_ENCODER).is_file():
        raise UserError(
            f"{folder} is not a noised encoder: it has no {NOISED_ENCODER}; a training with task=noised-clip "
            "writes one"
        )
    content = read_json(folder / NOISED_ENCODER)
    settings = {"condition": "exemplar", **content["noised"]}
    noised = build_config(NoisedConfig, settings, where=str(folder))
    config = model.config.model_copy(update={"noised": noised})
    if more := set(config.noised_parts) - set(config.parts):
        raise UserError(
            f"{folder} compares pictures with {_NOUNS[more.pop()]}, which this model is not told; train one "
            "for this model"
        )
    ours = json.loads(json.dumps(_sees(config)))
    for name, value in content["sees"].items():
        if ours.get(name) != value:
            raise UserError(
                f"{folder} was trained for a model with {name}={value}, and this one has {ours.get(name)}; "
                "train one for this model"
            )
    if content["frozen_hash"] != noised_hash(model, config.noised_parts):
        what = (
            "autoencoder, image or text tower"
            if "text" in config.noised_parts
            else "autoencoder or image tower"
        )
        raise UserError(
            f"{folder} was trained with another {what} than this model has; train one for this model"
        )
    encoder = NoisedEncoder(config)
    encoder.load_state_dict(load_file(folder / WEIGHTS))
    return encoder.eval().requires_grad_(False)


def noised_hash(model: Any, parts: tuple[str, ...]) -> str:
    """The sha256 of an `EditModel`'s autoencoder and of the towers that a noised encoder needs.

    Args:
        model: the edit model.
        parts: what the encoder compares with (`ModelConfig.noised_parts`).
    """
    return frozen_hash(model, *([model.text_encoder] if "text" in parts else []))


def _sees(config: ModelConfig) -> dict[str, Any]:
    """What its input depends on."""
    features: dict[str, Any] = {}
    if "exemplar" in config.noised_parts:
        features["features"] = list(condition_kind(config).feature_shape(config))
    if "text" in config.noised_parts:
        features["text_encoder"] = config.text_encoder.model_dump(mode="json")
    return {
        "in_channels": config.in_channels,
        "input_layout": config.unet.input_layout,
        "structure.maps": list(config.structure.maps),
        "latent_size": config.latent_size,
        **features,
        "noise": config.noise.model_dump(mode="json", exclude={"prediction_type"}),
    }
