"""How far replacement of the known region is from the truth, on a field whose posterior is known.

    python -m benchmarks.replacement

A Gaussian field of 32 points has a hole of 10, and every denoiser is exact, so that all errors are those of
the way in which the known points are held. `sampling.denoise` makes the steps, as in an edit.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intarsia.architecture import NoiseConfig
from sampling.denoise.sampler import Known, StepOptions, denoise, new_noise_scheduler, step_generators

POINTS, FIRST, LAST, LENGTH = 32, 11, 21, 4.0  # the hole is FIRST … LAST - 1


@dataclass(frozen=True)
class Field:
    """A Gaussian field with a hole.

    Attributes:
        covariance: float64 [n, n].
        hole: bool [n].
        gain: matrix that takes the known points to the mean of the hole, float64 [hole, known].
        rest: covariance of the hole when the rest is known, float64 [hole, hole].
    """

    covariance: Tensor
    hole: Tensor
    gain: Tensor
    rest: Tensor


def new_field() -> Field:
    """The field: squared exponential covariance of length 4, with .0001 on the diagonal."""
    place = torch.arange(POINTS, dtype=torch.float64)
    covariance = torch.exp(-0.5 * ((place[:, None] - place[None]) / LENGTH) ** 2) + 1e-4 * torch.eye(POINTS)
    hole = (place >= FIRST) & (place < LAST)
    inner, known = covariance[hole][:, hole], covariance[~hole][:, ~hole]
    gain = covariance[hole][:, ~hole] @ torch.linalg.inv(known)
    return Field(covariance, hole, gain, inner - gain @ covariance[~hole][:, hole])


def posterior_noise(covariance: Tensor, levels: Tensor) -> Callable[[Tensor, Tensor, Tensor | float], Tensor]:
    """The expected noise of √ā · x + √(1 − ā) · noise, x of this covariance: (noisy x, timestep, mean)."""
    values, vectors = torch.linalg.eigh(covariance)

    def predict(noisy: Tensor, timestep: Tensor, mean: Tensor | float = 0.0) -> Tensor:
        level = levels[int(timestep)]
        shrunk = math.sqrt(1 - level) / (level * values + 1 - level)
        return ((noisy - math.sqrt(level) * mean) @ vectors * shrunk) @ vectors.T

    return predict


def sample(field: Field, truth: Tensor, way: dict[str, Any], samples: int, seed: int) -> Tensor:
    """Samples of the hole, float64 [samples, hole].

    Args:
        field: field.
        truth: its values, float64 [n].
        way: steps, eta, resample, and told: whether the model sees the known points.
        samples: number of samples.
        seed: seed of the noise.
    """
    scheduler = new_noise_scheduler(NoiseConfig(), "ddim")
    levels = scheduler.alphas_cumprod.double()
    alone, hidden = posterior_noise(field.covariance, levels), posterior_noise(field.rest, levels)
    mean = field.gain @ truth[~field.hole]

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        noisy = latents[:, 0, 0].double()
        noise = alone(noisy, timestep, 0.0)
        if way["told"]:
            noise[:, field.hole] = hidden(noisy[:, field.hole], timestep, mean)
        return noise[:, None, None].to(latents)

    rng = torch.Generator().manual_seed(seed)
    start = torch.randn((samples, 1, 1, POINTS), generator=rng)
    known = Known(truth.float().expand_as(start), start, (~field.hole).expand_as(start))
    generators = step_generators(range(seed * samples, (seed + 1) * samples)) if way["eta"] else None
    options = StepOptions(way["eta"], generators, None if way["told"] else known, resample=way["resample"])
    return denoise(predict, scheduler, start, way["steps"], None, options)[:, 0, 0][:, field.hole].double()


def measure(field: Field, way: dict[str, Any], fields: int, samples: int) -> tuple[float, float, float]:
    """Relative error of the hole's mean, variance over the exact one, squared jump at its first point."""
    error, size, variance, jump = 0.0, 0.0, 0.0, 0.0
    for number, truth in enumerate(truths_of(field, fields)):
        right, found = field.gain @ truth[~field.hole], sample(field, truth, way, samples, number)
        error += float((found.mean(0) - right).square().sum())
        size += float(right.square().sum())
        variance += float(found.var(0).sum() / field.rest.trace()) / fields
        jump += float((found[:, 0] - truth[FIRST - 1]).square().mean()) / fields
    return math.sqrt(error / size), variance, jump


def truths_of(field: Field, fields: int) -> list[Tensor]:
    """Draws of the field, float64 [n]."""
    rng = torch.Generator().manual_seed(0)
    root = torch.linalg.cholesky(field.covariance)
    return [root @ torch.randn(POINTS, generator=rng, dtype=torch.float64) for _ in range(fields)]


def exact_jump(field: Field, fields: int) -> float:
    """The expected squared jump at the hole's first point."""
    return (
        sum(
            float((field.gain[0] @ truth[~field.hole] - truth[FIRST - 1]).square() + field.rest[0, 0])
            for truth in truths_of(field, fields)
        )
        / fields
    )


WAYS: dict[str, dict[str, Any]] = {
    "replacement, ddim": {"steps": 50, "eta": 0.0, "resample": 1, "told": False},
    "replacement, eta 1": {"steps": 50, "eta": 1.0, "resample": 1, "told": False},
    "replacement, eta 1, 200 steps": {"steps": 200, "eta": 1.0, "resample": 1, "told": False},
    "replacement, --resample 5": {"steps": 50, "eta": 1.0, "resample": 5, "told": False},
    "replacement, --resample 10": {"steps": 50, "eta": 1.0, "resample": 10, "told": False},
    "a model that sees the known part": {"steps": 50, "eta": 0.0, "resample": 1, "told": True},
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--fields", type=int, default=12, metavar="N", help="fields (default %(default)s)")
    samples = "samples of each (default %(default)s)"
    parser.add_argument("--samples", type=int, default=1500, metavar="N", help=samples)
    arguments = parser.parse_args()
    field = new_field()
    print("| way | steps | calls of the model | error of the mean | variance | squared jump |")
    print("|---|---|---|---|---|---|")
    print(f"| exact | | | 0 | 1 | {exact_jump(field, arguments.fields):.3f} |")
    for name, way in WAYS.items():
        error, variance, jump = measure(field, way, arguments.fields, arguments.samples)
        calls = (way["steps"] - 1) * way["resample"] + 1
        print(
            f"| {name} | {way['steps']} | {calls} | {error:.2f} | {variance:.2f} | {jump:.3f} |", flush=True
        )


if __name__ == "__main__":
    main()
