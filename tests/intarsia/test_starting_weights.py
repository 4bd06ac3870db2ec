"""Weights that a model starts from, in all the forms they are published in; and those that are of no use."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from intarsia.errors import UsageError, UserError
from intarsia.lora import merge_adapters
from intarsia.model import EditModel, build_model
from intarsia.original import to_original
from intarsia.pretrained import read_weights, weights_file, widen
from intarsia.stable_diffusion import prediction_of, warn_of_other_prediction
from intarsia.weights import read_model, save_model
from tests.sampling.tiny import tiny_config, tiny_model
from training.config import require_weights

CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"
UNET_FILE = "diffusion_pytorch_model"


def started(path: Path, *overrides: str) -> EditModel:
    return build_model(tiny_config(f"model.init.stable_diffusion={path}", *overrides), seed=0).eval()


def same(one: EditModel, other: EditModel) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def written(state: dict[str, Tensor], path: Path) -> Path:
    """A single file, pickled as the authors' are or as safetensors."""
    if path.suffix == ".ckpt":
        torch.save({"state_dict": state}, path)
    else:
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        started(path, *overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


# -- forms ---------------------------------------------------------------------------------------------


def cut(folder: Path, stem: str) -> None:
    """The single file of a folder as diffusers and transformers cut it: several, and an index of them."""
    whole = folder / f"{stem}.safetensors"
    state = load_file(whole)
    names = sorted(state)
    parts = {f"{stem}-0000{n + 1}-of-00003.safetensors": names[n::3] for n in range(3)}
    for file, own in parts.items():
        save_file({name: state[name] for name in own}, folder / file)
    places = {name: file for file, own in parts.items() for name in own}
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    whole.unlink()


def test_a_folder_in_several_files_gives_the_same_weights(sd_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(sd_folder, tmp_path / "sd")
    for part in ("unet", "vae"):
        cut(tmp_path / "sd" / part, UNET_FILE)
    assert same(started(tmp_path / "sd"), started(sd_folder))
    first = tmp_path / "sd" / "unet" / f"{UNET_FILE}-00001-of-00003.safetensors"
    content = load_file(first)
    lost = content.popitem()[0]
    save_file(content, first)
    assert f"00001-of-00003.safetensors has no {lost}, which {UNET_FILE}" in refused(tmp_path / "sd")
    first.unlink()
    assert f"{first} does not exist" in refused(tmp_path / "sd")
    (first.parent / f"{UNET_FILE}.safetensors.index.json").write_text("{}")
    assert "lists no weights (no weight_map)" in refused(tmp_path / "sd")


def test_diffusers_own_cut_is_read(parts: tuple[UNet2DConditionModel, AutoencoderKL], tmp_path: Path) -> None:
    parts[0].save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    state = read_weights(weights_file(tmp_path, UNET_FILE))
    assert state.keys() == parts[0].state_dict().keys()
    assert all(torch.equal(value, parts[0].state_dict()[name]) for name, value in state.items())


def test_a_model_folder_and_clip_in_several_files_are_read(tmp_path: Path) -> None:
    model = tiny_model(4)
    save_model(model, tmp_path / "model")
    cut(tmp_path / "model" / "image_encoder", "model")
    cut(tmp_path / "model" / "unet", UNET_FILE)
    assert same(read_model(tmp_path / "model"), model)
    model.image_encoder.save_pretrained(tmp_path / "clip")
    cut(tmp_path / "clip", "model")
    begun = build_model(tiny_config(f"model.init.image_encoder={tmp_path / 'clip'}"), 0)
    theirs = model.image_encoder.state_dict()
    assert all(torch.equal(v, theirs[name]) for name, v in begun.image_encoder.state_dict().items())


def test_plain_weights_are_taken_where_a_folder_has_no_averaged_ones(
    sd_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(sd_folder, tmp_path / "sd")
    folder = tmp_path / "sd" / "unet"
    state = load_file(folder / f"{UNET_FILE}.safetensors")
    save_file({name: value + 1 for name, value in state.items()}, folder / f"{UNET_FILE}.non_ema.safetensors")
    assert same(started(tmp_path / "sd"), started(sd_folder))
    assert not caplog.text
    (folder / f"{UNET_FILE}.safetensors").unlink()
    begun = started(tmp_path / "sd")
    assert torch.equal(begun.unet.conv_out.bias, state["conv_out.bias"] + 1)
    assert (
        "unet has no averaged weights; its plain ones are used (diffusion_pytorch_model.non_ema"
        in caplog.text
    )


def full_ema(original: dict[str, Tensor]) -> dict[str, Tensor]:
    """A file with both, as sd-v1-4-full-ema.ckpt: the averages are the plain weights and 1."""
    return original | {
        f"model_ema.{name.removeprefix('model.').replace('.', '')}": value + 1
        for name, value in original.items()
        if name.startswith("model.diffusion_model.")
    }


def test_a_file_with_plain_and_averaged_weights_gives_those_that_are_asked_for(
    original: dict[str, Tensor], sd_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(full_ema(original), tmp_path / "full-ema.ckpt")
    plain = started(path)
    assert same(plain, started(sd_folder))
    assert (
        "full-ema.ckpt has plain and averaged weights; model.init.ema=true takes the averaged" in caplog.text
    )
    averaged = started(path, "model.init.ema=true")
    assert torch.equal(averaged.unet.conv_out.bias, plain.unet.conv_out.bias + 1)
    assert torch.equal(averaged.unet.conv_in.weight[:, :4], plain.unet.conv_in.weight[:, :4] + 1)
    assert not averaged.unet.conv_in.weight[:, 4:].any()
    without = written(original, tmp_path / "sd.ckpt")
    sentence = "sd.ckpt has no averaged weights (nothing under model_ema.); omit model.init.ema"
    assert sentence in refused(without, "model.init.ema=true")
    assert "model.init.ema=true is for a single file" in refused(sd_folder, "model.init.ema=true")
    with pytest.raises(UsageError, match=r"init\.ema=true needs init\.stable_diffusion"):
        tiny_config("model.init.ema=true")


def test_a_unet_that_was_widened_by_zeros_already_is_taken(
    original: dict[str, Tensor], sd_folder: Path, tmp_path: Path
) -> None:
    """The start that Paint by Example's authors train from: sd-v1-4-modified-9channel.ckpt."""
    path = written(original | {CONV_IN: widen(original[CONV_IN], 9)}, tmp_path / "modified-9channel.ckpt")
    assert same(started(path), started(sd_folder))
    used = original | {CONV_IN: torch.cat([original[CONV_IN], torch.ones_like(original[CONV_IN])[:, :1]], 1)}
    assert "this UNet takes 5 channels" in refused(written(used, tmp_path / "used.ckpt"))


def test_paint_by_examples_checkpoint_as_a_start_names_the_way(tmp_path: Path) -> None:
    path = written(to_original(tiny_model(4)), tmp_path / "pbe.ckpt")
    way = f"make a model folder of it with `python -m sampling import {path} --out DIR`, and start from that"
    assert way in refused(path)
    words = r"pbe\.ckpt is a file, not a model folder; `python -m sampling import .*pbe\.ckpt --out DIR`"
    with pytest.raises(UserError, match=words):
        require_weights(tiny_config(f"model.init.model_folder={path}"))


# -- what the weights predict ----------------------------------------------------------------------------


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING)
    return caplog


def original_yaml(path: Path, parameterization: str | None) -> None:
    extra = "" if parameterization is None else f'    parameterization: "{parameterization}"\n'
    path.with_suffix(".yaml").write_text(f"model:\n  target: ldm\n  params:\n    timesteps: 1000\n{extra}")


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_single_file_that_predicts_something_else_is_warned_of_as_a_folder_is(
    original: dict[str, Tensor], tmp_path: Path, heard: pytest.LogCaptureFixture, suffix: str
) -> None:
    path = written(original, tmp_path / f"sd{suffix}")
    started(path)
    assert not heard.text
    original_yaml(path, "v")
    started(path)
    assert f"{path} predicts v_prediction, but model.noise.prediction_type is epsilon; training" in heard.text
    heard.clear()
    started(path, "model.noise.prediction_type=v_prediction")
    assert not heard.text
    original_yaml(path, None)  # the authors' default is noise
    started(path, "model.noise.prediction_type=v_prediction")
    assert f"{path} predicts epsilon, but model.noise.prediction_type is v_prediction" in heard.text


def test_what_a_file_says_about_itself_is_known(original: dict[str, Tensor], tmp_path: Path) -> None:
    state = {name: value.contiguous() for name, value in original.items()}
    path = tmp_path / "sd.safetensors"
    for words, said in (("v", "v_prediction"), ("epsilon", "epsilon")):
        save_file(state, path, metadata={"modelspec.prediction_type": words})
        assert prediction_of(path) == said
    save_file(state | {"v_pred": torch.tensor([])}, path)
    assert prediction_of(path) == "v_prediction"
    save_file(state, path)
    assert prediction_of(path) is None
    path.with_suffix(".yaml").write_text("model: [1")
    assert prediction_of(path) is None
    assert prediction_of(tmp_path / "none.ckpt") is None


def test_a_file_of_stable_diffusion_2_that_does_not_say_is_asked_about(
    original: dict[str, Tensor], tmp_path: Path, heard: pytest.LogCaptureFixture
) -> None:
    """Its two kinds have the same names and shapes; only the width of their tokens tells them from others."""
    path = written(original, tmp_path / "768-v-ema.ckpt")
    for prediction in ("epsilon", "v_prediction"):
        heard.clear()
        warn_of_other_prediction(path, prediction, 1024)
        assert (
            "does not say whether it predicts noise, as Stable Diffusion 2 does at 512 pixels" in heard.text
        )
        assert f"model.noise.prediction_type is {prediction}; put its .yaml beside it" in heard.text
        assert heard.text.count("WARNING") == 1
    original_yaml(path, "v")
    heard.clear()
    warn_of_other_prediction(path, "v_prediction", 1024)
    assert not heard.text


# -- values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused_with_file_and_tensor(
    sd_folder: Path, tmp_path: Path, bad: float
) -> None:
    shutil.copytree(sd_folder, tmp_path / "sd")
    path = tmp_path / "sd" / "vae" / f"{UNET_FILE}.safetensors"
    state = load_file(path)
    size = state["quant_conv.weight"].numel()
    state["quant_conv.weight"].view(-1)[1:3] = bad
    save_file(state, path)
    sentence = (
        f"{path}: 2 of the {size} values of quant_conv.weight are NaN or infinite; give weights that were"
    )
    assert sentence in refused(tmp_path / "sd")


def test_in_half_precision_too_and_large_finite_sums_are_not_refused(sd_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(sd_folder, tmp_path / "sd")
    path = tmp_path / "sd" / "unet" / f"{UNET_FILE}.safetensors"
    state = load_file(path)
    state["conv_out.bias"] = torch.full_like(state["conv_out.bias"], 3e38)  # finite, and their sum is not
    save_file(state, path)
    assert float(started(tmp_path / "sd").unet.conv_out.bias[0]) == pytest.approx(3e38)
    save_file({name: value.half() for name, value in state.items()}, path)
    assert "values of conv_out.bias are NaN or infinite" in refused(tmp_path / "sd")


def test_so_are_those_of_checkpoints_model_folders_and_adapters(
    original: dict[str, Tensor], tmp_path: Path
) -> None:
    sick = dict(original)
    sick[CONV_IN] = sick[CONV_IN] * torch.nan
    path = written(sick, tmp_path / "sd.ckpt")
    assert f"{path}: " in refused(path)
    assert "values of conv_in.weight are NaN or infinite" in refused(path)
    model = tiny_model(4)
    with torch.no_grad():
        model.exemplar_encoder.proj_out.bias[0] = torch.inf
    save_model(model, tmp_path / "model")
    words = r"image_encoder/model\.safetensors: 1 of the 32 values of proj_out\.bias are NaN or infinite"
    with pytest.raises(UserError, match=words):
        read_model(tmp_path / "model")
    pair = {
        "unet.conv_in.lora_A.weight": torch.full((2, 2), torch.nan),
        "unet.conv_in.lora_B.weight": torch.zeros(2, 2),
    }
    (tmp_path / "lora").mkdir()
    save_file(pair, tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    with pytest.raises(UserError, match=r"conv_in\.lora_A\.weight are NaN or infinite"):
        merge_adapters(tiny_model(4), tmp_path / "lora")
