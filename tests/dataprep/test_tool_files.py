"""Annotations as real tools write them: read as meant and counted, or refused in one sentence."""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dataprep.formats.object_masks import object_mask
from dataprep.pictures.index import index_paths
from dataprep.plan.inputs import BuildRequest, new_plan
from dataprep.plan.plan import BuildConfig, BuildPlan, make_build_plan
from dataprep.records import Rejected, RejectReason
from dataprep.shards.plan_rejects import write_plan_rejects
from dataprep.sources.coco import read_coco
from intarsia.errors import UserError
from tests.dataprep.toy import toy_picture

IMAGE = {"id": 1, "file_name": "1.jpg", "width": 160, "height": 120}
BOX = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [20, 20, 60, 50]}
Records = Sequence[dict[str, Any]]


def coco_request(
    folder: Path, images: Records, boxes: Records, files: Sequence[str] = ("1.jpg",), **options: object
) -> BuildRequest:
    """A request for these records of a COCO file, and for pictures with these names."""
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.json").write_text(json.dumps(content))
    for number, file in enumerate(files):
        (folder / "images" / file).parent.mkdir(parents=True, exist_ok=True)
        toy_picture(160, 120, number).save(folder / "images" / file, format="JPEG")
    config = BuildConfig(**{"source": "coco", "name": "toy", "image_size": 64} | options)
    return BuildRequest(config, {"annotations": folder / "a.json"}, folder / "images", folder / "out")


def reject_lines(plan: BuildPlan) -> list[dict[str, Any]]:
    lines = io.BytesIO()
    write_plan_rejects(plan, lines)
    return [json.loads(line) for line in lines.getvalue().splitlines()]


@pytest.mark.parametrize("bounds", [[20, 20, 60, 50], [0, 0, 0, 0], ["x"]])
def test_boxes_without_a_single_picture_are_of_unknown_pictures(tmp_path: Path, bounds: list) -> None:
    request = coco_request(tmp_path, [], [BOX | {"bbox": bounds}])
    with pytest.raises(UserError, match=r"nothing is kept of 0 pictures and 1 box \(picture_unknown 1\)"):
        new_plan(request)
    notes = read_coco(tmp_path / "a.json")
    plan = make_build_plan(notes, index_paths(()), request.config)
    (line,) = reject_lines(plan)
    assert (line["what"], line["box_id"], line["reason"]) == ("box", 1, RejectReason.PICTURE_UNKNOWN)
    assert plan.counts()["in"] == {"pictures": 0, "boxes": 1}
    assert np.array_equal(plan.order, [])


def files_of(request: BuildRequest) -> list[str]:
    """The file of each picture in the plan, in the order of the annotations."""
    plan = new_plan(request)
    return plan.files.to_pylist()


LVIS = "http://images.cocodataset.org/train2017/000000000001.jpg"


@pytest.mark.parametrize(
    ("image", "file"),
    [
        ({"coco_url": LVIS}, "000000000001.jpg"),
        ({"coco_url": LVIS}, "train2017/000000000001.jpg"),
        ({"coco_url": "https://host/get/a%20b.jpg?size=l#top"}, "a b.jpg"),
        ({"coco_url": "val/000000000001.jpg", "file_name": None}, "000000000001.jpg"),
        ({"coco_url": "http://images.cocodataset.org"}, "000000000001.jpg"),
        ({"coco_url": 5}, "000000000001.jpg"),
        ({}, "deep/000000000001.jpg"),
        ({"file_name": ""}, "1.jpg"),  # by its id, as before
        ({"file_name": "images\\1.jpg"}, "images/1.jpg"),
        ({"file_name": "C:\\Users\\me\\set\\images\\1.jpg"}, "images/1.jpg"),
        ({"file_name": "..\\1.jpg"}, "1.jpg"),
        ({"file_name": "images\\1.jpg"}, "images\\1.jpg"),  # unpacked from a zip of Windows
    ],
)
def test_a_picture_is_found_by_what_tools_call_it(tmp_path: Path, image: dict, file: str) -> None:
    nameless = {name: value for name, value in IMAGE.items() if name != "file_name"}
    files = sorted({file, "other/2.jpg", "other/1.jpeg"})
    request = coco_request(tmp_path, [nameless | image], [BOX], files)
    assert files_of(request) == [file]


def test_two_pictures_never_share_a_file_that_neither_names(tmp_path: Path) -> None:
    images = [IMAGE | {"file_name": "a\\1.jpg"}, IMAGE | {"id": 2, "file_name": "b/1.jpg"}]
    request = coco_request(tmp_path, images, [BOX, BOX | {"id": 2, "image_id": 2}], ["c/1.jpg", "d/3.jpg"])
    with pytest.raises(
        UserError, match=r"2 of 2 pictures are missing, such as 'a\\\\1.jpg'; --images has 'c"
    ):
        new_plan(request)


def test_paths_of_windows_in_other_sources_and_lists(tmp_path: Path) -> None:
    request = coco_request(tmp_path, [], [], ["in/a.jpg", "in/b.jpg"])
    (tmp_path / "b.csv").write_text("path,x0,y0,x1,y1\nin\\a.jpg,20,20,80,80\nin\\b.jpg,20,20,80,80\n")
    (tmp_path / "out.txt").write_text("in/b.jpg\n")
    own = BuildConfig(source="boxes", name="own", image_size=64)
    request = replace(request, config=own, inputs={"boxes": tmp_path / "b.csv"})
    assert files_of(request) == ["in/a.jpg", "in/b.jpg"]
    request = replace(request, inputs=request.inputs | {"exclude": tmp_path / "out.txt"})
    assert [request.config.source, len(new_plan(request).order)] == ["boxes", 1]
    (tmp_path / "xml").mkdir()
    (tmp_path / "xml" / "7.xml").write_text(
        "<annotation><filename>C:\\in\\a.jpg</filename><object><name>cat</name><bndbox><xmin>20</xmin>"
        "<ymin>20</ymin><xmax>90</xmax><ymax>90</ymax></bndbox></object></annotation>"
    )
    voc = BuildConfig(source="voc", name="voc", image_size=64)
    request = replace(request, config=voc, inputs={"annotations": tmp_path / "xml"})
    assert files_of(request)[0] == "in/a.jpg"


def test_a_mask_that_windows_names(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    Image.new("L", (160, 120), 255).save(tmp_path / "masks" / "1.png")
    found = object_mask("masks\\1.png", tmp_path, (160, 120))
    assert isinstance(found, np.ndarray)
    assert object_mask("masks\\2.png", tmp_path, (160, 120)) == Rejected(
        RejectReason.OBJECT_MASK_MISSING, "masks\\2.png"
    )


@pytest.mark.parametrize(
    ("files", "there"),
    [
        (["a/frame_2.jpg", "frame-1.jpg", "z.jpg"], "--images has 'frame-1.jpg'"),  # the one most like it
        ([], "--images has no picture at all"),
    ],
)
def test_missing_pictures_are_named_with_one_that_is_there(
    tmp_path: Path, files: list[str], there: str
) -> None:
    images = [IMAGE | {"file_name": "frame_1.PNG"}, IMAGE | {"id": 2}]
    request = coco_request(tmp_path, images, [BOX, BOX | {"id": 2, "image_id": 2}], files)
    (tmp_path / "images").mkdir(exist_ok=True)
    with pytest.raises(UserError, match="nothing is left to build") as error:
        new_plan(request)
    assert f"; 2 of 2 pictures are missing, such as 'frame_1.PNG'; {there}; check" in str(error.value)


def test_a_single_missing_picture_is_a_remark_of_the_plan(tmp_path: Path) -> None:
    images = [IMAGE, IMAGE | {"id": 2, "file_name": "2.PNG"}]
    plan = new_plan(coco_request(tmp_path, images, [BOX, BOX | {"id": 2, "image_id": 2}]))
    assert plan.remarks == ("1 of 2 pictures is missing, such as '2.PNG'; --images has '1.jpg'",)


@pytest.mark.parametrize(
    ("box_id", "says"),
    [
        (None, "no id"),
        (1.5, "the id 1.5, which"),
        ("a-7", 'the id "a-7", which'),
        (True, "the id true, which"),
        ([1], r"the id \[1\], which"),
        (1 << 70, "the id 1180591620717411303424, which"),
        (float("nan"), "the id NaN, which"),
    ],
)
def test_boxes_without_whole_ids_are_numbered_and_this_is_said(
    tmp_path: Path, box_id: object, says: str
) -> None:
    odd = {name: value for name, value in BOX.items() if name != "id"}
    odd |= {} if box_id is None else {"id": box_id}
    boxes = [BOX | {"id": 70}, odd, BOX | {"id": 70, "bbox": [0, 0, 1, 1]}]
    plan = new_plan(coco_request(tmp_path, [IMAGE], boxes))
    assert plan.annotations.box_ids.tolist() == [1, 2, 3]
    (remark,) = plan.remarks
    assert re.search(f"an annotation has {says}", remark)
    assert remark.endswith("the boxes are numbered from 1 in the order of the file")
    (line,) = reject_lines(plan)
    assert (line["box_id"], line["reason"]) == (3, "area_too_small")


def test_whole_ids_in_any_spelling_are_kept(tmp_path: Path) -> None:
    boxes = [BOX | {"id": 12}, BOX | {"id": 13.0}, BOX | {"id": "14"}, BOX | {"id": -15}]
    plan = new_plan(coco_request(tmp_path, [IMAGE], boxes))
    assert plan.annotations.box_ids.tolist() == [12, 13, 14, -15]
    assert not plan.remarks


def test_ids_of_pictures_and_classes_may_be_text_on_one_side_only(tmp_path: Path) -> None:
    boxes = [BOX | {"image_id": "1"}, BOX | {"id": 2, "category_id": "1"}, BOX | {"id": 3, "image_id": 1.0}]
    plan = new_plan(coco_request(tmp_path, [IMAGE | {"width": "160"}], boxes))
    assert plan.annotations.picture.tolist() == [0, 0, 0]
    assert plan.annotations.sizes.tolist() == [[160, 120]]
    assert len(plan.rows) == 3


@pytest.mark.parametrize(
    ("images", "boxes", "says"),
    [
        ([{"file_name": "1.jpg"}], [], "`images` is not valid: its id is missing"),
        ([7], [], "`images` is not valid: it is 7, not an object"),
        ([IMAGE | {"id": [1]}], [], r"with id \[1\] is not valid: its id is \[1\], not a number or a text"),
        ([IMAGE | {"width": "wide"}], [], 'its width is "wide", not a number of pixels'),
        ([IMAGE | {"file_name": "\ud800"}], [], "its file_name is '.ud800', which is not text"),
        ([IMAGE, IMAGE], [], "with id 1 is not valid: the id appears twice"),
        ([IMAGE], [BOX | {"image_id": {"id": 1}}], "its image_id is .*, not a number or a text"),
        ([IMAGE], [BOX | {"category_id": None}], "its category_id is missing"),
        ([IMAGE], [BOX, BOX], "annotation id 1 appears twice; remove the copy, or leave out all ids"),
    ],
)
def test_what_is_wrong_in_a_coco_file_is_said_in_words(
    tmp_path: Path, images: list, boxes: list, says: str
) -> None:
    with pytest.raises(UserError, match=says) as error:
        new_plan(coco_request(tmp_path, images, boxes))
    assert not re.search(r"\w+Error|object is not|argument must", str(error.value))
