"""The painter `cv2`, and the ways to name a painter."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from intarsia.errors import UsageError
from sampling.cli import main as sample
from sampling.painters.naming import Chosen, chosen
from sampling.provenance import read_provenance
from tests.sampling.tiny import request


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    asked = request(3, 91, 70)
    for name, pixels in (("image", asked.image), ("mask", np.asarray(asked.edit_mask))):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return {name: tmp_path / f"{name}.png" for name in ("image", "mask")}


def words(files: dict[str, Path]) -> list[str]:
    return [word for name, path in files.items() for word in (f"--{name}", str(path))]


def test_edit_is_opencvs_own_inside_and_the_picture_outside(files: dict[str, Path], tmp_path: Path) -> None:
    image, mask = (np.asarray(Image.open(path)) for path in files.values())
    marked = mask.astype(np.uint8) * 255
    results = {}
    for name, flag in (("cv2", cv2.INPAINT_NS), ("cv2:ns", cv2.INPAINT_NS), ("cv2:telea", cv2.INPAINT_TELEA)):
        out = tmp_path / "out.png"
        assert sample(["edit", "--model", name, *words(files), "--out", str(out)]) == 0
        made = results[name] = np.asarray(Image.open(out))
        assert (made[mask] == cv2.inpaint(image, marked, 4, flag)[mask]).all()
        assert (made[~mask] == image[~mask]).all()
        assert read_provenance(out).painter == "cv2"
    assert (results["cv2"] == results["cv2:ns"]).all()
    assert (results["cv2"] != results["cv2:telea"]).any()


def test_show_gives_the_command_and_no_complaint(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.png"
    assert sample(["edit", "--model", "cv2:telea", *words(files), "--out", str(out)]) == 0
    capsys.readouterr()
    assert sample(["show", str(out)]) == 0
    shown = capsys.readouterr()
    assert "--painter cv2 --model telea --image" in shown.out
    assert shown.err == ""


def test_several_equal_edits_are_noted(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.png"
    assert sample(["edit", "--model", "cv2", *words(files), "--out", str(out), "--num-images", "2"]) == 0
    assert capsys.readouterr().err == "note: cv2 does not use a seed: its 2 edits are equal\n"


def test_a_note_reports_what_has_no_effect(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--exemplar", str(files["image"]), "--guidance-scale", "3", "--scheduler", "ddim"]
    out = tmp_path / "out.png"
    assert sample(["edit", "--model", "cv2", *words(files), "--out", str(out), *more]) == 0
    assert capsys.readouterr().err == (
        "note: cv2 does not use the exemplar, guidance_scale, scheduler; this has no effect on the edit\n"
    )
    assert sample(["edit", "--model", "cv2", *words(files), "--out", str(out), "--dtype", "bfloat16"]) == 2
    assert "cv2 computes in float32; leave --dtype bfloat16 out" in capsys.readouterr().err


def test_batch_needs_neither_exemplar_nor_prompt(files: dict[str, Path], tmp_path: Path) -> None:
    with (tmp_path / "jobs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([files, files.values()])
    command = ["batch", str(tmp_path / "jobs.csv"), "--model", "cv2:telea", "--out", str(tmp_path / "edits")]
    assert sample(command) == 0
    [line] = (tmp_path / "edits" / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["model"] == {"path": "painter cv2 telea", "sha256": "cv2 telea 4"}


def test_the_seam_can_be_blended(files: dict[str, Path], tmp_path: Path) -> None:
    made = []
    for blend in ("0", "5"):
        out = tmp_path / f"{blend}.png"
        assert sample(["edit", "--model", "cv2", *words(files), "--out", str(out), "--blend", blend]) == 0
        made.append(np.asarray(Image.open(out)).astype(int))
    image, mask = (np.asarray(Image.open(path)) for path in files.values())
    assert (made[1][~mask] == image[~mask]).all()
    plain, blended = (np.abs(own - image)[mask].sum() for own in made)
    assert 0 < blended < plain


def test_names_of_painters(tmp_path: Path) -> None:
    (tmp_path / "paint_by_example").mkdir()
    (tmp_path / "mine").mkdir()
    assert chosen("some/folder") == Chosen("own", Path("some/folder"))
    assert chosen("mine", model_dir=tmp_path) == Chosen("own", tmp_path / "mine")
    assert chosen("paint_by_example", model_dir=tmp_path) == Chosen("own", tmp_path / "paint_by_example")
    assert chosen("paint_by_example:here") == Chosen("own", Path("here"))
    assert chosen("./cv2") == Chosen("own", Path("cv2"))
    assert chosen("cv2") == chosen(None, "cv2") == Chosen("cv2", None)
    assert chosen("cv2:telea") == chosen("telea", "cv2") == Chosen("cv2", Path("telea"))
    assert chosen("cv2:telea", "cv2") == chosen("telea", "cv2")
    assert chosen("cv2", "iopaint") == chosen("iopaint:cv2") == Chosen("iopaint", Path("cv2"))
    assert chosen("mat", "iopaint") == Chosen("iopaint", Path("mat"))
    assert chosen(None, model_dir=tmp_path) == Chosen("own", tmp_path / "paint_by_example")


@pytest.mark.parametrize("name", ["ldm", "zits", "mat", "fcf"])
def test_painters_that_are_not_here(name: str) -> None:
    with pytest.raises(UsageError, match=f"running IOPaint; give --model iopaint:{name} and --iopaint-url"):
        chosen(name)


def test_wrong_names(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rest = [*words(files), "--out", str(tmp_path / "out.png")]
    assert sample(["edit", "--model", "cv2:best", *rest]) == 2
    assert capsys.readouterr().err == "error: --model cv2:best is not one of cv2:ns, cv2:telea\n"
    assert sample(["edit", "--model", "cv2", "--model-dir", str(tmp_path / "no"), *rest]) == 2
    assert capsys.readouterr().err == f"error: --model-dir {tmp_path / 'no'} is not a folder\n"
