"""A tiny model and small pictures for tests."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from intarsia.architecture import ModelConfig
from intarsia.config import Config, load_config
from intarsia.model import EditModel, build_model
from sampling.canvas.edits import EditRequest
from sampling.cli import main
from tests.paths import ROOT

VISION = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}


class ModelFragment(Config):
    model: ModelConfig = ModelConfig()


def tiny_config(*overrides: str) -> ModelConfig:
    return load_config(ModelFragment, ROOT / "configs/model/tiny.yaml", overrides).model


def tiny_model(seed: int = 0, *overrides: str) -> EditModel:
    return build_model(tiny_config(*overrides), seed).eval()


def write_tower(folder: Path, seed: int = 0, **geometry: int) -> Path:
    """A folder of transformers with a CLIP vision tower, as wide as the tiny model's context."""
    torch.manual_seed(seed)
    CLIPVisionModel(CLIPVisionConfig(**VISION | geometry)).save_pretrained(folder)
    return folder


def request(seed: int, width: int = 64, height: int = 64) -> EditRequest:
    """A smooth coloured picture, a rectangle to repaint and an oblong exemplar, all from the seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    phase = rng.uniform(0, 6, 3)
    image = 127 + 120 * np.sin(x[..., None] / 9 + y[..., None] / 14 + phase)
    edit_mask = np.zeros((height, width), bool)
    edit_mask[height // 4 : height // 4 * 3, width // 3 : width // 4 * 3] = True
    exemplar = rng.integers(0, 256, (50, 40, 3), dtype=np.uint8)
    return EditRequest(image.astype(np.uint8), edit_mask, exemplar, seed)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_made_again(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command that `show` prints for a result, without a note, makes the same file beside it."""
    capsys.readouterr()
    assert main(["show", str(result)]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert main(shlex.split(shown.out)[3:]) == 0
    assert result.with_name(f"{result.stem}-again.png").read_bytes() == result.read_bytes()
