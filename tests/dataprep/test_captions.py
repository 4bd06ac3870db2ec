"""Captions: which picture each belongs to, what samples keep of them, and builds without any."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataprep.check.verify import verify_folder
from dataprep.draw.redraw import redraw_sample
from dataprep.formats.captions import read_coco_captions, read_narratives
from dataprep.plan.inputs import BuildRequest, new_plan
from dataprep.plan.plan import BuildConfig
from dataprep.sources.coco import read_coco
from intarsia.errors import UserError
from intarsia.sample import Sample
from tests.dataprep.sequences import frame
from tests.dataprep.test_pairs import request as pairs_request
from tests.dataprep.test_shards import build_alone
from tests.dataprep.test_video import samples_of
from tests.paths import COCO_MINI


def coco_request(out: Path, captions: Path | None, **options: Any) -> BuildRequest:
    config = BuildConfig(source="coco", name="coco", image_size=64, **options)
    inputs = {"annotations": COCO_MINI / "annotations.json"} | ({"captions": captions} if captions else {})
    return BuildRequest(config, inputs, COCO_MINI / "images", out)


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """Two captions for each bundled picture but the first, and one of a picture that is not annotated."""
    ids = read_coco(COCO_MINI / "annotations.json").image_ids[1:]
    records = [{"image_id": int(name), "caption": f"{word}  thing {name}\n"} for name in ids for word in "ab"]
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({"annotations": [*records, {"image_id": 1, "caption": "another"}]}))
    return path


def test_a_sample_has_the_captions_of_its_picture(tmp_path: Path, captions: Path) -> None:
    request = coco_request(tmp_path / "out", captions, profile="source")
    assert any("1 caption of pictures that are not annotated" in text for text in new_plan(request).remarks)
    build_alone(request)
    assert verify_folder(tmp_path / "out", full=True) == []
    first = read_coco(COCO_MINI / "annotations.json").image_ids[0]
    for sample in samples_of(tmp_path / "out"):
        name = sample.meta.image_id
        assert sample.meta.captions == (() if name == first else (f"a thing {name}", f"b thing {name}"))
        fresh = redraw_sample(sample, 64, 3, 2)
        assert isinstance(fresh, Sample)
        assert fresh.meta.captions == sample.meta.captions


def test_captions_change_nothing_but_the_records(tmp_path: Path, captions: Path) -> None:
    build_alone(coco_request(tmp_path / "with", captions))
    build_alone(coco_request(tmp_path / "without", None))
    for told, silent in zip(samples_of(tmp_path / "with"), samples_of(tmp_path / "without"), strict=True):
        assert (told.image == silent.image).all() and (told.exemplar == silent.exemplar).all()
        assert b"captions" not in silent.meta.to_json()
        assert told.meta.box == silent.meta.box


def test_other_captions_are_another_plan(tmp_path: Path, captions: Path) -> None:
    from dataprep.plan.plan_file import plan_fingerprint

    prints = [plan_fingerprint(new_plan(coco_request(tmp_path / "x", path))) for path in (None, captions)]
    captions.write_text(captions.read_text().replace("b  thing", "c  thing", 1))
    prints.append(plan_fingerprint(new_plan(coco_request(tmp_path / "x", captions))))
    assert len(set(prints)) == 3


def test_narratives_of_open_images(tmp_path: Path) -> None:
    lines = [
        {"dataset_id": "open_images", "image_id": "0a1", "annotator_id": 3, "caption": "In this picture"}
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "b.jsonl").write_text('{"image_id": "0b2", "caption": "A dog"}\n\n')
    assert list(read_narratives(tmp_path)) == [("0a1", "In this picture"), ("0b2", "A dog")]
    (tmp_path / "b.jsonl").write_text('{"image_id": "0b2", "caption": "A dog"}\n{"image_id": "0b3"}\n')
    with pytest.raises(UserError, match=r"b\.jsonl, line 2 is not a caption: it needs image_id and caption"):
        list(read_narratives(tmp_path / "b.jsonl"))
    (tmp_path / "b.jsonl").write_text('{"image_id": "0b2", "capt')
    with pytest.raises(UserError, match=r"b\.jsonl, line 1: it is not a record in JSON; is the file whole"):
        list(read_narratives(tmp_path / "b.jsonl"))


def test_an_instances_file_holds_no_captions() -> None:
    with pytest.raises(UserError, match="element 1 of `annotations` is not a caption"):
        list(read_coco_captions(COCO_MINI / "annotations.json"))


def test_captions_of_own_boxes_and_pairs(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    (tmp_path / "masks").mkdir()
    for place, name in enumerate("ab"):
        pixels, numbers = frame(2 * place)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{name}.jpg")
        Image.fromarray(numbers * np.uint8(255)).save(tmp_path / "masks" / f"{name}.png")
    text = "target,mask,exemplar,caption\na.jpg,a.png,b.jpg,a ball  on sand\n"
    build_alone(pairs_request(tmp_path, text, profile="source"))
    [sample] = samples_of(tmp_path / "out")
    assert sample.meta.captions == ("a ball on sand",)
    fresh = redraw_sample(sample, 64, 1, 5)
    assert isinstance(fresh, Sample) and fresh.meta.captions == ("a ball on sand",)
    (tmp_path / "boxes.csv").write_text(
        "path,x0,y0,x1,y1,caption\na.jpg,5,5,90,90,one\na.jpg,9,9,99,99,two\n"
    )
    config = BuildConfig(source="boxes", name="boxes", image_size=64)
    inputs = {"boxes": tmp_path / "boxes.csv"}
    build_alone(BuildRequest(config, inputs, tmp_path / "pictures", tmp_path / "boxes"))
    [sample] = samples_of(tmp_path / "boxes")
    assert sample.meta.captions == ("one", "two")
