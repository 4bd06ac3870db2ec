"""Numbers of whole sets of results: Fréchet and kernel distance to a reference, with their intervals.

The results' features are held as float32, 2 KB a case for CLIP and 8 KB for Inception, since intervals and
the kernel distance need them again. A reference of any size streams; the kernel distance keeps the features
of 10,000 of its pictures at most.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from evaluation.measures.metrics import Features, Float
from evaluation.scoring.confidence import GROUPS, group_of
from evaluation.scoring.distributions import frechet_to, kernel_distance, rank_warning
from evaluation.scoring.moments import Moments, moments_of
from evaluation.scoring.report import ReportColumn, SetFigure
from evaluation.scoring.store import ValueStore
from intarsia.errors import UserError
from intarsia.files import sha256_bytes

UNKNOWN = "unknown recipe"
KEPT = 10_000  # of a reference's pictures, for the kernel distance


@dataclass(frozen=True)
class Reference:
    """A reference set.

    Attributes:
        name: name in tables, such as "test2017".
        recipe: recipe of its features; `UNKNOWN` for statistics that do not say.
        count: number of pictures; 0 = unknown.
        width: D, dimensions of its features.
        moments: function to the mean and the covariance of all its features.
        moments_digest: fingerprint of these numbers.
        features: [n, D], of at most `KEPT` pictures; None if there are only statistics.
        digest: fingerprint of the pictures, or of statistics without them.
    """

    name: str
    recipe: str
    count: int
    width: int
    moments: Callable[[], Moments]
    moments_digest: str
    features: Features | None
    digest: str

    @property
    def described(self) -> str:
        """Name, fingerprint, number and recipe, as other numbers' recipes hold it."""
        count = f"{self.count:,} pictures" if self.count else "statistics"
        name = re.sub("[#@]", "_", self.name)  # these begin fingerprints
        return f"{name}#{self.digest} ({count}, {self.recipe})"


def of_moments(name: str, recipe: str, moments: Moments, features: Features | None, digest: str) -> Reference:
    """A reference whose moments are at hand."""
    width = moments.mean.size
    return Reference(name, recipe, moments.count, width, lambda: moments, moments.digest, features, digest)


def of_features(
    name: str, recipe: str, features: Features, digest: str, store: ValueStore | None = None
) -> Reference:
    """A reference whose features [N, D] are at hand: equal to `collect`, but with a store that knows the
    fingerprint of the moments they are computed only if a distance is."""
    count, width = features.shape
    most = min(count, KEPT)
    kept = features[[place * count // most for place in range(most)]]
    moments = cache(lambda: moments_of([features]))
    if store is None:
        found = moments().digest
    else:
        found = store.text(f"moments|v1|{_digest(features)[:40]}", lambda: moments().digest)
    return Reference(name, recipe, count, width, moments, found, kept, digest)


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
    return of_moments(name, recipe, moments, np.concatenate(kept), digest)


def frechet_figure(
    features: Features,
    reference: Reference,
    column: ReportColumn,
    intervals: bool = True,
    store: ValueStore | None = None,
) -> tuple[SetFigure, tuple[str, ...]]:
    """The Fréchet distance of results to a reference.

    Args:
        features: [N, D], in the order of the cases' sorted keys.
        reference: reference set with features of the same width.
        column: name and recipe of the figure.
        intervals: whether to compute it without each of the groups, too; not done below 3 cases a group.
        store: values on disk; distances of the same features to the same reference are not computed again.

    Returns:
        The figure, and notes on it.

    Raises:
        UserError: for a reference of another width.
    """
    if reference.width != features.shape[1]:
        raise UserError(
            f"{column.title}: the reference {reference.name} has statistics of {reference.width} dimensions, "
            f"and the results have features of {features.shape[1]}; give statistics of the same features"
        )
    grouped = intervals and len(features) >= 3 * GROUPS

    def compute() -> Float:
        distance = frechet_to(reference.moments())
        with warnings.catch_warnings(action="ignore"):  # they are among the notes
            found = [distance(moments_of([features]))]
            if grouped:
                groups = np.array([group_of(place) for place in range(len(features))])
                found += [distance(moments_of([features[groups != group]])) for group in range(GROUPS)]
        return np.array(found)

    against = f"{reference.count} {reference.moments_digest}"
    value, *replicates = _kept(store, f"frechet/v1/{grouped}", features, against, compute)
    sets = (len(features), features.shape[1]), (reference.count, reference.width)
    cautions = {message for count, width in sets if (message := rank_warning(count, width))}
    remarks = tuple(sorted(f"{column.title}: {message}" for message in cautions))
    return SetFigure(column, float(value), tuple(map(float, replicates)), weak=bool(cautions)), remarks


def kernel_figure(
    features: Features,
    reference: Reference,
    column: ReportColumn,
    seed: int = 0,
    store: ValueStore | None = None,
) -> SetFigure:
    """The kernel distance × 10³ of results to a reference that has features; `store` as for Fréchet."""
    theirs = reference.features
    assert theirs is not None

    def compute() -> Float:
        distance = kernel_distance(features, theirs, seed=seed)
        return np.array([distance.mean, np.nan if distance.deviation is None else distance.deviation])

    mean, deviation = _kept(store, f"kernel/v1/{seed}", features, _digest(theirs), compute)
    spread = None if np.isnan(deviation) else 1e3 * float(deviation)
    return SetFigure(column, 1e3 * float(mean), deviation=spread)


def _kept(
    store: ValueStore | None, what: str, features: Features, against: str, compute: Callable[[], Float]
) -> Float:
    """Numbers of a set, from the store if it has them; the key is made of all that they depend on."""
    if store is None:
        return compute()
    digest = sha256_bytes(f"{_digest(features)} {against}".encode())
    key = f"{what}/{digest[:40]}".replace("/", "|")
    if key not in store:
        store.add({key: compute()})
    return np.asarray(store[key], np.float64)


def _digest(features: Features) -> str:
    return sha256_bytes(
        f"{features.dtype}{features.shape}".encode() + np.ascontiguousarray(features).tobytes()
    )


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
