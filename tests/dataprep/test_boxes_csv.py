"""One's own boxes: what the CSV says, what is built of it, and what is wrong with a bad one."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataprep.check.verify import verify_folder
from dataprep.cli import main
from dataprep.formats.boxes_csv import UNLABELLED, read_boxes_csv
from dataprep.plan.inputs import BuildRequest
from dataprep.plan.plan import BuildConfig
from dataprep.shards.build_shard import tar_samples
from intarsia.errors import UserError
from intarsia.sample import decode_sample
from tests.dataprep.test_shards import build_alone
from tests.dataprep.toy import toy_picture

BOX = st.tuples(*[st.floats(-1e6, 1e6, allow_nan=False)] * 4)


def write(folder: Path, text: str) -> Path:
    (folder / "own.csv").write_text(text)
    return folder / "own.csv"


@settings(deadline=None, max_examples=40)
@given(
    rows=st.lists(st.tuples(st.sampled_from(["a.jpg", "b/c d.png", "é.webp"]), BOX), min_size=1, max_size=12)
)
def test_a_csv_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, tuple[float, ...]]]
) -> None:
    lines = [f"{path},{','.join(map(repr, box))}" for path, box in rows]
    notes = read_boxes_csv(write(tmp_path_factory.mktemp("csv"), "\n".join(["path,x0,y0,x1,y1", *lines])))
    assert [notes.image_ids[p] for p in notes.picture] == [path for path, _ in rows]
    assert notes.bounds.tolist() == [list(box) for _, box in rows]
    assert notes.box_ids.tolist() == list(range(2, 2 + len(rows)))
    assert notes.files == notes.image_ids
    assert notes.unit == "pixels"


def test_columns_stand_in_any_order_and_labels_may_be_missing(tmp_path: Path) -> None:
    text = 'label,x1,y1,note,path,x0,y0\n"cat, grey",30,40,x,a.jpg,10,20\n\n,5,6,,a.jpg,1,2\n'
    notes = read_boxes_csv(write(tmp_path, text))
    assert notes.bounds.tolist() == [[10, 20, 30, 40], [1, 2, 5, 6]]
    assert [notes.labels[code] for code in notes.label] == ["cat, grey", UNLABELLED]
    assert notes.box_ids.tolist() == [2, 4]  # lines of the file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"own\.csv, line 1: the column path is missing; the line names nothing"),
        ("path,x0,y0,x1\na,1,2,3\n", r"own\.csv, line 1: the column y1 is missing"),
        ("path,x0,y0,x1,y1\na,1,2,3,4\na,1,2,three,4\n", r"line 3: x1 is 'three', not a number"),
        ("path,x0,y0,x1,y1\na,1,2,3,4\na,1,2", r"line 3: 3 columns, the first line has 5; is the file whole"),
        ("path,x0,y0,x1,y1\na,1,2,,4\n", r"line 2: x1 is empty; a box needs x0, y0, x1, y1"),
        (
            "path,x0,y0,x1,y1\na,1,2,3,4\n,1,2,3,4\n",
            r"line 3: the path is empty; give the picture this box belongs to",
        ),
        ("path,x0,y0,x1,y1,path\na,1,2,3,4,b\n", r"line 1: the column path appears twice; rename one"),
        ("path,x0,y0,x1,y1", r"own\.csv has no line after its first"),
        ("version https://git-lfs.github.com/spec/v1\n", "is a git-LFS pointer"),
    ],
)
def test_a_bad_file_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_boxes_csv(write(tmp_path, text))


def test_a_file_in_another_encoding_is_told_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "path,x0,y0,x1,y1,label\na,1,2,3,4,cup\n")
    path.write_bytes(path.read_bytes() + "a,1,2,3,4,café\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"line 3: it is not UTF-8; save the file in that encoding"):
        read_boxes_csv(path)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two pictures and boxes: three good, one small, one of the whole, one missing file."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "pictures" / "deep").mkdir(parents=True)
    toy_picture(160, 120, 1).save(folder / "pictures" / "a.jpg")
    toy_picture(120, 160, 2).save(folder / "pictures" / "deep" / "b.png")
    rows = ["a.jpg,10,20,70,80,car", "a.jpg,0,0,160,120,car", "deep/b.png,5,5,60.5,90,dog"]
    rows += ["a.jpg,5,5,18,19,car", "deep/b.png,40,40,100,100,", "none.jpg,0,0,50,50,cat"]
    write(folder, "path,x0,y0,x1,y1,label\n" + "\n".join(rows) + "\n")
    return folder


def test_a_build_of_own_boxes(own: Path, tmp_path: Path) -> None:
    config = BuildConfig(source="boxes", name="own", filters="pbe", image_size=64)
    request = BuildRequest(config, {"boxes": own / "own.csv"}, own / "pictures", tmp_path / "out")
    manifest = build_alone(request)
    assert verify_folder(request.out) == []
    assert manifest["in"] == {"pictures": 3, "boxes": 6, "draws": 2}
    assert manifest["kept"] == {"pictures": 2, "boxes": 3, "samples": 2}
    # sizes are seen when a picture is read: until then the area is not known
    assert manifest["rejected"]["boxes"] == {"area_too_large": 1, "area_too_small": 1, "file_missing": 1}
    assert manifest["rejected"]["pictures"] == {"file_missing": 1}
    samples = {
        sample.meta.file: sample.meta
        for key, members in tar_samples(request.out / "own-train-000000.tar", range(2))
        for sample in [decode_sample(members, key)]
    }
    assert samples["a.jpg"].box.as_list() == [10, 20, 70, 80]
    assert {item.label for item in samples["deep/b.png"].boxes} == {"dog", UNLABELLED}


def test_a_dry_run_of_own_boxes(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--boxes", str(own / "own.csv"), "--images", str(own / "pictures")]
    command = ["build", "boxes", *files, "--out", str(tmp_path / "out"), "--image-size", "64", "--dry-run"]
    assert main(command) == 0
    assert "from 2 of 3 pictures" in capsys.readouterr().out


def test_a_coco_file_without_sizes_loses_no_box_to_them(own: Path, tmp_path: Path) -> None:
    boxes = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 60, 60], "iscrowd": 0}]
    images, categories = [{"id": 1, "file_name": "a.jpg"}], [{"id": 1, "name": "car"}]
    content = {"images": images, "annotations": boxes, "categories": categories}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    config = BuildConfig(source="coco", name="own", image_size=64)
    files = {"annotations": tmp_path / "instances.json"}
    manifest = build_alone(BuildRequest(config, files, own / "pictures", tmp_path / "out"))
    assert manifest["kept"]["samples"] == 1
    assert np.isclose(sum(manifest["histograms"]["box_area"]), 1)
