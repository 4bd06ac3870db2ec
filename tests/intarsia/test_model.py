"""The networks: the real sizes, seeds, diffusers' exemplar encoder as peer, refused geometries."""

import pytest
import torch
from diffusers.pipelines.deprecated.paint_by_example import PaintByExampleImageEncoder
from torch import nn
from transformers import CLIPVisionConfig

from intarsia.architecture import ModelConfig
from intarsia.conditions.exemplar import ExemplarEncoder
from intarsia.config import build_config, load_config
from intarsia.errors import UsageError
from intarsia.model import EditModel, build_model, empty_model
from intarsia.pretrained import image_encoder_state
from intarsia.towers.names import own_prefix
from tests.closeness import longest_sum, relative_error, rounding
from tests.paths import ROOT
from tests.sampling.tiny import ModelFragment, tiny_config, tiny_model


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_real_model_has_paint_by_examples_parameter_counts() -> None:
    config = load_config(ModelFragment, ROOT / "configs/model/sd14.yaml").model
    with torch.device("meta"):
        model = EditModel(config)
    encoder = model.exemplar_encoder
    assert count(model.unet) == 859_535_364
    assert count(encoder.mapper) == 62_981_120
    assert count(encoder.final_layer_norm) == 2_048
    assert count(encoder.proj_out) == 787_200
    assert encoder.null_exemplar.shape == (1, 1, 768)
    assert count(model.vae) == 83_653_863
    assert count(model.image_encoder) == 303_179_776
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 923_306_500, "the frozen parts are the autoencoder and CLIP"


def test_equal_seeds_give_equal_weights_and_the_global_random_state_stays() -> None:
    before = torch.get_rng_state()
    one, same, other = (build_model(tiny_config(), seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    for part in ("unet.conv_in.weight", "exemplar_encoder.null_exemplar", "exemplar_encoder.proj_out.weight"):
        assert not torch.equal(one[part], other[part])


def test_the_seed_alone_decides_not_the_random_state_before() -> None:
    torch.manual_seed(5)
    one = build_model(tiny_config(), 1).unet.conv_in.weight
    torch.manual_seed(6)
    assert torch.equal(one, build_model(tiny_config(), 1).unet.conv_in.weight)


def test_the_frozen_parts_have_no_gradient_and_stay_in_evaluation_mode() -> None:
    model = tiny_model().train()
    assert model.unet.training
    assert not model.vae.training
    assert not model.image_encoder.training
    model.exemplar_encoder(model.encode_exemplar(torch.randn(2, 3, 32, 32))).sum().backward()
    assert all(p.grad is None for p in [*model.vae.parameters(), *model.image_encoder.parameters()])
    assert model.exemplar_encoder.proj_out.weight.grad is not None


@pytest.mark.portable
@pytest.mark.parametrize(("layers", "blocks"), [(5, 1), (9, 2), (14, 3)])
def test_the_exemplar_encoder_equals_diffusers_on_the_same_weights(layers: int, blocks: int) -> None:
    config = tiny_config(f"model.image_encoder.num_hidden_layers={layers}")
    model = build_model(config, 3).eval()
    assert len(model.exemplar_encoder.mapper["blocks"]) == blocks
    vision = CLIPVisionConfig(**config.image_encoder.model_dump(), projection_dim=32)
    peer = PaintByExampleImageEncoder(vision).eval()
    state = image_encoder_state(model)
    prefix = "model." + own_prefix(model.tower, model.image_encoder)
    peer.load_state_dict({k.replace("model.vision_model.", prefix): v for k, v in state.items()})
    exemplar = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, null = peer(exemplar, return_uncond_vector=True)
        ours = model.exemplar_encoder(model.encode_exemplar(exemplar))
    assert ours.shape == (3, 1, 32)
    assert relative_error(ours, expected) < rounding(longest_sum(peer))
    assert torch.equal(model.exemplar_encoder.null_exemplar, null)


def test_the_null_exemplar_starts_as_standard_normal() -> None:
    null = ExemplarEncoder(width=8, depth=1, token_width=10_000).null_exemplar
    assert abs(null.mean()) < 0.05
    assert abs(null.std() - 1) < 0.05


def test_an_empty_model_filled_with_weights_computes_what_their_owner_does() -> None:
    model = tiny_model(4)
    copy = empty_model(model.config)
    copy.load_state_dict(model.state_dict())
    exemplar = torch.randn(2, 3, 32, 32)
    assert torch.equal(copy.encode_exemplar(exemplar), model.encode_exemplar(exemplar))
    assert not any(t.is_meta for t in [*copy.parameters(), *copy.buffers()])


def test_sd14_is_the_default_geometry() -> None:
    assert load_config(ModelFragment, ROOT / "configs/model/sd14.yaml").model == ModelConfig()


def test_sd21_has_stable_diffusion_2s_size_and_heads_of_64_channels() -> None:
    for name, side in (("sd21", 512), ("sd21-768v", 768)):
        config = load_config(ModelFragment, ROOT / f"configs/model/{name}.yaml").model
        assert config.image_size == side
        with torch.device("meta"):
            model = EditModel(config)
        # 865,910,724 are the text-to-image UNet's; five more input channels are 5 × 320 × 3 × 3.
        assert count(model.unet) == 865_910_724 + 14_400
        heads = {m.heads: m.inner_dim for n, m in model.unet.named_modules() if n.endswith(".attn1")}
        assert heads == {5: 320, 10: 640, 20: 1280}
        assert model.exemplar_encoder.null_exemplar.shape == (1, 1, 1024)


REFUSED = [
    ({"image_size": 520}, "image_size=520 must be a multiple of 64 (autoencoder 8 x UNet 8)"),
    ({"vae": {"latent_channels": 8}}, "unet.out_channels=4 must equal vae.latent_channels=8"),
    ({"unet": {"in_channels": 8}}, "unet.in_channels=8 must be 9"),
    ({"unet": {"block_out_channels": [320, 640]}}, "down_block_types has 4 entries and block_out_channels 2"),
    ({"unet": {"block_out_channels": [320, 640, 1280, 1290]}}, "1290, which is not a multiple of norm_num"),
    ({"unet": {"attention_head_dim": 7}}, "attention_head_dim=7 heads cannot share"),
    ({"unet": {"attention_head_dim": [5, 10]}}, "attention_head_dim has 2 entries and block_out_channels 4"),
    ({"vae": {"norm_num_groups": 3}}, "128, which is not a multiple of norm_num_groups=3"),
    ({"image_encoder": {"num_attention_heads": 7}}, "hidden_size=1024 is not a multiple of num_attention"),
    ({"image_encoder": {"patch_size": 15}}, "image_size=224 is not a multiple of patch_size=15"),
    ({"image_encoder": {"num_hidden_layers": 3}}, "image_encoder.num_hidden_layers=3"),
    ({"noise": {"beta_start": 0.5}}, "beta_start=0.5 must be below beta_end=0.012"),
    ({"noise": {"prediction_type": "sample"}}, "noise.prediction_type='sample'"),
    (
        {"init": {"model_folder": "a", "vae": "b"}},
        "already contains every part; remove it or init.vae",
    ),
    ({"unet": {"chanels": 1}}, "unknown key 'unet.chanels'"),
]


@pytest.mark.parametrize(("content", "sentence"), REFUSED, ids=lambda v: v[:40] if isinstance(v, str) else "")
def test_impossible_geometries_are_refused_in_words(content: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        build_config(ModelConfig, content, where="model")
    assert sentence in str(refused.value)
