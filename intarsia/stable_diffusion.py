"""Initial weights from Stable Diffusion: its UNet, widened for the extra channels, and its autoencoder."""

import logging
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open
from torch import nn

from intarsia.errors import UserError
from intarsia.files import read_json
from intarsia.pretrained import (
    State,
    check_geometry,
    has_averages,
    load_strictly,
    modern_attention_names,
    read_weights,
    weights_file,
    widen,
    with_averages,
)

log = logging.getLogger(__name__)
_SD2_TOKEN = 1024  # width of Stable Diffusion 2's text tokens
_MAPPER = "cond_stage_model.mapper."  # only Paint by Example has one


def load_unet(unet: nn.Module, path: Path, averaged: bool = False, layout: str = "pbe") -> None:
    """Fill a `UNet2DConditionModel` from Stable Diffusion: its text-to-image UNet, or its inpainting UNet.

    A text-to-image UNet has fewer input channels. The added ones start at zero, so that before training the
    output equals Stable Diffusion's.

    Args:
        unet: network to fill; of its `unet.config.in_channels` input channels, the first `out_channels` are
            the noisy latents.
        path: folder in diffusers layout (with unet/), or one .ckpt / .safetensors with the original names.
        averaged: whether to take the averaged weights of a single file (`model_ema.*`).
        layout: `UNetConfig.input_layout`; the inpainting UNet fits `sd` only.

    Raises:
        UserError: if the weights are missing or do not fit.
    """
    state, where = _unet_state(unet, path, averaged)
    conv_in = state.get("conv_in.weight")
    latent_channels = unet.config.out_channels
    if conv_in is not None and not conv_in[:, latent_channels:].any():  # widened by zeros already, as here
        conv_in = conv_in[:, :latent_channels]
    if conv_in is not None and layout == "sd" and conv_in.shape[1] == unet.config.in_channels:
        conv_in = None  # an inpainting UNet as it is
    if conv_in is not None and conv_in.shape[1] != latent_channels:
        raise UserError(
            f"{where}: this UNet takes {conv_in.shape[1]} channels; give Stable Diffusion's text-to-image "
            f"UNet with {latent_channels} (an inpainting UNet orders its channels differently; with "
            "model.unet.input_layout=sd it fits)"
        )
    if conv_in is not None:
        state["conv_in.weight"] = widen(conv_in, unet.config.in_channels)
    load_strictly(unet, state, where)


def warn_of_other_prediction(path: Path, prediction_type: str, token_width: int) -> None:
    """Warn if the given weights were, or may be, trained for another prediction type than the new model's.

    This may be intended (Lin et al. 2023 turn noise models into velocity models), but it takes a while.

    Args:
        path: diffusers folder or single file; a folder that does not say its type gives no warning.
        prediction_type: prediction type of the new model.
        token_width: width of the UNet's context tokens, which tells Stable Diffusion 2 from 1.
    """
    theirs = prediction_of(path)
    if theirs is None and path.is_file() and token_width == _SD2_TOKEN:
        log.warning(
            "%s does not say whether it predicts noise, as Stable Diffusion 2 does at 512 pixels, or "
            "velocity, as it does at 768, and model.noise.prediction_type is %s; put its .yaml beside it",
            path,
            prediction_type,
        )
    if theirs is None:  # every published single file but those of Stable Diffusion 2 predicts noise
        theirs = "epsilon" if path.is_file() and token_width != _SD2_TOKEN else prediction_type
    if theirs != prediction_type:
        log.warning(
            "%s predicts %s, but model.noise.prediction_type is %s; training must first adapt the weights",
            path,
            theirs,
            prediction_type,
        )


def load_vae(vae: nn.Module, path: Path) -> None:
    """Fill an `AutoencoderKL` from Stable Diffusion (folder or single file) or from a separate autoencoder.

    Args:
        vae: autoencoder to fill.
        path: diffusers folder with vae/, folder of an `AutoencoderKL`, or one file with the original names
            or diffusers' names.

    Raises:
        UserError: if the weights are missing or do not fit.
    """
    if path.is_dir():
        folder = path / "vae" if (path / "vae").is_dir() else path
        where = weights_file(folder, "diffusion_pytorch_model")
        check_geometry(vae, folder)
        state = modern_attention_names(read_weights(where))
    else:
        where = path
        state = read_weights(path)
        if "encoder.down_blocks.0.resnets.0.conv1.weight" not in state:
            from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

            state = convert_ldm_vae_checkpoint(state, vae.config)
            if not state:
                raise UserError(f"{path} contains no autoencoder (no weights under first_stage_model)")
    load_strictly(vae, state, where)


def _unet_state(unet: nn.Module, path: Path, averaged: bool) -> tuple[State, Path]:
    if path.is_dir():
        if averaged:
            raise UserError(
                f"model.init.ema=true is for a single file with model_ema.*, and {path} is a folder, whose "
                "weights without .non_ema are the averaged ones; set model.init.ema=false"
            )
        where = weights_file(path / "unet", "diffusion_pytorch_model")
        check_geometry(unet, path / "unet")
        return read_weights(where), where
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    content = read_weights(path)
    if any(name.startswith(_MAPPER) for name in content):
        raise UserError(
            f"{path} is a checkpoint of Paint by Example; make a model folder of it with `python -m sampling "
            f"import {path} --out DIR`, and start from that with model.init.model_folder=DIR"
        )
    if averaged:
        content = with_averages(content, path, "model.init.ema")
    elif has_averages(content):
        log.warning("%s has plain and averaged weights; model.init.ema=true takes the averaged ones", path)
    state = convert_ldm_unet_checkpoint(content, unet.config)
    if not state:
        raise UserError(f"{path} contains no UNet (no weights under model.diffusion_model)")
    return state, path


def prediction_of(path: Path) -> str | None:
    """What a diffusers folder or a single file says that its UNet predicts; None if it does not say.

    A folder says it in its scheduler's config, whose default is epsilon. A safetensors file says it in its
    metadata (the model specification's modelspec.prediction_type) or by a tensor `v_pred`. For any file its
    .yaml beside it says it (`model.params.parameterization`, as the latent diffusion authors write it).
    """
    if path.is_dir():
        config = path / "scheduler" / "scheduler_config.json"
        return str(read_json(config).get("prediction_type", "epsilon")) if config.is_file() else None
    said = _of_metadata(path) or _parameterization(path.with_suffix(".yaml"))
    return {"v": "v_prediction", "eps": "epsilon"}.get(said or "", said)


def _of_metadata(path: Path) -> str | None:
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            marked = "v" if "v_pred" in file.keys() else None  # noqa: SIM118 - not a dict
            return (file.metadata() or {}).get("modelspec.prediction_type", marked)
    except (SafetensorError, OSError):
        return None  # whoever reads the weights reports it


def _parameterization(path: Path) -> str | None:
    """What an original config says; its default is eps."""
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return str(content["model"]["params"].get("parameterization", "eps"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, LookupError, TypeError, AttributeError):
        return None
