"""Composed input: the UNet sees noise only in the hole, and only the hole's errors count."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from intarsia.architecture import NoiseConfig
from intarsia.conditioning import composed, known_channels
from intarsia.config import load_config
from intarsia.errors import UsageError, UserError
from intarsia.files import read_json
from intarsia.model import EditModel, build_model
from intarsia.model_folder import frozen_hash
from intarsia.original import to_original
from intarsia.weights import read_model, save_model
from sampling.denoise.sampler import Known, StepOptions, denoise, new_noise_scheduler
from sampling.editing import edit
from sampling.settings import EditSettings
from tests.sampling.tiny import request
from tests.training.synthetic import make_sample, write_config
from training.config import TrainConfig
from training.data.batches import Batch, collate
from training.objective.draws import draw, noise_levels
from training.objective.edit import EditTrainee, errors_of, loss_of, prepare
from training.objective.task import Step
from training.objective.weighting import hole_weight

COMPOSE = "objective.compose=true"
CPU = torch.device("cpu")


def configured(folder: Path, *overrides: str) -> TrainConfig:
    return load_config(TrainConfig, write_config(folder), overrides)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return configured(tmp_path_factory.mktemp("compose"), COMPOSE)


@pytest.fixture(scope="module")
def model(config: TrainConfig) -> EditModel:
    return build_model(config.model, 0)


def step_of(model: EditModel, config: TrainConfig) -> Step:
    batch = collate([(position, make_sample(position)) for position in range(3)])
    assert isinstance(batch, Batch)
    draws = draw(config.seed, batch.positions, config.model, 0.0)
    return prepare(model, noise_levels(config.model.noise), batch, draws, CPU, config.objective)


@torch.no_grad()
def test_the_prediction_does_not_change_with_the_noise_outside(
    model: EditModel, config: TrainConfig, tmp_path: Path
) -> None:
    plain_config = configured(tmp_path)
    for own, run, same in ((model, config, True), (build_model(plain_config.model, 0), plain_config, False)):
        step = step_of(own, run)
        outside = step.channels[:, 4:5] == 1
        assert outside.any()
        assert not outside.all()
        other = torch.where(outside, torch.randn_like(step.noisy_latents), step.noisy_latents)
        before, after = (
            EditTrainee(own)(replace(step, noisy_latents=latents)) for latents in (step.noisy_latents, other)
        )
        assert torch.equal(before, after) == same
        inside = torch.where(outside, step.noisy_latents, step.noisy_latents + 1)
        assert not torch.equal(before, EditTrainee(own)(replace(step, noisy_latents=inside)))


def test_the_floor_outside_is_one_and_does_not_count(model: EditModel, config: TrainConfig) -> None:
    """The best guess of noise that cannot be seen is 0, whose error is the noise's variance, 1."""
    step = step_of(model, config)
    outside = step.channels[:, 4:5]
    best = step.target * (1 - outside)
    unweighted = replace(step, weight=None, cells=None)
    share = float(outside.mean())
    assert float(loss_of(best, unweighted)) == pytest.approx(share, rel=0.15)
    assert share > 0.5
    inside = (outside < 1).float()
    assert float(loss_of(step.target * inside, step)) == 0
    assert not errors_of(step.target * inside, step).any()
    wrong = step.target + inside
    assert errors_of(wrong, step).tolist() == pytest.approx([1.0] * 3)
    assert float(loss_of(wrong, step)) == pytest.approx(1.0)
    assert not hole_weight(torch.zeros(1, 1, 4, 4)).any(), "a hole without a cell counts nothing"


def test_the_folder_notes_it_and_sampling_keeps_the_known_latents(
    model: EditModel, config: TrainConfig, tmp_path: Path
) -> None:
    save_model(model, tmp_path / "model")
    assert read_json(tmp_path / "model" / "intarsia.json") == {"compose": True}
    again = read_model(tmp_path / "model")
    few = EditSettings(num_inference_steps=2)
    results = [
        edit(own, [request(1)], few.model_copy(update={"latent_blend": blend}))[0].image
        for own, blend in ((again, False), (again, True))
    ]
    assert np.array_equal(*results)
    plain = configured(tmp_path, f"model.init.model_folder={tmp_path / 'model'}")
    with pytest.raises(UserError, match=r"has compose=true, .* false; set objective\.compose=true"):
        build_model(plain.model, 0)
    save_model(build_model(configured(tmp_path).model, 1), tmp_path / "plain")
    learns = configured(tmp_path, COMPOSE, f"model.init.model_folder={tmp_path / 'plain'}")
    started = build_model(learns.model, 0)
    assert started.config.compose
    assert frozen_hash(started) == frozen_hash(read_model(tmp_path / "plain")), "stored latents serve both"
    with pytest.raises(UserError, match="cannot hold a model with compose=true"):
        to_original(again)


def test_what_cannot_be_is_refused_in_a_sentence(tmp_path: Path) -> None:
    for options, sentence in (
        (["model.compose=true"], "model.compose=true is set by objective.compose=true; give that"),
        (
            [COMPOSE, "objective.mask_weight=4"],
            "objective.mask_weight=4 does not go with objective.compose=true",
        ),
        ([COMPOSE, "model.unet.in_channels=4"], "can only be sampled"),
    ):
        with pytest.raises(UsageError, match=sentence):
            configured(tmp_path, *options)


POINTS, FIELDS, SAMPLES, LENGTH = 32, 4, 1000, 4.0


@pytest.mark.portable
def test_a_composed_gaussian_field_has_the_right_mean_and_a_replaced_one_has_not() -> None:
    """Exact denoisers of a smooth random line with a hole of 10 points, of which the rest is known.

    Composed, the denoiser gets `composed` and answers with the conditional mean. Replaced, it is that of the
    whole line, and the known points are put in at every step (`Known`). Errors of the samples' mean: .03 and
    .71 seen.
    """
    place = torch.arange(POINTS, dtype=torch.float64)
    covariance = torch.exp(-((place[:, None] - place) ** 2) / (2 * LENGTH**2)) + 1e-4 * torch.eye(POINTS)
    hole = torch.zeros(POINTS, dtype=torch.bool)
    hole[11:21] = True
    gain = covariance[hole][:, ~hole] @ torch.linalg.inv(covariance[~hole][:, ~hole])
    rest = covariance[hole][:, hole] - gain @ covariance[~hole][:, hole]
    rng = torch.Generator().manual_seed(0)
    factor = torch.linalg.cholesky(covariance)
    levels = noise_levels(NoiseConfig()).alphas_cumprod.double()
    errors = {"composed": 0.0, "replaced": 0.0}
    sizes = 0.0
    for _ in range(FIELDS):
        field = factor @ torch.randn(POINTS, generator=rng, dtype=torch.float64)
        exact = gain @ field[~hole]
        sizes += float(exact.square().sum())
        start, noise = (
            torch.randn(SAMPLES, 1, 1, POINTS, generator=rng, dtype=torch.float64) for _ in range(2)
        )
        known = field.expand(SAMPLES, 1, 1, POINTS)
        mask = hole.double().expand(SAMPLES, 1, 1, POINTS)
        channels = known_channels(known * (1 - mask), mask)

        def of_composed(latents: Tensor, timestep: Tensor, channels: Tensor = channels) -> Tensor:
            signal = levels[int(timestep)]
            seen = composed(torch.cat([latents, channels], dim=1), 1)[:, 0, 0]
            mean = seen[:, ~hole] @ gain.T
            wanted = signal * rest + (1 - signal) * torch.eye(int(hole.sum()))
            residual = torch.linalg.solve(wanted, (seen[:, hole] - math.sqrt(signal) * mean).T).T
            predicted = torch.full_like(seen, 7.0)  # what it says outside the hole does not matter
            predicted[:, hole] = math.sqrt(1 - signal) * residual
            return predicted[:, None, None]

        def of_whole(latents: Tensor, timestep: Tensor) -> Tensor:
            signal = levels[int(timestep)]
            wanted = signal * covariance + (1 - signal) * torch.eye(POINTS)
            residual = torch.linalg.solve(wanted, latents[:, 0, 0].T).T
            return (math.sqrt(1 - signal) * residual)[:, None, None]

        held = StepOptions(known=Known(known, noise, ~hole.expand(SAMPLES, 1, 1, POINTS)))
        for name, predict, options in (("composed", of_composed, None), ("replaced", of_whole, held)):
            scheduler = new_noise_scheduler(NoiseConfig(), "ddim")
            mean = denoise(predict, scheduler, start, 50, options=options)[:, 0, 0, hole].mean(dim=0)
            errors[name] += float((mean - exact).square().sum())
    relative = {name: math.sqrt(error / sizes) for name, error in errors.items()}
    assert relative["composed"] < 0.05
    assert relative["replaced"] > 0.6
