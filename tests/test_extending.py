"""The example of a sampler in docs/extending.md; those of other nouns are run by their own tests."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from intarsia.weights import save_model
from tests.extending import examples
from tests.paths import ROOT
from tests.sampling.tiny import tiny_model


@pytest.mark.whole
def test_the_sampler_of_the_example_edits(tmp_path: Path) -> None:
    """In a process of its own: choices of options and settings are read when they are imported."""
    [row] = examples()["sampling/samplers.py"].splitlines()
    save_model(tiny_model(), tmp_path / "model")
    for name, colour in (("image", "red"), ("exemplar", "blue")):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}.png")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    mask.save(tmp_path / "mask.png")
    out = tmp_path / "out.png"
    words = ["edit", "--model", str(tmp_path / "model"), "--out", str(out), "--scheduler", "deis", "--karras"]
    for name in ("image", "mask", "exemplar"):
        words += [f"--{name}", str(tmp_path / f"{name}.png")]
    words += ["--num-inference-steps", "3"]
    code = f"from sampling.samplers import *\n{row}\nfrom sampling.cli import main\nmain({words!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    assert Image.open(out).size == (64, 64)
