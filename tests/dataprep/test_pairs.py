"""Pairs of two pictures from a CSV: what each column means, what is dropped and why, and error sentences."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from dataprep.check.verify import verify_folder
from dataprep.cli import main
from dataprep.plan.inputs import BuildRequest, new_plan
from dataprep.plan.plan import BuildConfig
from intarsia.errors import UserError
from tests.dataprep.sequences import SIZE, frame
from tests.dataprep.test_shards import build_alone
from tests.dataprep.test_video import reasons, samples_of

PAIRS: dict[str, Any] = {"source": "pairs", "name": "pairs", "image_size": 64, "min_area": 0.0, "min_side": 4}
BOX = "x0,y0,x1,y1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures a.jpg, b.jpg, c.jpg, d.jpg of one object, with masks of their names."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "masks").mkdir()
    for place, name in enumerate("abcd"):
        pixels, numbers = frame(2 * place)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{name}.jpg", quality=95)
        Image.fromarray(numbers * np.uint8(255)).save(tmp_path / "masks" / f"{name}.png")
    return tmp_path


def request(folder: Path, text: str, masks: bool = True, **options: Any) -> BuildRequest:
    (folder / "rows.csv").write_text(text)
    inputs = {"rows": folder / "rows.csv"} | ({"segmentations": folder / "masks"} if masks else {})
    return BuildRequest(BuildConfig(**(PAIRS | options)), inputs, folder / "pictures", folder / "out")


def bounds(folder: Path, name: str) -> list[int]:
    x, y, width, height = cv2.boundingRect(np.asarray(Image.open(folder / "masks" / f"{name}.png")))
    return [x, y, x + width, y + height]


def test_the_exemplar_is_all_of_its_picture_or_the_object_of_its_mask(folder: Path) -> None:
    text = "target,mask,exemplar,exemplar_mask,label\na.jpg,a.png,b.jpg,,ball\nc.jpg,c.png,d.jpg,d.png,\n"
    manifest = build_alone(request(folder, text, object_masks=True))
    assert verify_folder(folder / "out", full=True) == []
    assert manifest["labels"] == {"ball": 1, "object": 1}
    found = {sample.meta.file: sample for sample in samples_of(folder / "out")}
    whole, cut = found["a.jpg"].meta, found["c.jpg"].meta
    assert whole.exemplar_from and cut.exemplar_from
    assert (whole.exemplar_from.file, whole.exemplar_from.box.as_list()) == ("b.jpg", [0, 0, *SIZE])
    assert (cut.exemplar_from.file, cut.exemplar_from.box.as_list()) == ("d.jpg", bounds(folder, "d"))
    assert [whole.box.as_list(), cut.box.as_list()] == [bounds(folder, "a"), bounds(folder, "c")]
    assert whole.frame is None
    assert all(sample.object_mask is not None for sample in found.values())


def test_a_box_is_as_good_as_a_mask(folder: Path) -> None:
    build_alone(request(folder, f"target,{BOX},exemplar\na.jpg,20,30,90,80,b.jpg\n", masks=False))
    [sample] = samples_of(folder / "out")
    assert sample.meta.box.as_list() == [20, 30, 90, 80]
    assert verify_folder(folder / "out", full=True) == []


def test_rows_of_a_group_lend_each_other_their_exemplars(folder: Path) -> None:
    rows = "a.jpg,a.png,c.jpg,c.png,mug\nb.jpg,b.png,d.jpg,d.png,mug\na.jpg,a.png,d.jpg,d.png,mug\n"
    text = "target,mask,exemplar,exemplar_mask,group\n" + rows
    manifest = build_alone(request(folder, text, draws_per_image=40))
    pairs = {
        (sample.meta.file, sample.meta.exemplar_from.file)
        for sample in samples_of(folder / "out")
        if sample.meta.exemplar_from
    }
    assert pairs == {(target, exemplar) for target in ("a.jpg", "b.jpg") for exemplar in ("c.jpg", "d.jpg")}
    assert manifest["in"]["pictures"] == 1
    assert manifest["in"]["boxes"] == 4  # what appears twice is one view
    assert verify_folder(folder / "out", full=True) == []


def test_a_file_is_not_its_own_exemplar(folder: Path) -> None:
    rows = "a.jpg,a.png,a.jpg,\nb.jpg,b.png,c.jpg,\n"
    build_alone(request(folder, "target,mask,exemplar,group\n" + rows))
    assert reasons(folder / "out")["box"] == {"same_file": 2}
    assert {sample.meta.file for sample in samples_of(folder / "out")} == {"b.jpg"}


def test_what_is_missing_or_damaged_has_its_reason(folder: Path) -> None:
    (folder / "pictures" / "bad.jpg").write_bytes(b"no picture")
    Image.new("L", SIZE).save(folder / "masks" / "empty.png")
    (folder / "masks" / "torn.png").write_bytes(b"no mask")
    rows = "a.jpg,a.png,b.jpg,b.png\na.jpg,gone.png,b.jpg,\na.jpg,empty.png,b.jpg,\na.jpg,torn.png,b.jpg,\n"
    rows += "c.jpg,c.png,gone.jpg,\nd.jpg,d.png,bad.jpg,\n"
    manifest = build_alone(request(folder, "target,mask,exemplar,exemplar_mask\n" + rows))
    found = reasons(folder / "out")
    assert found["box"] == {
        "object_mask_missing": 1,
        "empty_box": 1,
        "object_mask_unreadable": 1,
        "file_missing": 1,
        "not_an_image": 1,
        "no_partner": 3 + 1 + 1,  # the other half of each
    }
    assert manifest["in"]["boxes"] == manifest["kept"]["boxes"] + sum(found["box"].values())
    assert verify_folder(folder / "out", full=True) == []


def test_a_whole_sample_holds_both_pictures(folder: Path) -> None:
    text = "target,mask,exemplar\na.jpg,a.png,b.jpg\n"
    build_alone(request(folder, text, profile="source", short_side=96, object_masks=True))
    [sample] = samples_of(folder / "out")
    assert [view.file for view in sample.meta.views] == ["a.jpg", "b.jpg"]
    assert [view.partners for view in sample.meta.views] == [(1,), ()]
    assert [view.mask_png is not None for view in sample.views] == [True, False]
    assert verify_folder(folder / "out", full=True) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("target,exemplar\na,b\n", "line 1: the object's place is missing; give a column mask"),
        ("exemplar,mask\na,b\n", "line 1: the column target is missing"),
        ("target,mask,exemplar\na.jpg,,b.jpg\n", "line 2: x0 and mask are empty; give the object's mask or"),
        (f"target,{BOX},exemplar\na.jpg,1,2,x,4,b.jpg\n", "line 2: x1 is 'x', not a number"),
        ("target,mask,exemplar\na.jpg,a.png\n", "line 2: 2 columns, the first line has 3"),
        ("target,mask,exemplar\n,a.png,b.jpg\n", "line 2: target is empty; give the path of a picture"),
        ("target,mask,exemplar\na.jpg,a.png,\n", "line 2: exemplar is empty"),
    ],
)
def test_a_bad_line_is_named(folder: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=f"rows.csv, {words}"):
        new_plan(request(folder, text))


def test_masks_need_their_folder(folder: Path) -> None:
    asked = request(folder, "target,mask,exemplar\na.jpg,a.png,b.jpg\n", masks=False)
    with pytest.raises(UserError, match=r"line 2: the mask a\.png needs its folder; give --segmentations"):
        new_plan(asked)


def test_the_overlap_of_boxes_is_no_rule_of_pairs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request(folder, "target,mask,exemplar\na.jpg,a.png,b.jpg\n")
    command = ["build", "pairs", str(folder / "rows.csv"), "--images", str(folder / "pictures")]
    command += ["--segmentations", str(folder / "masks"), "--out", str(folder / "out"), "--max-iou", "0.8"]
    assert main([*command, "--dry-run"]) == 2
    assert "--max-iou compares the boxes of one picture" in capsys.readouterr().err
