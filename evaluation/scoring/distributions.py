"""Distances between sets of pictures, from their features: Fréchet, kernel, likelihood under a mixture."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.measures.metrics import Features, Float
from evaluation.scoring.moments import Moments, read_npz
from intarsia.errors import UserError
from intarsia.files import sha256_bytes

SUBSET_SIZE = 1000  # pictures that a kernel distance is taken of at once
QUALITY_SCALE = 300.0  # Paint by Example divides log-likelihoods by this


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|² + tr(A + B - 2 (AB)^½) (Dowson and Landau 1982; FID: Heusel et al. 2017, eq. 6).

    The trace of (AB)^½ is taken as the sum of the roots of the eigenvalues of B^½ A B^½, which is symmetric:
    no complex numbers, no failure where a matrix is singular.

    Warns where a set has no more pictures than features have dimensions: its covariance then lacks rank, and
    the distance is too large.

    Raises:
        UserError: for features of different width.
    """
    return frechet_to(b)(a)


def frechet_to(b: Moments) -> Callable[[Moments], float]:
    """The distance of sets to `b`, whose matrix root is taken only once."""
    values, vectors = np.linalg.eigh(b.covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T

    def distance(a: Moments) -> float:
        if a.mean.shape != b.mean.shape:
            raise UserError(
                f"statistics of {a.mean.size} and of {b.mean.size} dimensions cannot be compared; "
                "give those of the same features"
            )
        for moments in (a, b):
            _warn_of_rank(moments)
        inner = root @ a.covariance @ root
        cross = np.sqrt(np.linalg.eigvalsh((inner + inner.T) / 2).clip(0)).sum()
        step = a.mean - b.mean
        value = step @ step + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
        return max(float(value), 0.0)  # of equal sets, rounding leaves a trace of either sign

    return distance


def rank_warning(count: int, width: int) -> str:
    """The caution about a set of `count` pictures with features of `width` dimensions; empty without one.

    A count of 0 is unknown.
    """
    if not 0 < count <= width:
        return ""
    return (
        f"{count} pictures leave a covariance of {width} dimensions without full rank: the Fréchet distance "
        f"is too large, and can be compared only at equal counts; use {width + 1} pictures or more"
    )


def _warn_of_rank(moments: Moments) -> None:
    if message := rank_warning(moments.count, moments.mean.size):
        warnings.warn(message, stacklevel=3)


@dataclass(frozen=True)
class KernelDistance:
    """The mean of a kernel distance over random subsets, and its standard deviation.

    The deviation is None if every subset has all pictures of both sets, so that nothing varies.
    """

    mean: float
    deviation: float | None


def kernel_distance(
    a: Features, b: Features, subsets: int = 100, subset_size: int = SUBSET_SIZE, seed: int = 0
) -> KernelDistance:
    """KID: the unbiased squared maximum mean discrepancy under (x·y/D + 1)³ (Binkowski et al. 2018).

    Args:
        a: [N, D].
        b: [M, D].
        subsets: random subsets of both sets to average over.
        subset_size: pictures in each, without repetition; the smaller set's size where that is less.
        seed: seed of the random subsets.

    Raises:
        ValueError: for fewer than two pictures in a set, or features of different width.
    """
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features of {a.shape[1]} and {b.shape[1]} dimensions cannot be compared")
    size = min(subset_size, len(a), len(b))
    if size < 2:
        raise ValueError(f"KID needs two pictures at least, not {size}")
    rng = np.random.default_rng(seed)
    values = [
        _discrepancy(
            np.asarray(a[rng.choice(len(a), size, replace=False)], np.float64),
            np.asarray(b[rng.choice(len(b), size, replace=False)], np.float64),
        )
        for _ in range(1 if size == len(a) == len(b) else subsets)
    ]
    everything = size == len(a) == len(b)
    return KernelDistance(float(np.mean(values)), None if everything else float(np.std(values)))


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture with full covariances, as scikit-learn keeps it.

    Attributes:
        weights: [K], of sum 1.
        means: [K, D].
        precisions_cholesky: [K, D, D], upper triangular; the precision is P Pᵀ.
    """

    weights: Float
    means: Float
    precisions_cholesky: Float

    @property
    def digest(self) -> str:
        """The sha256 of the numbers in hexadecimal, however a file holds them."""
        arrays = self.weights, self.means, self.precisions_cholesky
        parts = (f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes() for array in arrays)
        return sha256_bytes(b"".join(parts))

    def log_likelihood(self, features: Features) -> Float:
        """The log density of each of features [N, D] -> [N]."""
        features = np.asarray(features, np.float64)
        rows = [
            math.log(weight)
            + np.log(np.diagonal(root)).sum()
            - 0.5 * (mean.size * math.log(2 * math.pi) + ((features @ root - mean @ root) ** 2).sum(1))
            for weight, mean, root in zip(self.weights, self.means, self.precisions_cholesky, strict=True)
            if weight > 0  # a component of weight 0 adds nothing
        ]
        return np.asarray(np.logaddexp.reduce(rows, axis=0))


def read_mixture(path: Path | str) -> Mixture:
    """Read an npz of `weights`, `means` and `precisions_cholesky`; nothing in it is unpickled.

    Raises:
        UserError: if the file is missing, is a pickle, or its arrays are not a mixture's.
    """
    arrays = read_npz(path, ("weights", "means", "precisions_cholesky"))
    mixture = Mixture(*(arrays[name] for name in ("weights", "means", "precisions_cholesky")))
    count, width = mixture.means.shape if mixture.means.ndim == 2 else (0, 0)
    if mixture.weights.shape != (count,) or mixture.precisions_cholesky.shape != (count, width, width):
        shapes = [list(array.shape) for array in arrays.values()]
        raise UserError(f"{path}: arrays of shapes {shapes} are not a mixture with full covariances")
    _check_mixture(mixture, path)
    return mixture


def _check_mixture(mixture: Mixture, path: Path | str) -> None:
    if not all(np.isfinite(a).all() for a in (mixture.weights, mixture.means, mixture.precisions_cholesky)):
        raise UserError(f"{path} has NaN or infinity; convert the mixture again")
    if (mixture.weights < 0).any() or not math.isclose(mixture.weights.sum(), 1, abs_tol=1e-3):
        raise UserError(
            f"{path}: weights from {mixture.weights.min():g} with the sum {mixture.weights.sum():g} are not "
            "those of a mixture; they are 0 or more, and their sum is 1"
        )
    if (np.diagonal(mixture.precisions_cholesky, axis1=1, axis2=2) <= 0).any():
        raise UserError(
            f"{path}: precisions_cholesky has a diagonal of 0 or less, which no covariance has; convert the "
            "mixture again"
        )


def quality_scores(features: Features, mixture: Mixture) -> Float:
    """Paint by Example's quality score of each picture [N]: 100 · clip(log-likelihood / 300, 0, 1); a set's
    score is the mean."""
    return 100 * (mixture.log_likelihood(features) / QUALITY_SCALE).clip(0, 1)


def _discrepancy(a: Float, b: Float) -> float:
    size, width = a.shape

    def kernel(x: Float, y: Float) -> Float:
        return (x @ y.T / width + 1) ** 3

    within = sum((matrix := kernel(x, x)).sum() - np.trace(matrix) for x in (a, b)) / (size * (size - 1))
    return float(within - 2 * kernel(a, b).mean())
