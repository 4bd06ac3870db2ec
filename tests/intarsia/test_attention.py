"""The shorter ways against diffusers' attention, in values, gradients and arithmetic."""

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from intarsia.architecture import ModelConfig
from intarsia.conditions.attention import NarrowHeadsProcessor
from intarsia.conditions.one_token import OneTokenProcessor
from intarsia.model import EditModel
from tests.closeness import longest_sum, relative_error, rounding
from tests.sampling.tiny import tiny_model

pytestmark = pytest.mark.portable


def plain(unet: nn.Module) -> nn.Module:
    unet.set_attn_processor(AttnProcessor2_0())
    return unet


def inputs(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    timesteps = torch.tensor([3, 700])
    return torch.randn(2, 9, 16, 16, generator=rng), timesteps, torch.randn(2, tokens, 32, generator=rng)


def answer_and_gradients(unet: nn.Module, tokens: int) -> tuple[Tensor, dict[str, Tensor]]:
    latents, timesteps, exemplar = inputs(tokens)
    exemplar.requires_grad_()
    answer = unet(latents, timesteps, encoder_hidden_states=exemplar).sample
    answer.square().mean().backward()
    gradients = {name: p.grad for name, p in unet.named_parameters() if p.grad is not None}
    return answer.detach(), {**gradients, "exemplar": exemplar.grad}


def test_one_token_gives_the_same_values_and_gradients() -> None:
    ours, our_gradients = answer_and_gradients(tiny_model().unet, 1)
    theirs, their_gradients = answer_and_gradients(plain(tiny_model().unet), 1)
    limit = rounding(longest_sum(tiny_model().unet))
    assert relative_error(ours, theirs) < limit
    left_out = their_gradients.keys() - our_gradients.keys()
    assert left_out
    assert all(any(part in name for part in ("attn2.to_q", "attn2.to_k", "norm2")) for name in left_out)
    scale = max(float(gradient.abs().max()) for gradient in their_gradients.values())
    assert max(float(their_gradients[name].abs().max()) for name in left_out) < limit * scale
    for name, gradient in our_gradients.items():
        assert relative_error(gradient, their_gradients[name], scale) < limit, name


def test_two_tokens_are_attended_to_as_ever() -> None:
    ours, _ = answer_and_gradients(tiny_model().unet, 2)
    theirs, _ = answer_and_gradients(plain(tiny_model().unet), 2)
    assert torch.equal(ours, theirs)


@torch.no_grad()
def test_narrow_heads_filled_with_zeros_give_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    attend, widths = F.scaled_dot_product_attention, []

    def watched(query: Tensor, *args: Tensor, **kwargs: float) -> Tensor:
        widths.append(query.shape[-1])
        return attend(query, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    unet, token = tiny_model().unet, inputs(1)[2][:1]
    latents = torch.randn(1, 9, 32, 32, generator=torch.Generator().manual_seed(0))  # 256 pixels to attend to
    ours = unet(latents, 400, encoder_hidden_states=token).sample
    own, widths[:] = set(widths), []
    theirs = plain(unet)(latents, 400, encoder_hidden_states=token).sample
    assert (own, set(widths)) == ({16}, {8})
    assert relative_error(ours, theirs) < rounding(longest_sum(unet))


def test_real_heads_are_left_to_torch_and_narrow_ones_filled(real: EditModel) -> None:
    for unet, narrow in ((real.unet, AttnProcessor2_0), (tiny_model().unet, NarrowHeadsProcessor)):
        for name, processor in unet.attn_processors.items():
            assert type(processor) is (OneTokenProcessor if "attn2" in name else narrow)


@pytest.fixture(scope="module")
def real() -> EditModel:
    with torch.device("meta"):
        return EditModel(ModelConfig())


def test_the_real_unet_does_three_percent_less(real: EditModel) -> None:
    def flops(unet: nn.Module) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            latents = torch.zeros(1, 9, 64, 64, device="meta")
            token = torch.zeros(1, 1, 768, device="meta")
            unet(latents, torch.zeros(1, device="meta"), encoder_hidden_states=token)
        return counter.get_total_flops()

    short = flops(real.unet)
    whole = flops(plain(real.unet))
    assert whole == pytest.approx(797e9, rel=0.01)
    assert 1 - short / whole == pytest.approx(0.032, abs=0.002)
