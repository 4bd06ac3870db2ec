"""Power function averages against their definition, and widths made afterwards against widths tracked."""

import numpy as np
import pytest

from training.optimizer.power_ema import (
    Profile,
    coefficients,
    exponent_of,
    inner_products,
    misfit,
    power_decay_at,
    width_of,
)

TRACKED = (0.05, 0.10)


def profile_at(profile: Profile, times: np.ndarray) -> np.ndarray:
    """(γ + 1) τ^γ / t^(γ + 1) up to t, then 0: equation 121."""
    exponent, end = exponent_of(profile.sigma_rel), profile.updates
    return np.where(times <= end, (exponent + 1) / end * (times / end) ** exponent, 0.0)


def averages(weights: np.ndarray, width: float) -> np.ndarray:
    """The average after each update, float64 [updates, ...], as the optimizer takes it."""
    exponent, average, history = exponent_of(width), np.full(weights.shape[1:], np.nan), []
    for update, weight in enumerate(weights):
        decay = power_decay_at(exponent, update)
        average = weight if decay == 0 else decay * average + (1 - decay) * weight
        history.append(average)
    return np.stack(history)


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.25, 0.28])
def test_the_profile_has_the_width_that_it_is_named_by(width: float) -> None:
    exponent = exponent_of(width)
    assert width_of(exponent) == pytest.approx(width, rel=1e-9)
    times = (np.arange(200_000) + 0.5) / 200_000
    density = profile_at(Profile(1, width), times)
    mean = np.mean(density * times)
    assert np.mean(density) == pytest.approx(1, rel=1e-6)
    assert np.sqrt(np.mean(density * (times - mean) ** 2)) == pytest.approx(width, rel=1e-4)


def test_the_papers_widths_have_the_papers_exponents() -> None:
    """Section 3.1."""
    assert [round(exponent_of(width), 2) for width in TRACKED] == [16.97, 6.94]


def test_an_average_weighs_each_update_by_the_integral_of_its_profile() -> None:
    updates = 50
    share_of_each = averages(np.eye(updates), 0.1)[-1]
    edges = (np.arange(updates + 1) / updates) ** (exponent_of(0.1) + 1)
    assert share_of_each == pytest.approx(np.diff(edges), abs=1e-12)
    assert share_of_each.sum() == pytest.approx(1)


def test_inner_products_are_the_integrals() -> None:
    profiles = [Profile(300, 0.05), Profile(300, 0.2), Profile(700, 0.1), Profile(1000, 0.05)]
    times = (np.arange(400_000) + 0.5) / 400
    values = np.stack([profile_at(profile, times) for profile in profiles])
    assert inner_products(profiles, profiles) == pytest.approx(values @ values.T / 400, rel=1e-4)


@pytest.mark.parametrize("width", [0.03, 0.05, 0.07, 0.1, 0.15, 0.2])
@pytest.mark.parametrize("every", [50, 100])
def test_a_width_made_of_snapshots_is_the_tracked_one(width: float, every: int) -> None:
    """As near as the profiles are: |Σ x_i θ_i − θ| ≤ ‖Σ x_i p_i − p‖ · ‖θ − c‖ for any c, by Cauchy-Schwarz.

    The weights are a drift with a random walk and noise on it, as those of a training are.
    """
    updates = 1000
    rng = np.random.default_rng(0)
    walk = rng.normal(size=(updates, 64)).cumsum(axis=0) / 30
    weights = walk + 3 * np.exp(-np.arange(updates) / 200)[:, None] + 0.3 * rng.normal(size=walk.shape)
    taken = range(every, updates + 1, every)
    histories = {tracked: averages(weights, tracked) for tracked in TRACKED}
    snapshots = [Profile(step, tracked) for step in taken for tracked in TRACKED]
    stored = np.stack([histories[profile.sigma_rel][profile.updates - 1] for profile in snapshots])
    wanted = Profile(updates, width)
    shares = coefficients(snapshots, wanted)
    assert shares.sum() == pytest.approx(1, abs=1e-12)
    error = np.abs(shares @ stored - averages(weights, width)[-1])
    away = misfit(snapshots, shares, wanted)
    length = np.sqrt(inner_products([wanted], [wanted])[0, 0])
    spread = np.sqrt(((weights - weights.mean(axis=0)) ** 2).sum(axis=0))
    assert np.all(error <= away * length * spread + 1e-12)
    if every == 50:
        assert away < (0.03 if width < min(TRACKED) else 0.02)
        assert error.max() < 0.02 * weights.std()
    if width in TRACKED:
        assert error.max() == 0


def test_no_other_sum_fits_better() -> None:
    snapshots = [Profile(step, width) for step in (100, 200, 300) for width in TRACKED]
    wanted = Profile(300, 0.08)
    best = coefficients(snapshots, wanted)
    rng = np.random.default_rng(1)
    for _ in range(50):
        change = rng.normal(size=best.shape) * 0.05
        assert misfit(snapshots, best + change - change.mean(), wanted) > misfit(snapshots, best, wanted)


def test_more_snapshots_never_fit_worse_and_an_earlier_end_can_be_had() -> None:
    wanted, fits = Profile(800, 0.15), []
    for every in (400, 200, 100, 50):
        snapshots = [Profile(step, width) for step in range(every, 801, every) for width in TRACKED]
        fits.append(misfit(snapshots, coefficients(snapshots, wanted), wanted))
    assert fits == sorted(fits, reverse=True)
    assert fits[-1] < 0.01
