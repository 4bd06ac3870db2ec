"""What `edit` does beside painting: windows, known regions, encoding once, remarks, memory, short names."""

import re
import resource
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

import sampling
from intarsia.errors import UsageError, UserError
from intarsia.model import EditModel
from intarsia.weights import read_model, save_model
from sampling import editing
from sampling.canvas.canvas import fit_exemplar
from sampling.canvas.edits import EditRequest
from sampling.denoise.device import pick_dtype
from sampling.denoise.machine import keep_freed_memory, open_model, visiting
from sampling.editing import edit
from sampling.settings import EditSettings, KnownRegion, MachineSettings
from tests import forks
from tests.sampling.tiny import request, tiny_model

QUICK = EditSettings(num_inference_steps=2, scheduler="ddim")


def with_settings(**changes: object) -> EditSettings:
    return EditSettings(**{**QUICK.model_dump(), **changes})


def large(width: int = 640, height: int = 400) -> EditRequest:
    one = request(3, width, height)
    mask = np.zeros((height, width), bool)
    mask[100:150, 500:560] = True
    return replace(one, edit_mask=mask)


def calls(module: nn.Module) -> list[int]:
    """The batch sizes that a module will be called with, filled in as it happens."""
    seen: list[int] = []
    module.register_forward_pre_hook(
        lambda _, args, named: seen.append(len(args[0] if args else named["pixel_values"])), with_kwargs=True
    )
    return seen


def test_a_small_mask_in_a_large_picture_is_painted_in_its_window(model: EditModel) -> None:
    one = large()
    [result] = edit(model, [one], QUICK)
    assert (result.window.width, result.window.height) == (120, 120)
    assert (result.image[~one.edit_mask] == one.image[~one.edit_mask]).all()
    assert (result.image[one.edit_mask] != one.image[one.edit_mask]).mean() > 0.5
    far = one.image.copy()
    far[200:, :300] = 0
    [same] = edit(model, [replace(one, image=far)], QUICK)
    assert (same.image[one.edit_mask] == result.image[one.edit_mask]).all(), "what it does not see has no say"
    [whole] = edit(model, [one], with_settings(fit="resize"))
    assert whole.window.area == 640 * 400


@pytest.mark.parametrize("known_region", get_args(KnownRegion))
def test_every_known_region_leaves_the_outside_alone_and_paints_its_own(
    model: EditModel, known_region: str
) -> None:
    one = request(0)
    [result] = edit(model, [one], with_settings(known_region=known_region))
    [base] = edit(model, [one], QUICK)
    assert (result.image[~one.edit_mask] == one.image[~one.edit_mask]).all()
    assert (result.image != base.image).any() == (known_region != "model")


def test_held_latents_bring_the_pictures_own_colours_back(model: EditModel) -> None:
    """A random model paints noise around the hole; the autoencoder's own copy of the picture is nearer."""
    one = request(0)

    def error(**options: object) -> float:
        [result] = edit(model, [one], with_settings(composite=False, **options))
        return float(np.abs(result.image.astype(int) - one.image)[~one.edit_mask].mean())

    free = error()
    assert error(latent_blend=True) < free
    assert error(known_region="replace") < free
    assert error(known_region="both") < free


def test_a_unet_of_four_channels_is_sampled_by_replacement_alone(tmp_path: Path) -> None:
    save_model(tiny_model(2, "model.unet.in_channels=4"), tmp_path / "model")
    model = read_model(tmp_path / "model")
    one = request(0)
    with pytest.raises(UserError, match=r"has 4 input channels and .* use --known-region replace"):
        edit(model, [one], QUICK)
    [result] = edit(model, [one], with_settings(known_region="replace"))
    assert (result.image[~one.edit_mask] == one.image[~one.edit_mask]).all()
    assert (result.image[one.edit_mask] != one.image[one.edit_mask]).any()


def test_distinct_pictures_and_exemplars_are_encoded_once() -> None:
    model = tiny_model(2)
    pictures, exemplars, rows = calls(model.vae.encoder), calls(model.image_encoder), calls(model.unet)
    one, other = request(0), request(1)
    requests = [replace(one, seed=s, exemplar=r.exemplar) for s in range(3) for r in (one, other)]
    results = edit(model, requests, with_settings(batch_size=4))
    assert pictures == [1]
    assert exemplars == [2]
    assert rows == [8, 8, 4, 4], "both branches in one pass"
    alone = edit(model, requests[-1:], QUICK)[0].image
    assert np.abs(results[-1].image.astype(int) - alone).max() <= 1


def test_scales_share_a_batch_and_equal_their_own_edits() -> None:
    model = tiny_model(2)
    rows = calls(model.unet)
    scales = [1.0, 3.0, 8.0]
    swept = edit(model, [replace(request(0), guidance_scale=scale) for scale in scales], QUICK)
    assert rows == [5, 5], "the scale of 1 has no branch without exemplar"
    for scale, result in zip(scales, swept, strict=True):
        [alone] = edit(model, [request(0)], with_settings(guidance_scale=scale))
        assert result.settings == alone.settings
        assert np.abs(result.image.astype(int) - alone.image).max() <= 1
    assert (swept[0].image != swept[2].image).any()


def test_outside_the_guidance_interval_the_null_branch_is_not_computed() -> None:
    model = tiny_model(2)
    rows = calls(model.unet)
    settings = with_settings(num_inference_steps=10, guidance_interval=(0.3, 0.65))
    guided_within = edit(model, [request(0)], settings)[0].image
    # 901, 801, 701 above it; 601, 501, 401, 301 in it; 201, 101, 1 below.
    assert rows == [1, 1, 1, 2, 2, 2, 2, 1, 1, 1]
    everywhere = edit(model, [request(0)], with_settings(num_inference_steps=10))[0].image
    assert (guided_within != everywhere).any()


def test_colours_are_moved_towards_the_pictures(model: EditModel) -> None:
    [plain] = edit(model, [request(0)], QUICK)
    [moved] = edit(model, [request(0)], with_settings(match_colour="mean"))
    assert max(map(abs, plain.colour_shift)) > 5, "a random model paints other colours"
    assert moved.colour_shift == plain.colour_shift
    inside = request(0).edit_mask
    change = (moved.image.astype(float) - plain.image)[inside].mean(0)
    assert (np.sign(change) == -np.sign(plain.colour_shift)).all()


REMARKS = [
    ({}, {}, []),
    (
        {"fit": "resize"},
        {"mask": (20, 20)},
        ["0.1% of what the model sees, too little .* use --fit crop, which samples"],
    ),
    ({"fit": "crop"}, {"mask": (3, 3)}, ["too little for an object; mark a larger area"]),
    ({}, {"mask": (400, 640)}, ["the mask covers 100% of the picture; white is repainted$"]),
    ({"guidance_scale": 1.0}, {}, ["guidance scale 1: the exemplar is followed weakly"]),
    ({}, {"exemplar": (60, 60)}, ["the exemplar is nearly one colour"]),
    ({}, {"exemplar": (20, 60)}, ["nearly one colour", "the exemplar is only 60 x 20 pixels"]),
]


@pytest.mark.parametrize(("options", "inputs", "sentences"), REMARKS)
def test_why_nothing_may_have_happened_is_said(
    model: EditModel, options: dict[str, object], inputs: dict[str, tuple[int, int]], sentences: list[str]
) -> None:
    one = large()
    if rows := inputs.get("mask"):
        one = replace(one, edit_mask=np.zeros((400, 640), bool))
        one.edit_mask[: rows[0], : rows[1]] = True
    if size := inputs.get("exemplar"):
        one = replace(one, exemplar=np.full((*size, 3), 90, np.uint8))
    remarks = edit(model, [one], with_settings(num_inference_steps=1, **options))[0].remarks
    assert len(remarks) == len(sentences)
    for remark, sentence in zip(remarks, sentences, strict=True):
        assert re.search(sentence, remark)


def test_squashing_and_an_unchanged_result_are_said(model: EditModel) -> None:
    wide = request(0, 640, 64)
    everything = replace(wide, edit_mask=np.ones((64, 640), bool))
    [result] = edit(model, [everything], with_settings(fit="resize"))
    assert any("squashed 10.0 : 1; --fit pad keeps" in remark for remark in result.remarks)
    thin = request(0, 1000, 3)
    strip = replace(thin, edit_mask=np.ones((3, 1000), bool))
    [result] = edit(model, [strip], with_settings(fit="pad"))
    squashed = [remark for remark in result.remarks if "squashed" in remark]
    assert squashed
    assert not any("--fit pad" in remark for remark in squashed), "it is padded already"
    for fit in ("crop", "auto"):  # here a window around the mask, which is as low as the picture
        part = replace(wide, edit_mask=np.arange(640)[None].repeat(64, 0) < 100)
        [result] = edit(model, [part], with_settings(fit=fit))
        [squashed] = [remark for remark in result.remarks if "squashed" in remark]
        assert result.window.width < 640 and "--fit crop" not in squashed, "it is cropped already"
    still = tiny_model(2)
    for module in (still.vae.decoder.conv_out, still.unet.conv_out):
        nn.init.zeros_(module.weight)
        nn.init.zeros_(module.bias)  # paints mid-grey
    grey = replace(request(0), image=np.full((64, 64, 3), 128, np.uint8))
    assert any("almost nothing changed" in remark for remark in edit(still, [grey], QUICK)[0].remarks)


def test_a_huge_exemplar_is_made_small_once(model: EditModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def noted(exemplar: np.ndarray) -> np.ndarray:
        seen.append(exemplar.size)
        return fit_exemplar(exemplar)

    monkeypatch.setattr(editing, "fit_exemplar", noted)
    exemplar = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    requests = [replace(request(1), exemplar=exemplar, seed=seed) for seed in range(3)]
    results = edit(model, [*requests, replace(request(2), exemplar=exemplar + 1)], QUICK)
    assert len(results) == 4
    assert seen == [exemplar.size] * 2


def test_every_part_is_timed(model: EditModel) -> None:
    [result] = edit(model, [request(0)], QUICK)
    assert list(result.seconds) == ["fit", "encode", "denoise", "decode", "paste"]
    assert all(value > 0 for value in result.seconds.values())


# -- the machine -------------------------------------------------------------------------------------------


def test_low_vram_changes_nothing_but_the_place(model_folder: Path) -> None:
    plain = open_model(model_folder, MachineSettings(device="cpu"))
    saving = open_model(model_folder, MachineSettings(device="cpu", low_vram=True))
    assert saving.model.vae.use_slicing
    assert saving.model.vae.use_tiling
    assert not plain.model.vae.use_tiling
    images = [
        edit(m.model, [request(0), request(1)], QUICK, device=m.device)[1].image.astype(int)
        for m in (plain, saving)
    ]
    assert np.abs(images[0] - images[1]).max() <= 1


def print_what_stays(_: list[str]) -> None:
    """Pages that a freed block leaves in the process, before and after the setting."""

    def kept() -> int:
        before = int(Path("/proc/self/statm").read_text().split()[1])
        block = b"1" * (64 << 20)
        del block
        return int(Path("/proc/self/statm").read_text().split()[1]) - before

    usual = kept()
    keep_freed_memory()
    print(usual, kept())


@pytest.mark.processes
def test_memory_that_is_freed_stays_in_the_process() -> None:
    """In a process of its own, since that is what the setting lasts for."""
    ended = forks.run(print_what_stays)
    usual, kept = (int(pages) * resource.getpagesize() for pages in ended.stdout.split())
    assert usual < 1 << 20
    assert kept > 60 << 20


def test_a_network_visits_the_device_and_goes_home() -> None:
    network, away = nn.Linear(2, 2), torch.device("meta")
    network.to("cpu")
    with visiting(network, torch.device("cpu")) as same:
        assert same.weight.device.type == "cpu"
    trace = []
    network.to = lambda device: trace.append(str(device)) or network  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError), visiting(network, away):
        raise ZeroDivisionError
    assert trace == ["meta", "cpu"], "home again even after an error"


def test_float16_leaves_the_autoencoder_exact_and_a_cpu_gets_it_channels_last(model_folder: Path) -> None:
    by_command, _ = open_model(model_folder, MachineSettings(device="cpu", dtype="float16"))
    for model in (by_command, sampling.load_model(model_folder, dtype=torch.float16)):
        assert model.unet.dtype == model.exemplar_encoder.null_exemplar.dtype == torch.float16
        assert model.vae.dtype == torch.float32
        assert model.vae.use_slicing
        assert model.vae.decoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert pick_dtype("auto", torch.device("cpu")) == torch.float32


def test_a_compiled_unet_is_the_unet(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled.append(function) or function)
    model, _ = open_model(model_folder, MachineSettings(device="cpu", compile=True))
    assert len(compiled) == 1
    assert compiled[0].__self__ is model.unet


# -- names and settings ------------------------------------------------------------------------------------


def test_the_short_names_are_the_real_ones() -> None:
    from sampling import EditRequest as Request
    from sampling import edit as function

    assert Request is EditRequest
    assert function is edit
    assert all(getattr(sampling, name) for name in sampling.__all__)
    with pytest.raises(AttributeError, match="no attribute 'paint'"):
        sampling.paint  # noqa: B018


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"guidance_interval": (0.5, 0.2)}, "must be two numbers 0 <= LOW < HIGH <= 1"),
        ({"karras": True}, "karras works with dpm.., unipc, .*, not with plms"),
        ({"eta": 0.5}, "eta=0.5 works with ddim only, not with plms"),
    ],
)
def test_options_that_exclude_one_another_are_refused(options: dict[str, object], sentence: str) -> None:
    from intarsia.config import build_config

    with pytest.raises(UsageError, match=sentence):
        build_config(EditSettings, options, where="here")
