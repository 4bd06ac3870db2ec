"""A mistake that a whole data set has is seen early: in planning, after one shard, or in a warning."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from dataprep.cli import main
from dataprep.estimate import estimate_build
from dataprep.formats.openimages_csv import read_open_images
from dataprep.plan.inputs import BuildRequest, new_plan
from dataprep.plan.plan import BuildConfig
from dataprep.plan.remarks import build_remarks
from intarsia.errors import UserError
from tests.dataprep.test_shards import build_alone
from tests.dataprep.test_tool_files import BOX, coco_request

Corners = tuple[float, float, float, float]
SIZES = ((160, 120), (120, 160), (140, 140))


def shares(number: int) -> Corners:
    """A box as x0, y0, x1, y1 in fractions of its picture, all different for twelve in a row."""
    return 0.3 + number % 12 / 100, 0.25, 0.8, 0.9 - number % 12 / 100


def pixels(number: int) -> Corners:
    width, height = SIZES[number % 3]
    x0, y0, x1, y1 = shares(number)
    return x0 * width, y0 * height, x1 * width, y1 * height


def coco(folder: Path, bbox: Callable[[int], list[float]], number: int = 12) -> BuildRequest:
    images = [
        {"id": n, "file_name": f"{n}.jpg", "width": SIZES[n % 3][0], "height": SIZES[n % 3][1]}
        for n in range(number)
    ]
    boxes = [BOX | {"id": n, "image_id": n, "bbox": bbox(n)} for n in range(number)]
    request = coco_request(folder, images, boxes, [])
    (folder / "images").mkdir()
    for n in range(number):
        Image.new("RGB", SIZES[n % 3], (n, 90, 200)).save(folder / "images" / f"{n}.jpg")
    return request


def own(folder: Path, box: Callable[[int], tuple[float, ...]], number: int = 12) -> BuildRequest:
    request = coco(folder, lambda _: [1, 1, 2, 2], number)
    with (folder / "own.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "x0", "y0", "x1", "y1"))
        writer.writerows((f"{n}.jpg", *box(n)) for n in range(number))
    config = BuildConfig(source="boxes", name="own", image_size=64)
    return BuildRequest(config, {"boxes": folder / "own.csv"}, request.images, folder / "out")


def yolo(folder: Path, line: Callable[[int], tuple[float, ...]]) -> BuildRequest:
    request = coco(folder, lambda _: [1, 1, 2, 2])
    (folder / "labels").mkdir()
    for n in range(12):
        (folder / "labels" / f"{n}.txt").write_text("0 " + " ".join(map(str, line(n))) + "\n")
    config = BuildConfig(source="yolo", name="yolo", image_size=64)
    return BuildRequest(config, {"labels": folder / "labels"}, request.images, folder / "out")


def size_of(box: Corners) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def test_right_boxes_have_no_remark(tmp_path: Path) -> None:
    assert not new_plan(coco(tmp_path / "a", lambda n: size_of(pixels(n)))).remarks
    assert not new_plan(own(tmp_path / "b", pixels)).remarks

    def centred(n: int) -> tuple[float, ...]:
        x0, y0, x1, y1 = shares(n)
        return (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0

    assert not new_plan(yolo(tmp_path / "c", centred)).remarks


def test_corners_in_place_of_width_and_height_are_named(tmp_path: Path) -> None:
    (remark,) = new_plan(coco(tmp_path / "coco", lambda n: list(pixels(n)))).remarks
    assert remark.startswith("12 of 12 boxes extend beyond the picture, such as box 0 of '0.jpg' (x0 48, ")
    assert remark.endswith("all would fit as x0, y0, x1, y1, while this source reads x, y, width, height")
    (remark,) = new_plan(yolo(tmp_path / "yolo", shares)).remarks
    assert "12 of 12 boxes extend beyond" in remark
    assert remark.endswith("while this source reads centre x, centre y, width, height")


def test_boxes_of_larger_pictures_are_named_without_a_guess(tmp_path: Path) -> None:
    (remark,) = new_plan(coco(tmp_path, lambda n: [2 * value for value in size_of(pixels(n))])).remarks
    assert remark.endswith("in 160x120); what is outside is cut off")


def test_clipped_boxes_are_counted_where_only_pictures_show_it(tmp_path: Path) -> None:
    manifest = build_alone(own(tmp_path, lambda n: (*pixels(n)[:2], 170, pixels(n)[3])))
    assert manifest["changed"]["boxes"] == {"clipped": 12}
    (remark,) = build_remarks(manifest)
    assert remark.startswith("12 of 12 kept boxes extended beyond the pictures, and the parts")
    # One of many is no system, but is counted; a rounding error is neither.
    request = own(tmp_path / "one", lambda n: (*pixels(n)[:2], 170 if n == 1 else 140.5, 100), 22)
    for place in (tmp_path / "one" / "images").iterdir():
        Image.new("RGB", (140, 120)).save(place)
    manifest = build_alone(request)
    assert manifest["changed"]["boxes"] == {"clipped": 1}
    assert not build_remarks(manifest)
    assert "clipped" in (request.out / "README.md").read_text()


@pytest.mark.parametrize("make", ["coco", "boxes", "voc"])
def test_fractions_in_place_of_pixels_are_refused_in_planning(tmp_path: Path, make: str) -> None:
    request = own(tmp_path / "own", shares)
    if make == "coco":
        request = coco(tmp_path / "coco", lambda n: size_of(shares(n)))
    if make == "voc":
        (tmp_path / "xml").mkdir()
        for n in range(12):
            corners = zip(("xmin", "ymin", "xmax", "ymax"), shares(n), strict=True)
            box = "".join(f"<{name}>{value}</{name}>" for name, value in corners)
            (tmp_path / "xml" / f"{n}.xml").write_text(
                f"<annotation><object><name>a</name><bndbox>{box}</bndbox></object></annotation>"
            )
        config = BuildConfig(source="voc", name="voc", image_size=64)
        request = BuildRequest(config, {"annotations": tmp_path / "xml"}, request.images, tmp_path / "out")
    with pytest.raises(
        UserError, match=r"all boxes lie between 0 and 1, such as box \d+ of .* read as pixels"
    ):
        new_plan(request)


def test_some_boxes_in_fractions_are_named(tmp_path: Path) -> None:
    (remark,) = new_plan(own(tmp_path, lambda n: pixels(n) if n % 3 else shares(n))).remarks
    assert remark.startswith("4 of 12 boxes lie between 0 and 1, such as box 2 of '0.jpg' (x0 0.3, y0 0.25")


def test_width_and_height_in_place_of_a_corner_are_named(tmp_path: Path) -> None:
    request = own(tmp_path, lambda n: (80, 70, 50, 40) if n % 2 else (80, 60, 120, 90))
    (remark,) = new_plan(request).remarks
    assert remark.startswith(
        "6 of 12 boxes end before the beginning, such as box 3 of '1.jpg' (x0 80, y0 70,"
    )
    assert remark.endswith("the last two numbers are read as the lower right corner")


def test_pixels_in_place_of_open_images_fractions_are_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_text("/m/1,Cat\n")
    rows = [
        f"{n},x,/m/1,1,{x0},{x1},{y0},{y1},0,0,0,0,0" for n in range(30) for x0, y0, x1, y1 in [pixels(n)]
    ]
    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,"
    header += "IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
    (tmp_path / "boxes.csv").write_text("\n".join([header, *rows]) + "\n")
    with pytest.raises(UserError, match=r"boxes\.csv, line 2: the box .* is not in fractions of the picture"):
        read_open_images(tmp_path / "boxes.csv", tmp_path / "classes.csv")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(160, 120), (0, 0), (2**31 - 1, 2**31 - 1)])
def test_boxes_of_absurd_size_give_no_warning_of_numpy(tmp_path: Path, size: tuple[int, int]) -> None:
    odd = [1e300, -1e300, 1e308, float("nan"), float("inf"), -5.0, 2.0**63, 1e-300]
    numbers = [(first, 20, second, 50) for first in odd for second in odd]
    image = {"id": 1, "file_name": "1.jpg", "width": size[0], "height": size[1]}
    boxes = [BOX | {"id": n, "bbox": bbox} for n, bbox in enumerate([*numbers, (20, 20, 60, 50)])]
    request = coco_request(tmp_path, [image], boxes, max_iou=0.5, min_area=0)
    plan = new_plan(request)
    assert plan.counts()["rejected"]["boxes"]["bad_box"] > 0
    assert estimate_build(plan).samples == 1


@pytest.mark.usefixtures("ray_with_two_workers")
def test_a_build_that_makes_nothing_stops_after_a_hundred_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = coco(tmp_path, lambda n: size_of(pixels(n)), 330)
    for place in (tmp_path / "images").iterdir():
        with Image.open(place) as picture:
            smaller = picture.resize((picture.width // 2, picture.height // 2))
        smaller.save(place)
    command = ["build", "coco", "--annotations", str(request.inputs["annotations"]), "--images"]
    command += [str(request.images), "--out", str(request.out), "--image-size", "64", "--workers", "1"]
    command += ["--images-per-shard", "30"]
    assert main(command) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "building stopped: not one sample of the first 1" in said
    assert "pictures size_mismatch" in said
    assert "which --scale-boxes accepts; correct the annotations" in said
    done = [json.loads(path.read_text()) for path in request.out.glob("coco-*.json")]
    assert 4 <= len(done) <= 8
    # By the option, in a new folder, the same pictures are right.
    command[command.index(str(request.out))] = str(tmp_path / "right")
    assert main([*command, "--scale-boxes", "--min-side", "8"]) == 0
    assert "330 samples from 330 of 330 pictures" in capsys.readouterr().out
