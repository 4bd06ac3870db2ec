"""Image towers and many tokens: transformers' own outputs, folders, starts, original files, refusals."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.deprecated.paint_by_example import PaintByExamplePipeline
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from intarsia.architecture import ModelConfig
from intarsia.conditions.attention import shorten_attention
from intarsia.conditions.exemplar import ExemplarEncoder
from intarsia.config import build_config, load_config
from intarsia.errors import UsageError, UserError
from intarsia.files import read_json
from intarsia.model import EditModel, build_model, empty_model
from intarsia.original import from_original, to_original
from intarsia.pretrained import image_encoder_state, load_image_encoder_state
from intarsia.towers.settings import TOWERS
from intarsia.towers.tower import tower_of
from intarsia.weights import read_model, save_model
from sampling.commands.import_ import import_original
from tests.paths import ROOT
from tests.sampling.tiny import ModelFragment, tiny_config, tiny_model

SHAPE = {"hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 4, "patch_size": 8}
GEOMETRY = [f"model.image_encoder.{name}={value}" for name, value in SHAPE.items()]
CLIP = [*GEOMETRY, "model.image_encoder.intermediate_size=48"]
SMALL = "model.image_encoder.layer_norm_eps=1e-6"
SIGLIP = [*CLIP, SMALL, "model.image_encoder.hidden_act=gelu_pytorch_tanh", "model.exemplar.encoder=siglip"]
DINOV2 = [
    *GEOMETRY,
    SMALL,
    "model.image_encoder.intermediate_size=64",
    "model.image_encoder.hidden_act=gelu",
    "model.image_encoder.image_size=48",
    "model.exemplar={encoder: dinov2, size: 32}",
]
GIANT = [*DINOV2, "model.image_encoder.use_swiglu_ffn=true"]
KINDS = {"clip": CLIP, "dinov2": DINOV2, "giant": GIANT, "siglip": SIGLIP}
TOKENS = ("class", "patches", "class+patches", "resampled")
PATCHES = 16


UNET = ["block_out_channels=[8, 16]", "layers_per_block=1", "norm_num_groups=4", "attention_head_dim=2"]
VAE = ["block_out_channels=[8, 8]", "norm_num_groups=4"]
CHEAP = [*(f"model.unet.{option}" for option in UNET), *(f"model.vae.{option}" for option in VAE)]


def config_of(kind: str, *exemplar: str) -> ModelConfig:
    return tiny_config(*CHEAP, *KINDS[kind], *(f"model.exemplar.{option}" for option in exemplar))


def pixels() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def wide(network: Any) -> Any:
    """The network with weights so large that each layer, head and norm shows in its output."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for param in network.parameters():
            param.normal_(std=0.3, generator=generator)
    return network.eval()


def peer(kind: str, whole: bool = False) -> Any:
    """transformers' own network of this geometry, or one that contains it."""
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    small = SHAPE | {"intermediate_size": 48, "image_size": 32}
    if kind == "clip":
        vision = CLIPVisionConfig(**small)
        whole_config = CLIPConfig(
            text_config=CLIPTextConfig(**text).to_dict(), vision_config=vision.to_dict()
        )
        return wide(CLIPModel(whole_config) if whole else CLIPVisionModel(vision))
    if kind == "siglip":
        vision = SiglipVisionConfig(**small)
        text_config = SiglipTextConfig(**text, projection_size=32)
        whole_config = SiglipConfig(text_config=text_config.to_dict(), vision_config=vision.to_dict())
        return wide(SiglipModel(whole_config) if whole else SiglipVisionModel(vision))
    config = Dinov2Config(**SHAPE, mlp_ratio=2, image_size=48, use_swiglu_ffn=kind == "giant")
    return wide(Dinov2ForImageClassification(config) if whole else Dinov2Model(config))


def expected(kind: str, network: Any, layer: int) -> tuple[Tensor | None, Tensor]:
    """Class vector and patches by transformers' own fields."""
    with torch.no_grad():
        output = network(pixel_values=pixels(), output_hidden_states=True)
        if layer != -1:
            hidden = output.hidden_states[layer]
            return (None, hidden) if kind == "siglip" else (hidden[:, 0], hidden[:, 1:])
        last = output.last_hidden_state
        if kind == "siglip":
            return output.pooler_output, last
        if kind == "clip":
            norm = next(part for name, part in network.named_modules() if name.endswith("post_layernorm"))
            return output.pooler_output, norm(last)[:, 1:]
        return output.pooler_output, last[:, 1:]


@pytest.mark.parametrize(("kind", "layer"), product(KINDS, (-1, -2)))
def test_what_a_tower_sees_is_transformers_own_output(kind: str, layer: int, tmp_path: Path) -> None:
    network = peer(kind)
    network.save_pretrained(tmp_path)
    vector, patches = expected(kind, network, layer)
    for tokens in TOKENS:
        if layer != -1 and kind == "siglip" and tokens.startswith("class"):
            continue
        config = config_of(kind, f"tokens={tokens}", f"layer={layer}")
        model = build_model(
            config.model_copy(update={"init": config.init.model_copy(update={"image_encoder": tmp_path})}), 0
        )
        seen = model.encode_exemplar(pixels())
        both = patches if vector is None else torch.cat([vector[:, None], patches], dim=1)
        alone = patches if kind == "siglip" else both
        wanted = {"class": vector, "patches": patches, "class+patches": both, "resampled": alone}[tokens]
        assert seen.shape[1:] == model.kind.feature_shape(config)
        assert torch.allclose(seen, wanted, rtol=1e-4, atol=1e-5)
        assert model.exemplar_encoder(seen).shape == (2, config.num_tokens, 32)
    assert config.num_tokens == 16  # of resampled


@pytest.mark.parametrize("kind", ["clip", "dinov2"])
def test_the_first_of_class_and_patches_is_the_class_vector_bit_for_bit(kind: str) -> None:
    model = wide(build_model(config_of(kind, "tokens=class+patches"), 0))
    alone = wide(build_model(config_of(kind), 0))
    assert torch.equal(model.encode_exemplar(pixels())[:, 0], alone.encode_exemplar(pixels()))


def test_queries_attend_to_every_vector_whatever_its_place_and_to_each_other() -> None:
    torch.manual_seed(0)
    encoder = ExemplarEncoder(width=16, depth=1, token_width=8, tokens=3, resampled=True)
    vectors = torch.randn(2, 5, 16, requires_grad=True)
    tokens = encoder(vectors)
    moved = encoder(vectors[:, [3, 0, 4, 2, 1]])
    assert torch.allclose(tokens, moved, atol=1e-6)
    to_vectors, to_queries = torch.autograd.grad(tokens[0, 0].sum(), [vectors, encoder.queries])
    assert (to_vectors[0] != 0).any(dim=-1).all()
    assert not to_vectors[1].any(), "another exemplar's"
    assert (to_queries[0] != 0).any(dim=-1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_tower_is_found_inside_a_whole_model_and_without_one_refused(kind: str, tmp_path: Path) -> None:
    peer(kind, whole=True).save_pretrained(tmp_path / "whole")
    whole = build_model(
        tiny_config(*CHEAP, *KINDS[kind], f"model.init.image_encoder={tmp_path / 'whole'}"), 0
    )
    vision = peer(kind, whole=True)
    inner = vision.dinov2 if kind in ("dinov2", "giant") else vision.vision_model
    assert torch.allclose(whole.encode_exemplar(pixels()), expected(kind, inner, -1)[0], atol=1e-5)
    other = "siglip" if kind == "clip" else "clip"
    title = TOWERS[other].title
    with pytest.raises(UserError, match=f"contains no {title} vision tower .*set model.exemplar.encoder to"):
        build_model(tiny_config(*CHEAP, *KINDS[other], f"model.init.image_encoder={tmp_path / 'whole'}"), 0)


@pytest.mark.parametrize(("kind", "tokens"), product(KINDS, TOKENS))
def test_the_weights_of_each_tower_and_kind_of_tokens_have_names_in_a_folder(kind: str, tokens: str) -> None:
    config = config_of(kind, f"tokens={tokens}")
    model, other = build_model(config, 3), build_model(config, 4)
    load_image_encoder_state(other, image_encoder_state(model), "some folder")
    for part in ("image_encoder", "exemplar_encoder"):
        own, theirs = (each.get_submodule(part).state_dict() for each in (model, other))
        assert own.keys() == theirs.keys()
        assert all(torch.equal(own[name], theirs[name]) for name in own)


FOLDERS = (("clip", "class+patches"), ("dinov2", "class"), ("giant", "patches"), ("siglip", "resampled"))


@pytest.mark.parametrize(("kind", "tokens"), FOLDERS)
def test_a_model_folder_comes_back_bit_for_bit(kind: str, tokens: str, tmp_path: Path) -> None:
    model = build_model(config_of(kind, f"tokens={tokens}"), 3).eval()
    save_model(model, tmp_path / "m")
    loaded = read_model(tmp_path / "m")
    assert loaded.config == model.config
    own, theirs = model.state_dict(), loaded.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[name], theirs[name]) for name in own)
    assert torch.equal(
        loaded.exemplar_encoder(loaded.encode_exemplar(pixels())),
        model.exemplar_encoder(model.encode_exemplar(pixels())),
    )
    notes = read_json(tmp_path / "m" / "intarsia.json")["exemplar"]
    assert notes == config_of(kind, f"tokens={tokens}").exemplar.model_dump(exclude_defaults=True)


@pytest.mark.parametrize(("kind", "option"), [("dinov2", "tokens=class"), ("clip", "tokens=class+patches")])
def test_diffusers_refuses_what_its_encoder_would_read_wrongly(
    kind: str, option: str, tmp_path: Path
) -> None:
    save_model(build_model(config_of(kind, option), 3), tmp_path / "m")
    for pipeline in (DiffusionPipeline, PaintByExamplePipeline):
        with pytest.raises((ValueError, AttributeError), match=r"has no .*ExemplarEncoder"):
            pipeline.from_pretrained(tmp_path / "m")


def test_dinov2_is_saved_under_the_published_names(tmp_path: Path) -> None:
    save_model(build_model(config_of("giant"), 0), tmp_path / "m")
    names = set(load_file(tmp_path / "m" / "image_encoder" / "model.safetensors"))
    layer = "model.encoder.layer.0."
    assert {f"{layer}attention.attention.query.weight", f"{layer}mlp.weights_in.weight"} <= names
    assert not [name for name in names if "q_proj" in name or "gate_proj" in name]


def test_patches_start_from_a_model_of_one_token_with_its_null_repeated(tmp_path: Path) -> None:
    one = tiny_model(5)
    save_model(one, tmp_path / "m")
    init = f"model.init.model_folder={tmp_path / 'm'}"
    many = build_model(tiny_config(init, "model.exemplar.tokens=class+patches"), 0)
    null = many.exemplar_encoder.null_exemplar
    assert null.shape == (1, 65, 32)
    assert all(torch.equal(null[:, i], one.exemplar_encoder.null_exemplar[:, 0]) for i in range(65))
    assert torch.equal(many.exemplar_encoder.proj_out.weight, one.exemplar_encoder.proj_out.weight)
    for option, value in (("tokens", "resampled"), ("layer", -2)):
        with pytest.raises(UserError, match=rf"has exemplar.{option}=.*set model.exemplar.{option}="):
            build_model(tiny_config(init, f"model.exemplar.{option}={value}"), 0)
    save_model(many, tmp_path / "many")
    init = f"model.init.model_folder={tmp_path / 'many'}"
    with pytest.raises(UserError, match=r"has exemplar.tokens=class\+patches, the model config class; set"):
        build_model(tiny_config(init), 0)
    with pytest.raises(UserError, match=r"has exemplar.tokens=class\+patches, the model config patches; set"):
        build_model(tiny_config(init, "model.exemplar.tokens=patches"), 0)


def test_objectstitchs_file_is_imported_and_comes_back(tmp_path: Path) -> None:
    """Its names are Paint by Example's; its null vector is repeated, and all vectors pass the last norm."""
    state = to_original(tiny_model(7))
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "o.safetensors")
    config = tiny_config("model.exemplar.tokens=class+patches")
    import_original(tmp_path / "o.safetensors", tmp_path / "m", config)
    assert "exemplars of 32×32 as 65 tokens" in (tmp_path / "m" / "README.md").read_text()
    model = read_model(tmp_path / "m")
    encoder, exemplar = model.exemplar_encoder, pixels()
    tower = model.image_encoder
    norm = next(part for name, part in tower.named_modules() if name.endswith("post_layernorm"))
    with torch.no_grad():
        hidden = norm(tower(pixel_values=exemplar).last_hidden_state)
        for block in encoder.mapper["blocks"]:
            hidden = block(hidden)
        theirs = encoder.proj_out(encoder.final_layer_norm(hidden))
        assert torch.allclose(encoder(model.encode_exemplar(exemplar)), theirs, atol=1e-5)
    assert torch.equal(encoder.null_exemplar, state["learnable_vector"].expand(1, 65, -1))
    again = to_original(model)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], value) for name, value in state.items())
    with torch.no_grad():
        encoder.null_exemplar[:, 3] += 1  # as training would
    copy = empty_model(config)
    from_original(copy, to_original(model), "trained.ckpt")
    assert torch.equal(copy.exemplar_encoder.null_exemplar, encoder.null_exemplar)


@pytest.mark.parametrize(
    ("kind", "option"), [("siglip", "encoder=siglip"), ("clip", "tokens=resampled"), ("clip", "layer=-2")]
)
def test_an_original_checkpoint_refuses_what_it_has_no_names_for(kind: str, option: str) -> None:
    with pytest.raises(
        UserError, match=f"cannot hold a model with exemplar.{option}; use --format diffusers"
    ):
        to_original(build_model(config_of(kind, option), 0))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"exemplar": {"encoder": "dino"}}, "encoder='dino' is not one of clip, dinov2, siglip"),
    ({"exemplar": {"tokens": "all"}}, "exemplar.tokens='all'"),
    ({"exemplar": {"layer": 0}}, "exemplar.layer=0"),
    (
        {"exemplar": {"layer": -25}},
        "exemplar.layer=-25: image_encoder has 24 layers, so the first one is -24",
    ),
    ({"exemplar": {"queries": 8}}, "exemplar.queries=8 belongs to exemplar.tokens=resampled, not to class"),
    ({"exemplar": {"size": 112}}, "exemplar.size=112: CLIP looks at image_encoder.image_size only"),
    (
        {"exemplar": {"encoder": "dinov2", "size": 225}},
        "exemplar.size=225 is not a multiple of patch_size=14",
    ),
    ({"exemplar": {"encoder": "siglip", "layer": -2}}, "SigLIP has no class token, and the head that takes"),
    (
        {"exemplar": {"encoder": "dinov2"}, "image_encoder": {"intermediate_size": 4097}},
        "intermediate_size=4097 must be a multiple of hidden_size=1024: DINOv2's config says it as mlp_ratio",
    ),
    ({"image_encoder": {"use_swiglu_ffn": True}}, "use_swiglu_ffn is DINOv2's; CLIP has none"),
]


@pytest.mark.parametrize(("content", "sentence"), REFUSED, ids=lambda v: v[:30] if isinstance(v, str) else "")
def test_what_a_tower_cannot_do_is_refused_in_words(content: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        build_config(ModelConfig, content, where="model")
    assert sentence in str(refused.value)


def test_siglip_leaves_a_margin_out_and_a_folder_says_its_tower(tmp_path: Path) -> None:
    shape = {"image_size": 384, "patch_size": 14, "hidden_size": 1152, "num_attention_heads": 16}
    content = {"exemplar": {"encoder": "siglip", "tokens": "patches"}, "image_encoder": shape}
    assert build_config(ModelConfig, content, where="so400m").num_tokens == 729
    save_model(build_model(config_of("siglip"), 0), tmp_path / "m")
    folder = tmp_path / "m"
    assert read_json(folder / "image_encoder" / "config.json")["model_type"] == "siglip_vision_model"
    assert read_json(folder / "feature_extractor" / "preprocessor_config.json")["image_mean"] == [0.5] * 3
    assert "as 1 tokens" not in (folder / "README.md").read_text()
    (folder / "intarsia.json").write_text(json.dumps({"exemplar": {"encoder": "eva"}}))
    with pytest.raises(UserError, match="encoder='eva' is not one of"):
        read_model(folder)


def test_the_configs_of_other_towers_have_the_published_sizes() -> None:
    for name, weights, tokens in (("sd21-dinov2", 1_136_480_768, 257), ("sd14-siglip", 428_225_600, 16)):
        config = load_config(ModelFragment, ROOT / f"configs/model/{name}.yaml").model
        with torch.device("meta"):
            tower = tower_of(config.exemplar).network(config.image_encoder)
        assert sum(param.numel() for param in tower.parameters()) == weights
        assert config.num_tokens == tokens


@pytest.mark.long
def test_257_tokens_cost_what_the_documentation_says() -> None:
    """Multiplications and additions of the real UNet, forward and backward, on tensors without content."""
    with torch.device("meta"):
        model = EditModel(build_config(ModelConfig, {"exemplar": {"tokens": "class+patches"}}, where="real"))
        assert model.config.num_tokens == 257

        def flops(tokens: int) -> int:
            latents, context = torch.empty(1, 9, 64, 64), torch.empty(1, tokens, 768)
            with FlopCounterMode(display=False) as counter:
                model.unet(latents, torch.zeros(1), encoder_hidden_states=context).sample.sum().backward()
            return counter.get_total_flops()

        many, one = flops(257), flops(1)
        shorten_attention(model.unet, 1)
        short = flops(1)
    assert one == pytest.approx(2.391e12, rel=0.001)
    assert many / one == pytest.approx(1.023, abs=0.001)
    assert many / short == pytest.approx(1.057, abs=0.001)
