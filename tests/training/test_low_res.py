"""Upsamplers in training: their draws, what they are shown, and what they cannot be trained with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dataprep.draw.crop import NativeCrop
from dataprep.draw.recipe import Recipe
from dataprep.draw.redraw import redraw_sample
from intarsia.boxes import Box
from intarsia.conditions.low_res import area_mean, level_signal
from intarsia.config import load_config
from intarsia.errors import UsageError
from intarsia.model import EditModel, build_model
from intarsia.sample import Sample
from intarsia.weights import save_model
from sampling.preview import preview_grid
from sampling.settings import EditSettings
from tests.training.synthetic import make_sample, make_shards, write_config
from training.config import TrainConfig
from training.data.batch import collate
from training.data.batches import Batch, open_dataset
from training.estimate.counting import count
from training.objective.draws import draw, noise_levels
from training.objective.edit import EditTrainee, prepare, told
from training.tracking.previews import fixed_requests

LOW_RES = "model.low_res={factor: 2, max_noise_level: 300}"
CPU = torch.device("cpu")


def configured(folder: Path, *overrides: str) -> TrainConfig:
    return load_config(TrainConfig, write_config(folder), overrides)


def batch_of(number: int) -> Batch:
    batch = collate([(position, make_sample(position)) for position in range(number)])
    assert isinstance(batch, Batch)
    return batch


def test_level_and_noise_have_draws_of_their_own(tmp_path: Path) -> None:
    model, plain = configured(tmp_path, LOW_RES).model, configured(tmp_path).model
    positions = torch.arange(600)
    drawn, without = draw(1, positions, model, 0.2, 0.1), draw(1, positions, plain, 0.2, 0.1)
    for name in ("timesteps", "dropped", "noise", "image_noise", "masked_noise"):
        assert torch.equal(getattr(drawn, name), getattr(without, name))
    assert (without.levels, without.low_res_noise) == (None, None)
    assert drawn.levels is not None
    assert drawn.low_res_noise is not None
    assert drawn.low_res_noise.shape == (600, 3, 16, 16)
    assert abs(float(drawn.low_res_noise.mean())) < 4 / (600 * 3 * 16 * 16) ** 0.5
    assert 0 <= drawn.levels.min() < 10
    assert 290 < drawn.levels.max() < 300
    assert abs(float(drawn.levels.float().mean()) - 149.5) < 4 * 300 / (12 * 600) ** 0.5
    some = torch.tensor([70, 3])
    again = draw(1, some, model, 0.2)
    assert torch.equal(again.levels, drawn.levels[some])
    assert torch.equal(again.low_res_noise, drawn.low_res_noise[some])


def test_the_whole_picture_is_shown_at_low_resolution_beside_the_known_pixels(tmp_path: Path) -> None:
    config, plain = configured(tmp_path, LOW_RES), configured(tmp_path)
    batch = batch_of(3)
    drawn = draw(0, batch.positions, config.model, 0.0)
    levels = noise_levels(config.model.noise)
    model, first = build_model(config.model, 0), build_model(plain.model, 0)
    first.vae = model.vae
    step, bare = (prepare(one, levels, batch, drawn, CPU) for one in (model, first))
    assert step.channels.shape == (3, 8, 16, 16)
    assert torch.equal(step.channels[:, :5], bare.channels)
    assert torch.equal(step.noisy_latents, bare.noisy_latents)
    assert torch.equal(step.levels, drawn.levels)
    signal = level_signal()[drawn.levels][:, None, None, None]
    low_res = area_mean(batch.image, 2).permute(0, 3, 1, 2) / 127.5 - 1
    expected = signal * low_res + (1 - signal**2).sqrt() * drawn.low_res_noise
    assert torch.allclose(step.channels[:, 5:], expected, atol=1e-6)
    mapped = configured(tmp_path, LOW_RES, "model.structure.maps=[edges]")
    shown = replace(step, channels=torch.ones(3, 9, 16, 16))
    blank = told(mapped, shown)[""].channels
    assert not blank[:, 5].any()
    assert blank[:, 6:].all(), "the last channels are those of the low-resolution picture"


def test_before_training_it_answers_as_the_model_that_it_starts_from(tmp_path: Path) -> None:
    """The same prediction to the bit, whatever the low-resolution picture and its level."""
    config, plain = configured(tmp_path, LOW_RES), configured(tmp_path)
    first = build_model(plain.model, 0)
    save_model(first, tmp_path / "model")
    overrides = LOW_RES, f"model.init.model_folder={tmp_path / 'model'}"
    model = build_model(configured(tmp_path, *overrides).model, 1)
    batch, levels = batch_of(2), noise_levels(plain.model.noise)
    drawn = draw(0, batch.positions, config.model, 0.0)
    with torch.no_grad():
        answers = [EditTrainee(one)(prepare(one, levels, batch, drawn, CPU)) for one in (first, model)]
    assert torch.equal(*answers)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    for overrides, sentence in (
        (["data.latents=true"], "data.latents=true does not go with model.low_res"),
        (["task=noised-clip"], "model.low_res has no effect with task=noised-clip"),
    ):
        with pytest.raises(UsageError, match=sentence):
            configured(tmp_path, LOW_RES, *overrides)


def test_the_estimate_counts_channels_and_levels(tmp_path: Path) -> None:
    counts = [count(configured(tmp_path, *more)) for more in ((), (LOW_RES,))]
    assert counts[1].trained - counts[0].trained == 3 * 9 * 8 + 1000 * 32
    assert counts[1].flops["forward"] > counts[0].flops["forward"]


def test_previews_show_what_it_makes_of_the_true_picture(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", (3,))
    config = configured(tmp_path, LOW_RES, f"data.shards={shards}", "preview={every_steps: 1, num_images: 2}")
    requests = fixed_requests(open_dataset(config), config)
    model: EditModel = build_model(config.model, 0)
    settings = EditSettings(num_inference_steps=2)
    truths = [request.image for request in requests]
    sheets = [np.asarray(preview_grid(model, requests, settings, truths)) for _ in range(2)]
    assert sheets[0].shape[1] == 8 + 5 * (256 + 8)
    assert np.array_equal(*sheets)


def whole_picture(width: int, height: int, box: Box) -> Sample:
    sample = make_sample(0)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    item = replace(sample.meta.boxes[0], box=box)
    meta = replace(sample.meta, key="a_000", image_size=(width, height), boxes=(item,), box=box, extended=box)
    return replace(sample, image=image, edit_mask=np.zeros((height, width), np.uint8), meta=meta)


def test_a_native_window_is_a_part_of_the_picture_to_the_bit() -> None:
    recipe = Recipe(name="native", crop={"kind": "native", "side": 64})
    assert isinstance(recipe.crop, NativeCrop)
    for box in (Box(30, 40, 60, 80), Box(10, 5, 190, 140)):
        sample = whole_picture(200, 150, box)
        places = set()
        for epoch in range(12):
            drawn = redraw_sample(sample, 64, 1, epoch, recipe)
            if not isinstance(drawn, Sample):
                continue  # nothing of the mask lies in the window
            window = drawn.meta.window
            assert (window.width, window.height) == (64, 64)
            assert np.array_equal(drawn.image, window.cut(sample.image))
            places.add((window.x0, window.y0))
            extended = drawn.meta.extended
            assert window.contains(extended) or max(extended.width, extended.height) > 64
        assert len(places) > 3
    small = redraw_sample(whole_picture(50, 40, Box(5, 5, 30, 30)), 64, 1, 0, recipe)
    assert isinstance(small, Sample)
    assert (small.meta.window.width, small.image.shape[0]) == (40, 64), "enlarged"
