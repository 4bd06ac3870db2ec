"""Annotations in, the right boxes out: COCO, Open Images, and the filters."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from dataprep.choose.rules import FILTERS, judge_boxes
from dataprep.formats.openimages_csv import read_class_names, read_open_images
from dataprep.pictures.index import index_pictures
from dataprep.plan.plan import BuildConfig, make_build_plan
from dataprep.plan.plan_file import plan_table
from dataprep.records import REASONS, Annotations
from dataprep.sources.coco import read_coco
from intarsia.errors import UserError
from tests.paths import COCO_MINI, SHARED_DATA

HEADER_13 = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,"
    "IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
)
CLICKS = ",".join(f"XClick{i}{axis}" for axis in "XY" for i in (1, 2, 3, 4))
CLASSES = '/m/01,Tortoise\n/m/02,"Studio, couch"\n'


def reasons(annotations: Annotations, filters: str) -> Counter[str]:
    verdict = judge_boxes(annotations, FILTERS[filters])
    return Counter(REASONS[code].value if code >= 0 else "kept" for code in verdict.tolist())


def write_csv(folder: Path, header: str, rows: list[str]) -> Annotations:
    (folder / "boxes.csv").write_text("\n".join([header, *rows]) + "\n")
    (folder / "classes.csv").write_text(CLASSES)
    return read_open_images(folder / "boxes.csv", folder / "classes.csv")


ROWS = [
    "aa,xclick,/m/01,1,0.1,0.6,0.2,0.5,0,0,0,0,0",
    "aa,xclick,/m/02,1,0.0,0.9,0.0,1.0,0,1,0,0,0",
    ",,,,,,,,,,,,",
    "bb,activemil,/m/01,1,0.25,0.5,0.25,0.5,-1,-1,-1,-1,-1",
    "",
    "bb,xclick,/m/03,1,0.1,0.5,0.1,0.6,0,0,1,0,0",
    "bb,xclick,/m/01,1,0.1,0.5,0.1,0.6,0,0,0,1,1",
    "cc,xclick,/m/01,1,,0.5,0.1,0.6,0,0,0,0,0",
]


@pytest.mark.parametrize("clicks", [False, True], ids=["13 columns", "21 columns"])
def test_open_images_in_both_layouts(tmp_path: Path, clicks: bool) -> None:
    header = f"{HEADER_13},{CLICKS}" if clicks else HEADER_13
    rows = [row + ",-1" * 8 if clicks and row and row[0] != "," else row for row in ROWS]
    rows[2] = "," * (header.count(","))
    notes = write_csv(tmp_path, header, rows)
    assert notes.image_ids == ["aa", "bb", "cc"]
    assert notes.picture.tolist() == [0, 0, 1, 1, 1, 2]
    assert notes.bounds[0].tolist() == [
        0.1,
        0.2,
        0.6,
        0.5,
    ]  # the file has XMin, XMax first
    assert [notes.labels[code] for code in notes.label] == [
        "Tortoise",
        "Studio, couch",
        "Tortoise",
        "/m/03",
        "Tortoise",
        "Tortoise",
    ]
    assert notes.flags["is_group_of"].tolist() == [0, 0, -1, 1, 0, 0]
    assert notes.box_ids.tolist() == [2, 3, 5, 7, 8, 9]  # the file's lines
    assert reasons(notes, "pbe") == {"kept": 4, "area_too_large": 1, "bad_box": 1}
    # an unknown flag (-1) drops nothing
    assert reasons(notes, "default") == {
        "kept": 2,
        "area_too_large": 1,
        "bad_box": 1,
        "group_of": 1,
        "inside": 1,
    }


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    notes = write_csv(tmp_path, "YMax,YMin,XMax,XMin,LabelName,ImageID", ["0.4,0.3,0.2,0.1,/m/01,x"])
    assert notes.bounds.tolist() == [[0.1, 0.3, 0.2, 0.4]]
    assert {name: values.tolist() for name, values in notes.flags.items()} == {
        name: [-1] for name in notes.flags
    }


def test_a_csv_without_any_box_is_read(tmp_path: Path) -> None:
    notes = write_csv(tmp_path, HEADER_13, ["," * 12] * 30)
    assert len(notes) == 0
    assert notes.image_ids == []


def test_errors_of_open_images_files(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"boxes\.csv, line 1: the column XMin is missing; the line names ImageID, a"
    ):
        write_csv(tmp_path, "ImageID,a,LabelName", ["1,2,3"])
    with pytest.raises(
        UserError, match=r"boxes\.csv, line 3: 3 columns, the first line has 13; is the file whole\?"
    ):
        write_csv(tmp_path, HEADER_13, [ROWS[0], "1,2,3"])
    pointer = tmp_path / "pointer.csv"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    with pytest.raises(UserError, match=r"pointer\.csv is a git-LFS pointer, not the data; .*git lfs pull"):
        read_open_images(pointer, tmp_path / "classes.csv")
    with pytest.raises(UserError, match=r"none\.csv does not exist"):
        read_class_names(tmp_path / "none.csv")
    (tmp_path / "classes.csv").write_text("/m/01,Cat\n", encoding="utf-8-sig")
    assert read_class_names(tmp_path / "classes.csv") == {"/m/01": "Cat"}
    for line in ("/m/01\n", "ImageID,Source,LabelName\n"):
        (tmp_path / "classes.csv").write_text(line)
        with pytest.raises(UserError, match="line 1: each line must hold a label and a name"):
            read_class_names(tmp_path / "classes.csv")


def test_the_area_rule_keeps_its_limits(tmp_path: Path) -> None:
    rows = [f"a,x,/m/01,1,0,{x},0,{y},0,0,0,0,0" for x, y in [(0.2, 0.1), (0.8, 1), (0.199, 0.1), (0.801, 1)]]
    assert judge_boxes(write_csv(tmp_path, HEADER_13, rows), FILTERS["pbe"]).tolist() == [
        -1,
        -1,
        REASONS.index("area_too_small"),
        REASONS.index("area_too_large"),
    ]


def test_coco_agrees_with_pycocotools() -> None:
    path = COCO_MINI / "annotations.json"
    notes, peer = read_coco(path), COCO(str(path))
    assert len(notes) == len(peer.anns)
    for row, box_id in enumerate(notes.box_ids.tolist()):
        record = peer.anns[box_id]
        x, y, width, height = record["bbox"]
        assert notes.bounds[row].tolist() == [x, y, x + width, y + height]
        assert notes.image_ids[notes.picture[row]] == str(record["image_id"])
        assert notes.labels[notes.label[row]] == peer.cats[record["category_id"]]["name"]
        assert notes.flags["is_crowd"][row] == record["iscrowd"]


@pytest.mark.parametrize("filters", ["pbe", "default"])
def test_crowds_are_no_objects(filters: str) -> None:
    notes = read_coco(COCO_MINI / "annotations.json")
    assert reasons(notes, filters)["crowd"] == int(notes.flags["is_crowd"].sum()) > 0


def test_reading_coco_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    read_coco(COCO_MINI / "annotations.json")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", r"instances\.json, line 1: not valid JSON: '{' is expected, not '\['"),
        ('{"images": [], "annotations": []}', "is not a COCO instances file: it has no list `categories`"),
        ('{"images": [], "annotations": [{}], "categories": []}', "is not a COCO instances file"),
        (
            json.dumps(
                {
                    "images": [{"id": 1}],
                    "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 1, 1]}],
                    "categories": [],
                }
            ),
            "category_id 7 of an annotation is not among its categories",
        ),
        ("version https://git-lfs.github.com/spec/v1\n", "is a git-LFS pointer"),
    ],
)
def test_errors_of_coco_files(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "instances.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_coco(tmp_path / "instances.json")


PBE = SHARED_DATA / "openimages" / "expected_pbe_filter.json"
SPLITS = {"train": "oidv6-train-annotations-bbox.csv", "validation": "validation-annotations-bbox.csv"}


@pytest.mark.parametrize("split", SPLITS if PBE.is_file() else [])
def test_the_pbe_filter_keeps_exactly_the_originals_boxes(split: str) -> None:
    expected = json.loads(PBE.read_text())[split]
    folder = PBE.parent
    notes = read_open_images(folder / SPLITS[split], folder / "class-descriptions-boxable.csv")
    config = BuildConfig(source="openimages", name="oi", filters="pbe")
    plan = make_build_plan(notes, index_pictures(folder / split), config)
    rows = plan_table(plan).to_pylist()
    kept = {
        row["image_id"]: [[box[c] for c in ("x0", "y0", "x1", "y1")] for box in row["boxes"]] for row in rows
    }
    assert len(notes) == expected["boxes_in"]
    assert len(kept) == expected["images_kept"]
    assert sum(map(len, kept.values())) == expected["boxes_kept"]
    assert set(kept) == set(expected["boxes"])
    for name, boxes in expected["boxes"].items():
        with Image.open(folder / split / f"{name}.jpg") as picture:
            width, height = picture.size
        pixels = np.array(kept[name]) * [width, height, width, height]
        assert pixels.tolist() == boxes, name
