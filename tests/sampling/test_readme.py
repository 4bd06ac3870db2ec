"""The README's Python runs as it stands, on a tiny model and files of the names that it uses."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from sampling import read_mask, read_picture
from tests.paths import ROOT

FILES = {
    "photo.jpg": "examples/coco-mini/images/000000017029.jpg",
    "mask.png": "examples/edits/dog.mask.png",
    "dog.jpg": "examples/edits/dog.exemplar.jpg",
}


def test_the_readmes_python_edits_a_picture(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [snippet] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert "load_model(" in snippet
    shutil.copytree(model_folder, tmp_path / "runs/first/model")
    for name, source in FILES.items():
        shutil.copy(ROOT / source, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    # Fewer steps than the 50 it takes: that is all that is changed.
    exec(snippet.replace("EditSettings(", "EditSettings(num_inference_steps=3, "), {})
    picture, edited, mask = read_picture("photo.jpg"), read_picture("edit.png"), read_mask("mask.png")
    assert (edited[~mask] == picture[~mask]).all()
    assert np.abs(edited[mask].astype(int) - picture[mask]).mean() > 5
