"""Walks with couplings: the plain walk's numbers without any, the source untouched, and no row too many."""

from collections.abc import Sequence
from functools import partial
from typing import get_args

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from benchmarks.couplings import SIDE, TOKENS, WIDTH, same_tokens
from intarsia.architecture import NoiseConfig
from sampling.couplings.attention import coupled
from sampling.couplings.background import Background
from sampling.couplings.context import SharedContext
from sampling.couplings.coupling import Coupling, Row
from sampling.couplings.masactrl import MutualSelfAttention
from sampling.couplings.plug_and_play import PlugAndPlay
from sampling.couplings.prompt_to_prompt import PromptToPrompt
from sampling.methods.coupled_walk import invert_coupled
from sampling.methods.inversion import Inverted, Tokens, invert, new_levels
from sampling.settings import InversionMethod, InversionSettings
from tests.sampling.test_couplings import EXACT, unet

STEPS = 5
METHODS = [*get_args(InversionMethod), "direct .5"]
__all__ = ["unet"]  # a fixture


def settings(method: str, scale: float = 1.5) -> InversionSettings:
    name, _, share = method.partition(" ")
    return InversionSettings(
        method=name,  # type: ignore[arg-type]
        num_inference_steps=STEPS,
        guidance_scale=scale,
        strength=1.0,
        offset_scale=float(share or 1),
        inner_steps=2,
    )


def tokens(equal: bool = False) -> Tokens:
    rng = torch.Generator().manual_seed(4)
    source, target, null = (torch.randn(1, TOKENS, WIDTH, generator=rng).double() for _ in range(3))
    return Tokens(source, source if equal else target, null)


def start() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(7)
    latents = torch.randn(1, 4, SIDE, SIDE, generator=rng).double()
    return latents, torch.randn(STEPS, 1, 4, SIDE, SIDE, generator=rng).double()


class Counted:
    """A UNet as a denoiser that notes the number of rows of each call."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.unet, self.rows = unet, [0]

    def __call__(self, latents: Tensor, timestep: int, tokens: Tensor) -> Tensor:
        self.rows.append(len(latents))
        # A random network is no contraction: small steps keep rounding small, too.
        return 0.3 * self.unet(latents, timestep, encoder_hidden_states=tokens).sample


def walked(
    unet: UNet2DConditionModel, method: str, couplings: Sequence[Coupling], equal: bool = False
) -> tuple[Inverted, int]:
    denoiser, (latents, noise) = Counted(unet), start()
    levels = new_levels(NoiseConfig(), STEPS)
    couple = partial(coupled, unet)
    with torch.no_grad():
        found = invert_coupled(
            denoiser, latents, tokens(equal), settings(method), levels, couplings, couple, noise
        )
    return found, sum(denoiser.rows)


def plain(unet: UNet2DConditionModel, method: str, keep: Tensor | None = None) -> Inverted:
    latents, noise = start()
    return invert(
        Counted(unet), latents, tokens(), settings(method), new_levels(NoiseConfig(), STEPS), keep, noise
    )


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize("method", METHODS)
def test_without_couplings_it_is_the_plain_walk(unet: UNet2DConditionModel, method: str) -> None:
    ours, theirs = walked(unet, method, [])[0], plain(unet, method)
    assert distance(ours.edit, theirs.edit) < 1e3 * EXACT
    assert distance(ours.reconstruction, theirs.reconstruction) < 1e3 * EXACT


@pytest.mark.parametrize("method", METHODS)
def test_the_background_is_the_plain_walk_with_a_mask(unet: UNet2DConditionModel, method: str) -> None:
    keep = torch.zeros(1, 1, SIDE, SIDE).double()
    keep[..., :6] = 1
    ours = walked(unet, method, [Background(keep)])[0]
    assert distance(ours.edit, plain(unet, method, keep).edit) < 1e3 * EXACT


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["masactrl", "pnp", "context", "p2p"])
def test_couplings_leave_the_source_and_change_the_edit(
    unet: UNet2DConditionModel, method: str, name: str
) -> None:
    made: dict[str, Coupling] = {
        "masactrl": MutualSelfAttention(0, 0),
        "pnp": PlugAndPlay(1, 1, 0),
        "context": SharedContext(),
        "p2p": PromptToPrompt(same_tokens(), 1, 1),
    }
    ours, alone = walked(unet, method, [made[name]])[0], plain(unet, method)
    assert distance(ours.reconstruction, alone.reconstruction) < 1e3 * EXACT
    assert distance(ours.edit, alone.edit) > 1e-4


@pytest.mark.parametrize(
    "coupling", [MutualSelfAttention(0, 0), SharedContext(), PromptToPrompt(same_tokens(), 1, 1)]
)
def test_equal_tokens_under_ddim_give_the_source_itself(
    unet: UNet2DConditionModel, coupling: Coupling
) -> None:
    found = walked(unet, "ddim", [coupling], equal=True)[0]
    assert distance(found.edit, found.reconstruction) < 1e3 * EXACT


def test_direct_is_the_picture_and_equal_tokens_are_not_the_source(unet: UNet2DConditionModel) -> None:
    """The source is corrected, the target is not: that the source is exact says nothing about the edit."""
    found = walked(unet, "direct", [PromptToPrompt(same_tokens(), 1, 1)], equal=True)[0]
    assert torch.equal(found.reconstruction, start()[0])
    assert distance(found.edit, found.reconstruction) > 1e-3


@pytest.mark.parametrize(
    ("method", "needs", "rows"),
    [  # one row up, then so many a step
        ("direct", {"source"}, 1 + 3),
        ("direct", {"source", "source_null"}, 1 + 4),
        ("ddim", {"source"}, 1 + 4),
        ("negative-condition", {"source"}, 1 + 3),
        ("negative-condition", {"source", "source_null"}, 1 + 3),
        ("direct", set(), 1 + 2),
    ],
)
def test_no_row_is_computed_that_nobody_needs(
    unet: UNet2DConditionModel, method: str, needs: set[Row], rows: int
) -> None:
    coupling = Coupling()
    coupling.needs = frozenset(needs)
    assert walked(unet, method, [coupling])[1] == rows * STEPS
