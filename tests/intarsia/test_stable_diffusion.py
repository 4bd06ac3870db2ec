"""The start from Stable Diffusion: folders and single files of a tiny one, and what is refused."""

import collections
import json
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPModel, CLIPVisionModel

from intarsia.errors import UserError
from intarsia.model import EditModel, build_model
from intarsia.pretrained import read_weights, widen
from intarsia.weights import read_model, save_model
from tests.closeness import longest_sum, relative_error, rounding
from tests.sampling.tiny import tiny_config, tiny_model


def started_from(path: Path) -> EditModel:
    return build_model(tiny_config(f"model.init.stable_diffusion={path}"), seed=0).eval()


@pytest.mark.portable
def test_before_training_the_widened_unet_is_the_4_channel_unet_exactly(
    parts: tuple[UNet2DConditionModel, AutoencoderKL], sd_folder: Path
) -> None:
    model = started_from(sd_folder)
    assert model.unet.conv_in.weight.shape[1] == 9
    assert (model.unet.conv_in.weight[:, 4:] == 0).all()
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 4, 32, 32), (2, 5, 32, 32), (2, 1, 32)]
    latents, extra, token = (torch.randn(shape, generator=generator) for shape in shapes)
    with torch.no_grad():
        for timestep in (1, 500, 981):
            before = parts[0](latents, timestep, encoder_hidden_states=token).sample
            after, without_extra = (
                model.unet(torch.cat([latents, more], 1), timestep, encoder_hidden_states=token).sample
                for more in (extra, torch.zeros_like(extra))
            )
            assert torch.equal(after, without_extra), "zero weights: the new channels have no say at all"
            # A convolution of nine channels may add up the same products in another order than one of four.
            assert relative_error(after, before) < rounding(longest_sum(model.unet))


def test_the_autoencoder_comes_along_and_the_rest_stays_from_the_seed(
    parts: tuple[UNet2DConditionModel, AutoencoderKL], sd_folder: Path
) -> None:
    model, plain = started_from(sd_folder), tiny_model(0)
    for name, value in parts[1].state_dict().items():
        assert torch.equal(model.vae.state_dict()[name], value)
    assert torch.equal(model.exemplar_encoder.null_exemplar, plain.exemplar_encoder.null_exemplar)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_single_file_with_the_original_names_gives_the_same_model_as_the_folder(
    original: dict[str, torch.Tensor], sd_folder: Path, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"sd{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": original, "global_step": 7, "epoch": 1}, path)
    else:
        save_file({name: value.contiguous() for name, value in original.items()}, path)
    expected = started_from(sd_folder).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in started_from(path).state_dict().items())


def test_a_trainers_own_objects_in_a_checkpoint_are_neither_needed_nor_run(
    original: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """The published checkpoints of Stable Diffusion hold classes of a trainer that is not installed."""
    ran = []
    trainer = types.ModuleType("absent_trainer")

    class Callback:
        def __reduce__(self) -> tuple[object, ...]:
            return trainer.restore, ("side effect",)

    def restore(note: str) -> str:
        ran.append(note)
        return note

    for thing in (Callback, restore):
        thing.__module__, thing.__qualname__ = "absent_trainer", thing.__name__
        setattr(trainer, thing.__name__, thing)
    sys.modules["absent_trainer"] = trainer
    try:
        content = {"callbacks": {Callback: Callback()}, "state_dict": original}
        torch.save(content, tmp_path / "sd.ckpt")
        assert started_from(tmp_path / "sd.ckpt").unet.conv_in.weight.shape[1] == 9
    finally:
        del sys.modules["absent_trainer"]
    assert not ran
    assert started_from(tmp_path / "sd.ckpt").unet.conv_in.weight.shape[1] == 9


def test_an_autoencoder_of_its_own_goes_before_stable_diffusions(sd_folder: Path, tmp_path: Path) -> None:
    other = tiny_model(8).vae
    other.save_pretrained(tmp_path / "vae")
    config = tiny_config(f"model.init.stable_diffusion={sd_folder}", f"model.init.vae={tmp_path / 'vae'}")
    assert torch.equal(build_model(config, 0).vae.quant_conv.weight, other.quant_conv.weight)
    alone = tiny_config(f"model.init.vae={tmp_path / 'vae' / 'diffusion_pytorch_model.safetensors'}")
    assert torch.equal(build_model(alone, 0).vae.quant_conv.weight, other.quant_conv.weight)


@pytest.mark.parametrize("kind", ["vision tower", "whole CLIP"])
def test_clip_comes_from_a_folder_of_transformers(kind: str, tmp_path: Path) -> None:
    vision = tiny_model(21).image_encoder
    if kind == "whole CLIP":
        text = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = CLIPModel.config_class(text_config=text, vision_config=vision.config.to_dict())
        whole = CLIPModel(config)
        whole.vision_model.load_state_dict(
            {name.removeprefix("vision_model."): v for name, v in vision.state_dict().items()}
        )
        whole.save_pretrained(tmp_path)
    else:
        CLIPVisionModel.save_pretrained(vision, tmp_path)
    model = build_model(tiny_config(f"model.init.image_encoder={tmp_path}"), 0)
    for name, value in vision.state_dict().items():
        assert torch.equal(model.image_encoder.state_dict()[name], value)


def test_widening_keeps_the_weights_and_adds_zeros_at_the_end() -> None:
    weight = torch.randn(6, 4, 3, 3)
    wide = widen(weight, 9)
    assert wide.shape == (6, 9, 3, 3)
    assert torch.equal(wide[:, :4], weight)
    assert not wide[:, 4:].any()


def refuse(tmp_path: Path, **init: Path) -> str:
    overrides = [f"model.init.{name}={path}" for name, path in init.items()]
    with pytest.raises(UserError) as refused:
        build_model(tiny_config(*overrides), 0)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_what_is_no_stable_diffusion_is_refused_in_words(
    original: dict[str, torch.Tensor], sd_folder: Path, tmp_path: Path
) -> None:
    assert "does not exist" in refuse(tmp_path, stable_diffusion=tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    assert "text.ckpt cannot be read as weights" in refuse(tmp_path, stable_diffusion=tmp_path / "text.ckpt")
    torch.save({"a": 1}, tmp_path / "a.ckpt")
    assert "a.ckpt contains no named tensors" in refuse(tmp_path, stable_diffusion=tmp_path / "a.ckpt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "b.ckpt")
    assert "b.ckpt contains no UNet" in refuse(tmp_path, stable_diffusion=tmp_path / "b.ckpt")
    assert "contains no CLIP vision tower" in refuse(tmp_path, image_encoder=tmp_path / "b.ckpt")
    (tmp_path / "empty").mkdir()
    assert "contains no weights" in refuse(tmp_path, stable_diffusion=tmp_path / "empty")
    assert "contains no weights" in refuse(tmp_path, image_encoder=tmp_path / "empty")

    inpainting = dict(original)
    name = "model.diffusion_model.input_blocks.0.0.weight"
    inpainting[name] = torch.cat([original[name]] * 3, dim=1)[:, :9]
    save_file({k: v.contiguous() for k, v in inpainting.items()}, tmp_path / "inpainting.safetensors")
    sentence = refuse(tmp_path, stable_diffusion=tmp_path / "inpainting.safetensors")
    assert "this UNet takes 9 channels" in sentence

    without = collections.OrderedDict(original)
    del without["model.diffusion_model.time_embed.0.weight"]
    torch.save(without, tmp_path / "c.ckpt")
    sentence = refuse(tmp_path, stable_diffusion=tmp_path / "c.ckpt")
    assert "1 missing (first time_embedding.linear_1.weight)" in sentence


def test_weights_are_read_without_running_pickled_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"w": torch.zeros(1), "x": Evil()}, tmp_path / "evil.bin")
    with pytest.raises(UserError, match=r"evil\.bin cannot be read as weights"):
        read_weights(tmp_path / "evil.bin")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [("vae", "scaling_factor", 0.5), ("vae", "norm_num_groups", 2), ("unet", "attention_head_dim", 16)],
)
def test_weights_that_fit_but_compute_something_else_are_refused(
    part: str, key: str, value: float, sd_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "sd"
    shutil.copytree(sd_folder, folder)
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert f"has {key}={value}" in refuse(tmp_path, stable_diffusion=folder)


def test_stable_diffusion_2_is_a_start_too_and_is_saved_with_its_geometry(
    tmp_path: Path,
) -> None:
    """Linear projections, and heads that differ from level to level."""
    geometry = ["model.unet.use_linear_projection=true", "model.unet.attention_head_dim=[2, 4]"]
    source = build_model(tiny_config(*geometry), seed=6).unet.config
    torch.manual_seed(3)
    theirs = {k: v for k, v in source.items() if not k.startswith("_")}
    base = UNet2DConditionModel(**theirs | {"in_channels": 4, "upcast_attention": True})
    base.save_pretrained(tmp_path / "sd2" / "unet")
    tiny_model(5).vae.save_pretrained(tmp_path / "sd2" / "vae")
    started = build_model(tiny_config(*geometry, f"model.init.stable_diffusion={tmp_path / 'sd2'}"), 0)
    expected = base.state_dict()
    for name, value in started.unet.state_dict().items():
        assert torch.equal(value[:, :4] if name == "conv_in.weight" else value, expected[name])
    save_model(started, tmp_path / "model")
    assert read_model(tmp_path / "model").config.unet == started.config.unet
    with pytest.raises(UserError, match=r"has attention_head_dim=\[2, 4\], the model config 8; the weights"):
        build_model(tiny_config(geometry[0], f"model.init.stable_diffusion={tmp_path / 'sd2'}"), 0)


def test_a_base_that_answers_something_else_is_told_of(
    sd_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = tmp_path / "sd"
    shutil.copytree(sd_folder, base)
    (base / "scheduler").mkdir()
    (base / "scheduler" / "scheduler_config.json").write_text(json.dumps({"prediction_type": "v_prediction"}))
    started_from(base)
    assert "predicts v_prediction, but model.noise.prediction_type is epsilon" in caplog.text
    caplog.clear()
    build_model(
        tiny_config(f"model.init.stable_diffusion={base}", "model.noise.prediction_type=v_prediction"), 0
    )
    assert not caplog.text
