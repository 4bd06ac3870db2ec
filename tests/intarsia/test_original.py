"""Original checkpoints: the names both ways, held to diffusers' importer, and what is refused."""

import re

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

from intarsia.architecture import ModelConfig, NoiseConfig
from intarsia.errors import UserError
from intarsia.model import EditModel, build_model, empty_model
from intarsia.original import from_original, noise_buffers, original_places, to_original
from intarsia.pretrained import State, has_averages, widen
from sampling.denoise.sampler import new_noise_scheduler
from tests.sampling.tiny import tiny_config, tiny_model

GEOMETRIES = {
    "tiny": (),
    "three levels, attention outside": (
        "model.unet.block_out_channels=[32, 32, 64]",
        "model.unet.down_block_types=[CrossAttnDownBlock2D, DownBlock2D, CrossAttnDownBlock2D]",
        "model.unet.layers_per_block=1",
        "model.vae.block_out_channels=[32, 32, 64]",
        "model.vae.layers_per_block=2",
        "model.image_encoder.num_hidden_layers=9",
    ),
}


def random_original(config: ModelConfig, seed: int) -> State:
    """A full checkpoint of random numbers with every key that a real one of this geometry has."""
    rng = torch.Generator().manual_seed(seed)
    state = to_original(build_model(config, 0))
    buffers = noise_buffers(config.noise)
    return {
        name: value
        if name in buffers or name.endswith("position_ids")
        else torch.randn(value.shape, generator=rng)
        for name, value in state.items()
    }


def filled(config: ModelConfig, state: State, averaged: bool = False) -> EditModel:
    model = empty_model(config)
    from_original(model, state, "some.ckpt", averaged)
    return model


@pytest.mark.parametrize("overrides", GEOMETRIES.values(), ids=GEOMETRIES)
def test_an_original_checkpoint_comes_back_bit_for_bit(overrides: tuple[str, ...]) -> None:
    config = tiny_config(*overrides)
    state = random_original(config, seed=1)
    again = to_original(filled(config, state))
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], value) for name, value in state.items())
    assert all(again[name].dtype == value.dtype for name, value in state.items())


@pytest.mark.parametrize("overrides", GEOMETRIES.values(), ids=GEOMETRIES)
def test_diffusers_reads_the_same_unet_and_autoencoder_out_of_it(overrides: tuple[str, ...]) -> None:
    model = build_model(tiny_config(*overrides), 3)
    state = to_original(model)
    for network, theirs in (
        (model.unet, convert_ldm_unet_checkpoint(state, model.unet.config)),
        (model.vae, convert_ldm_vae_checkpoint(state, model.vae.config)),
    ):
        own = network.state_dict()
        assert theirs.keys() == own.keys()
        assert all(torch.equal(theirs[name], value) for name, value in own.items())


def test_the_names_are_the_published_ones() -> None:
    names = {place.name for place in original_places(tiny_model()).values()}
    for expected in (
        "model.diffusion_model.time_embed.0.weight",
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v.weight",
        "model.diffusion_model.out.2.bias",
        "first_stage_model.encoder.mid.attn_1.proj_out.weight",
        "first_stage_model.post_quant_conv.bias",
        "cond_stage_model.transformer.vision_model.pre_layrnorm.weight",
        "cond_stage_model.mapper.resblocks.0.attn.c_qkv.weight",
        "cond_stage_model.mapper.resblocks.0.mlp.c_fc.bias",
        "cond_stage_model.final_ln.weight",
        "proj_out.weight",
        "learnable_vector",
    ):
        assert expected in names
    assert not [name for name in names if re.search(r"down_blocks|attn1\.to_q.*mapper|null_exemplar", name)]


def test_query_key_and_value_lie_in_one_tensor_in_this_order() -> None:
    model = tiny_model(4)
    joined = to_original(model)["cond_stage_model.mapper.resblocks.0.attn.c_qkv.weight"]
    attention = model.exemplar_encoder.mapper["blocks"][0].attn1
    parts = (attention.to_q, attention.to_k, attention.to_v)
    assert all(torch.equal(a, b.weight) for a, b in zip(joined.chunk(3), parts, strict=True))


def test_the_noise_levels_are_those_that_diffusers_samples_with() -> None:
    levels = noise_buffers(NoiseConfig())
    scheduler = new_noise_scheduler(NoiseConfig(), "ddim")
    assert len(levels) == 12
    assert torch.allclose(levels["betas"], scheduler.betas, rtol=1e-6)
    assert torch.allclose(levels["alphas_cumprod"], scheduler.alphas_cumprod, rtol=1e-4)
    assert levels["alphas_cumprod_prev"][0] == 1
    assert torch.equal(levels["alphas_cumprod_prev"][1:], levels["alphas_cumprod"][:-1])
    assert all(value.isfinite().all() for value in levels.values())


def test_averaged_weights_are_taken_when_asked_for_and_only_of_the_unet() -> None:
    config = tiny_config()
    plain, average = random_original(config, 1), random_original(config, 2)
    unet = "model.diffusion_model."
    both = plain | {
        "model_ema." + name.removeprefix("model.").replace(".", ""): value
        for name, value in average.items()
        if name.startswith(unet)
    }
    both["model_ema.decay"] = torch.tensor(0.9999)
    assert has_averages(both)
    assert not has_averages(plain)
    for name, value in to_original(filled(config, both, averaged=True)).items():
        assert torch.equal(value, (average if name.startswith(unet) else plain)[name])
    for name, value in to_original(filled(config, both)).items():
        assert torch.equal(value, plain[name])
    with pytest.raises(UserError, match=r"some\.ckpt has no averaged weights"):
        filled(config, plain, averaged=True)


def refused(state: State) -> str:
    with pytest.raises(UserError) as error:
        filled(tiny_config(), state)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_no_original_checkpoint_is_refused_with_the_reason() -> None:
    state = random_original(tiny_config(), 1)
    conv_in = "model.diffusion_model.input_blocks.0.0.weight"
    other = {name: value for name, value in state.items() if not name.startswith("cond_stage_model.mapper")}
    assert "text-guided inpainting model" in refused(other)
    assert "mask (1 = repaint)" in refused(other)
    sentence = refused(other | {conv_in: widen(state[conv_in][:, :4], 4)})
    assert "text-to-image model with 4 input channels" in sentence
    assert "model.init.stable_diffusion=some.ckpt" in sentence
    assert "not an original Paint by Example checkpoint" in refused({"a": torch.zeros(1)})
    assert "betas from 0.1 to 0.2, the model config 1000 from 0.00085 to 0.012" in refused(
        state | {"betas": torch.linspace(0.1, 0.2, 1000)}
    )
    assert "1 unexpected (first first_stage_model.more)" in refused(
        state | {"first_stage_model.more": torch.zeros(1)}
    )
    del state["learnable_vector"]
    assert "some.ckpt has no learnable_vector, as early checkpoints of Paint by Example" in refused(state)
    del state["proj_out.bias"]
    state["learnable_vector"] = torch.zeros(1, 1, 32)
    assert "1 missing (first exemplar_encoder.proj_out.bias)" in refused(state)


def test_an_early_checkpoint_is_taken_with_a_new_null_exemplar() -> None:
    config = tiny_config()
    state = random_original(config, 1)
    width = state["learnable_vector"].shape[-1]
    early = {name: value for name, value in state.items() if name != "learnable_vector"}
    model = empty_model(config)
    from_original(model, early, "some.ckpt", new_null=True)
    again = to_original(model)
    assert torch.equal(again.pop("learnable_vector"), torch.zeros(1, 1, width))
    assert all(torch.equal(again[name], value) for name, value in early.items())
    with pytest.raises(UserError, match=r"some\.ckpt has a null exemplar .*; omit --new-null-exemplar"):
        from_original(model, state, "some.ckpt", new_null=True)
