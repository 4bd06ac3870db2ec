"""Of a box that reaches out of its picture, rules look at the part that the picture shows."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dataprep.build import _plan_header
from dataprep.plan.inputs import BuildRequest, new_plan
from dataprep.plan.plan import BuildConfig
from dataprep.plan.plan_file import AS_SHOWN, PLAN_FILE, plan_fingerprint, read_plan_header, write_plan
from tests.dataprep.test_shards import build_alone, plan_of
from tests.dataprep.test_tool_files import BOX, IMAGE, coco_request

# In a picture of 160x120: x, y, width, height, and what becomes of the box.
SLIVER = [-60, 20, 66, 50]  # 1.6 % is inside, of 17 %
MOSTLY_OUTSIDE = [100, 50, 160, 120]  # 22 % is inside, of 100 %
WHOLE = [-20, -20, 200, 160]
CASES = [
    (SLIVER, "area_too_small"),
    (MOSTLY_OUTSIDE, ""),
    (WHOLE, "area_too_large"),
    ([-50, -50, 40, 40], "empty_box"),  # beside the picture
    ([160, 10, 50, 50], "empty_box"),
    ([150, 110, 1e6, 1e6], "area_too_small"),
    ([-1e6, -1e6, 1e6 + 60, 1e6 + 60], ""),
]


def verdict(manifest_or_plan: dict) -> str:
    rejected = manifest_or_plan["rejected"]["boxes"]
    return next((reason for reason, number in rejected.items() if number), "")


def own(folder: Path, bbox: list[float]) -> BuildRequest:
    """The same box in a CSV, without the picture's size; a second box keeps the build from being empty."""
    request = coco_request(folder, [IMAGE], [BOX])
    x, y, width, height = bbox
    lines = ["path,x0,y0,x1,y1", f"1.jpg,{x},{y},{x + width},{y + height}", "1.jpg,20,20,80,70"]
    (folder / "own.csv").write_text("\n".join(lines))
    config = BuildConfig(source="boxes", name="own", image_size=64, filters="pbe")
    return replace(request, config=config, inputs={"boxes": folder / "own.csv"})


def yolo(folder: Path, bbox: list[float]) -> BuildRequest:
    request = coco_request(folder, [IMAGE], [BOX])
    (folder / "labels").mkdir()
    x, y, width, height = bbox
    line = f"0 {(x + width / 2) / 160} {(y + height / 2) / 120} {width / 160} {height / 120}"
    (folder / "labels" / "1.txt").write_text(f"{line}\n0 .5 .5 .4 .4\n")
    config = BuildConfig(source="yolo", name="yolo", image_size=64, filters="pbe")
    return replace(request, config=config, inputs={"labels": folder / "labels"})


@pytest.mark.parametrize(("bbox", "reason"), CASES)
def test_the_area_is_that_of_the_part_inside(tmp_path: Path, bbox: list[float], reason: str) -> None:
    boxes = [BOX | {"id": 2, "bbox": bbox}, BOX]
    request = coco_request(tmp_path / "coco", [IMAGE], boxes, filters="pbe")
    assert verdict(new_plan(request).counts()) == reason
    assert verdict(build_alone(own(tmp_path / "own", bbox))) == reason  # when the picture is read


@pytest.mark.parametrize(
    ("bbox", "reason"), [(SLIVER, "area_too_small"), (MOSTLY_OUTSIDE, ""), (WHOLE, "area_too_large")]
)
def test_the_same_in_fractions(tmp_path: Path, bbox: list[float], reason: str) -> None:
    assert verdict(new_plan(yolo(tmp_path, bbox)).counts()) == reason


def test_the_overlap_is_that_of_the_parts_inside(tmp_path: Path) -> None:
    # As annotated, the two share a third; inside the picture they are the same.
    boxes = [BOX | {"bbox": [100, 20, 180, 60]}, BOX | {"id": 2, "bbox": [100, 20, 60, 60]}]
    plan = new_plan(coco_request(tmp_path, [IMAGE], boxes, max_iou=0.9))
    assert plan.counts()["rejected"]["boxes"] == {"near_duplicate": 1}


def test_a_folder_of_an_earlier_version_goes_on_with_boxes_as_annotated(tmp_path: Path) -> None:
    boxes = [BOX | {"id": n, "bbox": bbox} for n, (bbox, _) in enumerate([(SLIVER, ""), *CASES[1:3]])]
    request = coco_request(tmp_path, [IMAGE], [*boxes, BOX | {"id": 9}], filters="pbe")
    plan_of(request)
    header = read_plan_header(request.out / PLAN_FILE)
    assert header[AS_SHOWN] is True
    # What that version wrote: without the remark, and with the sliver among the boxes.
    before = new_plan(request, as_shown=False)
    assert before.counts()["rejected"]["boxes"] == {"area_too_large": 2}
    del header[AS_SHOWN]
    header |= {"fingerprint": plan_fingerprint(before), "counts": before.counts()}
    write_plan(request.out / PLAN_FILE, before, header)
    # A new time of the annotations makes the build plan again, and compare.
    annotations = request.inputs["annotations"]
    annotations.write_bytes(annotations.read_bytes())
    (request.out / "rejects.jsonl").unlink()

    assert _plan_header(request) == header
    assert AS_SHOWN not in read_plan_header(request.out / PLAN_FILE)
    assert pq.read_metadata(request.out / PLAN_FILE).num_rows == 1
