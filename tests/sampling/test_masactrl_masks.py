"""MasaCtrl with masks: the published arithmetic, written out; the plain one where there is one side only."""

from collections.abc import Sequence

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

from benchmarks.couplings import SIDE, TOKENS, largest, noise_by_row, place_of
from intarsia.errors import UserError
from sampling.couplings.attention import CoupledProcessor, WalkPlace
from sampling.couplings.context import SharedContext
from sampling.couplings.coupling import AttentionLayer, Coupling
from sampling.couplings.masactrl import MutualSelfAttention
from sampling.couplings.masactrl_masks import MaskedMutualSelfAttention
from sampling.methods.request import check_words
from sampling.settings import InversionSettings
from tests.sampling.test_couplings import EXACT, unet

OWN = AttentionLayer("up", 3, 4, cross=False)
WIDTH, HEADS = 12, 2
__all__ = ["unet"]  # a fixture


def objects(source: slice, target: slice) -> Tensor:
    """Squares in source and target, bool [2, SIDE, SIDE]."""
    found = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    found[0, source, source], found[1, target, target] = True, True
    return found


TWO = objects(slice(2, 9), slice(5, 14))


def attention() -> Attention:
    torch.manual_seed(2)
    return Attention(WIDTH, heads=HEADS, dim_head=WIDTH // HEADS).double().eval().requires_grad_(False)


def attend(couplings: Sequence[Coupling], states: Tensor) -> Tensor:
    return CoupledProcessor(OWN, couplings, WalkPlace(place_of()))(attention(), states)


def states() -> Tensor:
    return 3 * torch.randn(4, SIDE * SIDE, WIDTH, generator=torch.Generator().manual_seed(5)).double()


def published(states: Tensor, source_mask: Tensor, target_mask: Tensor) -> Tensor:
    """Each row of the target attends twice, to the source's object and to the rest; its own mask chooses."""
    layer = attention()
    query, key, value = (
        part(states).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        for part in (layer.to_q, layer.to_k, layer.to_v)
    )
    mixed = ((query @ key.transpose(-1, -2)) * layer.scale).softmax(-1) @ value
    for source, target in ((0, 2), (1, 3)):
        products = query[target] @ key[source].transpose(-1, -2) * layer.scale
        lowest = torch.finfo(products.dtype).min
        sides = [
            (products + lowest * (source_mask.flatten() != side).double()).softmax(-1) @ value[source]
            for side in (True, False)
        ]
        mask = target_mask.flatten()[:, None].double()
        mixed[target] = sides[0] * mask + sides[1] * (1 - mask)
    return layer.to_out[0](mixed.transpose(1, 2).flatten(2))


def test_one_masked_attention_is_the_two_of_the_published_code() -> None:
    ours = attend([MaskedMutualSelfAttention(TWO, None, 0, 0)], states())
    assert float((ours - published(states(), *TWO)).abs().max()) < EXACT
    assert float((ours - attend([MutualSelfAttention(0, 0)], states()))[2:].abs().max()) > 1e-2


def test_the_object_does_not_see_the_sources_background() -> None:
    other = states()
    other[:2, ~TWO[0].flatten()] += 1.0
    found = [attend([MaskedMutualSelfAttention(TWO, None, 0, 0)], one) for one in (states(), other)]
    changed = (found[0] - found[1])[2:].abs().amax((0, 2)).unflatten(0, (SIDE, SIDE)) > EXACT
    assert torch.equal(changed, ~TWO[1])


@pytest.mark.parametrize("value", [True, False])
def test_one_side_alone_is_the_plain_coupling(unet: UNet2DConditionModel, value: bool) -> None:
    whole = torch.full((2, SIDE, SIDE), value)
    plain = noise_by_row(unet, [MutualSelfAttention(0, 0)], place_of())
    assert (
        largest(plain, noise_by_row(unet, [MaskedMutualSelfAttention(whole, None, 0, 0)], place_of())) < EXACT
    )


def test_words_find_the_object_in_each_branch() -> None:
    """A word's map is strong in a square; beside it, it has 0.12 and 0.08 of its whole range."""
    words = torch.zeros(2, TOKENS)
    words[0, 2], words[1, 4] = 1, 1
    coupling = MaskedMutualSelfAttention(words=words)
    side, floor = SIDE // 2, 0.2
    maps = torch.full((4, HEADS, side * side, TOKENS), floor)
    squares = {1: (slice(0, 3), 2), 3: (slice(4, 8), 4)}  # row -> where, token
    for row, (where, token) in squares.items():
        grid = torch.full((side, side), floor)
        grid[where, where] = floor + 0.5
        grid[3, 3], grid[3, 4] = floor + 0.12 * 0.5, floor + 0.08 * 0.5
        maps[row, :, :, token] = grid.flatten()
    layer = AttentionLayer("down", 1, 4, cross=True, coarsest=True)
    assert coupling.reads_maps(place_of(), layer, side * side)
    assert coupling.maps(place_of(), layer, maps) is maps, "they are looked at only"
    allowed = coupling.may_see(place_of(), OWN, 4, side * side, side * side)
    assert allowed is not None
    wanted = torch.zeros(2, side, side, dtype=torch.bool)
    for number, (where, _) in enumerate(squares.values()):
        wanted[number, where, where] = True
        wanted[number, 3, 3] = True
    source, target = wanted.flatten(1)
    assert torch.equal(allowed[3, 0], target[:, None] == source[None])
    assert torch.equal(allowed[2], allowed[3])
    assert allowed[:2].all()
    coupling.after_step(place_of(), states(), states())
    assert coupling.may_see(place_of(), OWN, 4, 4, 4) is None, "each step has its own maps"


def test_flat_maps_have_no_object_and_change_nothing(unet: UNet2DConditionModel) -> None:
    plain = noise_by_row(unet, [MutualSelfAttention(0, 0)], place_of())
    words = torch.zeros(2, TOKENS)
    assert (
        largest(plain, noise_by_row(unet, [MaskedMutualSelfAttention(None, words, 0, 0)], place_of())) < EXACT
    )


def test_words_of_a_network_have_an_effect(unet: UNet2DConditionModel) -> None:
    words = torch.zeros(2, TOKENS)
    words[:, 3] = 1
    plain = noise_by_row(unet, [MutualSelfAttention(0, 0.5)], place_of())
    found = noise_by_row(unet, [MaskedMutualSelfAttention(None, words, 0, 0.5)], place_of())
    assert largest(plain, found, "target") > 1e-4
    assert largest(plain, found, "source", "source_null") < EXACT


@pytest.mark.parametrize("turned", [False, True])
def test_it_goes_with_context_in_either_order(turned: bool) -> None:
    """The source's keys are there twice, and counting all of them twice changes no softmax."""
    couplings = [MaskedMutualSelfAttention(TWO, None, 0, 0), SharedContext()]
    ours = attend(couplings[::-1] if turned else couplings, states())
    assert float((ours - published(states(), *TWO))[2:].abs().max()) < EXACT


def test_without_words_and_mask_it_is_refused() -> None:
    own = InversionSettings(coupling=("masactrl-masks",))
    with pytest.raises(UserError, match=r"masactrl-masks needs to know where the object is; .* or a mask"):
        check_words(own)
    check_words(own, words=(("cat", "dog"),))
    check_words(own, masked=True)
    with pytest.raises(UserError, match="act on attention to words; add the coupling p2p"):
        check_words(own, words=(("cat", "dog"),), reweight=(("dog", 2.0),))
