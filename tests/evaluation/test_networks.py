"""Which network a fingerprint names: weights, config and tokenizer decide it, and nothing else."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from benchmarks.nets import fill, tiny_clip
from evaluation.measures import features, hub_folders, vision
from evaluation.measures.hub_folders import PUBLISHED_CLIPS, load_clip
from evaluation.measures.weights import UNLISTED, WEIGHT_SOURCES, fingerprint_weights
from evaluation.scoring.store import ValueStore
from intarsia.errors import UserError
from intarsia.files import sha256_file
from tests.vocabulary import openai_tokenizer

TOWER = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
FILE = "model.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP with OpenAI's tokenizer, beside it another network's weights."""
    folder = tmp_path_factory.mktemp("published") / "clip"
    config = CLIPConfig(
        text_config=TOWER | {"eos_token_id": 49407},
        vision_config=TOWER | {"patch_size": 32},
        projection_dim=16,
    )
    for seed, place in ((1, folder.parent / "other"), (0, folder)):
        torch.manual_seed(seed)
        CLIPModel(config).save_pretrained(place)
    openai_tokenizer().save(folder, 77)
    return folder


@pytest.fixture
def listed(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small network is the published one called clip-b32."""
    source = replace(WEIGHT_SOURCES["clip-b32"], hashes=(sha256_file(published / FILE),))
    monkeypatch.setitem(WEIGHT_SOURCES, "clip-b32", source)
    fields = load_clip(published, published / FILE).fields
    monkeypatch.setitem(
        PUBLISHED_CLIPS, "clip-b32", {**fields, "text": {**fields["text"], "eos_token_id": 2}}
    )


def changed(published: Path, folder: Path, change: Callable[[dict[str, Any], Path], Any]) -> Path:
    shutil.copytree(published, folder)
    config = json.loads((folder / "config.json").read_text())
    change(config, folder)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def set_in(part: str, **values: Any) -> Callable[[dict[str, Any], Path], None]:
    return lambda config, folder: config[part].update(values)


def permute(config: dict[str, Any], folder: Path) -> None:
    words = json.loads((folder / "vocab.json").read_text())
    numbers = list(words.values())[:-2]
    moved = numbers[7:] + numbers[:7]
    (folder / "vocab.json").write_text(json.dumps(words | dict(zip(words, moved, strict=False))))


def exchange(config: dict[str, Any], folder: Path) -> None:
    """Two words that the checked sentence does not have."""
    words = json.loads((folder / "vocab.json").read_text())
    words["zebra</w>"], words["dog</w>"] = words["dog</w>"], words["zebra</w>"]
    (folder / "vocab.json").write_text(json.dumps(words))


def clip(folder: Path, kept: ValueStore | None = None) -> features.Clip:
    return features.clip("clip-b32", {"clip-b32": folder}, kept=kept)


def test_the_fields_of_vit_b32_are_the_defaults_of_transformers() -> None:
    config = CLIPConfig()
    fields = PUBLISHED_CLIPS["clip-b32"]
    for part, own in (("vision", config.vision_config), ("text", config.text_config)):
        theirs = {name: getattr(own, name) for name in fields[part]}
        assert theirs.pop("eos_token_id", 2) in (2, 49407)
        assert {name: value for name, value in fields[part].items() if name != "eos_token_id"} == theirs
    assert fields["projection_dim"] == config.projection_dim


def test_a_published_network_keeps_the_fingerprint_of_its_weights(published, listed, tmp_path) -> None:
    wanted = fingerprint_weights(CLIPModel.from_pretrained(published).state_dict())
    assert clip(published).images.weights == wanted
    legacy = changed(published, tmp_path / "legacy", set_in("text_config", eos_token_id=2))
    assert clip(legacy).images.weights == wanted
    for path in hub_folders.tokenizer_files(legacy):
        path.unlink()
    assert clip(legacy).images.weights == wanted


@pytest.mark.parametrize(
    "change",
    [
        set_in("vision_config", num_attention_heads=1),
        set_in("vision_config", layer_norm_eps=0.3),
        set_in("text_config", num_attention_heads=1),
        set_in("vision_config", num_hidden_layers=1),
        set_in("text_config", hidden_act="gelu"),
        set_in("text_config", eos_token_id=320),
        permute,
        exchange,
    ],
)
def test_another_network_of_the_same_weights_has_another_fingerprint(
    published, listed, tmp_path, change
) -> None:
    store = ValueStore(tmp_path / "store")
    plain = clip(published, store).images.weights
    folder = changed(published, tmp_path / "clip", change)
    for kept in (None, store, store):
        found = clip(folder, kept).images.weights
        assert found.startswith(UNLISTED)
        assert plain not in found


@pytest.mark.parametrize("name", ["other weights", "dtype", "adapter"])
def test_what_else_a_folder_holds_decides_nothing(published, listed, tmp_path, name) -> None:
    def change(config: dict[str, Any], folder: Path) -> None:
        if name == "other weights":
            shutil.copy(published.parent / "other" / FILE, folder / "other.safetensors")
            config["transformers_weights"] = "other.safetensors"
        elif name == "dtype":
            config["dtype"] = config["torch_dtype"] = "bfloat16"
        else:
            (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')

    first, second = clip(published), clip(changed(published, tmp_path / "clip", change))
    assert first.images.weights == second.images.weights
    pixels = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    np.testing.assert_array_equal(first.images.run(pixels), second.images.run(pixels))
    np.testing.assert_array_equal(first.texts(["a zebra"]), second.texts(["a zebra"]))


@pytest.mark.parametrize("name", ["dino-s16", "dinov2-b14"])
@pytest.mark.parametrize("values", [{"num_attention_heads": 1}, {"layer_norm_eps": 0.3}])
def test_an_encoder_of_another_geometry_has_another_fingerprint(tmp_path, name, values) -> None:
    own = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    if name == "dino-s16":
        model: Any = ViTModel(ViTConfig(**own, intermediate_size=64, patch_size=16))
    else:
        model = Dinov2Model(Dinov2Config(**own, image_size=518, patch_size=14, mlp_ratio=2))
    fill(model)
    model.save_pretrained(tmp_path / "plain")
    folder = changed(tmp_path / "plain", tmp_path / "other", lambda config, _: config.update(values))
    store = ValueStore(tmp_path / "store")
    prints = [
        vision.identity_encoder(name, {name: place}, kept=store).network.weights
        for place in (tmp_path / "plain", folder, tmp_path / "plain")
    ]
    assert prints[0] == prints[2] != prints[1]


def test_another_pooler_has_another_fingerprint(tmp_path) -> None:
    model = ViTModel(ViTConfig(**TOWER, patch_size=16))
    fill(model)
    prints = []
    for name in ("one", "two"):
        model.save_pretrained(tmp_path / name)
        encoder = vision.identity_encoder("dino-s16", {"dino-s16": tmp_path / name})
        assert encoder.pooler is not None
        prints.append((encoder.network.weights, encoder.pooler.weights))
        with torch.no_grad():
            model.pooler.dense.bias += 1
    assert prints[0][0] == prints[1][0]
    assert prints[0][1] != prints[1][1]


@pytest.mark.parametrize(
    ("name", "look"),
    [
        ("clip-b32", lambda given: clip(given["clip-b32"]).of_squares),
        ("clip-b32", lambda given: clip(given["clip-b32"]).exemplar),
        ("clip-b32", lambda given: clip(given["clip-b32"]).region("bbox")),
        ("dino-s16", lambda given: vision.identity_encoder("dino-s16", given)),
    ],
)
def test_a_network_of_pictures_of_another_size_is_refused(tmp_path, name, look) -> None:
    """It raised transformers' exception once the first pictures were there."""
    if name == "clip-b32":
        tiny_clip(tmp_path, size=96)
    else:
        ViTModel(ViTConfig(**TOWER, patch_size=16, image_size=96)).save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=f"given for {name} takes pictures of 96 × 96 pixels, and .* 224 × 224"
    ):
        look({name: tmp_path})


@pytest.mark.parametrize(("name", "wanted"), [("dinov2-b14", "dinov2"), ("clip-b32", "clip")])
def test_a_folder_of_another_kind_of_network_is_named(tmp_path, name, wanted) -> None:
    ViTModel(ViTConfig(**TOWER, patch_size=16)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"has a network of the type vit; give one of the type {wanted}"):
        clip(tmp_path) if wanted == "clip" else vision.identity_encoder(name, {name: tmp_path})
