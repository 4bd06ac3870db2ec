"""Boxes on pictures that EXIF turns, or that were resized after annotation: counted, and right by option."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataprep.check.verify import verify_folder
from dataprep.pictures.fit import BOXES_SCALED, LEFT_AS_STORED, PictureFit, fit_picture
from dataprep.plan.inputs import BuildRequest
from dataprep.plan.remarks import build_remarks
from dataprep.shards.build_shard import tar_samples
from intarsia.sample import Sample, decode_sample
from tests.dataprep.test_shards import build_alone
from tests.dataprep.test_tool_files import BOX, coco_request

RED, GREY = (220, 20, 20), (120, 120, 120)


def write_turned(path: Path, orientation: int, box: tuple[int, int, int, int]) -> None:
    """A grey picture with a red box, as shown, stored so that EXIF `orientation` turns it upright."""
    shown = Image.new("RGB", (160, 240) if orientation < 5 else (240, 160), GREY)
    shown.paste(RED, box)
    # Stored is what the orientation's inverse makes of the picture as shown.
    inverse = {
        1: [],
        3: [Image.Transpose.ROTATE_180],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    for turn in inverse[orientation]:
        shown = shown.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown.save(path, exif=exif, quality=95, subsampling=0)


def built(request: BuildRequest) -> tuple[dict, list[Sample]]:
    manifest = build_alone(request)
    assert verify_folder(request.out, full=True) == []
    tars = sorted(request.out.glob("*.tar"))
    places = range(manifest["kept"]["samples"])
    return manifest, [decode_sample(members, key) for key, members in tar_samples(tars[0], places)]


def redness(sample: Sample) -> float:
    """Share of the exemplar that is red."""
    red, green, _ = sample.exemplar.astype(int).transpose(2, 0, 1)
    return float((red - green > 100).mean())


def turned_request(folder: Path, tag: int, size: tuple[int, int], **options: object) -> BuildRequest:
    x0, y0 = 60 if tag < 5 else 110, 20
    image = {"id": 1, "file_name": "1.jpg", "width": size[0], "height": size[1]}
    request = coco_request(folder, [image], [BOX | {"bbox": [x0, y0, 80, 60]}], [], **options)
    (folder / "images").mkdir(exist_ok=True)
    write_turned(folder / "images" / "1.jpg", tag, (x0, y0, x0 + 80, y0 + 60))
    return request


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_drawn_upright_with_the_stored_size_are_counted_and_an_option_puts_them_right(
    tmp_path: Path, orientation: int
) -> None:
    manifest, [wrong] = built(turned_request(tmp_path / "auto", orientation, (160, 240)))
    assert redness(wrong) < 0.4
    assert manifest["changed"]["pictures"] == {LEFT_AS_STORED: 1}
    assert "--orientation upright" in build_remarks(manifest)[0]
    assert "orientation" not in manifest["config"]
    request = turned_request(tmp_path / "right", orientation, (160, 240), orientation="upright")
    manifest, [right] = built(request)
    assert redness(right) > 0.5
    assert (right.meta.image_size, right.meta.box.as_list()) == ((240, 160), [110, 20, 190, 80])
    assert "changed" not in manifest
    assert not build_remarks(manifest)


def test_the_area_rule_looks_at_the_upright_picture(tmp_path: Path) -> None:
    # Of the box, 80x140 pixels are inside the upright picture, and 80x210 inside one of 240x240.
    request = turned_request(tmp_path, 6, (160, 240), orientation="upright", min_area=0.35)
    annotations = request.inputs["annotations"]
    annotations.write_text(annotations.read_text().replace("[110, 20, 80, 60]", "[110, 20, 80, 210]"))
    assert build_alone(request)["rejected"]["boxes"] == {"area_too_small": 1}


def test_boxes_drawn_on_the_stored_picture(tmp_path: Path) -> None:
    # 180 degrees: no size shows it. The red part is where the box is in the picture as stored.
    exif = Image.Exif()
    exif[0x0112] = 3
    stored = Image.new("RGB", (160, 240), GREY)
    stored.paste(RED, (60, 20, 140, 80))
    shares = []
    for option in ("stored", "auto"):
        request = turned_request(tmp_path / option, 3, (160, 240), orientation=option)
        stored.save(tmp_path / option / "images" / "1.jpg", exif=exif, quality=95)
        _, [sample] = built(request)
        shares.append(redness(sample))
    assert shares[0] > 0.5 > 0.4 > shares[1]


W, H = 400, 300


@pytest.mark.parametrize(
    ("orientation", "annotated", "option", "scale", "fit"),
    [
        (1, None, "auto", False, PictureFit(True, None)),
        (6, None, "stored", False, PictureFit(False, None)),
        (1, (W, H), "auto", False, PictureFit(True, (W, H))),
        (1, (H, W), "upright", True, None),  # nothing turns it
        (6, (H, W), "auto", False, PictureFit(True, (H, W))),
        (6, (W, H), "auto", False, PictureFit(False, (W, H), (LEFT_AS_STORED,))),
        (6, (W, H), "upright", False, PictureFit(True, (H, W))),
        (8, (H, W), "stored", False, PictureFit(False, (W, H))),
        (1, (200, 150), "auto", False, None),
        (1, (200, 150), "auto", True, PictureFit(True, (200, 150), (BOXES_SCALED,))),
        (1, (133, 100), "auto", True, PictureFit(True, (133, 100), (BOXES_SCALED,))),  # rounded
        (1, (1333, 1000), "auto", True, PictureFit(True, (1333, 1000), (BOXES_SCALED,))),
        (1, (640, 640), "auto", True, None),
        (1, (410, 300), "auto", True, None),
        (6, (150, 200), "auto", True, PictureFit(True, (150, 200), (BOXES_SCALED,))),
        (6, (200, 150), "auto", True, PictureFit(False, (200, 150), (BOXES_SCALED, LEFT_AS_STORED))),
        (6, (200, 150), "upright", True, PictureFit(True, (150, 200), (BOXES_SCALED,))),
    ],
)
def test_how_a_picture_is_taken(
    orientation: int, annotated: tuple[int, int] | None, option: str, scale: bool, fit: PictureFit | None
) -> None:
    assert fit_picture((W, H), orientation, annotated, option, scale) == fit  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(320, 240), (1333, 1000), (107, 80)])
def test_boxes_are_scaled_to_pictures_resized_after_annotation(tmp_path: Path, size: tuple[int, int]) -> None:
    image = {"id": 1, "file_name": "1.jpg", "width": 640, "height": 480}
    ring = [[160, 120, 480, 120, 480, 360, 160, 360]]
    box = BOX | {"bbox": [160, 120, 320, 240], "segmentation": ring}
    options = {"object_masks": True, "profile": "source", "min_side": 1}
    request = coco_request(tmp_path, [image], [box], [], scale_boxes=True, **options)
    (tmp_path / "images").mkdir()
    shown = Image.new("RGB", size, GREY)
    x0, y0, x1, y1 = size[0] / 4, size[1] / 4, size[0] * 3 / 4, size[1] * 3 / 4
    shown.paste(RED, (round(x0), round(y0), round(x1), round(y1)))
    shown.save(tmp_path / "images" / "1.jpg", quality=95)
    manifest, [sample] = built(request)
    assert manifest["changed"]["pictures"] == {BOXES_SCALED: 1}
    assert np.abs(np.array(sample.meta.box.as_list()) - (x0, y0, x1, y1)).max() <= 1
    assert sample.object_mask is not None
    assert abs(float((sample.object_mask >= 128).mean()) - 0.25) < 0.03
    request = coco_request(tmp_path / "not", [image], [box], [], **options)
    request = BuildRequest(request.config, request.inputs, tmp_path / "images", tmp_path / "not" / "out")
    manifest = build_alone(request)
    assert manifest["rejected"]["pictures"] == {"size_mismatch": 1}
    assert "--scale-boxes" in build_remarks(manifest)[0]
    assert "which --scale-boxes accepts" in (request.out / "rejects.jsonl").read_text()


def test_no_new_option_changes_the_fingerprint_of_a_build_without_it(tmp_path: Path) -> None:
    request = coco_request(tmp_path, [{"id": 1, "file_name": "1.jpg", "width": 160, "height": 120}], [BOX])
    content = request.config.model_dump(mode="json")
    assert not {"orientation", "scale_boxes"} & {*content}
    changed = request.config.model_copy(update={"orientation": "stored"})
    assert changed.model_dump()["orientation"] == "stored"
