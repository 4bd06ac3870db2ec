"""Pix2pix-zero against diffusers' own pipeline, and its known answers, in double precision."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMInverseScheduler,
    DDIMScheduler,
    StableDiffusionPix2PixZeroPipeline,
    UNet2DConditionModel,
)
from torch import Tensor

from benchmarks.couplings import SIDE
from intarsia.architecture import NoiseConfig
from sampling.couplings.attention import coupled
from sampling.couplings.pix2pix_zero import MapGuidance
from sampling.methods.coupled_walk import invert_coupled
from sampling.methods.inversion import Inverted, Tokens, ddim_inversion, invert, new_levels
from sampling.methods.regularise import whitened
from sampling.settings import InversionSettings
from tests.sampling.test_coupled_walk import Counted, distance, start, tokens
from tests.sampling.test_couplings import unet

STEPS, SCALE = 3, 2.0
NOISE, LEVELS = NoiseConfig(), new_levels(NoiseConfig(), STEPS)
OPTIONS = {
    **{k: v for k, v in NOISE.model_dump().items() if k != "rescale_betas_zero_snr"},
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
}
__all__ = ["unet"]  # a fixture


def walked(
    unet: UNet2DConditionModel, amount: float, own: Tokens, scale: float = SCALE
) -> tuple[Inverted, Counted, MapGuidance]:
    denoiser, coupling = Counted(unet), MapGuidance(amount)
    settings = InversionSettings(method="negative-condition", num_inference_steps=STEPS, guidance_scale=scale)
    couple = partial(coupled, unet)
    found = invert_coupled(denoiser, start()[0], own, settings, LEVELS, [coupling], couple)
    return found, denoiser, coupling


@pytest.fixture(scope="module")
def peer(unet: UNet2DConditionModel) -> Any:
    """diffusers' pipeline on a copy of the UNet, whose output is scaled as `Counted` scales it."""
    copied = copy.deepcopy(unet)
    with torch.no_grad():
        copied.conv_out.weight *= 0.3
        copied.conv_out.bias *= 0.3
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2).double()
    nothing: dict[str, Any] = dict.fromkeys(
        ["text_encoder", "tokenizer", "safety_checker", "feature_extractor", "caption_generator"]
    )
    pipeline = StableDiffusionPix2PixZeroPipeline(
        vae=vae,
        unet=copied,
        scheduler=DDIMScheduler(**OPTIONS),
        inverse_scheduler=DDIMInverseScheduler(**OPTIONS),
        caption_processor=None,
        requires_safety_checker=False,
        **nothing,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("amount", [1e-4, 1e-3])
def test_the_edit_is_that_of_diffusers_pipeline(unet: UNet2DConditionModel, peer: Any, amount: float) -> None:
    own = tokens()
    with torch.no_grad():
        noisiest = ddim_inversion(Counted(unet), start()[0], own.source, LEVELS)[-1]
    theirs = peer(
        prompt_embeds=own.source,
        negative_prompt_embeds=own.source,
        source_embeds=own.source,
        target_embeds=own.target,
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        latents=noisiest,
        cross_attention_guidance_amount=amount,
        output_type="latent",
        return_dict=False,
    )[0]
    ours = walked(unet, amount, own)[0].edit
    assert distance(ours, theirs) < 1e-5, "the peer's levels are in single precision"
    assert distance(ours, walked(unet, 0, own)[0].edit) > 1e-3, "without effect it would prove nothing"


def test_the_regularised_way_up_is_that_of_diffusers_pipeline(unet: UNet2DConditionModel, peer: Any) -> None:
    source = tokens().source

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    theirs = peer.invert(
        prompt_embeds=source,
        image=start()[0],  # four channels: latents
        num_inference_steps=STEPS,
        generator=generator(),
    ).latents
    tidy = partial(whitened, generator=generator())
    with torch.no_grad():
        ours = ddim_inversion(Counted(unet), start()[0], source, LEVELS, tidy)[-1]
        plain = ddim_inversion(Counted(unet), start()[0], source, LEVELS)[-1]
    assert distance(ours, theirs) < 1e-5, "the peer's levels are in single precision"
    assert distance(ours, plain) > 1e-3


def test_without_a_direction_the_edit_is_the_reconstruction(unet: UNet2DConditionModel) -> None:
    own = tokens(equal=True)
    found, _, coupling = walked(unet, 1e-3, own)
    assert distance(found.edit, found.reconstruction) < 1e-8, "the maps' gradient enlarges rounding"
    assert max(coupling.losses) < 1e-20


def test_an_amount_of_zero_is_the_plain_walk(unet: UNet2DConditionModel) -> None:
    settings = InversionSettings(method="negative-condition", num_inference_steps=STEPS, guidance_scale=SCALE)
    plain = invert(Counted(unet), start()[0], tokens(), settings, LEVELS)
    found, denoiser, _ = walked(unet, 0, tokens())
    assert distance(found.edit, plain.edit) < 1e-11
    assert sum(denoiser.rows) == STEPS * (1 + 3)


@pytest.mark.parametrize("scale", [1.0, SCALE])
def test_it_asks_with_what_it_compares_and_leaves_the_source(
    unet: UNet2DConditionModel, scale: float
) -> None:
    found, denoiser, coupling = walked(unet, 1e-2, tokens(), scale)
    alone = walked(unet, 0, tokens(), scale)
    assert distance(found.reconstruction, alone[0].reconstruction) < 1e-11
    assert sum(denoiser.rows) == sum(alone[1].rows) + (2 if scale == 1 else 4) * STEPS
    assert len(coupling.losses) == STEPS


def test_a_step_lowers_the_difference_of_the_maps(unet: UNet2DConditionModel) -> None:
    """Asked twice from the same latents, the second time after a small step against the gradient."""
    losses: list[float] = []

    class Twice(MapGuidance):
        def before_step(self, walk: Any, target: Tensor, ask: Any) -> Tensor:
            moved = super().before_step(walk, target, ask)
            super().before_step(walk, moved, ask)
            losses.extend(self.losses[-2:])
            return target

    coupling = Twice(1e-3)
    settings = InversionSettings(method="direct", num_inference_steps=STEPS, guidance_scale=SCALE)
    couple = partial(coupled, unet)
    invert_coupled(Counted(unet), start()[0], tokens(), settings, LEVELS, [coupling], couple)
    pairs = list(zip(losses[::2], losses[1::2], strict=True))[1:]  # at first both have the same latents
    assert pairs
    assert all(after < before for before, after in pairs)


def test_the_noise_becomes_more_like_white_noise() -> None:
    waves = torch.linspace(0, 12, SIDE).sin()[:, None] * torch.ones(1, 4, SIDE, SIDE)
    tidied = whitened(waves.double(), torch.Generator().manual_seed(0))
    for axis in (2, 3):
        before, after = (float((x * x.roll(1, axis)).mean().abs()) for x in (waves, tidied))
        assert after < before
