"""Benches of objects, by small look-alikes of their layouts: AnyInsertion and DreamBooth's subjects."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.nets import waves
from evaluation.cli import main
from evaluation.reports.compare import differences
from evaluation.scoring.report import read_report
from intarsia.weights import save_model
from tests.evaluation.exemplar_bench import write_weights
from tests.evaluation.test_identity import write_vision
from tests.sampling.tiny import tiny_model


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vision(write_weights(tmp_path_factory.mktemp("weights")))


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_any_insertion(folder: Path) -> Path:
    """Two categories with two pairs each, of one object on two backgrounds."""
    mask = np.zeros((64, 64), bool)
    mask[20:40, 16:48] = True
    for number, category in enumerate(("accessory", "object")):
        for place in range(2):
            there, exemplar = waves(place, 64, 64), waves(7 + place, 64, 64)
            there[mask] = exemplar[mask] = waves(20 + 2 * number + place, 64, 64)[mask]
            names = {"tar_image": there, "tar_mask": mask, "ref_image": exemplar, "ref_mask": mask}
            for name, pixels in names.items():
                save(folder / category / name / f"{place}.png", pixels)
    return folder


def common(folder: Path, weights: Path) -> list[str]:
    without = ["--without", "inception", "--without", "quality"]
    where = ["--weights", str(weights), "--store", str(folder / "store"), "--device", "cpu"]
    return [*where, *without, "--results", str(folder / "results"), "--out", str(folder / "report")]


def test_any_insertion_has_truths_categories_and_both_masks(weights, tmp_path, capsys) -> None:
    bench = write_any_insertion(tmp_path / "test")
    for path in bench.glob("*/tar_image/*.png"):
        name = f"{path.parent.parent.name}-{path.name}"
        (tmp_path / "results").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "results" / name)
    asked = ["anyinsertion", "--bench", str(bench), *common(tmp_path, weights), "--without", "lpips"]
    asked += ["--with", "dinov2-b14", "--identity-region", "object", "--identity-background", "blank"]
    assert main([*asked, "--identity-exemplar", "cut-out"]) == 0
    report = read_report(tmp_path / "report")
    assert set(report.rows) == {"accessory-0", "accessory-1", "object-0", "object-1"}
    assert set(report.groups.values()) == {"accessory", "object"}
    for row in report.rows.values():  # the results are the truths, and show the exemplar's object
        assert row["edited_mse"] == row["whole_mse"] == 0
        assert row["dinov2_b14"] == pytest.approx(100)
    capsys.readouterr()
    assert main(["anyinsertion", "--bench", str(bench / "object"), *common(tmp_path, weights)]) == 1
    assert "has no CATEGORY/tar_image/ID.png; give a split of AnyInsertion" in capsys.readouterr().err
    (bench / "object/ref_mask/1.png").unlink()
    assert main([*asked]) == 1
    told = capsys.readouterr().err
    assert "1 of 4 cases lack a file" in told
    assert "ref_mask/1.png" in told


def test_masks_of_the_bench_and_of_the_results_are_two_recipes(weights, tmp_path) -> None:
    """The bench's mask is the true object's, another's is of what a painter painted: their numbers differ."""
    bench = write_any_insertion(tmp_path / "test")
    reports = []
    for kind in ("results", "masks"):
        (tmp_path / kind).mkdir()
    for path in bench.glob("*/tar_image/*.png"):
        name = f"{path.parent.parent.name}-{path.name}"
        shutil.copy(path, tmp_path / "results" / name)
        Image.fromarray(np.eye(64, dtype=bool)).save(tmp_path / "masks" / name)
    asked = ["anyinsertion", "--bench", str(bench), *common(tmp_path, weights), "--without", "lpips"]
    for more in ([], ["--result-masks", str(tmp_path / "masks")]):
        names = ["--with", "board-clip", "--with", "dinov2-b14", "--identity-region", "object"]
        assert main([*asked, *names, *more]) == 0
        reports.append(read_report(tmp_path / "report"))
    found = {difference.column.name: difference for difference in differences(*reports)}
    for name in ("clip_fg", "dinov2_b14"):
        assert found[name].unlike.startswith("recipes differ"), name
    assert not found["edited_mse"].unlike


def test_every_subject_is_put_into_every_scene(weights, tmp_path, capsys) -> None:
    mask = np.zeros((64, 64), bool)
    mask[20:40, 16:48] = True
    save(tmp_path / "scenes/mask.png", mask)
    for number, name in enumerate(("beach", "street")):
        save(tmp_path / f"scenes/{name}.png", waves(number, 64, 64))
    for number, name in enumerate(("cat", "can")):
        for place in range(2):
            save(tmp_path / f"dataset/{name}/0{place}.jpg", waves(5 + number + 9 * place, 50, 40))
    (tmp_path / "dataset/empty").mkdir()
    table = tmp_path / "scenes.csv"
    rows = [f"{name},scenes/{name}.png,scenes/mask.png" for name in ("beach", "street")]
    table.write_text("\n".join(["name,image,mask", *rows]))
    save_model(tiny_model(6), tmp_path / "model")
    files = ["--subjects", str(tmp_path / "dataset"), "--scenes", str(table)]
    made = ["--model", str(tmp_path / "model"), "--num-inference-steps", "1"]
    assert main(["dreambooth", "run", *files, *made, *common(tmp_path, weights)]) == 0
    report = read_report(tmp_path / "report")
    assert list(report.rows) == ["can-beach", "can-street", "cat-beach", "cat-street"]
    assert report.groups["can-street"] == "can"
    assert report.files["cat-beach"]["exemplar"].endswith("cat/00.jpg")
    assert {"dinov2_b14", "clip_i_b32", "dino_s16", "background_psnr"} <= report.rows["can-beach"].keys()
    capsys.readouterr()
    table.write_text("name,image,mask\na,scenes/beach.png,\n")
    assert main(["dreambooth", *files, *common(tmp_path, weights)]) == 1
    assert "scenes.csv, line 2: mask is empty" in capsys.readouterr().err
    table.write_text("name,image\na,b\n")
    assert main(["dreambooth", *files, *common(tmp_path, weights)]) == 1
    assert "needs a header with name, image, mask" in capsys.readouterr().err
