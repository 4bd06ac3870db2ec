"""albumentations comes in without torch and without the network, and ours are alike on every processor."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataprep.draw.library import import_albumentations
from dataprep.draw.recipe import PORTABLE
from tests.paths import COCO_MINI, ROOT

ALONE = """
import importlib.util, os, sys

def no_network(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "urllib.Request"):
        raise RuntimeError(f"{event}{arguments}")

sys.addaudithook(no_network)
"""


def run(code: str, **environment: str) -> str:
    process = subprocess.run(
        [sys.executable, "-c", ALONE + code],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


@pytest.mark.processes
def test_the_import_loads_no_torch_and_calls_nobody() -> None:
    code = (
        "from dataprep.draw.library import import_albumentations\n"
        "library = import_albumentations()\n"
        "print(library.__version__, 'torch' in sys.modules, bool(importlib.util.find_spec('torch')))\n"
        "print(os.environ['NO_ALBUMENTATIONS_UPDATE'])"
    )
    assert run(code) == "2.0.8 False True\n1\n"


def test_a_torch_that_is_there_already_stays() -> None:
    import torch

    import_albumentations()
    assert sys.modules["torch"] is torch


@pytest.mark.processes
def test_a_shard_is_built_without_torch_and_without_the_network(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from dataprep.plan.inputs import BuildRequest
from dataprep.plan.plan import BuildConfig
from tests.dataprep.test_shards import build_alone
for recipe in (None, "objectstitch"):
    config = BuildConfig(source="coco", name="x", image_size=64, recipe=recipe)
    folder = Path({str(COCO_MINI)!r})
    inputs = {{"annotations": folder / "annotations.json"}}
    out = Path({str(tmp_path)!r}) / str(recipe)
    print(build_alone(BuildRequest(config, inputs, folder / "images", out))["kept"]["samples"])
print("torch" in sys.modules, "albumentations" in sys.modules)
"""
    assert run(code) == "23\n23\nFalse True\n"


@pytest.mark.usefixtures("ray_with_two_workers")
def test_a_worker_of_ray_draws_without_torch() -> None:
    import ray

    @ray.remote
    def draw() -> tuple[str, bool]:
        import numpy as np

        from dataprep.draw.pipeline import check_pipeline, open_pipeline
        from dataprep.draw.recipe import load_recipe

        recipe = load_recipe("objectstitch")
        check_pipeline(recipe)
        pixels = np.zeros((224, 224, 3), np.uint8)
        made, _, _ = open_pipeline(recipe)(pixels, None, np.random.default_rng(0))
        return str(made.shape), "torch" in sys.modules

    assert ray.get(draw.remote()) == ("(224, 224, 3)", False)


OLD = {  # what OpenCV and numpy take on a processor of 2010
    "OPENCV_CPU_DISABLE": "AVX,FP16,AVX2,FMA3,AVX512-SKX",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
}
DRAW = """
import hashlib
import cv2
import numpy as np
from dataprep.draw.pipeline import open_pipeline
from dataprep.draw.recipe import PBE, Exemplar, Recipe
SETS = {"Compose": None, "OneOf": 1, "OneOrOther": 1, "RandomOrder": 1, "Sequential": 1, "SomeOf": 1}
coarse = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
pixels = np.repeat(np.repeat(coarse, 12, axis=0), 12, axis=1)[:224, :224]
pixels = cv2.blur(pixels, (5, 5))
mask = np.where(pixels[..., 0] > 128, np.uint8(255), np.uint8(0))
for name in NAMES:
    if name in SETS:
        continue
    recipe = Recipe(name="x", exemplar=Exemplar(augment={"__class_fullname__": name, "p": 1.0}))
    digest = hashlib.sha256()
    for draw in range(20):
        made, moved, _ = open_pipeline(recipe)(pixels.copy(), mask.copy(), np.random.default_rng(draw))
        digest.update(made.tobytes() + moved.tobytes())
    print(name, digest.hexdigest())
"""


@pytest.mark.processes
def test_transforms_that_are_called_portable_are_alike_on_an_old_processor() -> None:
    code = f"NAMES = {sorted(PORTABLE)!r}\n{DRAW}"
    here = run(code)
    assert len(here.splitlines()) > 12
    assert run(code, **OLD) == here


@pytest.mark.processes
def test_the_old_processor_is_one_that_makes_a_difference() -> None:
    code = f"NAMES = ['Rotate']\n{DRAW}"
    flags = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    same = run(code) == run(code, **OLD)
    assert same is not (" fma " in flags)
