"""Couplings on a small UNet in double precision: off is off, equal rows stay equal, nothing stays behind."""

import copy
import sys

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from benchmarks.couplings import (
    OFF,
    ON,
    ROWS,
    SIDE,
    STEPS,
    TOKENS,
    TURNED,
    WIDTH,
    batch_of,
    between_equal_rows,
    largest,
    main,
    noise_by_row,
    place_of,
    same_tokens,
    small_unet,
)
from intarsia.errors import UserError
from sampling.couplings.attention import attention_layers, coupled
from sampling.couplings.background import Background
from sampling.couplings.context import SharedContext
from sampling.couplings.coupling import Coupling, CouplingInputs, Walk, make_couplings
from sampling.couplings.masactrl import MutualSelfAttention
from sampling.couplings.plug_and_play import PlugAndPlay
from sampling.couplings.prompt_to_prompt import Alignment, PromptToPrompt
from sampling.settings import COUPLINGS

EXACT = 1e-11  # double precision through a random network of some tens of layers
NOTHING = OFF | {
    "masactrl beyond": lambda: MutualSelfAttention(0, 1.0),
    "p2p over": lambda: PromptToPrompt(same_tokens(), 0, 0),
    "nothing": Coupling,
}


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    return small_unet()


@pytest.mark.parametrize("name", NOTHING)
def test_what_is_off_changes_nothing(unet: UNet2DConditionModel, name: str) -> None:
    plain = noise_by_row(unet, [], place_of())
    assert largest(plain, noise_by_row(unet, [NOTHING[name]()], place_of())) < EXACT


def test_the_table_has_a_line_for_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["couplings"])
    main()
    _, _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split("`")[1] for line in lines] == list(ON)
    assert all(float(figure) < EXACT for line in lines for figure in line.split("|")[2:6])


@pytest.mark.parametrize("name", ON)
def test_each_changes_the_target_and_leaves_the_source(unet: UNet2DConditionModel, name: str) -> None:
    plain, other = noise_by_row(unet, [], place_of()), noise_by_row(unet, [ON[name]()], place_of())
    assert largest(plain, other, "source", "source_null") < EXACT
    assert largest(plain, other, "target") > 1e-4


@pytest.mark.parametrize("name", ON)
def test_equal_rows_stay_equal(unet: UNet2DConditionModel, name: str) -> None:
    assert between_equal_rows(unet, ON[name]()) < EXACT


@pytest.mark.parametrize("name", ON)
def test_the_order_of_the_rows_does_not_matter(unet: UNet2DConditionModel, name: str) -> None:
    found = noise_by_row(unet, [ON[name]()], place_of())
    assert largest(found, noise_by_row(unet, [ON[name]()], place_of(rows=TURNED))) < EXACT


def test_several_act_together(unet: UNet2DConditionModel) -> None:
    both = noise_by_row(unet, [ON["masactrl"](), ON["p2p"]()], place_of())
    for name in ("masactrl", "p2p"):
        assert largest(both, noise_by_row(unet, [ON[name]()], place_of()), "target") > 1e-4


def test_the_source_row_that_is_there_serves_both_rows_of_the_target(unet: UNet2DConditionModel) -> None:
    assert place_of(rows=("source", "target_null", "target")).pairs() == [(0, 1), (0, 2)]
    assert place_of().pairs() == [(0, 2), (1, 3)]
    assert place_of(rows=("source", "target")).pairs() == [(0, 1)]


def test_maps_of_replaced_words_are_the_sources(unet: UNet2DConditionModel) -> None:
    """One formula: token j of the target takes the weights of its column from the source's map."""
    transfer = torch.zeros(TOKENS, TOKENS)
    transfer[2, 1], transfer[4, 3] = 1.0, 0.5
    keep = torch.tensor([1.0, 0, 1, 0.5, 1, 1, 1])
    seen: list[tuple[Tensor, Tensor]] = []

    class Watched(PromptToPrompt):
        def maps(self, walk: Walk, layer: object, maps: Tensor) -> Tensor:
            changed = super().maps(walk, layer, maps)  # type: ignore[arg-type]
            seen.append((maps, changed))
            return changed

    noise_by_row(unet, [Watched(Alignment(transfer, keep), 1, 0)], place_of())
    source, target = ROWS.index("source"), ROWS.index("target")
    for before, after in seen:
        wanted = before[target].clone()
        wanted[..., 1] = before[source][..., 2]
        wanted[..., 3] = 0.5 * before[source][..., 4] + 0.5 * before[target][..., 3]
        assert torch.allclose(after[target], wanted, rtol=0, atol=1e-15)
        assert torch.equal(after[:target], before[:target])
    assert len(seen) == len(attention_layers(unet)) // 2


def test_one_token_leaves_prompt_to_prompt_without_any_effect(unet: UNet2DConditionModel) -> None:
    latents, tokens = batch_of()
    one = Alignment(torch.ones(1, 1), torch.zeros(1))
    plain = unet(latents, 500, encoder_hidden_states=tokens[:, :1]).sample
    with coupled(unet, [PromptToPrompt(one, 1, 0)], place_of()):
        other = unet(latents, 500, encoder_hidden_states=tokens[:, :1]).sample
    assert float((plain - other).abs().max()) < EXACT


@pytest.mark.parametrize(("words", "share"), [(slice(None), 1.0), (slice(3, 4), None)])
def test_the_blend_keeps_the_source_where_the_words_are_weak(
    unet: UNet2DConditionModel, words: slice, share: float | None
) -> None:
    weights = torch.zeros(2, TOKENS)
    weights[:, words] = 1
    coupling = PromptToPrompt(same_tokens(weights), 1, 0, blend_from=0)
    latents, tokens = batch_of()
    with coupled(unet, [coupling], place_of(done=0)) as place:
        unet(latents, 500, encoder_hidden_states=tokens)
        source, target = latents[[1]], latents[[3]]
        mixed = coupling.after_step(place.now, source, target)
    changed = (mixed != source).any(1).float().mean().item()
    if share is not None:  # all words together are everywhere equally strong
        assert changed == share
    assert ((mixed == source) | (mixed == target)).all()
    assert 0 < changed <= 1


def test_a_blend_of_no_words_is_the_source_of_all_words_the_target(unet: UNet2DConditionModel) -> None:
    latents, tokens = batch_of()
    source, target = latents[[1]], latents[[3]]
    for weight, expected in ((0.0, source), (1.0, target)):
        coupling = PromptToPrompt(same_tokens(torch.full((2, TOKENS), weight)), 1, 0, blend_from=0)
        with coupled(unet, [coupling], place_of(done=0)) as place:
            unet(latents, 500, encoder_hidden_states=tokens)
            assert torch.allclose(coupling.after_step(place.now, source, target), expected, atol=1e-14)


def test_context_sees_what_is_kept_and_nothing_of_the_hole(unet: UNet2DConditionModel) -> None:
    keep = torch.ones(1, 1, SIDE, SIDE)
    keep[..., 4:12, 4:12] = 0
    latents, tokens = batch_of()
    other = latents.clone()
    other[:2, :, 6:10, 6:10] += 3.0  # inside the hole of the source, for layers that look at the cells alone

    class First(SharedContext):
        """In the first block alone, whose cells know nothing yet of their neighbours but by convolution."""

    found = []
    for states in (latents, other):
        with coupled(unet, [First(keep)], place_of()):
            found.append(unet(states, 500, encoder_hidden_states=tokens).sample)
    allowed = First(keep).may_see(place_of(), attention_layers(unet)[0][0], 4, SIDE * SIDE, 2 * SIDE * SIDE)
    assert allowed[3, 0, 0, SIDE * SIDE :].sum() == SIDE * SIDE - 64
    assert not allowed[1, 0, 0, SIDE * SIDE :].any()
    cells = (SIDE // 2) ** 2
    coarse = First(keep).may_see(place_of(), attention_layers(unet)[0][0], 4, cells, 2 * cells)
    assert coarse[3, 0, 0, (SIDE // 2) ** 2 :].sum() == (SIDE // 2) ** 2 - 16
    assert float((found[0][3] - found[1][3]).abs().max()) > 0  # by the convolutions before the attention


def test_the_background_is_the_sources() -> None:
    keep = torch.zeros(1, 1, SIDE, SIDE)
    keep[..., :4, :] = 1
    source, target = batch_of()[0][[1]], batch_of()[0][[3]]
    mixed = Background(keep).after_step(place_of(), source, target)
    assert torch.equal(mixed[..., :4, :], source[..., :4, :])
    assert torch.equal(mixed[..., 4:, :], target[..., 4:, :])


@pytest.mark.parametrize("name", COUPLINGS)
def test_no_map_of_self_attention_is_computed(unet: UNet2DConditionModel, name: str) -> None:
    given = CouplingInputs(TOKENS, torch.ones(1, 1, SIDE, SIDE), same_tokens(torch.ones(2, TOKENS)))
    [coupling] = make_couplings([name], given)
    layers = [layer for layer, _ in attention_layers(unet) if not layer.cross]
    assert not any(
        coupling.own and coupling.reads_maps(place_of(done), layer, SIDE**2)
        for done in range(STEPS)
        for layer in layers
    )


def test_a_compiled_network_is_refused(unet: UNet2DConditionModel) -> None:
    compiled = copy.deepcopy(unet)
    compiled.compile()
    before = dict(compiled.attn_processors)
    with (
        pytest.raises(UserError, match="a compiled UNet cannot be coupled; leave --compile out"),
        coupled(compiled, [MutualSelfAttention()], place_of()),
    ):
        pass
    assert compiled.attn_processors == before
    with coupled(compiled, [Background(torch.ones(1, 1, SIDE, SIDE))], place_of()):
        assert compiled.attn_processors == before, "this one changes latents only"


def test_processors_are_restored_also_after_an_error(unet: UNet2DConditionModel) -> None:
    before = dict(unet.attn_processors)
    with pytest.raises(RuntimeError, match="stop"), coupled(unet, [ON["pnp"](), ON["p2p"]()], place_of()):
        raise RuntimeError("stop")
    assert unet.attn_processors == before
    assert not unet.get_submodule(PlugAndPlay.features_of)._forward_hooks


def test_layers_are_counted_in_the_order_of_the_forward_pass(unet: UNet2DConditionModel) -> None:
    layers = [layer for layer, _ in attention_layers(unet)]
    assert [layer.part for layer in layers if layer.cross] == ["down"] * 2 + ["mid"] + ["up"] * 4
    assert [layer.number for layer in layers if not layer.cross] == list(range(7))
    order: list[int] = []
    hooks = [
        module.register_forward_hook(lambda *_, number=layer.number: order.append(number))
        for layer, module in attention_layers(unet)
        if layer.cross
    ]
    unet(batch_of()[0], 500, encoder_hidden_states=batch_of()[1])
    for hook in hooks:
        hook.remove()
    assert order == list(range(7))


def level(kind: str, levels: int) -> UNet2DConditionModel:
    """A UNet of equal levels, of blocks with attention (kind CrossAttn) or without, and a middle with."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=(8,) * levels,
        down_block_types=(f"{kind}DownBlock2D",) * levels,
        up_block_types=(f"{kind}UpBlock2D",) * levels,
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=WIDTH,
    ).double()


def test_a_network_without_such_layers_is_refused() -> None:
    plain = UNet2DConditionModel(
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        mid_block_type=None,
        norm_num_groups=4,
        cross_attention_dim=WIDTH,
    )
    with (
        pytest.raises(UserError, match="no layer of self-attention, which MutualSelfAttention changes"),
        coupled(plain, [MutualSelfAttention()], place_of()),
    ):
        pass
    shallow = level("CrossAttn", 1)
    before = dict(shallow.attn_processors)
    with (
        pytest.raises(UserError, match=r"no module up_blocks\.1\.resnets\.1\.conv2, which PlugAndPlay"),
        coupled(shallow, [PlugAndPlay()], place_of()),
    ):
        pass
    assert shallow.attn_processors == before


def test_where_only_the_middle_attends_the_blend_is_of_its_maps() -> None:
    blended = PromptToPrompt(same_tokens(torch.eye(TOKENS)[:2]), 1, 0, blend_from=0)
    states, tokens = batch_of()
    unet = level("", 2)
    with coupled(unet, [blended], place_of()), torch.no_grad():
        unet(states, 500, encoder_hidden_states=tokens)
        source, target = states[1:2], states[3:4]
        mixed = blended.after_step(place_of(), source, target)
    from_source, from_target = (mixed == source).all(1), (mixed == target).all(1)
    assert (from_source | from_target).all()
    assert from_target.any()
