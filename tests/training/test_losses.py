"""The loss by quarter of the timesteps, and the fixed draws of validation."""

import math

import pytest
import torch
from torch import nn

from intarsia.config import load_config
from tests.training.synthetic import write_config
from training.config import TrainConfig
from training.objective.edit import TASK
from training.objective.task import Step
from training.ranks.distributed import World
from training.run.state import TrainState
from training.tracking.losses import Losses, by_quarter, quarter_means
from training.tracking.validation import fixed_draws


def step_at(timesteps: list[int], target: torch.Tensor) -> Step:
    none = torch.empty(0)
    return Step(none, torch.tensor(timesteps), none, none, none, target, weight=torch.tensor(7.0))


class Echo(nn.Module):
    """Answers what it is made of."""

    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, step: Step) -> torch.Tensor:
        return self.answer


def test_each_sample_counts_in_the_quarter_of_its_timestep_unweighted() -> None:
    prediction, target = torch.randn(6, 4, 3, 3), torch.randn(6, 4, 3, 3)
    timesteps = [0, 249, 250, 500, 999, 751]
    step = step_at(timesteps, target)
    row = by_quarter(TASK.errors(prediction, step), step.timesteps, 1000)
    errors = ((prediction - target) ** 2).mean(dim=(1, 2, 3))
    expected = [errors[0] + errors[1], errors[2], errors[3], errors[4] + errors[5], 2, 1, 1, 2]
    assert row.tolist() == pytest.approx([float(value) for value in expected])


def test_quarters_are_means_over_samples_and_an_empty_one_is_left_out() -> None:
    rows = [[1.0, 0, 3.0, 0, 1, 0, 2, 0], [2.0, 0, 3.0, 0, 1, 0, 1, 0]]
    assert quarter_means(rows, "train/loss") == {"train/loss_q1": 1.5, "train/loss_q3": 2.0}


def test_losses_taken_up_early_are_logged_with_the_later_ones_and_dropped_steps_are_not() -> None:
    target = torch.zeros(2, 1, 1, 1)
    state = TrainState()
    trainee = Echo(torch.tensor([1.0, 3.0]).view(2, 1, 1, 1))
    losses = Losses(trainee, TASK, 1000, state, World(0, 1, torch.device("cpu")))
    trainee(step_at([0, 999], target))
    losses.keep([torch.tensor(5.0)])
    losses.take_up()  # as a checkpoint does
    assert TrainState.from_json(state.to_json(), None).unlogged_quarters == [[1.0, 0, 0, 9.0, 1, 0, 0, 1]]
    trainee(step_at([0, 0], target))
    losses.drop()
    with torch.no_grad():
        trainee(step_at([0, 0], target))  # validation is not training
    trainee(step_at([0, 999], target))
    trainee(step_at([0, 999], target))
    losses.keep([torch.tensor(6.0), torch.tensor(8.0)])
    assert losses.values() == {"train/loss": 6.0, "train/loss_q1": 1.0, "train/loss_q4": 9.0}
    assert math.isnan(losses.values()["train/loss"])


def test_validation_draws_are_the_same_for_every_seed_and_batch_and_cover_all_timesteps(tmp_path) -> None:
    config = load_config(TrainConfig, write_config(tmp_path))
    other = config.model_copy(update={"seed": 99, "exemplar_dropout": 1.0})
    whole, part = fixed_draws(config, list(range(64))), fixed_draws(other, [5, 6])
    assert torch.equal(whole.noise[5:7], part.noise)
    assert torch.equal(whole.timesteps[5:7], part.timesteps)
    assert not whole.dropped.any()
    quarters = torch.bincount(whole.timesteps * 4 // 1000, minlength=4)
    assert quarters.min() >= 15
