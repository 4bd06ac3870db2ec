"""Feature networks against peers with the same random weights, and the preprocessing of each recipe."""

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchmetrics.functional.image import lpips as peer_lpips
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer, ViTConfig, ViTModel

from benchmarks.nets import fill, recorded_input, save, tiny_clip
from evaluation.measures import features, resizing
from evaluation.measures.dino import DinoGeometry, load_dino
from evaluation.measures.inception import Inception, load_inception
from evaluation.measures.lpips import Lpips, Net, load_lpips
from evaluation.measures.metrics import cosine, structure_distance
from evaluation.measures.weights import WEIGHT_SOURCES, find_weights, fingerprint_weights, parse_weights
from evaluation.scoring.scoring import Request, score
from evaluation.scoring.store import ValueStore
from intarsia.errors import UsageError, UserError
from intarsia.pretrained import read_weights
from tests.closeness import longest_sum, relative_error, rounding

pytestmark = pytest.mark.portable


def picture(height: int = 60, width: int = 90, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = 127 + 100 * np.sin(x[..., None] / 9 + y[..., None] / 6 + rng.uniform(0, 6, 3))
    return (waves + rng.normal(0, 10, waves.shape)).clip(0, 255).astype(np.uint8)


# -- preprocessing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(60, 90), (300, 224), (512, 512), (700, 340)])
def test_clip_preprocessing_is_transformers(size: tuple[int, int]) -> None:
    peer = CLIPImageProcessor()(Image.fromarray(picture(*size)), return_tensors="np")["pixel_values"][0]
    assert relative_error(resizing.clip_bicubic(picture(*size)), peer) < rounding(1)


def test_the_published_region_leaves_out_the_last_row_and_column() -> None:
    image = picture()
    mask = np.zeros((60, 90), bool)
    mask[10:31, 20:61] = True
    part = torch.from_numpy(image[10:30, 20:60].transpose(2, 0, 1)[None] / 255.0)
    wanted = F.interpolate(part, (224, 224), mode="bilinear")[0]
    mean, std = (
        torch.tensor([0.48145466, 0.4578275, 0.40821073]),
        torch.tensor([0.26862954, 0.26130258, 0.27577711]),
    )
    wanted = (wanted - mean[:, None, None]) / std[:, None, None]
    # The place of a pixel, up to 40 here, is rounded before its neighbours are mixed.
    assert relative_error(resizing.clip_pbe_region(image, mask), wanted) < 40 * rounding(1)
    box = np.ascontiguousarray(image[10:31, 20:61])
    np.testing.assert_array_equal(resizing.clip_box(image, mask), resizing.clip_square(box))


def test_regions_that_cannot_be_cropped_are_told() -> None:
    image, mask = picture(), np.zeros((60, 90), bool)
    with pytest.raises(ValueError, match="marks nothing"):
        resizing.clip_box(image, mask)
    mask[5, 50] = mask[20, 10] = True  # the first pixel lies right of the last
    with pytest.raises(ValueError, match=r"published crop of this mask is empty.*`evaluation bench`"):
        resizing.clip_pbe_region(image, mask)
    assert resizing.clip_box(image, mask).shape == (3, 224, 224)
    with pytest.raises(ValueError, match=r"the mask is 90 x 60 pixels and a picture 50 x 60, not alike"):
        resizing.clip_box(image[:, :50], mask)


def test_the_published_structure_input_is_the_quirk_and_the_right_one_is_not() -> None:
    grey = np.full((30, 40, 3), 128, np.uint8)
    published, right = resizing.dino_published(grey)[0, 0, 0], resizing.dino_right(grey)[0, 0, 0]
    assert published == pytest.approx((128 - 0.485) / 0.229, rel=1e-5)
    assert right == pytest.approx((128 / 255 - 0.485) / 0.229, rel=1e-4)


# -- networks -------------------------------------------------------------------------------------------


def test_clip_features_are_transformers(tmp_path) -> None:
    folder = tiny_clip(tmp_path / "clip")
    clip = features.clip("clip-b32", {"clip-b32": folder})
    image = Image.fromarray(picture())
    image.save(tmp_path / "picture.png")
    [row] = score([{"x": Request((tmp_path / "picture.png",), clip.whole)}], ValueStore(tmp_path / "store"))
    peer = CLIPModel.from_pretrained(folder).eval()
    with torch.no_grad():
        pixels = CLIPImageProcessor()(image, return_tensors="pt")["pixel_values"]
        tokens = CLIPTokenizer.from_pretrained(folder)(["a cat", "dogs"], padding=True, return_tensors="pt")
        output = peer(pixel_values=pixels, **tokens)
    assert float(cosine(row["x"], output.image_embeds[0].numpy())) == pytest.approx(1, abs=1e-6)
    assert cosine(clip.texts(["a cat", "dogs"]), output.text_embeds.numpy()) == pytest.approx(
        [1, 1], abs=1e-6
    )
    assert clip.whole.recipe == "clip-b32/bicubic224/v1"


def test_clip_recipes_differ_where_pixels_do(tmp_path) -> None:
    clip = features.clip("clip-b32", {"clip-b32": tiny_clip(tmp_path / "clip")})
    measures = [
        clip.whole,
        features.middle512(clip.whole),
        clip.exemplar,
        clip.region("pbe"),
        clip.region("bbox"),
    ]
    assert len({measure.recipe for measure in measures}) == 5
    assert len({measure.identity for measure in measures}) == 5


def test_a_clip_folder_without_all_weights_is_refused(tmp_path) -> None:
    folder = tiny_clip(tmp_path / "clip")
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    state.pop("visual_projection.weight")
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 of CLIP's weights \(first visual_projection.weight\)"):
        features.clip("clip-b32", {"clip-b32": folder})


@pytest.fixture(scope="module")
def inception() -> Inception:
    network = Inception()
    fill(network)
    return network.eval()


def test_inception_has_the_standard_files_names(inception) -> None:
    state = inception.state_dict()
    assert sum(value.numel() for value in inception.parameters()) == 21_785_568  # pytorch-fid's without fc
    for name, shape in {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Mixed_5b.branch5x5_2.bn.running_var": (64,),
        "Mixed_6e.branch7x7dbl_5.conv.weight": (192, 192, 1, 7),
        "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "Mixed_7c.branch_pool.conv.weight": (192, 2048, 1, 1),
    }.items():
        assert tuple(state[name].shape) == shape


def test_inception_loads_the_standard_file_and_refuses_the_classifier(tmp_path, inception) -> None:
    state = {k: v for k, v in inception.state_dict().items() if "num_batches" not in k}  # as in old files
    state |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    torch.save(state, tmp_path / "pt_inception-2015-12-05-6726825d.pth")
    measure = features.inception(parse_weights([str(tmp_path)]))
    assert measure.recipe == "inception/bilinear299/v1"
    image = picture()
    prepared = measure.prepare(image)
    wanted = (
        2
        * F.interpolate(torch.from_numpy(image.transpose(2, 0, 1)[None] / 255.0), (299, 299), mode="bilinear")
        - 1
    )
    assert relative_error(prepared, wanted[0]) < 90 * rounding(1)  # a place, up to 90, is rounded
    with torch.no_grad():
        direct = inception(torch.from_numpy(prepared[None]))
    np.testing.assert_array_equal(measure.network.run(prepared[None]), direct)
    with pytest.raises(UserError, match="torchvision's ImageNet classifier, whose features are not FID's"):
        load_inception(state | {"fc.weight": torch.zeros(1000, 2048)}, "x")
    with pytest.raises(UserError, match="1 missing"):
        load_inception({k: v for k, v in state.items() if k != "Conv2d_1a_3x3.conv.weight"}, "x")


# What pytorch-fid and lpips gave for the same weights and pictures: `python -m benchmarks.evaluation peers`.
RECORDED = json.loads(Path(__file__).with_name("peers.json").read_text())


def test_inception_gives_what_pytorch_fid_gave(inception) -> None:
    with torch.no_grad():
        ours = inception(recorded_input(299)).flatten()[::128]
    assert relative_error(ours, np.array(RECORDED["inception"])) < rounding(longest_sum(inception))


@pytest.mark.parametrize("net", get_args(Net))
def test_lpips_gives_what_the_lpips_package_gave(net) -> None:
    backbone = Lpips(net).features
    fill(backbone)
    state = {f"features.{name}": value for name, value in backbone.state_dict().items()}
    network = load_lpips(net, state, read_weights(find_weights(f"lpips-{net}")), ("a", "b"))
    with torch.no_grad():
        ours = network(recorded_input(64, 1), recorded_input(64, 2))
    assert float(ours) == pytest.approx(RECORDED[f"lpips-{net}"], rel=rounding(longest_sum(network)))


class PeerFeatures(torch.nn.Module):
    """Gives torchmetrics' LPIPS our backbone: its own would come from torchvision."""

    def __init__(self, network: Lpips) -> None:
        super().__init__()
        self.network = network

    def forward(self, scaled: torch.Tensor) -> list[torch.Tensor]:
        return self.network.layers(scaled * self.network.scale + self.network.shift)


@pytest.mark.parametrize("net", get_args(Net))
def test_lpips_equals_torchmetrics_with_the_authors_linear_weights(tmp_path, net, monkeypatch) -> None:
    network = Lpips(net)
    fill(network.features)
    given = {net: save(network.features, tmp_path / "backbone.pth", "features.")}
    measure = features.lpips(net, "whole", given)
    name = {"alex": "Alexnet", "vgg": "Vgg16", "squeeze": "SqueezeNet"}[net]
    monkeypatch.setattr(peer_lpips, name, lambda **_: PeerFeatures(network))
    a, b = picture(64, 80, 1), picture(64, 80, 2)
    ours = measure.network.run(measure.prepare(a, b)[None])
    planes = [torch.from_numpy(p.transpose(2, 0, 1)[None] / 127.5 - 1).float() for p in (a, b)]
    with torch.no_grad():
        peer = peer_lpips._LPIPS(pretrained=True, net=net).eval()(*planes)
    assert float(ours[0]) == pytest.approx(float(peer), rel=rounding(longest_sum(network)))
    assert float(ours[0]) > 0.01


def test_lpips_of_a_region_ignores_the_rest(tmp_path) -> None:
    network = Lpips("squeeze")
    fill(network.features)
    given = {"squeeze": save(network.features, tmp_path / "backbone.pth", "features.")}
    a, b = picture(64, 64, 1), picture(64, 64, 2)
    mask = np.zeros((64, 64), bool)
    mask[20:40, 20:50] = True
    changed = np.where(mask[..., None], 255 - a, a)
    background = features.lpips("squeeze", "background", given)
    assert (background.prepare(a, b, mask) == background.prepare(changed, b, mask)).all()
    with torch.no_grad():
        planes = [torch.from_numpy(resizing.signed(p)[None]) for p in (a, b)]
        weights = torch.from_numpy(mask[None, None]).float()
        loaded = load_lpips(
            "squeeze",
            read_weights(given["squeeze"]),
            read_weights(find_weights("lpips-squeeze")),
            ("a", "b"),
        )
        inside, outside, both = (
            loaded(*planes, where) for where in (weights, 1 - weights, torch.ones(1, 1, 64, 64))
        )
    share = float(mask.mean())
    expected = float(inside) * share + float(outside) * (1 - share)
    assert float(both) == pytest.approx(expected, rel=rounding(64 * 64))  # pixels


@pytest.fixture(scope="module")
def vit() -> ViTModel:
    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=32,
        patch_size=8,
        layer_norm_eps=1e-6,
        hidden_act="gelu",
    )
    network = ViTModel(config, add_pooling_layer=False)
    fill(network)
    return network.eval()


def test_dino_keys_are_those_of_transformers_vit_in_either_layout(vit) -> None:
    geometry = DinoGeometry(width=24, depth=3, heads=4, patch=8, size=32)
    ours = load_dino(vit.state_dict(), "hub", geometry)
    caught: list[torch.Tensor] = []
    last = vit.layers[-1].attention.k_proj
    last.register_forward_hook(lambda module, inputs, output: caught.append(output))
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        vit(pixels)
        keys = ours(pixels)
    assert relative_error(keys, caught[0]) < rounding(longest_sum(vit))
    # The paper's formula on the peer's keys: the mean squared difference of the cosine self-similarities.
    maps = [torch.nn.functional.cosine_similarity(k[None], k[:, None], dim=-1) for k in caught[0].double()]
    formula = float((maps[0] - maps[1]).square().mean())
    assert structure_distance(*keys.numpy()) == pytest.approx(formula, rel=1e-5)
    again = load_dino(
        ours.state_dict() | {"norm.weight": torch.ones(24), "norm.bias": torch.zeros(24)}, "x", geometry
    )
    with torch.no_grad():
        assert (again(pixels) == keys).all()
    old = {modern_to_old(name): value for name, value in vit.state_dict().items()}
    with torch.no_grad():
        assert (load_dino(old, "old", geometry)(pixels) == keys).all()


def modern_to_old(name: str) -> str:
    """transformers 5's names of a ViT to transformers 4's, which the hub's files bear."""
    for new, before in (
        ("layers.", "encoder.layer."),
        ("attention.q_proj", "attention.attention.query"),
        ("attention.k_proj", "attention.attention.key"),
        ("attention.v_proj", "attention.attention.value"),
        ("attention.o_proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    ):
        name = name.replace(new, before)
    return name


# -- weights --------------------------------------------------------------------------------------------


def test_missing_weights_say_what_where_and_how(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        UserError,
        match=r"FID's InceptionV3 \(pt_inception-2015-12-05-6726825d.pth\) is not on this machine: "
        r"get it from https://\S+ \(Apache-2.0\), and pass it with --weights inception=PATH or in a folder",
    ):
        find_weights("inception", {"folder": tmp_path})
    with pytest.raises(UserError, match=r"run `hf download openai/clip-vit-base-patch16`, or get it from"):
        find_weights("clip-b16")


@pytest.mark.parametrize("name", WEIGHT_SOURCES)
def test_every_missing_weight_is_one_sentence_with_file_source_and_option(
    name, tmp_path, monkeypatch
) -> None:
    for variable in ("TORCH_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path))
    source = replace(WEIGHT_SOURCES[name], installed=())
    monkeypatch.setitem(WEIGHT_SOURCES, name, source)
    with pytest.raises(UserError) as caught:
        find_weights(name)
    message = str(caught.value)
    for part in (source.file, source.link, f"--weights {name}=PATH", "--weights FOLDER"):
        assert part in message
    assert "\n" not in message


def test_weights_are_found_by_name_in_a_folder_and_in_torchs_cache(tmp_path, monkeypatch) -> None:
    file = "squeezenet1_1-b8a52dc0.pth"
    for place in ("folder", "torch/hub/checkpoints"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / file).touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert find_weights("squeeze") == tmp_path / "torch/hub/checkpoints" / file
    assert find_weights("squeeze", parse_weights([str(tmp_path / "folder")])) == tmp_path / "folder" / file
    own = tmp_path / "own.pth"
    own.touch()
    assert find_weights("squeeze", parse_weights([f"squeeze={own}"])) == own


def test_weights_options_are_checked(tmp_path) -> None:
    with pytest.raises(UsageError, match="no weights are named 'clip'; valid: clip-b32"):
        parse_weights([f"clip={tmp_path}"])
    with pytest.raises(UsageError, match=r"none.pth does not exist"):
        parse_weights([f"vgg={tmp_path / 'none.pth'}"])
    (tmp_path / "file.pth").touch()
    with pytest.raises(UsageError, match=r"a single file needs a name"):
        parse_weights([str(tmp_path / "file.pth")])


def test_a_fingerprint_sees_every_weight() -> None:
    state = {"a": torch.zeros(3), "b": torch.ones(2, 2)}
    assert fingerprint_weights(state) == fingerprint_weights(dict(reversed(state.items())))
    assert fingerprint_weights(state) != fingerprint_weights(state | {"a": torch.tensor([0.0, 0.0, 1e-30])})
    assert fingerprint_weights(state) != fingerprint_weights({"a": torch.ones(2, 2), "b": torch.zeros(3)})


def test_two_files_of_one_network_have_one_fingerprint(tmp_path) -> None:
    first, second = (
        features.clip("clip-b32", {"clip-b32": tiny_clip(tmp_path / name, seed=seed)}).images.weights
        for name, seed in (("a", 0), ("b", 1))
    )
    same = features.clip("clip-b32", {"clip-b32": tiny_clip(Path(tmp_path / "c"))}).images.weights
    assert first == same != second


def test_networks_run_with_cudnn_and_without_tf32() -> None:
    """The context that forbade TF32 switched cuDNN off, and convolutions on GPUs were slow."""
    seen = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append((torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32))
        return x

    before = torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32
    features.runner(look, "cpu")(np.zeros((1, 2), np.float32))
    assert seen == [(True, False)]
    assert (torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32) == before
