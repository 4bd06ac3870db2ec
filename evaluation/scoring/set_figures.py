"""Numbers of whole sets of results: Fréchet and kernel distance to a reference, with their intervals.

The results' features are held as float32, 2 KB a case for CLIP and 8 KB for Inception, since intervals and
the kernel distance need them again. A reference of any size streams; the kernel distance keeps the features
of 10,000 of its pictures at most.
"""

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.measures.metrics import Features, Float
from evaluation.scoring.confidence import GROUPS, group_of
from evaluation.scoring.distributions import frechet_to, kernel_distance
from evaluation.scoring.moments import Moments, moments_of
from evaluation.scoring.report import ReportColumn, SetFigure

UNKNOWN = "unknown recipe"
KEPT = 10_000  # of a reference's pictures, for the kernel distance


@dataclass(frozen=True)
class Reference:
    """A reference set.

    Attributes:
        name: name in tables, such as "test2017".
        recipe: recipe of its features; `UNKNOWN` for statistics that do not say.
        moments: mean and covariance of all its features.
        features: [n, D], of at most `KEPT` pictures; None if there are only statistics.
        digest: fingerprint of the pictures, or of statistics without them.
    """

    name: str
    recipe: str
    moments: Moments
    features: Features | None
    digest: str

    @property
    def described(self) -> str:
        """Name, fingerprint, number and recipe, as other numbers' recipes hold it."""
        count = f"{self.moments.count:,} pictures" if self.moments.count else "statistics"
        name = re.sub("[#@]", "_", self.name)  # these begin fingerprints
        return f"{name}#{self.digest} ({count}, {self.recipe})"


def collect(name: str, recipe: str, rows: Iterable[Features], count: int, digest: str) -> Reference:
    """A reference from features [1, D] that arrive one by one; which are kept depends on `count` alone."""
    most = min(count, KEPT)
    chosen = {place * count // most for place in range(most)}
    kept: list[Features] = []

    def passing() -> Iterator[Features]:
        for number, row in enumerate(rows):
            if number in chosen:
                kept.append(row)
            yield row

    moments = moments_of(passing())
    return Reference(name, recipe, moments, np.concatenate(kept), digest)


def frechet_figure(
    features: Features, reference: Reference, column: ReportColumn, intervals: bool = True
) -> tuple[SetFigure, tuple[str, ...]]:
    """The Fréchet distance of results to a reference.

    Args:
        features: [N, D], in the order of the cases' sorted keys.
        reference: reference set with features of the same width.
        column: name and recipe of the figure.
        intervals: whether to compute it without each of the groups, too; not done below 3 cases a group.

    Returns:
        The figure, and notes on it.
    """
    distance = frechet_to(reference.moments)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = distance(moments_of([features]))
    replicates: tuple[float, ...] = ()
    if intervals and len(features) >= 3 * GROUPS:
        groups = np.array([group_of(place) for place in range(len(features))])
        with warnings.catch_warnings(action="ignore"):  # warned above, for all cases
            replicates = tuple(distance(moments_of([features[groups != group]])) for group in range(GROUPS))
    remarks = tuple(sorted({f"{column.title}: {warning.message}" for warning in caught}))
    return SetFigure(column, value, replicates), remarks


def kernel_figure(features: Features, reference: Reference, column: ReportColumn, seed: int = 0) -> SetFigure:
    """The kernel distance × 10³ of results to a reference that has features."""
    assert reference.features is not None
    distance = kernel_distance(features, reference.features, seed=seed)
    spread = distance.deviation
    return SetFigure(column, 1e3 * distance.mean, deviation=None if spread is None else 1e3 * spread)


def psnr_of_mean(errors: Sequence[float], scale: float, column: ReportColumn) -> SetFigure:
    """The PSNR in dB of the mean squared error of all cases, which no case of equal pixels makes infinite.

    Args:
        errors: mean squared errors in the order of the cases' sorted keys; NaN is left out.
        scale: number that they were multiplied by.
        column: name and recipe of the figure.
    """
    values = np.asarray(errors, np.float64) / scale

    def decibel(chosen: Float) -> float:
        mean = float(np.nanmean(chosen)) if not np.isnan(chosen).all() else np.nan
        return float(-10 * np.log10(mean)) if mean else np.inf

    groups = np.array([group_of(place) for place in range(len(values))])
    enough = len(values) >= 3 * GROUPS
    replicates = tuple(decibel(values[groups != group]) for group in range(GROUPS)) if enough else ()
    return SetFigure(column, decibel(values), replicates if np.isfinite(replicates).all() else ())
