"""The examples as a user runs them: each script from the command line, with a small random model."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.measures.metrics import mse, psnr, ssim
from evaluation.pie.piebench import read_bench
from intarsia.config import load_config
from intarsia.model import build_model
from intarsia.weights import read_model, save_model
from sampling import read_mask, read_picture
from tests import forks
from tests.forks import Ended, script
from tests.paths import ROOT
from tests.sampling.tiny import ModelFragment

pytestmark = pytest.mark.whole


def run(name: str, *options: object) -> str:
    """What the example prints; it has to succeed."""
    done = start(name, *options)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def start(name: str, *options: object) -> Ended:
    return forks.run(script, f"examples/{name}.py", *options, PYTHONPATH=str(ROOT), WANDB_MODE="disabled")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of the demo's geometry, with random weights."""
    config = load_config(ModelFragment, ROOT / "configs/model/demo.yaml").model
    folder = tmp_path_factory.mktemp("examples") / "model"
    save_model(build_model(config, 7), folder)  # not the seed that training would begin with
    return folder


@pytest.fixture(scope="module")
def own_boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of examples/own_boxes.py."""
    folder = tmp_path_factory.mktemp("own_boxes")
    run("own_boxes", "--out", folder)
    return folder


def test_own_boxes_gives_the_samples_of_its_csv(own_boxes: Path) -> None:
    rows = list(csv.DictReader((own_boxes / "boxes.csv").open()))
    manifest = json.loads((own_boxes / "shards/manifest.json").read_text())
    labels = {row["label"] for row in rows}
    assert manifest["labels"] == {label: 2 * sum(row["label"] == label for row in rows) for label in labels}
    assert not any(manifest["rejected"].values())
    assert min(Image.open(own_boxes / "contact-sheet.png").size) > 200


def test_edit_changes_the_mask_only_and_shows_it_beside_its_inputs(model: Path, tmp_path: Path) -> None:
    printed = run("edit", "--model", model, "--out", tmp_path, "--steps", 2)
    picture = read_picture(ROOT / "examples/coco-mini/images/000000015746.jpg")
    mask = read_mask(ROOT / "examples/edits/hydrant.mask.png")
    edited = read_picture(tmp_path / "edit.png")
    assert (edited[~mask] == picture[~mask]).all()
    assert (edited[mask] != picture[mask]).any()
    assert f"{(~mask).sum()} pixels outside the mask, {(~mask).sum()} of them unchanged" in printed
    beside = read_picture(tmp_path / "side-by-side.png")
    assert (beside[:, -picture.shape[1] :] == edited).all()
    assert (beside[:, : picture.shape[1]][~mask] == picture[~mask]).all()


def test_evaluate_prints_the_errors_of_the_edits(model: Path, tmp_path: Path) -> None:
    printed = run("evaluate", "--model", model, "--out", tmp_path, "--steps", 2)
    cases = list(csv.DictReader((tmp_path / "cases.csv").open()))
    for case in cases:
        truth, mask = read_picture(case["truth"]), read_mask(case["mask"])
        result = read_picture(tmp_path / "edits" / f"{case['name']}.png")
        [row] = re.findall(rf"^{case['name']} +(\S+) +\S+ +(\S+) +(\S+)$", printed, re.M)
        wanted = 1e4 * mse(result, truth, mask), psnr(result, truth, mask), ssim(result, truth, mask)
        for shown, number, digit in zip(row, wanted, (1, 0.01, 0.001), strict=True):
            assert float(shown) == pytest.approx(number, abs=digit)
    assert len(cases) == 4


def test_finetune_goes_on_from_the_model_and_from_its_checkpoint(
    model: Path, own_boxes: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    printed = run(
        "finetune", "--model", model, "--shards", own_boxes / "shards", "--out", folder, "--steps", 5
    )
    assert [step for step, _ in re.findall(r"^step +(\d+) +loss (\d\S+)$", printed, re.M)] == ["5", "10"]
    assert (folder / "checkpoints/latest").read_text().strip() == "step-00000010"
    assert len(re.findall(r"^\$ python -m training .*max_steps=(?:5|10)$", printed, re.M)) == 2
    before, after = (read_model(place).unet.parameters() for place in (model, folder / "model"))
    moved = max((a - b).abs().max().item() for a, b in zip(before, after, strict=True))
    assert 1e-6 < moved < 1e-2  # ten steps of at most 1e-4: it has moved, and the base is still there


@pytest.mark.parametrize("name", ["edit", "evaluate", "finetune"])
def test_a_model_that_is_missing_is_reported_with_the_command_that_makes_it(
    name: str, tmp_path: Path
) -> None:
    done = start(name, "--model", tmp_path / "none", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert re.fullmatch(
        r"there is no (model )?folder \S+/none; run `make demo` to make it, .*\n", done.stderr
    )
    assert not (tmp_path / "out").exists()


def test_cross_shows_each_pair_on_one_page(model: Path, tmp_path: Path) -> None:
    few = "--steps", 2, "--method", "direct,ddim", "--coupling", "background"
    chosen = "--model", model, "--out", tmp_path, *few, "--coupling", "masactrl-masks,background"
    assert "4 made, 0 already there, 0 failed" in run("cross", *chosen)
    page = (tmp_path / "results/sheet-000000000000.html").read_text()
    assert page.count("<img") == 2 + 4
    mask = read_mask(ROOT / "examples/edits/dog.mask.png")
    [case] = read_bench(tmp_path / "bench")
    inner = np.asarray(Image.fromarray(mask).resize((512, 512), Image.Resampling.NEAREST))[1:-1, 1:-1]
    assert (case.edit_mask[1:-1, 1:-1] == inner).all()
    assert "0 made, 4 already there, 0 failed" in run("cross", *chosen)
