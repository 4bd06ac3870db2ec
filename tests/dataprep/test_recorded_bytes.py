"""Without the option of a recipe, data prep and redrawing give the bytes that they gave before recipes.

The hashes were taken from the code before recipes, with the pinned numpy, OpenCV and simplejpeg.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dataprep.draw.redraw import redraw_crop, redraw_sample
from dataprep.plan.inputs import BuildRequest
from dataprep.plan.plan import BuildConfig
from dataprep.shards.build_shard import tar_samples
from intarsia.files import sha256_file
from intarsia.sample import Sample, decode_sample
from tests.dataprep.test_shards import build_alone
from tests.paths import COCO_MINI

CROPS: dict[str, Any] = {"draws_per_image": 2, "image_size": 256}
WHOLE: dict[str, Any] = {
    "profile": "source",
    "all_boxes": True,
    "object_masks": True,
    "exemplar_background": "grey",
    "short_side": 320,
}
RECORDED = {  # sha256 of the tar
    "crops": "3eed707d67820532823fdc7abbcb65535f81796898302969a5e440b84f563b3e",
    "whole": "78e4686b6f09f3d3b5147a5184eed6c3a885d8ad31324ba0a6ac2a610fa7aea4",
}
REDRAWN = {  # sha256 of edit masks, exemplars and records of two epochs
    "crops": "b4f97c5dcea351ddfef922b2c19d4c7554e670f0aeb08f4b3bd91b8f27b51a4d",
    "whole": "31f2a24073e5ddf7c4077538417595f99458236cda703f85665ba58369168feb",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("recorded")
    for name, options in (("crops", CROPS), ("whole", WHOLE)):
        config = BuildConfig(source="coco", name="coco", **options)
        inputs = {"annotations": COCO_MINI / "annotations.json"}
        build_alone(BuildRequest(config, inputs, COCO_MINI / "images", root / name))
    return {name: root / name for name in RECORDED}


@pytest.mark.parametrize("name", RECORDED)
def test_a_build_gives_the_bytes_of_before(folders: dict[str, Path], name: str) -> None:
    [tar] = folders[name].glob("*.tar")
    assert sha256_file(tar) == RECORDED[name]


@pytest.mark.parametrize("name", REDRAWN)
def test_a_fresh_draw_gives_the_bytes_of_before(folders: dict[str, Path], name: str) -> None:
    digest = hashlib.sha256()
    for sample in redrawn(folders[name], name):
        digest.update(sample.edit_mask.tobytes() + sample.exemplar.tobytes() + sample.meta.to_json())
    assert digest.hexdigest() == REDRAWN[name]


def redrawn(folder: Path, name: str) -> Iterator[Sample]:
    [tar] = folder.glob("*.tar")
    for key, members in tar_samples(tar, range(24)):
        stored = decode_sample(members, key)
        for epoch in (1, 2):
            drawn = redraw_crop(stored, 7, epoch) if name == "crops" else redraw_sample(stored, 192, 7, epoch)
            assert isinstance(drawn, Sample)
            yield drawn
