"""A tiny Stable Diffusion: its networks, its folder, and its file with the original names."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from intarsia.original import to_original
from intarsia.pretrained import widen
from tests.sampling.tiny import tiny_model


@pytest.fixture(scope="module")
def parts() -> tuple[UNet2DConditionModel, AutoencoderKL]:
    """A tiny Stable Diffusion: a 4-channel UNet of our tiny model's geometry, and an autoencoder."""
    geometry = {k: v for k, v in tiny_model().unet.config.items() if not k.startswith("_")}
    torch.manual_seed(3)
    unet = UNet2DConditionModel(**{**geometry, "in_channels": 4}).eval()
    return unet, tiny_model(5).vae


@pytest.fixture(scope="module")
def sd_folder(
    parts: tuple[UNet2DConditionModel, AutoencoderKL], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("sd")
    parts[0].save_pretrained(folder / "unet")
    parts[1].save_pretrained(folder / "vae")
    return folder


@pytest.fixture(scope="module")
def original(parts: tuple[UNet2DConditionModel, AutoencoderKL]) -> dict[str, torch.Tensor]:
    """The same weights as the original authors published theirs: one flat dict, other names."""
    model = tiny_model()
    narrow = parts[0].state_dict()
    model.unet.load_state_dict(narrow | {"conv_in.weight": widen(narrow["conv_in.weight"], 9)})
    model.vae.load_state_dict(parts[1].state_dict())
    state = {k: v for k, v in to_original(model).items() if k.startswith(("model.", "first_stage_model."))}
    state["model.diffusion_model.input_blocks.0.0.weight"] = narrow["conv_in.weight"]
    return state | {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None]}
