"""PLMS and DDIM against their equations, guidance against its identities, noise against seeds."""

import math
from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from intarsia.architecture import NoiseConfig
from intarsia.conditioning import known_channels
from intarsia.conditions.condition import Condition, Part
from intarsia.model import EditModel
from sampling.denoise.guidance import guide, guided_noise
from sampling.denoise.sampler import denoise, image_noise, new_noise_scheduler
from sampling.denoise.shared_beginning import beginning
from tests.closeness import longest_sum, relative_error, rounding
from tests.sampling.tiny import tiny_model

pytestmark = pytest.mark.portable

NOISE = NoiseConfig()


def alphas() -> Tensor:
    """Cumulative products of 1 - beta, float64, from the definition of the scaled linear schedule."""
    betas = torch.linspace(NOISE.beta_start**0.5, NOISE.beta_end**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


def toy_noise(latents: Tensor, timestep: Tensor | int) -> Tensor:
    """A smooth stand-in for the model."""
    return torch.tanh(latents * 0.7 + math.sin(int(timestep) / 300)) + 0.1 * latents


def transfer(latents: Tensor, noise: Tensor, at: int, to: int) -> Tensor:
    """DDIM's step with eta 0 (equation 12 of Song et al. 2021); below the first timestep lies timestep 0."""
    here, there = alphas()[at], alphas()[max(to, 0)]
    clean = (latents - (1 - here).sqrt() * noise) / here.sqrt()
    return there.sqrt() * clean + (1 - there).sqrt() * noise


def reference_ddim(latents: Tensor, steps: int) -> Tensor:
    spacing = 1000 // steps
    for timestep in range((steps - 1) * spacing + 1, 0, -spacing):
        latents = transfer(latents, toy_noise(latents, timestep), timestep, timestep - spacing)
    return latents


def reference_plms(latents: Tensor, steps: int) -> Tensor:
    """Linear multi-step as in Liu et al. 2022 (equation 12), the first step by improved Euler."""
    weights = {2: (3, -1), 3: (23, -16, 5), 4: (55, -59, 37, -9)}
    divisors = {2: 2, 3: 12, 4: 24}
    spacing, history = 1000 // steps, []
    for timestep in range((steps - 1) * spacing + 1, 0, -spacing):
        history = [toy_noise(latents, timestep), *history][:4]
        if len(history) == 1:
            guess = transfer(latents, history[0], timestep, timestep - spacing)
            noise = (history[0] + toy_noise(guess, timestep - spacing)) / 2
        else:
            order = len(history)
            noise = sum(w * e for w, e in zip(weights[order], history, strict=True)) / divisors[order]
        latents = transfer(latents, noise, timestep, timestep - spacing)
    return latents


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize(("name", "reference"), [("plms", reference_plms), ("ddim", reference_ddim)])
def test_the_samplers_follow_their_equations(name: str, reference: object, steps: int) -> None:
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = denoise(toy_noise, new_noise_scheduler(NOISE, name), start.clone(), steps)
    expected = reference(start, steps)
    assert relative_error(ours, expected) < rounding(1000)  # a level is a product of up to 1000 factors


def test_the_two_samplers_differ() -> None:
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    plms, ddim = (denoise(toy_noise, new_noise_scheduler(NOISE, n), start, 10) for n in ("plms", "ddim"))
    assert (plms - ddim).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "calls"), [("plms", 51), ("ddim", 50)])
def test_fifty_steps_are_paint_by_examples_timesteps(name: str, calls: int) -> None:
    seen, reported = [], []

    def watch(latents: Tensor, timestep: Tensor) -> Tensor:
        seen.append(int(timestep))
        return torch.zeros_like(latents)

    scheduler = new_noise_scheduler(NOISE, name)
    denoise(watch, scheduler, torch.zeros(1, 4, 8, 8), 50, lambda done, total: reported.append((done, total)))
    assert sorted(set(seen)) == list(range(1, 982, 20))
    assert sorted(seen, reverse=True) == seen
    assert reported == [(i + 1, calls) for i in range(calls)]


@pytest.mark.parametrize("name", ["plms", "ddim"])
@pytest.mark.parametrize("steps", [1, 2, 3, 499, 500])
def test_the_extremes_of_the_step_count_work(name: str, steps: int) -> None:
    latents = denoise(toy_noise, new_noise_scheduler(NOISE, name), torch.randn(1, 1, 2, 2), steps)
    assert latents.isfinite().all()


def test_noise_depends_on_the_seed_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, same, other = (image_noise(seed, (4, 8, 8), draws=2) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])
    assert torch.equal(torch.get_rng_state(), before)


# -- guidance ----------------------------------------------------------------------------------------------


@pytest.fixture
def condition() -> Condition:
    generator = torch.Generator().manual_seed(1)
    masked, token, null = (
        torch.randn(shape, generator=generator) for shape in [(2, 4, 32, 32), (2, 1, 32), (1, 1, 32)]
    )
    edit_mask = torch.zeros(2, 1, 32, 32)
    edit_mask[..., 8:24, 8:24] = 1
    return Condition((Part("exemplar", token, null),), known_channels(masked, edit_mask))


def one_branch(unet: UNet2DConditionModel, latents: Tensor, condition: Condition, token: Tensor) -> Tensor:
    joined = torch.cat([latents, condition.channels], dim=1)
    return unet(joined, 400, encoder_hidden_states=token).sample


@torch.no_grad()
def test_guidance_is_the_null_prediction_plus_the_scaled_difference(
    model: EditModel, condition: Condition
) -> None:
    latents = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(2))
    null = one_branch(model.unet, latents, condition, condition.null.repeat(2, 1, 1))
    exemplar = one_branch(model.unet, latents, condition, condition.tokens)
    assert (null - exemplar).abs().max() > 1e-3
    limit = rounding(longest_sum(model.unet))
    for scale, expected in [(0, null), (1, exemplar), (5, null + 5 * (exemplar - null))]:
        got = guided_noise(model.unet, latents, torch.tensor(400), condition, float(scale))
        assert relative_error(got, expected) < (1 + 2 * scale) * limit  # the scale multiplies two roundings


def test_the_scale_moves_along_a_line() -> None:
    null, exemplar = torch.randn(2, 3, 4, 8, 8, dtype=torch.float64)
    assert torch.allclose(guide(null, exemplar, 0), null)
    assert torch.allclose(guide(null, exemplar, 1), exemplar)
    middle = (guide(null, exemplar, 2) + guide(null, exemplar, 8)) / 2
    assert torch.allclose(guide(null, exemplar, 5), middle)


@pytest.mark.parametrize(("scale", "rows"), [(1.0, [2]), (5.0, [4])])
@torch.no_grad()
def test_both_branches_go_in_one_pass_and_none_is_wasted(
    model: EditModel, condition: Condition, scale: float, rows: list[int]
) -> None:
    seen = []
    hook = model.unet.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    guided_noise(model.unet, torch.zeros(2, 4, 32, 32), torch.tensor(5), condition, scale)
    hook.remove()
    assert seen == rows


def rows_of(unet: UNet2DConditionModel, ask: Callable[[], Tensor]) -> tuple[set[int], Tensor]:
    """For how many rows the beginning of the UNet is computed, and what is answered."""
    rows: set[int] = set()

    def count(module: nn.Module, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        rows.add(len(output if isinstance(output, Tensor) else output[0]))

    handles = [module.register_forward_hook(count) for module in beginning(unet)]
    answer = ask()
    for handle in handles:
        handle.remove()
    return rows, answer


@pytest.mark.parametrize("blocks", [("CrossAttn", ""), ("", "CrossAttn"), ("", "")])
@torch.no_grad()
def test_the_shared_beginning_changes_no_value(
    blocks: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the first look at the token is, whichever rows are guided. Compiled parts share nothing."""
    types = ", ".join(f"{name}DownBlock2D" for name in blocks)
    unet = tiny_model(1, f"model.unet.down_block_types=[{types}]").unet
    rng = torch.Generator().manual_seed(3)
    shapes = [(3, 4, 16, 16), (3, 1, 32), (1, 1, 32), (3, 5, 16, 16)]
    latents, token, null, channels = (torch.randn(shape, generator=rng) for shape in shapes)
    condition = Condition((Part("exemplar", token, null),), channels)

    def answers(expected_rows: list[int]) -> Tensor:
        answered = []
        for scales, expected in zip([5.0, [5.0, 1.0, 3.0], [1.0, 1.0, 2.0]], expected_rows, strict=True):
            calls = (unet, latents, torch.tensor(300), condition, scales)
            rows, answer = rows_of(unet, lambda calls=calls: guided_noise(*calls))
            assert rows == {expected}
            answered.append(answer)
        return torch.stack(answered)

    shared = answers([3, 3, 3])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    unet.mid_block.compile()
    largest_scale = 5
    limit = (1 + 2 * largest_scale) * rounding(longest_sum(unet))
    assert relative_error(shared, answers([6, 5, 4])) < limit
