"""Instance masks: read from both sources, held to pycocotools, stored, and cut out of exemplars."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from dataprep.build import build as go_on
from dataprep.check.verify import verify_folder
from dataprep.draw.redraw import redraw_sample
from dataprep.formats.object_masks import object_mask, read_open_images_masks
from dataprep.formats.openimages_csv import read_open_images
from dataprep.plan import input_files
from dataprep.plan.inputs import BuildRequest, new_plan
from dataprep.plan.plan import BuildConfig
from dataprep.plan.plan_file import PLAN_FILE, read_plan_header, read_plan_rows, write_plan
from dataprep.records import Rejected, RejectReason
from intarsia.boxes import Box
from intarsia.config import build_config
from intarsia.errors import UsageError, UserError
from intarsia.sample import MEMBERS, OBJECT_MASK, Sample, SampleMeta, decode_sample, encode_sample
from tests.dataprep.test_profiles import members_of
from tests.dataprep.toy import toy_picture, toy_request
from training.data.reader import ShardReader
from training.data.shards import find_shards

SIZE = (160, 120)
POLYGON = [[20, 20, 80, 22, 78, 70, 24, 66]]
ELLIPSE = (70, 30, 140, 100)


def ellipse() -> np.ndarray:
    picture = Image.new("L", SIZE)
    ImageDraw.Draw(picture).ellipse(ELLIPSE, fill=255)
    return np.array(picture)


def runs_of(pixels: np.ndarray) -> dict:
    """COCO's uncompressed run lengths: down the columns, the first run is of zeros."""
    flat = (pixels > 0).T.reshape(-1)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]))).tolist()
    counts = np.diff([0, *edges, len(flat)]).tolist()
    return {"size": [pixels.shape[0], pixels.shape[1]], "counts": counts}


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Four pictures; on each a polygon (cat), run lengths (dog), and a box without a mask (cup)."""
    folder = tmp_path_factory.mktemp("masks")
    (folder / "images").mkdir()
    images, records = [], []
    for number in range(1, 5):
        toy_picture(*SIZE, number).save(folder / "images" / f"{number}.jpg", quality=95)
        images.append({"id": number, "file_name": f"{number}.jpg", "width": SIZE[0], "height": SIZE[1]})
        for category, bbox, segmentation in (
            (1, [20, 20, 60, 50], POLYGON),
            (2, [70, 30, 71, 71], runs_of(ellipse())),
            (3, [5, 60, 50, 50], []),
        ):
            record = {"id": len(records) + 1, "image_id": number, "category_id": category, "bbox": bbox}
            records.append(record | {"segmentation": segmentation, "iscrowd": 0})
    names = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "cup"}]
    content = {"images": images, "annotations": records, "categories": names}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder / "instances.json", folder / "images"


def build(tmp_path: Path, coco: tuple[Path, Path], **options: object) -> dict[str, dict[str, bytes]]:
    options = {"images_per_shard": 100, "all_boxes": True, "object_masks": True} | options
    return members_of(toy_request(tmp_path, tmp_path / "out", inputs=coco, **options))


def truth_of(label: str) -> np.ndarray:
    if label == "dog":
        return ellipse()
    runs = coco_mask.frPyObjects(POLYGON, SIZE[1], SIZE[0])
    return coco_mask.decode(coco_mask.merge(runs)) * np.uint8(255)


def test_masks_are_pycocotools() -> None:
    for text, label in ((json.dumps(POLYGON), "cat"), (json.dumps(runs_of(ellipse())), "dog")):
        mask = object_mask(text, "", SIZE)
        assert isinstance(mask, np.ndarray)
        assert np.array_equal(mask, truth_of(label))
    packed = coco_mask.encode(np.asfortranarray(ellipse() // 255))
    text = json.dumps({"size": packed["size"], "counts": packed["counts"].decode()})
    mask = object_mask(text, "", SIZE)
    assert isinstance(mask, np.ndarray)
    assert np.array_equal(mask, ellipse())
    assert object_mask("", "", SIZE) is None


@pytest.mark.parametrize(
    "text",
    [
        "torn.png",
        "[[1, 2, 3]]",
        "[[1, 2, 3, 4, 5, 1e300]]",
        '{"size": [120, 160], "counts": [5, -5]}',
        '{"size": [120, 160], "counts": [7]}',
        "[[",
    ],
)
def test_a_mask_that_cannot_be_read_is_told(text: str, tmp_path: Path) -> None:
    Image.new("1", SIZE).save(tmp_path / "whole.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-20])
    rejected = object_mask(text, tmp_path, SIZE)
    assert isinstance(rejected, Rejected)
    assert rejected.reason == RejectReason.OBJECT_MASK_UNREADABLE
    assert rejected.detail
    missing = object_mask("none.png", tmp_path, SIZE)
    assert missing == Rejected(RejectReason.OBJECT_MASK_MISSING, "none.png")


def test_a_sample_has_its_objects_mask_as_last_member(tmp_path: Path, coco: tuple[Path, Path]) -> None:
    stored = build(tmp_path, coco, profile="source")
    assert len(stored) == 12
    for members in stored.values():
        sample = decode_sample(members)
        if sample.meta.label == "cup":
            assert tuple(members) == MEMBERS
            assert sample.object_mask is None
        else:
            assert tuple(members) == (*MEMBERS, OBJECT_MASK)
            assert sample.object_mask is not None
            assert np.array_equal(sample.object_mask, truth_of(sample.meta.label))


def test_a_crop_shows_image_and_object_mask_alike(tmp_path: Path, coco: tuple[Path, Path]) -> None:
    for members in build(tmp_path, coco, draws_per_image=3, image_size=96).values():
        sample = decode_sample(members)
        if sample.object_mask is None:
            continue
        assert sample.object_mask.shape == (96, 96)
        y, x = np.mgrid[0:96, 0:96]
        window = sample.meta.window
        rows = (window.y0 + (y + 0.5) * window.height / 96).astype(int)
        columns = (window.x0 + (x + 0.5) * window.width / 96).astype(int)
        shown = truth_of(sample.meta.label)[rows, columns]
        assert ((sample.object_mask >= 128) != (shown >= 128)).mean() < 0.03


@pytest.mark.parametrize(("background", "level"), [("grey", 128), ("white", 255)])
def test_an_exemplar_shows_the_object_alone(
    tmp_path: Path, coco: tuple[Path, Path], background: str, level: int
) -> None:
    kept = build(tmp_path / "a", coco)
    cut = build(tmp_path / "b", coco, exemplar_background=background)
    assert kept.keys() == cut.keys()
    for key, members in cut.items():
        sample, before = decode_sample(members), decode_sample(kept[key])
        same = {name for name in (*MEMBERS[:2], OBJECT_MASK) if name in members}
        assert {name: members[name] for name in same} == {name: kept[key][name] for name in same}
        if sample.meta.label == "cup":
            assert members == kept[key]
            continue
        assert sample.meta.exemplar_background == background
        share = (np.abs(sample.exemplar.astype(int) - level).max(axis=2) <= 6).mean()
        assert 0.15 < share < 0.7  # the corners round the ellipse, the margin round the polygon
        assert not np.array_equal(sample.exemplar, before.exemplar)


@pytest.mark.parametrize("short_side", [None, 90])
def test_a_loader_draws_what_is_stored_from_the_stored_mask(
    tmp_path: Path, coco: tuple[Path, Path], short_side: int | None
) -> None:
    stored = build(tmp_path, coco, profile="source", exemplar_background="white", short_side=short_side)
    for members in stored.values():
        sample = decode_sample(members, whole=False)
        assert sample.object_mask is None or sample.object_mask.shape == sample.image.shape[:2]
        drawn = redraw_sample(sample, None, 0, 0)
        assert isinstance(drawn, Sample)
        assert encode_sample(drawn, members["image.jpg"]) == members
    reader = ShardReader(find_shards([str(tmp_path / "out")]), 1)
    assert any(reader.read(0, number).object_mask is not None for number in range(len(stored)))


def test_without_the_options_nothing_of_masks_is_there(tmp_path: Path, coco: tuple[Path, Path]) -> None:
    for members in build(tmp_path, coco, object_masks=False).values():
        assert tuple(members) == MEMBERS
        assert "exemplar_background" not in json.loads(members["json"])


def test_a_sample_whose_mask_cannot_be_read_stays_without_it_and_this_is_counted(
    tmp_path: Path, coco: tuple[Path, Path]
) -> None:
    content = json.loads(coco[0].read_text())
    content["annotations"][0]["segmentation"] = [[1, 2, 3]]
    (tmp_path / "bad.json").write_text(json.dumps(content))
    stored = build(tmp_path, (tmp_path / "bad.json", coco[1]))
    assert len(stored) == 12
    assert sum(OBJECT_MASK in members for members in stored.values()) == 7
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["rejected"]["draws"] == {}
    assert manifest["rejected"]["masks"] == {"object_mask_unreadable": 1}
    assert (manifest["in"]["masks"], manifest["kept"]["masks"]) == (8, 7)
    (line,) = (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()
    assert json.loads(line)["what"] == "mask"
    assert "three points at least" in json.loads(line)["detail"]
    assert verify_folder(tmp_path / "out", full=True) == []


def open_images(folder: Path, coco: tuple[Path, Path], **options: object) -> BuildRequest:
    """The dogs of the first three pictures with masks of twice the size, in the published layout."""
    masks = folder / "masks"
    (masks / "1").mkdir(parents=True)
    boxes = ["ImageID,LabelName,XMin,XMax,YMin,YMax"]
    rows = ["MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax,PredictedIoU,Clicks"]
    x0, y0, x1, y1 = (value / side for value, side in zip(ELLIPSE, SIZE * 2, strict=True))
    for number in range(1, 5):
        boxes.append(f"{number},/m/dog,{x0:.7f},{x1:.7f},{y0:.7f},{y1:.7f}")
        boxes.append(f"{number},/m/cup,0.03,0.35,0.5,0.9")
        if number < 4:
            rows.append(
                f"{number}_dog.png,{number},/m/dog,ab12,{x0:.4f},{x1:.4f},{y0:.4f},{y1:.4f},0.9,0.1 0.2 1"
            )
            large = Image.fromarray(ellipse()).resize((320, 240), Image.Resampling.NEAREST)
            large.convert("1").save(masks / "1" / f"{number}_dog.png")
    (folder / "boxes.csv").write_text("\n".join(boxes) + "\n")
    (folder / "classes.csv").write_text("/m/dog,Dog\n/m/cup,Cup\n")
    (masks / "train-annotations-object-segmentation.csv").write_text("\n".join(rows) + "\n")
    content = {"source": "openimages", "name": "toy", "image_size": 64, "images_per_shard": 100} | options
    inputs = {"boxes": folder / "boxes.csv", "classes": folder / "classes.csv", "segmentations": masks}
    return BuildRequest(BuildConfig(**content), inputs, coco[1], folder / "out")


def test_open_images_masks_find_their_boxes(tmp_path: Path, coco: tuple[Path, Path]) -> None:
    request = open_images(tmp_path, coco, profile="source", all_boxes=True, object_masks=True)
    found = {}
    for key, members in members_of(request).items():
        sample = decode_sample(members)
        if sample.object_mask is not None:
            found[key] = sample.meta
            assert ((sample.object_mask >= 128) != (ellipse() >= 128)).mean() < 0.02
    assert sorted(meta.image_id for meta in found.values()) == ["1", "2", "3"]
    assert {meta.label for meta in found.values()} == {"Dog"}


def test_a_mask_that_is_not_there_is_told_and_the_sample_stays(
    tmp_path: Path, coco: tuple[Path, Path]
) -> None:
    request = open_images(tmp_path, coco, all_boxes=True, object_masks=True)
    (tmp_path / "masks" / "1" / "2_dog.png").unlink()
    (tmp_path / "masks" / "1" / "3_dog.png").write_bytes(b"no picture")
    stored = members_of(request)
    assert len(stored) == 8
    assert sum(OBJECT_MASK in members for members in stored.values()) == 1
    manifest = json.loads((request.out / "manifest.json").read_text())
    assert manifest["rejected"]["masks"] == {"object_mask_missing": 1, "object_mask_unreadable": 1}
    lines = [json.loads(line) for line in (request.out / "rejects.jsonl").read_text().splitlines()]
    assert [line["image_id"] for line in lines if line["reason"] == "object_mask_missing"] == ["2"]
    assert verify_folder(request.out, full=True) == []


def test_a_mask_goes_to_the_box_of_its_class_and_the_nearest_mask_wins(
    tmp_path: Path, coco: tuple[Path, Path]
) -> None:
    request = open_images(tmp_path, coco)
    notes = read_open_images(request.inputs["boxes"], request.inputs["classes"])
    table, png = next((tmp_path / "masks").glob("*.csv")), tmp_path / "masks" / "1" / "1_dog.png"
    for name in ("far", "near", "wheel"):
        png.with_name(f"{name}.png").write_bytes(png.read_bytes())
    header = table.read_text().splitlines()[0]
    rows = [
        "far.png,1,/m/cup,aa,0.0305,0.35,0.5,0.9,0.9,",
        "near.png,1,/m/cup,ab,0.0301,0.35,0.5,0.9,0.9,",
        "away.png,1,/m/cup,ac,0.0401,0.35,0.5,0.9,0.9,",
        "wheel.png,2,/m/dog,ad,0.03,0.35,0.5,0.9,0.9,",
        "strange.png,9,/m/dog,ae,0.03,0.35,0.5,0.9,0.9,",
        "class.png,1,/m/none,af,0.03,0.35,0.5,0.9,0.9,",
    ]
    table.write_text("\n".join([header, *rows]) + "\n")
    taken = read_open_images_masks(tmp_path / "masks", notes, request.inputs["classes"])
    found = taken(np.arange(len(notes))).to_pylist()
    assert [name for name in found if name] == ["1/near.png"]
    assert notes.image_ids[notes.picture[found.index("1/near.png")]] == "1"
    table.write_text("\n".join([header, rows[0].replace("0.0305", "x")]) + "\n")
    with pytest.raises(UserError, match="line 2: BoxXMin is 'x', not a number"):
        read_open_images_masks(tmp_path / "masks", notes, request.inputs["classes"])


def test_ones_own_boxes_may_have_masks(tmp_path: Path, coco: tuple[Path, Path]) -> None:
    (tmp_path / "masks").mkdir()
    Image.fromarray(ellipse()).save(tmp_path / "masks" / "[a].png")
    box = ",".join(map(str, ELLIPSE))
    csv = tmp_path / "own.csv"
    csv.write_text(f"path,x0,y0,x1,y1,mask\n1.jpg,{box},[a].png\n2.jpg,{box},\n3.jpg,{box},b.png\n")
    content = {"source": "boxes", "name": "toy", "profile": "source", "object_masks": True}
    inputs = {"boxes": csv, "segmentations": tmp_path / "masks"}
    request = BuildRequest(BuildConfig(**content), inputs, coco[1], tmp_path / "out")
    samples = [decode_sample(members) for members in members_of(request).values()]
    masks = {sample.meta.image_id: sample.object_mask for sample in samples}
    assert np.array_equal(masks["1.jpg"], ellipse())
    assert masks["2.jpg"] is None
    assert masks["3.jpg"] is None
    manifest = json.loads((request.out / "manifest.json").read_text())
    assert manifest["rejected"]["masks"] == {"object_mask_missing": 1}
    csv.write_text(csv.read_text().replace(",mask", ",other"))
    with pytest.raises(UserError, match="line 1: the column mask is missing"):
        members_of(request)


def test_missing_masks_are_told(tmp_path: Path, coco: tuple[Path, Path]) -> None:
    request = open_images(tmp_path, coco, object_masks=True)
    for path in (tmp_path / "masks" / "1").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"1_dog\.png and all other masks that its CSV names are missing"):
        members_of(request)
    next((tmp_path / "masks").glob("*.csv")).unlink()
    with pytest.raises(UserError, match="holds no CSV with the columns MaskPath, ImageID"):
        members_of(request)
    unused = replace(request, config=request.config.model_copy(update={"object_masks": False}))
    with pytest.raises(
        UsageError, match=r"--segmentations is for --object-masks or .*: give one, or leave it"
    ):
        members_of(unused)
    del request.inputs["segmentations"]
    with pytest.raises(UsageError, match="give --segmentations FOLDER"):
        members_of(request)


def test_a_mask_that_was_rewritten_in_place_is_noticed(tmp_path: Path, coco: tuple[Path, Path]) -> None:
    request = open_images(tmp_path, coco, object_masks=True)
    members_of(request)
    kept = go_on(request)["kept"]  # finished, and the inputs as they were
    mask = tmp_path / "masks" / "1" / "2_dog.png"
    state, content = mask.stat(), mask.read_bytes()
    Image.fromarray(255 - ellipse()).save(mask)
    for _ in range(2):
        with pytest.raises(
            UsageError, match=r"the files in --segmentations .*masks are not those that .*out was"
        ):
            go_on(request)
        (request.out / "manifest.json").unlink(missing_ok=True)  # finished or not
    mask.write_bytes(content)
    os.utime(mask, ns=(state.st_atime_ns, state.st_mtime_ns))  # all that is looked at is back
    assert go_on(request)["kept"] == kept
    (tmp_path / "masks" / "notes.txt").touch()  # is not a mask
    assert go_on(request)["kept"] == kept


def test_a_folder_that_was_planned_before_mask_files_were_recorded_goes_on(
    tmp_path: Path, coco: tuple[Path, Path]
) -> None:
    request = open_images(tmp_path, coco, object_masks=True)
    with pytest.MonkeyPatch.context() as earlier:
        earlier.setattr(input_files, "_describe_folder", lambda folder, endings: None)
        members_of(request)
    header = read_plan_header(request.out / PLAN_FILE)
    del header["inputs"]["segmentations"]["files"], header["unit"]
    write_plan(request.out / PLAN_FILE, new_plan(request), header)
    assert {record.unit for record in read_plan_rows(request.out / PLAN_FILE, 0)} == {"fractions"}
    assert verify_folder(request.out, full=True) == []
    assert go_on(request)["kept"]["masks"] > 0


def test_a_background_that_a_loader_could_not_remove_again_is_refused() -> None:
    content = {"source": "coco", "name": "x", "profile": "source", "exemplar_background": "grey"}
    with pytest.raises(UsageError, match="needs --all-boxes and --object-masks"):
        build_config(BuildConfig, content, "build options")


def test_the_record_tells_the_background() -> None:
    meta = SampleMeta("k", "coco", "1", "1.jpg", (9, 9), 1, "", (), *(Box(0, 0, 9, 9), "x"), Box(0, 0, 9, 9),
                      Box(0, 0, 9, 9), False, "box", (), {}, 0, 0, exemplar_background="grey")  # fmt: skip
    assert SampleMeta.from_json(meta.to_json()) == meta
