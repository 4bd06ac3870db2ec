"""Noise levels that end in pure noise: from the config through the model folder to the sampler."""

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from intarsia.architecture import NoiseConfig
from intarsia.errors import UsageError, UserError
from intarsia.weights import read_model, save_model
from sampling.denoise.sampler import denoise, new_noise_scheduler
from sampling.editing import edit
from sampling.settings import EditSettings
from tests.closeness import relative_error, rounding
from tests.sampling.tiny import request, tiny_config, tiny_model

pytestmark = pytest.mark.portable

OVERRIDES = (
    "model.noise.prediction_type=v_prediction",
    "model.noise.rescale_betas_zero_snr=true",
    "model.noise.timestep_spacing=trailing",
)
NOISE = NoiseConfig(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")


def test_the_last_timestep_holds_no_signal_and_sampling_starts_there() -> None:
    scheduler = new_noise_scheduler(NOISE, "ddim")
    scheduler.set_timesteps(10)
    assert scheduler.timesteps.tolist() == list(range(999, 0, -100))
    levels = scheduler.alphas_cumprod.double().sqrt()
    assert levels[-1] == 0
    # Algorithm 1 of Lin et al. 2023: shifted and scaled, so that the first level stays what it was.
    before = new_noise_scheduler(NoiseConfig(), "ddim").alphas_cumprod.double().sqrt()
    expected = (before - before[-1]) * before[0] / (before[0] - before[-1])
    assert relative_error(levels, expected) < rounding(1000)  # a level is a product of up to 1000 factors


def test_a_perfect_model_of_velocities_paints_the_one_picture_there_is() -> None:
    """With a single picture as the data, the true velocity is known; any start must lead to that picture."""
    scheduler = new_noise_scheduler(NOISE, "ddim")
    picture = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def velocity(latents: Tensor, timestep: Tensor) -> Tensor:
        level = scheduler.alphas_cumprod[timestep]
        noise = (latents - level.sqrt() * picture) / (1 - level).sqrt()
        return level.sqrt() * noise - (1 - level).sqrt() * picture

    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    painted = denoise(velocity, scheduler, start, 20)
    # What is left is the noise of timestep 0, where the walk ends.
    assert float((painted - picture).abs().max()) < 0.15


def test_the_folder_tells_diffusers_the_same_levels_and_loads_back(tmp_path: Path) -> None:
    model = tiny_model(0, *OVERRIDES)
    save_model(model, tmp_path / "model")
    theirs = DDIMScheduler.from_pretrained(tmp_path / "model" / "scheduler")
    ours = new_noise_scheduler(read_model(tmp_path / "model").config.noise, "ddim")
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(25)
    assert torch.equal(theirs.alphas_cumprod, ours.alphas_cumprod)
    assert torch.equal(theirs.timesteps, ours.timesteps)
    assert ours.config.rescale_betas_zero_snr
    results = edit(model, [request(0)], EditSettings(scheduler="ddim", num_inference_steps=2))
    assert results[0].image.shape == request(0).image.shape


@pytest.mark.parametrize("name", ["plms", "heun"])
def test_samplers_that_would_divide_by_it_refuse(name: str) -> None:
    sentence = f"the scheduler {name} does not support rescale_betas_zero_snr.*; use the scheduler ddim"
    with pytest.raises(UserError, match=sentence):
        new_noise_scheduler(NOISE, name)


@pytest.mark.parametrize(
    ("left_out", "words"),
    [(0, "needs prediction_type=v_prediction"), (2, "needs timestep_spacing=trailing")],
)
def test_half_of_the_cure_is_refused(left_out: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        tiny_config(*(text for number, text in enumerate(OVERRIDES) if number != left_out))
