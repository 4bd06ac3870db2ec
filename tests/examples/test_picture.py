"""The models of the README's picture, which are part of the project, work by the commands of a user."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from sampling import read_mask, read_picture
from sampling.cli import main
from tests.paths import ROOT
from tests.training.synthetic import make_sample

sys.path.insert(0, str(ROOT / "examples"))  # its scripts import each other

import picture_sheet

MODELS = ROOT / "examples" / "picture"
IMAGE, MASK = ROOT / "examples/coco-mini/images/000000017029.jpg", ROOT / "examples/edits/dog.mask.png"
EXEMPLAR = ROOT / "examples/edits/dog.exemplar.jpg"
LARGEST = 10e6  # bytes of both UNets


def edited(out: Path, *options: str) -> np.ndarray:
    files = ["--image", str(IMAGE), "--mask", str(MASK), "--exemplar", str(EXEMPLAR), "--out", str(out)]
    few = ["--num-inference-steps", "2", "--scheduler", "ddim", "--guidance-scale", "1", "--device", "cpu"]
    assert main(["edit", "--model", str(MODELS / "base"), *files, *few, *options]) == 0
    return read_picture(out)


def test_both_paint_inside_the_mask_only(tmp_path: Path) -> None:
    picture, mask = read_picture(IMAGE), read_mask(MASK)
    small = edited(tmp_path / "small.png")
    large = edited(tmp_path / "large.png", "--upsampler", str(MODELS / "upsampler"))
    for made in (small, large):
        assert np.array_equal(made[~mask], picture[~mask])
    assert (small != picture)[mask].any()
    assert (large != small)[mask].any()


def test_they_are_small_and_stand_on_the_demos_autoencoder() -> None:
    assert sum(path.stat().st_size for path in MODELS.glob("*/unet/*")) < LARGEST
    demo = load_file(ROOT / "examples/demo-vae/diffusion_pytorch_model.safetensors")
    for name in ("base", "upsampler"):
        weights = load_file(MODELS / name / "unet/diffusion_pytorch_model.safetensors")
        assert {value.dtype for value in weights.values()} == {torch.float16}
        own = load_file(MODELS / name / "vae/diffusion_pytorch_model.safetensors")
        assert own.keys() == demo.keys()
        assert all(torch.equal(own[key], demo[key].half()) for key in own)
    assert json.loads((MODELS / "upsampler/intarsia.json").read_text())["low_res"]["factor"] == 4


def test_the_sheets_show_hole_exemplar_both_edits_and_truth(tmp_path: Path) -> None:
    once = picture_sheet.SETTINGS.model_copy(update={"num_inference_steps": 1})
    samples = [make_sample(number, 256) for number in range(2)]
    said = picture_sheet.write_sheets(MODELS, samples, tmp_path, once)
    assert "In the holes of 2 pictures: base " in said
    one, both = (read_picture(tmp_path / f"{name}.png") for name in ("picture", "sheet"))
    assert one.shape[1] == both.shape[1] > 5 * 256
    assert both.shape[0] - one.shape[0] > 256
