"""StyleDiffusion: no style is the plain walk, the network is the published one, and what it learns helps."""

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

from benchmarks.couplings import TOKENS, WIDTH, batch_of, place_of, same_tokens
from intarsia.architecture import NoiseConfig
from intarsia.errors import UserError
from sampling.couplings.attention import CoupledProcessor, WalkPlace, coupled
from sampling.couplings.coupling import AttentionLayer, Coupling
from sampling.couplings.pix2pix_zero import MapGuidance
from sampling.couplings.prompt_to_prompt import PromptToPrompt
from sampling.methods.coupled_walk import coupled_calls, invert_coupled
from sampling.methods.inversion import Inverted, invert, new_levels
from sampling.methods.request import check_method
from sampling.methods.run_inversion import invert_edit
from sampling.methods.style import Look, Style, ValueStyle, find_style, mapping_network
from sampling.settings import InversionSettings
from tests.sampling.test_coupled_walk import Counted, distance, plain, start, tokens, walked
from tests.sampling.test_couplings import EXACT, unet
from tests.sampling.test_invert_prompts import asked
from tests.sampling.tiny import request, tiny_model
from tests.text import text_model

STEPS, FEATURES = 5, 9
__all__ = ["unet"]  # a fixture


def settings(scale: float = 1.5, inner_steps: int = 1) -> InversionSettings:
    return InversionSettings(
        method="style", num_inference_steps=STEPS, guidance_scale=scale, inner_steps=inner_steps
    )


def look() -> Look:
    rng = torch.Generator().manual_seed(11)
    return Look(torch.randn(1, FEATURES, WIDTH, generator=rng).double())


def styled(
    unet: UNet2DConditionModel, couplings: Sequence[Coupling] = (), own: InversionSettings | None = None
) -> tuple[Inverted, Counted]:
    denoiser, own = Counted(unet), own or settings()
    levels, couple = new_levels(NoiseConfig(), STEPS), partial(coupled, unet)
    with torch.no_grad():
        found = invert_coupled(denoiser, start()[0], tokens(), own, levels, couplings, couple, look=look())
    return found, denoiser


def style(scale: float, shift: float) -> Style:
    whole = torch.ones(1, TOKENS, WIDTH).double()
    return scale * whole, shift * whole


@pytest.mark.parametrize("method", ["ddim", "direct", "ddpm"])
def test_scale_one_and_shift_zero_is_the_plain_walk(unet: UNet2DConditionModel, method: str) -> None:
    ours = walked(unet, method, [ValueStyle([style(1, 0)] * STEPS)])[0]
    assert distance(ours.edit, plain(unet, method).edit) < 1e3 * EXACT
    other = walked(unet, method, [ValueStyle([style(1, 0.5)] * STEPS)])[0]
    assert distance(other.edit, ours.edit) > 1e-4


def test_the_values_are_those_of_the_styled_context_and_the_keys_are_not() -> None:
    torch.manual_seed(1)
    layer = Attention(8, cross_attention_dim=WIDTH, heads=2, dim_head=4).double().requires_grad_(False)
    states, context = torch.randn(4, 10, 8).double(), batch_of()[1]
    own = torch.rand(1, TOKENS, WIDTH).double(), torch.rand(1, TOKENS, WIDTH).double()
    query, key = (
        part(inputs).unflatten(-1, (2, 4)).transpose(1, 2)
        for part, inputs in ((layer.to_q, states), (layer.to_k, context))
    )
    for done, rows in ((0, [1, 3]), (5, [1])):  # the target has a style in the first half of 10 steps
        changed = context.clone()
        changed[rows] = context[rows] * own[0] + own[1]
        value = layer.to_v(changed).unflatten(-1, (2, 4)).transpose(1, 2)
        mixed = (query @ key.transpose(-1, -2) * layer.scale).softmax(-1) @ value
        expected = layer.to_out[0](mixed.transpose(1, 2).flatten(2))
        place = WalkPlace(place_of(done=done))
        processor = CoupledProcessor(AttentionLayer("up", 1, 2, cross=True), [ValueStyle([own] * 10)], place)
        assert torch.allclose(processor(layer, states, context), expected, rtol=0, atol=1e-12)


def test_the_network_and_its_updates_are_the_published_ones() -> None:
    network = mapping_network(197, 77)
    assert sum(weight.numel() for weight in network.parameters()) == 78_540
    assert network(torch.zeros(1, 197, 768)).shape == (1, 154, 768)
    assert sum(InversionSettings().updates(done, 50) for done in range(50)) == 1071
    assert [InversionSettings().updates(done, 50) for done in (0, 1, 49)] == [100, 91, 1]


@pytest.mark.long
def test_its_loss_falls_and_the_source_comes_nearer_to_the_picture(unet: UNet2DConditionModel) -> None:
    """At the scale of edits, at which the way back of plain DDIM is lost."""
    levels, what = new_levels(NoiseConfig(), STEPS), (start()[0], tokens())

    def error(branch: Tensor) -> float:
        return float((branch - start()[0]).square().mean())

    few, more = (
        find_style(Counted(unet), *what, settings(7.5, inner), levels, look(), partial(coupled, unet))
        for inner in (1, 3)
    )
    first = more[1].losses[0]
    assert first[-1] < 0.8 * first[0]
    assert [len(losses) for losses in few[1].losses] == [settings().updates(done, STEPS) for done in range(5)]
    plain = invert(Counted(unet), *what, InversionSettings(method="ddim", num_inference_steps=STEPS), levels)
    assert error(more[0].latents[0]) < error(few[0].latents[0]) < 0.8 * error(plain.reconstruction)


def test_calls_and_rows_are_as_counted(unet: UNet2DConditionModel) -> None:
    own = settings()
    couplings = [PromptToPrompt(same_tokens(), 1, 1)]
    found, denoiser = styled(unet, couplings, own)
    assert len(denoiser.rows) - 1 <= coupled_calls(own, couplings)
    assert denoiser.rows[-1] == 3
    assert not distance(found.edit, found.reconstruction) < 1e-4


def test_the_same_seed_learns_the_same(unet: UNet2DConditionModel) -> None:
    state = torch.get_rng_state()
    one, other = styled(unet)[0], styled(unet)[0]
    assert torch.equal(one.edit, other.edit)
    assert torch.equal(torch.get_rng_state(), state), "the program's own random numbers go on as before"


def test_it_acts_where_pix2pix_zero_reads_maps_alone(unet: UNet2DConditionModel) -> None:
    losses = []
    for own in (style(1, 0), style(0, 2)):
        guidance = MapGuidance(1e-3)
        walked(unet, "ddim", [ValueStyle([own] * STEPS), guidance])
        losses.append(guidance.losses[0])
    assert abs(losses[0] - losses[1]) > 1e-6 * abs(losses[0])


@pytest.mark.parametrize("condition", ["exemplar", "both"])
def test_models_with_an_encoder_of_exemplars_learn_a_style(condition: str) -> None:
    said = {"edit_mask": request(1).edit_mask, "exemplar": request(1).exemplar}
    more = {} if condition == "both" else {"source_prompt": "", "target_prompt": ""}
    asked_for = asked(**said, **more)
    few = {"num_inference_steps": 2, "inner_steps": 1}
    model = text_model(1, "both").eval() if condition == "both" else tiny_model(1)
    model.requires_grad_(False)
    result = invert_edit(model, asked_for, InversionSettings(method="style", **few))
    plain = invert_edit(model, asked_for, InversionSettings(method="ddim", **few))
    assert result.latent_error < plain.latent_error
    assert (result.image != plain.image).any()


def test_a_model_without_that_encoder_and_a_style_tower_is_refused() -> None:
    own, sentence = (
        InversionSettings(method="style"),
        r"none; give a folder of CLIP's vision tower, --style-t",
    )
    with pytest.raises(UserError, match=sentence):
        check_method(own, ("text",))
    check_method(own, ("text",), tower=True)
