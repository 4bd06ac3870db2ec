"""Power function averages, and any width of them from snapshots of a few: Karras et al. 2024.

"Analyzing and Improving the Training Dynamics of Diffusion Models", arXiv 2312.02696, section 3, appendix C.
An average after t updates weighs the weights θ(τ) of the past by its profile

    p(τ) = (γ + 1) τ^γ / t^(γ + 1)   for 0 ≤ τ ≤ t, else 0,

whose standard deviation is σ_rel · t: its width is a share of the training so far, so it forgets the
beginning by itself. A sum of snapshots has the sum of their profiles; least squares make it the
target profile.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def exponent_of(sigma_rel: float) -> float:
    """γ of a relative width: the largest root of γ³ + 7γ² + (16 − σ⁻²)γ + (12 − σ⁻²) (equation 126).

    Args:
        sigma_rel: share of the training, above 0 and at most 12^−½, that of the plain mean.
    """
    inverse = sigma_rel**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return max(float(roots.real.max()), 0.0)


def width_of(exponent: float) -> float:
    """σ_rel of γ: √((γ + 1) / ((γ + 2)² (γ + 3))) (equation 123)."""
    return float(np.sqrt((exponent + 1) / ((exponent + 2) ** 2 * (exponent + 3))))


def power_decay_at(exponent: float, update: int) -> float:
    """The decay of update number `update`, 0 for the first: (1 − 1/t)^(γ + 1), t = update + 1 (eq. 127).

    The first is 0, so the initial weights are not in the average. After t updates that of number i weighs
    (i^(γ+1) − (i − 1)^(γ+1)) / t^(γ+1): the integral of the profile over it, without any error.
    """
    return float((1 - 1 / (update + 1)) ** (exponent + 1))


@dataclass(frozen=True)
class Profile:
    """What an average remembers.

    Attributes:
        updates: t, how many updates of the weights it has seen.
        sigma_rel: width as a share of them.
    """

    updates: int
    sigma_rel: float


def inner_products(ours: Sequence[Profile], theirs: Sequence[Profile]) -> np.ndarray:
    """∫ p_a p_b dτ for each pair, float64 [ours, theirs] (equation 151)."""
    t_a, t_b = (np.array([profile.updates for profile in side], float) for side in (ours, theirs))
    g_a, g_b = (np.array([exponent_of(profile.sigma_rel) for profile in side]) for side in (ours, theirs))
    t_a, g_a = t_a[:, None], g_a[:, None]
    early, late = np.minimum(t_a, t_b), np.maximum(t_a, t_b)
    overlap = (early / late) ** np.where(t_a <= t_b, g_b, g_a)
    return np.asarray((g_a + 1) * (g_b + 1) * overlap / ((g_a + g_b + 1) * late))


def coefficients(snapshots: Sequence[Profile], wanted: Profile) -> np.ndarray:
    """The weight of each snapshot in the sum that is the target average, float64 [snapshots], sum 1.

    They minimise ∫ (Σ x_i p_i − p)² dτ: A x = b with the inner products of the profiles (algorithm 3). That
    they sum to 1, without which all weights would shrink or grow, is a side condition with a multiplier here;
    the paper's program divides by the sum instead, which fits less well.

    Args:
        snapshots: at least two different profiles, none later than `wanted`; one alone if it is `wanted`.
        wanted: target profile.
    """
    for place, profile in enumerate(snapshots):
        if profile.updates == wanted.updates and abs(profile.sigma_rel - wanted.sigma_rel) < 1e-9:
            return np.eye(len(snapshots))[place]
    gram = inner_products(snapshots, snapshots)
    scale = 1 / np.sqrt(np.diag(gram))  # profiles of length 1: late and early ones weigh alike
    size = len(snapshots)
    system = np.zeros((size + 1, size + 1))
    system[:size, :size] = gram * scale[:, None] * scale
    system[:size, size] = system[size, :size] = scale
    right: np.ndarray = np.append(inner_products(snapshots, [wanted])[:, 0] * scale, 1.0)
    found = np.linalg.lstsq(system, right, rcond=None)[0][:size] * scale
    return np.asarray(found / found.sum())


def misfit(snapshots: Sequence[Profile], weights: np.ndarray, wanted: Profile) -> float:
    """√(∫ (Σ x_i p_i − p)² dτ / ∫ p² dτ): the relative error of the sum's profile; 0 = exact."""
    profiles = [*snapshots, wanted]
    signed: np.ndarray = np.append(weights, -1.0)
    square = signed @ inner_products(profiles, profiles) @ signed
    return float(np.sqrt(max(square, 0.0) / inner_products([wanted], [wanted])[0, 0]))
