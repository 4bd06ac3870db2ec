"""Structure maps: the edges, what a map is blank of, and the model's weights for them."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from intarsia.architecture import MAPS, ModelConfig, StructureConfig
from intarsia.conditions.structure import check_sources, edges, structure_channels
from intarsia.errors import UserError
from intarsia.model import EditModel, build_model
from intarsia.model_folder import check_same_notes, frozen_hash
from intarsia.original import to_original
from intarsia.weights import read_model, save_model
from tests.sampling.tiny import tiny_config, tiny_model

EDGES = "model.structure.maps=[edges]"


def noisy_picture(side: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.GaussianBlur(rng.integers(0, 256, (side, side, 3), dtype=np.uint8), (0, 0), 1.2)


def anydoors_edges(image: np.ndarray) -> np.ndarray:
    """Its arithmetic in OpenCV, before the colours."""
    strengths = []
    for channel in cv2.split(image):
        parts = [
            cv2.convertScaleAbs(cv2.Sobel(channel, cv2.CV_16S, *axis, ksize=3)) for axis in ((1, 0), (0, 1))
        ]
        strengths.append(cv2.addWeighted(parts[0], 0.5, parts[1], 0.5, 0))
    strength = np.max(strengths, axis=0)
    strength[strength < 50] = 0
    return strength


def test_edges_are_anydoors_to_the_bit() -> None:
    picture = noisy_picture(128)
    own = edges(picture)
    assert np.array_equal(own, anydoors_edges(picture))
    assert 0.05 < (own == 0).mean() < 0.95


def test_at_512_pixels_they_are_of_256_and_blank_outside_the_hole() -> None:
    """In the hole each cell is the mean of 4 x 4 values; only the hole's box is computed."""
    config, picture = ModelConfig(structure=StructureConfig(maps=("edges",))), noisy_picture(512)
    edit_mask = np.zeros((512, 512), np.uint8)
    edit_mask[64:320, 128:512] = 255
    [channel] = structure_channels(config, {"edges": "picture"}, picture, edit_mask)
    assert channel.shape == (64, 64)
    half = cv2.resize(picture, (256, 256))  # bilinear: the mean of 2 x 2
    expected = anydoors_edges(half).reshape(64, 4, 64, 4).mean(axis=(1, 3))
    inside = np.zeros((64, 64), bool)
    inside[8:40, 16:64] = True
    assert np.abs(channel - expected)[inside].max() <= 0.5
    assert not channel[~inside].any()


def test_a_file_is_a_map_and_a_map_without_source_is_blank() -> None:
    maps = tuple(MAPS)
    config, side = tiny_config("model.structure.maps=[edges,depth,pose,segmentation]"), 64
    picture, edit_mask = noisy_picture(side), np.zeros((side, side), np.uint8)
    edit_mask[16:48, 16:48] = 255
    colour = np.full((side, side, 3), (10, 200, 30), np.uint8)
    grey = np.full((side, side), 77, np.uint8)
    channels = structure_channels(config, {"depth": grey, "pose": colour}, picture, edit_mask)
    assert len(channels) == config.structure.channels == 8
    inside = channels[:, channels.shape[1] // 2, channels.shape[2] // 2].tolist()
    assert inside == [0, 77, 10, 200, 30, 0, 0, 0]
    assert not channels[:, 0].any()
    assert config.structure.maps == maps


def test_the_exemplars_edges_fill_the_holes_box() -> None:
    config, side = tiny_config(EDGES), 64
    exemplar = np.zeros((40, 30, 3), np.uint8)
    exemplar[:, 15:] = 255  # an upright edge in the middle
    edit_mask = np.zeros((side, side), np.uint8)
    edit_mask[16:48, 0:32] = 255
    [channel] = structure_channels(
        config, {"edges": "exemplar"}, np.zeros((side, side, 3), np.uint8), edit_mask, exemplar
    )
    cell = side // len(channel)
    where = np.argwhere(channel > 0)
    assert set(where[:, 0]) == set(range(16 // cell, 48 // cell))
    assert set(where[:, 1]) <= {16 // cell - 1, 16 // cell}


def output(model: EditModel, maps: torch.Tensor | None = None) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    size = model.config.latent_size
    known = torch.randn(2, 9, size, size, generator=rng)
    parts = [known] if maps is None else [known, maps]
    tokens = torch.randn(2, 1, model.config.unet.cross_attention_dim, generator=rng)
    with torch.no_grad():
        return model.unet(
            torch.cat(parts, dim=1), torch.tensor([3, 400]), encoder_hidden_states=tokens
        ).sample


@pytest.fixture(scope="module")
def plain() -> EditModel:
    return tiny_model(3)


@pytest.fixture(scope="module")
def mapped() -> EditModel:
    return tiny_model(3, EDGES)


def test_before_training_a_map_changes_nothing_and_its_weights_learn(
    plain: EditModel, mapped: EditModel
) -> None:
    size = plain.config.latent_size
    maps = torch.rand(2, 1, size, size)
    assert torch.equal(output(mapped, maps), output(plain))
    others = {name: value for name, value in plain.state_dict().items() if name != "unet.conv_in.weight"}
    assert all(torch.equal(mapped.state_dict()[name], value) for name, value in others.items())
    model = tiny_model(3, EDGES)
    model.unet(
        torch.cat([torch.randn(2, 9, size, size), maps], dim=1),
        torch.tensor([3, 400]),
        encoder_hidden_states=torch.randn(2, 1, 32),
    ).sample.square().mean().backward()
    gradient = model.unet.conv_in.weight.grad
    assert gradient is not None
    assert gradient[:, 9:].abs().min() > 0


def test_a_channel_costs_2880_weights_at_real_width() -> None:
    with torch.device("meta"):
        counts = [
            sum(
                p.numel()
                for p in EditModel(ModelConfig(structure=StructureConfig(maps=maps))).unet.parameters()
            )
            for maps in ((), ("edges",), ("edges", "pose"))
        ]
    assert [count - counts[0] for count in counts] == [0, 2880, 4 * 2880]


def test_the_folder_notes_the_maps_and_more_may_follow(
    plain: EditModel, mapped: EditModel, tmp_path: Path
) -> None:
    save_model(plain, tmp_path / "plain")
    save_model(mapped, tmp_path / "mapped")
    assert not (tmp_path / "plain" / "intarsia.json").exists()
    assert json.loads((tmp_path / "mapped" / "intarsia.json").read_text()) == {
        "structure": {"maps": ["edges"]}
    }
    index = json.loads((tmp_path / "mapped" / "model_index.json").read_text())
    assert index["image_encoder"] == ["intarsia", "ExemplarEncoder"], "diffusers refuses it"
    again = read_model(tmp_path / "mapped")
    assert again.config.unet.in_channels == 9
    assert all(torch.equal(value, mapped.state_dict()[name]) for name, value in again.state_dict().items())
    maps = torch.rand(2, 1, *[plain.config.latent_size] * 2)
    for source, names in (("plain", "edges"), ("mapped", "edges,depth")):
        init = f"model.init.model_folder={tmp_path / source}"
        started = build_model(tiny_config(init, f"model.structure.maps=[{names}]"), 8).eval()
        more = torch.cat([maps] * (started.config.structure.channels), dim=1)
        assert torch.equal(output(started, more), output(plain))
        with pytest.raises(UserError, match=r"set model\.structure\.maps="):
            check_same_notes(started.config, tmp_path / source, exactly=True)
    other = tiny_config(
        f"model.init.model_folder={tmp_path / 'mapped'}", "model.structure.maps=[depth,edges]"
    )
    sentence = (
        r"structure.maps=\[edges\], the model config \[depth,edges\]; set model.structure.maps=\[edges\]"
    )
    with pytest.raises(UserError, match=sentence):
        build_model(other, 0)
    with pytest.raises(UserError, match=r"cannot hold a model with structure\.maps=edges"):
        to_original(mapped)


def test_stored_latents_serve_models_with_and_without_maps(plain: EditModel, mapped: EditModel) -> None:
    assert frozen_hash(plain) == frozen_hash(mapped)


def test_what_cannot_be_is_refused_in_a_sentence() -> None:
    for maps, sentence in (
        (["lines"], "structure.maps has 'lines', which is not one of edges, depth, pose, segmentation"),
        (["edges", "edges"], "edges appears twice in structure.maps"),
    ):
        with pytest.raises(ValueError, match=sentence):
            StructureConfig.model_validate({"maps": maps})
    with pytest.raises(ValueError, match=r"structure\.maps needs a UNet that sees the picture"):
        ModelConfig.model_validate({"unet": {"in_channels": 4}, "structure": {"maps": "edges"}})
    depth = tiny_config("model.structure.maps=[depth]")
    for config, sentence in (
        (tiny_config(), "the model has no structure maps; leave out --structure, or train a model with"),
        (tiny_config(EDGES), "the model has the structure maps edges, not depth"),
        (depth, "depth is not computed from pixels; give a file, --structure depth=FILE"),
    ):
        with pytest.raises(UserError, match=sentence):
            check_sources(config, {"depth": "picture"})
