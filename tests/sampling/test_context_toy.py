"""What `context` does for the hole's style, on an exact network, against the same walk by hand."""

import pytest
import torch
from torch import Tensor

from benchmarks.context import (
    DEVIATION,
    SIDE,
    STYLES,
    WAYS,
    ExactNetwork,
    exact_share,
    kept_cells,
    noise_of,
    share,
    source_picture,
    walk,
)
from intarsia.architecture import NoiseConfig
from sampling.methods.inversion import move, new_levels

STEPS, DOUBT = 20, 1.0
HOLE = kept_cells() == 0


def by_hand(names: tuple[str, ...]) -> Tensor:
    """Direct inversion of the cells [n, 1], with means in the place of attention."""
    levels, keep = new_levels(NoiseConfig(), STEPS), kept_cells().flatten()[:, None] == 1

    def step(cells: Tensor, others: list[Tensor], told: float, place: int, to: int, level: int) -> Tensor:
        seen = torch.cat([cells, *others]).mean()
        noise = noise_of(cells, seen, told, DOUBT, levels.signal[level])
        return move(cells, noise, levels.signal[place], levels.signal[to])

    upwards = [source_picture().flatten()[:, None]]
    for place in range(STEPS):
        upwards.append(step(upwards[-1], [], STYLES[0], place, place + 1, place + 1))
    edit = upwards[-1]
    for place in range(STEPS, 0, -1):
        others = [upwards[place][keep][:, None]] if "context" in names else []
        edit = step(edit, others, STYLES[1], place, place - 1, place)
        edit = torch.where(keep, upwards[place - 1], edit) if "background" in names else edit
    return edit


@pytest.mark.parametrize("names", WAYS.values())
def test_the_walk_is_that_of_means(names: tuple[str, ...]) -> None:
    found = walk(names, DOUBT, steps=STEPS)
    assert torch.equal(found.reconstruction, source_picture())
    assert torch.allclose(found.edit.flatten()[:, None], by_hand(names), rtol=0, atol=1e-9)


@pytest.mark.parametrize("timestep", [20, 500, 980])
def test_the_network_is_the_posterior(timestep: int) -> None:
    """The expected noise of a Gaussian picture is √(1 − ā) · covariance⁻¹ · (noisy picture − its mean)."""
    network = ExactNetwork(DOUBT).double().requires_grad_(False)
    level, cells = float(network.levels[timestep]), SIDE * SIDE
    one = torch.eye(cells, dtype=torch.float64)
    clean = DOUBT**2 * torch.ones_like(one) + DEVIATION**2 * one
    noisy, told = source_picture(3), 0.7
    away = noisy.flatten() - level**0.5 * told
    expected = (1 - level) ** 0.5 * torch.linalg.solve(level * clean + (1 - level) * one, away)
    found = network(noisy, timestep, torch.tensor([[[told]]], dtype=torch.float64))
    assert torch.allclose(found.flatten(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("doubt", [1.0, 0.3])
def test_context_brings_the_holes_style_nearer_to_the_truth(doubt: float) -> None:
    shares = {name: share(walk(names, doubt, steps=STEPS), HOLE) for name, names in WAYS.items()}
    truth = exact_share(doubt)
    alone, background, context, both = shares.values()
    assert alone < context < both < truth
    assert background < both
    assert truth - both < 0.85 * (truth - background)
    assert truth - context < 0.75 * (truth - alone)
