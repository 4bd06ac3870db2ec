"""A run goes on with other ranks and under another ZeRO stage, with the same numbers."""

import pytest
import torch

from tests.training.conftest import SAVED
from tests.training.launch import Runs, numbers

STEPS, GLOBAL = 4, 8


@pytest.mark.parametrize("other", ["stage2-alone", "stage3-pair", "stage0-pair", "stage2-offloaded-pair"])
def test_another_stage_and_other_ranks_keep_every_bit(hard_runs: Runs, other: str) -> None:
    ours = numbers(hard_runs.root / "shrunk" / "checkpoints" / SAVED)
    theirs = numbers(hard_runs.root / other / SAVED)
    assert {key.partition("/")[0] for key in ours} == {"weight", "exp_avg", "exp_avg_sq", "ema"}
    assert any(tensor.numel() % 2 for tensor in ours.values())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", ["shrunk", "grown", "stages"])
def test_the_curve_goes_on_to_rounding(hard_runs: Runs, name: str) -> None:
    assert hard_runs.losses(name) == pytest.approx(hard_runs.losses("whole"), abs=1e-5)
    assert len(hard_runs.losses(name)) == STEPS
    plain, other = hard_runs.weights("whole"), hard_runs.weights(name)
    assert max(float((plain[key] - other[key]).abs().max()) for key in plain) < 2e-4


@pytest.mark.parametrize("name", ["whole", "shrunk", "grown", "stages"])
def test_every_sample_is_seen_exactly_once(hard_runs: Runs, name: str) -> None:
    files = (hard_runs.root / f"{name}-positions").iterdir()
    seen = sorted(int(line) for file in files for line in file.read_text().split())
    assert seen == list(range(STEPS * GLOBAL))
