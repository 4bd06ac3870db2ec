"""Annotations as real tools write them: read as meant and counted, or refused in one sentence."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataprep.pictures.index import index_paths
from dataprep.plan.inputs import BuildRequest, new_plan
from dataprep.plan.plan import BuildConfig, BuildPlan, make_build_plan
from dataprep.records import RejectReason
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
