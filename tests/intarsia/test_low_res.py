"""The low-resolution picture of an upsampler: its arithmetic, and the model's weights for it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from intarsia.architecture import ModelConfig
from intarsia.conditions.low_res import area_mean, level_of_error, level_signal, low_res_channels
from intarsia.errors import UserError
from intarsia.model import EditModel, build_model
from intarsia.model_folder import check_same_notes, frozen_hash, is_upsampler
from intarsia.original import to_original
from intarsia.weights import read_model, save_model
from tests.sampling.tiny import tiny_config, tiny_model

LOW_RES = "model.low_res={factor: 2}"


def test_the_picture_is_the_mean_of_areas_rounded_to_nearest() -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, 24, 16, 3), dtype=np.uint8)
    for factor in (2, 4, 8):
        small = area_mean(torch.from_numpy(image), factor).numpy()
        blocks = image.reshape(2, 24 // factor, factor, 16 // factor, factor, 3).astype(np.float64)
        assert np.array_equal(small, np.floor(blocks.mean(axis=(2, 4)) + 0.5))
        assert np.abs(small[0].astype(int) - np.asarray(Image.fromarray(image[0]).reduce(factor))).max() <= 1


def test_levels_are_those_of_the_x4_upscaler() -> None:
    """Linear betas from 1e-4 to .02: the closed form of a product of (1 − β), and the level of an error."""
    betas = [1e-4 + (2e-2 - 1e-4) * step / 999 for step in range(1000)]
    assert level_signal()[20].item() == pytest.approx(np.prod(1 - np.array(betas[:21])) ** 0.5, rel=1e-6)
    for level in (5, 20, 349):
        signal = level_signal()[level].double()
        assert level_of_error(float((1 - signal**2).sqrt() / signal)) == level
    assert level_of_error(0.0) == 0


def test_each_cell_gets_the_pixels_that_it_covers() -> None:
    config = ModelConfig.model_validate({"low_res": {"factor": 2}})
    assert (config.low_res_channels, config.in_channels) == (48, 57)
    low_res = torch.randint(0, 256, (2, 8, 12, 3), dtype=torch.uint8)
    noise, levels = torch.randn(2, 3, 8, 12), torch.tensor([0, 300])
    channels = low_res_channels(config, low_res, levels, noise)
    assert channels.shape == (2, 48, 2, 3)
    signal = level_signal()[levels]
    pixel = low_res[:, 5, 10].float() / 127.5 - 1  # row 1, column 2 of cell (1, 2)
    expected = signal[:, None] * pixel + (1 - signal[:, None] ** 2).sqrt() * noise[:, :, 5, 10]
    found = channels.reshape(2, 3, 4, 4, 2, 3)[:, :, 1, 2, 1, 2]
    assert torch.allclose(found, expected, atol=1e-6)
    told = low_res_channels(config, low_res, levels)
    assert torch.allclose(
        told.reshape(2, 3, 4, 4, 2, 3)[:, :, 1, 2, 1, 2], signal[:, None] * pixel, atol=1e-6
    )


def output(model: EditModel, low_res: torch.Tensor | None = None, level: int = 0) -> torch.Tensor:
    rng, size = torch.Generator().manual_seed(0), model.config.latent_size
    known = torch.randn(2, 9, size, size, generator=rng)
    tokens = torch.randn(2, 1, model.config.unet.cross_attention_dim, generator=rng)
    inputs = known if low_res is None else torch.cat([known, low_res], dim=1)
    more = {} if low_res is None else {"class_labels": torch.tensor([level, 300])}
    with torch.no_grad():
        return model.unet(inputs, torch.tensor([3, 400]), encoder_hidden_states=tokens, **more).sample


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model folder, and the upsampler that starts from it."""
    root = tmp_path_factory.mktemp("low-res")
    save_model(tiny_model(3), root / "plain")
    config = tiny_config(f"model.init.model_folder={root / 'plain'}", LOW_RES)
    save_model(build_model(config, 8).eval(), root / "upsampler")
    return {name: root / name for name in ("plain", "upsampler")}


def test_an_upsampler_starts_as_the_model_that_it_starts_from(places: dict[str, Path]) -> None:
    plain, model = read_model(places["plain"]), read_model(places["upsampler"])
    size = model.config.latent_size
    low_res = torch.rand(2, 3, size, size)
    assert torch.equal(output(model, low_res, 200), output(plain))
    model.train()
    channels = torch.cat([torch.randn(2, 9, size, size), low_res], dim=1)
    answer = model.unet(
        channels,
        torch.tensor([3, 400]),
        class_labels=torch.tensor([7, 300]),
        encoder_hidden_states=torch.randn(2, 1, 32),
    ).sample
    answer.square().mean().backward()
    assert model.unet.conv_in.weight.grad[:, 9:].abs().min() > 0
    learns = model.unet.class_embedding.weight.grad.abs().sum(dim=1) > 0
    assert learns.nonzero().flatten().tolist() == [7, 300]


def test_the_folder_says_what_it_is(places: dict[str, Path]) -> None:
    folder = places["upsampler"]
    assert json.loads((folder / "intarsia.json").read_text()) == {"low_res": {"factor": 2}}
    index = json.loads((folder / "model_index.json").read_text())
    assert index["unet"] == ["intarsia", "UNet"], "diffusers refuses it"
    assert "--model BASE --upsampler THIS_FOLDER" in (folder / "README.md").read_text()
    assert (is_upsampler(folder), is_upsampler(places["plain"])) == (True, False)
    model = read_model(folder)
    assert model.config.low_res is not None
    assert (model.config.unet.in_channels, model.config.in_channels) == (9, 12)
    assert frozen_hash(model) == frozen_hash(read_model(places["plain"]))
    again = build_model(tiny_config(f"model.init.model_folder={folder}", LOW_RES), 0)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())


def test_what_does_not_fit_is_refused_in_a_sentence(places: dict[str, Path]) -> None:
    upsampler, plain = tiny_config(LOW_RES), tiny_config()
    with pytest.raises(
        UserError, match=r"has low_res=null, the model config \{factor: 2\}; set model.low_res"
    ):
        check_same_notes(upsampler, places["plain"], exactly=True)
    sentence = r"has low_res=\{factor: 2\}, the model config null; set model.low_res=\{factor: 2\}"
    with pytest.raises(UserError, match=sentence):
        check_same_notes(plain, places["upsampler"])
    mapped = tiny_config(LOW_RES, "model.structure.maps=[edges]")
    check_same_notes(mapped, places["plain"])
    with pytest.raises(UserError, match=r"structure\.maps=\[\], the model config \[edges\]"):
        check_same_notes(mapped, places["upsampler"])
    with pytest.raises(UserError, match=r"cannot hold a model with low_res=\{factor: 2\}"):
        to_original(read_model(places["upsampler"]))
    for content, found in (
        ({"low_res": {"factor": 8}, "vae": {"block_out_channels": [32, 32]}}, "factor=8 must divide 2"),
        (
            {"low_res": {"factor": 2}, "unet": {"in_channels": 4}},
            "low_res needs a UNet that sees the picture",
        ),
        ({"low_res": {"factor": 2}, "noised": {}}, "low_res does not go with noised"),
    ):
        with pytest.raises(ValueError, match=found):
            ModelConfig.model_validate(content)


def test_a_level_embedding_and_its_channels_cost_what_was_counted() -> None:
    """At real width, with factor 4: 34,560 weights of the first convolution, 1,280 for each level."""
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in EditModel(ModelConfig.model_validate(content)).unet.parameters())
            for content in ({}, {"low_res": {"factor": 4}})
        ]
    assert counts[1] - counts[0] == 34_560 + 1_280_000
