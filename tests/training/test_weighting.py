"""Weighted errors against the equations, diffusers' signal-to-noise ratio, and what the weights promise."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.training_utils import compute_snr

from intarsia.architecture import NoiseConfig
from intarsia.config import load_config
from intarsia.errors import UsageError
from tests.training.synthetic import write_config
from training.config import TrainConfig
from training.objective.draws import noise_levels
from training.objective.edit import loss_of
from training.objective.task import Step
from training.objective.weighting import cell_weight, error_weight, min_snr_weight, signal_to_noise
from training.option_groups import ObjectiveConfig

pytestmark = pytest.mark.portable

TIMESTEPS = torch.arange(1000)
EDIT_MASK = torch.zeros(2, 1, 8, 8)
EDIT_MASK[0, :, 2:4, 2:4] = 1
EDIT_MASK[1, :, :, 4:] = 1


def test_the_signal_to_noise_ratio_is_diffusers() -> None:
    scheduler = noise_levels(NoiseConfig())
    ours, theirs = signal_to_noise(scheduler, TIMESTEPS), compute_snr(scheduler, TIMESTEPS)
    assert torch.allclose(ours, theirs, rtol=1e-4)


def test_min_snr_caps_what_an_error_of_the_picture_costs() -> None:
    """Hang et al. 2023: whatever is predicted, an error of the picture costs min(SNR, γ) × its square."""
    levels = noise_levels(NoiseConfig()).alphas_cumprod.double()
    snr = levels / (1 - levels)
    picture_error = 0.3
    noise_error = picture_error * snr.sqrt()  # ε = (z_t − √ā z) / √(1 − ā)
    velocity_error = picture_error / (1 - levels).sqrt()  # v = (√ā z_t − z) / √(1 − ā)
    expected = picture_error**2 * snr.clamp(max=5)
    for error, velocity in ((noise_error, False), (velocity_error, True)):
        assert torch.allclose(min_snr_weight(snr, 5, velocity) * error**2, expected)
    assert min_snr_weight(snr, 5, False).max() == 1


def test_without_options_every_error_counts_once() -> None:
    scheduler = noise_levels(NoiseConfig())
    assert error_weight(scheduler, TIMESTEPS[:2], EDIT_MASK, ObjectiveConfig()) is None


def test_the_mask_weight_is_the_ratio_and_small_holes_count_as_much_as_large_ones() -> None:
    weight = cell_weight(EDIT_MASK, 4.0)
    assert torch.allclose(weight.mean(dim=(1, 2, 3)), torch.ones(2))
    for cells, mask in zip(weight, EDIT_MASK, strict=True):
        inside, outside = cells[mask == 1], cells[mask == 0]
        assert torch.allclose(inside.mean() / outside.mean(), torch.tensor(4.0))


def test_the_loss_is_the_weighted_mean_and_one_for_errors_of_one() -> None:
    scheduler, timesteps = noise_levels(NoiseConfig()), torch.tensor([10, 900])
    both = ObjectiveConfig(min_snr_gamma=5, mask_weight=4)
    weight = error_weight(scheduler, timesteps, EDIT_MASK, both)
    target = torch.randn(2, 4, 8, 8)
    prediction = target + torch.randn(2, 4, 8, 8)
    blank = torch.zeros(2, 4, 8, 8)
    dropped = torch.zeros(2, dtype=torch.bool)
    step = Step(blank, timesteps, blank, torch.zeros(2, 16), dropped, target, weight)
    snr = signal_to_noise(scheduler, timesteps)
    by_hand = 0.0
    for i in range(2):
        cells = 1 + 3 * EDIT_MASK[i]
        errors = (prediction[i] - target[i]).square() * cells / cells.mean()
        by_hand += float(errors.mean() * min(float(snr[i]), 5) / float(snr[i])) / 2
    assert float(loss_of(prediction, step)) == pytest.approx(by_hand, rel=1e-5)
    masked = error_weight(scheduler, timesteps, EDIT_MASK, ObjectiveConfig(mask_weight=4))
    step = replace(step, weight=masked)
    assert float(loss_of(target + 1, step)) == pytest.approx(1)


def test_min_snr_with_a_timestep_without_signal_is_refused(tmp_path: Path) -> None:
    noise = "{prediction_type: v_prediction, rescale_betas_zero_snr: true, timestep_spacing: trailing}"
    with pytest.raises(UsageError, match="the weight 0, and sampling starts there; remove one"):
        load_config(
            TrainConfig, write_config(tmp_path), ["objective.min_snr_gamma=5", f"model.noise={noise}"]
        )
