"""Every sampler against diffusers' own loop, on a model whose answer is known, and with a known region."""

import re
from inspect import signature
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import PNDMScheduler
from torch import Tensor

from intarsia.architecture import NoiseConfig
from sampling.denoise.sampler import Known, StepOptions, denoise, new_noise_scheduler, step_generators
from sampling.samplers import SAMPLERS
from tests.paths import ROOT

pytestmark = pytest.mark.portable

NOISE = NoiseConfig()
CASES = [
    (name, karras) for name, sampler in SAMPLERS.items() for karras in (False, True)[: 1 + sampler.karras]
]
PICTURE, START, OTHER = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def signal(timestep: Tensor) -> Tensor:
    """Share of the picture's variance at a timestep, linear between whole ones in the log of the noise."""
    levels = PNDMScheduler(**NOISE.model_dump(exclude={"rescale_betas_zero_snr"})).alphas_cumprod.double()
    sigmas = ((1 - levels) / levels).log() / 2
    low = int(timestep)
    share = float(timestep) - low
    sigma = torch.lerp(sigmas[low], sigmas[min(low + 1, 999)], share).exp()
    return 1 / (1 + sigma**2)


def of_one_picture(latents: Tensor, timestep: Tensor) -> Tensor:
    """The exact noise where the data is a single picture."""
    level = signal(timestep)
    return ((latents - level.sqrt() * PICTURE[: len(latents)]) / (1 - level).sqrt()).to(latents)


def smooth(latents: Tensor, timestep: Tensor) -> Tensor:
    return torch.tanh(latents * 0.7 + float(timestep) / 500) + 0.1 * latents


@pytest.mark.parametrize(("name", "karras"), CASES)
@pytest.mark.parametrize("steps", [7, 20])
def test_the_loop_is_diffusers_own_driven_plainly(
    model_folder: Path, name: Any, karras: bool, steps: int
) -> None:
    """A reader of the model folder who takes the scheduler by its name gets the same latents."""
    kind = getattr(diffusers, SAMPLERS[name].scheduler)
    changes = {"clip_sample": False, "use_karras_sigmas": karras}
    taken = {option: value for option, value in changes.items() if option in signature(kind).parameters}
    theirs = kind.from_config(PNDMScheduler.from_pretrained(model_folder / "scheduler").config, **taken)
    theirs.set_timesteps(steps)
    latents = START * theirs.init_noise_sigma
    fresh = {"generator": step_generators([5, 6])}
    extra = fresh if "generator" in signature(theirs.step).parameters else {}
    for timestep in theirs.timesteps:
        noise = smooth(theirs.scale_model_input(latents, timestep), timestep)
        latents = theirs.step(noise, timestep, latents, **extra).prev_sample
    options = StepOptions(generators=step_generators([5, 6]))
    ours = denoise(smooth, new_noise_scheduler(NOISE, name, karras), START, steps, options=options)
    assert ours.std() > 0.1
    assert torch.equal(ours, latents)


@pytest.mark.parametrize(("name", "karras"), CASES)
def test_a_model_of_one_picture_paints_that_picture(name: Any, karras: bool) -> None:
    options = StepOptions(generators=step_generators([5, 6]))
    painted = denoise(of_one_picture, new_noise_scheduler(NOISE, name, karras), START, 30, options=options)
    # PLMS and DDIM end at the first training step's noise, a deviation of 0.03; the others at none.
    assert float((painted - PICTURE).abs().max()) < (0.15 if name in ("plms", "ddim") else 0.02)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_fresh_noise_belongs_to_the_images_own_seed(name: Any, eta: float) -> None:
    eta *= SAMPLERS[name].eta

    def run(start: Tensor, seeds: list[int], eta: float = eta) -> Tensor:
        options = StepOptions(eta, step_generators(seeds))
        return denoise(smooth, new_noise_scheduler(NOISE, name), start, 8, options=options)

    both = run(START, [5, 6])
    before = torch.get_rng_state()
    assert torch.equal(run(START[1:], [6])[0], both[1])
    assert torch.equal(run(START.flip(0), [6, 5]).flip(0), both)
    assert torch.equal(torch.get_rng_state(), before)
    if eta or name in ("euler-ancestral", "ddpm"):
        assert not torch.equal(run(START, [5, 7])[1], both[1])
    if eta:
        assert not torch.equal(run(START, [5, 6], eta=0.0), both)


@pytest.mark.parametrize(("name", "karras"), CASES)
def test_progress_counts_the_calls_of_the_model(name: Any, karras: bool) -> None:
    calls, reported = [], []

    def watch(latents: Tensor, timestep: Tensor) -> Tensor:
        calls.append(timestep)
        return smooth(latents, timestep)

    options = StepOptions(generators=step_generators([5, 6]))
    scheduler = new_noise_scheduler(NOISE, name, karras)
    denoise(watch, scheduler, START, 10, lambda *step: reported.append(step), options)
    assert reported == [(done, len(calls)) for done in range(1, len(calls) + 1)]
    assert len(calls) == {"plms": 11, "heun": 19}.get(name, 10)  # Heun corrects every step but the last


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_table_says_what_diffusers_takes(name: str) -> None:
    kind = getattr(diffusers, SAMPLERS[name].scheduler)
    assert SAMPLERS[name].karras == ("use_karras_sigmas" in signature(kind).parameters)
    assert SAMPLERS[name].eta == ("eta" in signature(kind.step).parameters)


def test_the_docs_list_the_samplers() -> None:
    text = (ROOT / "docs/sampling.md").read_text().partition("## Samplers")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w[\w+-]*)` \|", text, re.MULTILINE) == list(SAMPLERS)


@pytest.mark.parametrize(("name", "karras"), CASES)
def test_known_cells_have_the_noise_level_of_the_call_that_sees_them(name: Any, karras: bool) -> None:
    """After each step the known latents are noised for the level AFTER it, which the next call tells."""
    cells = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    cells[..., :5] = True
    known = Known(PICTURE, OTHER, cells)
    errors = []

    def watch(latents: Tensor, timestep: Tensor) -> Tensor:
        level = signal(timestep)
        expected = level.sqrt() * PICTURE + (1 - level).sqrt() * OTHER
        errors.append(float((latents - expected)[cells.expand_as(latents)].abs().max()))
        return smooth(latents, timestep)

    options = StepOptions(generators=step_generators([5, 6]), known=known)
    painted = denoise(watch, new_noise_scheduler(NOISE, name, karras), START, 10, options=options)
    assert max(errors[1:]) < (2e-2 if karras else 1e-4)  # Karras' levels lie between whole timesteps
    assert torch.equal(torch.where(cells, painted, PICTURE), PICTURE)
    assert (painted != PICTURE)[~cells.expand_as(painted)].all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_holding_the_last_step_only_changes_nothing_elsewhere(name: Any) -> None:
    cells = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    cells[..., :5] = True
    generators = [step_generators([5, 6]) for _ in range(2)]
    known = Known(PICTURE, OTHER, cells)
    free = denoise(smooth, new_noise_scheduler(NOISE, name), START, 6, options=StepOptions(0, generators[0]))
    options = StepOptions(0, generators[1], known, hold_last_only=True)
    held = denoise(smooth, new_noise_scheduler(NOISE, name), START, 6, options=options)
    assert torch.equal(held, torch.where(cells, PICTURE, free))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 500])
def test_the_extremes_of_the_step_count_work(name: Any, steps: int) -> None:
    options = StepOptions(generators=step_generators([1]))
    painted = denoise(smooth, new_noise_scheduler(NOISE, name), START[:1, :, :2, :2], steps, None, options)
    assert painted.isfinite().all()
