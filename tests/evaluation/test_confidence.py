"""Intervals hold what they should, and pairs show what plain means hide."""

import numpy as np
import pytest

from evaluation.scoring.confidence import bootstrap, bootstrap_mean, compare_cases
from intarsia.errors import UserError


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for number in range(200):
        estimate = bootstrap_mean(rng.exponential(size=60), seed=number, draws=300)
        hits += estimate.low <= 1 <= estimate.high
    assert 0.87 <= hits / 200 <= 0.98


def test_the_interval_follows_the_seed_and_leaves_nan_out() -> None:
    values = np.array([1.0, 2.0, np.nan, 4.0, 8.0, *np.linspace(3, 4.5, 50)])
    estimate = bootstrap_mean(values, seed=3)
    assert estimate == bootstrap_mean(values, seed=3)
    assert estimate != bootstrap_mean(values, seed=4)
    assert (estimate.value, estimate.count) == (pytest.approx(3.75), 54)
    assert np.isnan(bootstrap_mean(np.array([1.0])).low)
    with pytest.raises(ValueError, match="no value"):
        bootstrap_mean(np.array([np.nan]))


def test_any_statistic_can_be_drawn() -> None:
    values = np.random.default_rng(0).normal(size=300)
    estimate = bootstrap(lambda chosen: float(np.median(values[chosen])), 300, draws=500)
    assert estimate.low < np.median(values) == estimate.value < estimate.high


def test_a_small_difference_shows_between_pairs_and_noise_does_not() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(20, 5, 200)  # what the cases share
    a = {f"{i}": value for i, value in enumerate(hard)}
    better = {key: value + 0.1 + rng.normal(0, 0.3) for key, value in a.items()}
    same = {key: value + rng.normal(0, 0.3) for key, value in a.items()}
    comparison = compare_cases(a, better)
    assert comparison.beyond_noise
    assert comparison.difference.value == pytest.approx(comparison.b - comparison.a)
    assert not compare_cases(a, same).beyond_noise
    # The two means' own intervals overlap widely: without pairs nothing would be seen.
    assert bootstrap_mean(hard).high > comparison.b


def test_cases_of_one_side_only_are_named() -> None:
    comparison = compare_cases({"a": 1.0, "b": 2.0, "c": np.nan}, {"a": 1.0, "c": 3.0, "d": 4.0})
    assert comparison.missing == ("b", "c", "d")
    with pytest.raises(UserError, match="share no case"):
        compare_cases({"a": 1.0}, {"b": 1.0})
