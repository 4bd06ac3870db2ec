"""Initial weights from Stable Diffusion: its UNet, widened for the extra channels, and its autoencoder."""

from pathlib import Path

import torch
from torch import Tensor, nn

from intarsia.errors import UserError
from intarsia.pretrained import (
    State,
    check_geometry,
    load_strictly,
    modern_attention_names,
    read_weights,
    weights_file,
)


def load_unet(unet: nn.Module, path: Path) -> None:
    """Fill a `UNet2DConditionModel` with more input channels from Stable Diffusion's text-to-image UNet.

    The added input channels start at zero, so that before training the output equals Stable Diffusion's.

    Args:
        unet: network to fill; of its `unet.config.in_channels` input channels, the first `out_channels` are
            the noisy latents.
        path: folder in diffusers layout (with unet/), or one .ckpt / .safetensors with the original names.

    Raises:
        UserError: if the weights are missing or do not fit.
    """
    state, where = _unet_state(unet, path)
    conv_in = state.get("conv_in.weight")
    latent_channels = unet.config.out_channels
    if conv_in is not None and conv_in.shape[1] != latent_channels:
        raise UserError(
            f"{where}: this UNet takes {conv_in.shape[1]} channels; give Stable Diffusion's text-to-image "
            f"UNet with {latent_channels} (an inpainting UNet orders its channels differently)"
        )
    if conv_in is not None:
        state["conv_in.weight"] = widen(conv_in, unet.config.in_channels)
    load_strictly(unet, state, where)


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


def widen(weight: Tensor, in_channels: int) -> Tensor:
    """A convolution weight [out, in, k, k] with zeros appended along `in` up to `in_channels`."""
    extra = weight.new_zeros(weight.shape[0], in_channels - weight.shape[1], *weight.shape[2:])
    return torch.cat([weight, extra], dim=1)


def _unet_state(unet: nn.Module, path: Path) -> tuple[State, Path]:
    if path.is_dir():
        where = weights_file(path / "unet", "diffusion_pytorch_model")
        check_geometry(unet, path / "unet")
        return read_weights(where), where
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    state = convert_ldm_unet_checkpoint(read_weights(path), unet.config)
    if not state:
        raise UserError(f"{path} contains no UNet (no weights under model.diffusion_model)")
    return state, path
