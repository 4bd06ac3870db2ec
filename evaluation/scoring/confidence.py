"""How sure a number is: bootstrap intervals, and paired comparison of two models on the same cases."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from evaluation.measures.metrics import Float
from intarsia.errors import UserError

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A number and the interval that bootstrap gives it.

    Attributes:
        value: value of all cases.
        low: lower end of the interval; NaN if there is only one case to draw from.
        high: upper end.
        count: number of cases without NaN.
        infinite: number of those that are infinite, as the PSNR of equal pixels, and left out of `value`.
    """

    value: float
    low: float
    high: float
    count: int
    infinite: int = 0


@dataclass(frozen=True)
class Comparison:
    """Two models on the cases that both have.

    Attributes:
        a: the first model's mean.
        b: the second's.
        difference: mean of `b` - `a`, case by case.
        beyond_noise: whether 0 is outside the interval of the difference.
        missing: cases that only one of them has, or where one's value is NaN; they are not compared.
        infinite: numbers of cases infinite in a alone, in b alone and in both; they are not compared.
    """

    a: float
    b: float
    difference: Interval
    beyond_noise: bool
    missing: tuple[str, ...]
    infinite: tuple[int, int, int]


def bootstrap_mean(values: Float, seed: int = 0, draws: int = DRAWS, level: float = LEVEL) -> Interval:
    """The mean of values [N] with its percentile interval (Efron 1979).

    NaN values are left out; so are infinite ones, which are counted, unless there are no others.

    Raises:
        ValueError: if nothing but NaN is left.
    """
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if not values.size:
        raise ValueError("no value to average")
    finite = values[np.isfinite(values)]
    infinite = values.size - finite.size
    if not finite.size:
        return Interval(float(values[0]), float("nan"), float("nan"), values.size, infinite)
    found = _bootstrap_mean(finite.tobytes(), seed, draws, level)
    return replace(found, count=values.size, infinite=infinite)


@lru_cache(maxsize=256)
def _bootstrap_mean(content: bytes, seed: int, draws: int, level: float) -> Interval:
    """Of float64 values; a report asks for the same ones for its file and for its tables."""
    values = np.frombuffer(content)
    return bootstrap(lambda chosen: float(values[chosen].mean()), values.size, seed, draws, level)


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float],
    count: int,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Interval:
    """Any number of `count` cases with its percentile interval.

    Args:
        statistic: takes the numbers of the cases, some of them several times, and gives the number.
        count: number of cases.
        seed: seed of the draws; the same seed gives the same interval.
        draws: number of draws with replacement, each of `count` cases; 0 gives no interval.
        level: share of the draws that the interval holds.
    """
    value = statistic(np.arange(count))
    if count < 2 or not draws:
        return Interval(value, float("nan"), float("nan"), count)
    rng = np.random.default_rng(seed)
    drawn = [statistic(rng.integers(0, count, count)) for _ in range(draws)]
    ends: Float = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(ends[0]), float(ends[1]), count)


def compare_cases(
    a: Mapping[str, float], b: Mapping[str, float], seed: int = 0, draws: int = DRAWS
) -> Comparison:
    """Compare two models case by case: what the cases share cancels, so small differences show.

    Args:
        a: case -> the first model's value.
        b: case -> the second model's value, by the same recipe.
        seed: seed of the bootstrap.
        draws: number of draws.

    Raises:
        UserError: if they share no case with finite values.
    """
    known = [k for k in sorted(a.keys() & b.keys()) if not (np.isnan(a[k]) or np.isnan(b[k]))]
    shared = [k for k in known if np.isfinite(a[k]) and np.isfinite(b[k])]
    if not shared:
        raise UserError("the two sets of results share no case; compare results of the same bench")
    first, second = (np.array([values[key] for key in shared]) for values in (a, b))
    difference = bootstrap_mean(second - first, seed, draws)
    return Comparison(
        a=float(first.mean()),
        b=float(second.mean()),
        difference=difference,
        beyond_noise=difference.low > 0 or difference.high < 0,
        missing=tuple(sorted((a.keys() | b.keys()) - set(known))),
        infinite=count_infinite(a, b, known),
    )


def count_infinite(
    a: Mapping[str, float], b: Mapping[str, float], keys: Iterable[str]
) -> tuple[int, int, int]:
    """How many of the cases are infinite in `a` alone, in `b` alone and in both."""
    pairs = [(bool(np.isinf(a[key])), bool(np.isinf(b[key]))) for key in keys]
    return pairs.count((True, False)), pairs.count((False, True)), pairs.count((True, True))


GROUPS = 20  # of cases, left out one at a time
_STUDENT = 2.093  # of 19 degrees of freedom, 95 %


def group_of(place: int) -> int:
    """The group of the case at `place` among the bench's sorted keys."""
    return place % GROUPS


def jackknife(value: float, replicates: Sequence[float], count: int) -> Interval:
    """The 95 % interval of a number of a set, from the same number without each of `GROUPS` groups of cases.

    A Fréchet distance grows where pictures repeat, so bootstrap's draws would all lie above it; leaving out
    shifts every replicate alike, and their spread is what is left (delete-a-group jackknife, Kott 2001).

    Args:
        value: value of all cases.
        replicates: one value for each group; fewer give no interval.
        count: number of cases.
    """
    if len(replicates) != GROUPS:
        return Interval(value, float("nan"), float("nan"), count)
    spread = np.asarray(replicates) - np.mean(replicates)
    error = float(np.sqrt((GROUPS - 1) / GROUPS * (spread**2).sum()))
    return Interval(value, value - _STUDENT * error, value + _STUDENT * error, count)
