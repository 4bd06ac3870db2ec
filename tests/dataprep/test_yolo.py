"""YOLO labels: what each line and file means, what is built of them, and what is wrong with a bad one."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataprep.build import build
from dataprep.check.verify import verify_folder
from dataprep.cli import main
from dataprep.estimate import estimate_build, expected_rejects
from dataprep.plan.inputs import BuildRequest, new_plan
from dataprep.plan.plan import BuildConfig
from dataprep.sources.coco import read_coco
from dataprep.sources.yolo import YoloNames, read_yolo, read_yolo_names
from intarsia.errors import UsageError, UserError
from tests.dataprep.test_build import hashes
from tests.dataprep.test_shards import build_alone
from tests.dataprep.toy import toy_picture
from tests.paths import COCO_MINI

CAR = "0 0.5 0.5 0.4 0.6"
SHARE = st.floats(0, 1)


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, newline="")
    return path


def bounds_of(folder: Path, text: str, names: YoloNames | None = None) -> list[list[float]]:
    write(folder / "labels", "a.txt", text)
    return read_yolo(folder / "labels", names or YoloNames()).bounds.round(6).tolist()


@settings(deadline=None, max_examples=40)
@given(boxes=st.lists(st.tuples(st.integers(0, 4), SHARE, SHARE, SHARE, SHARE), min_size=1, max_size=9))
def test_boxes_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, boxes: list[tuple[int, float, float, float, float]]
) -> None:
    folder = tmp_path_factory.mktemp("yolo")
    write(folder, "a.txt", "\n".join(" ".join(map(repr, box)) for box in boxes))
    notes = read_yolo(folder, YoloNames(list("abcde")))
    corners = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for _, x, y, w, h in boxes]
    assert np.allclose(notes.bounds, corners, rtol=0, atol=1e-12)
    assert [notes.labels[code] for code in notes.label] == ["abcde"[code] for code, *_ in boxes]
    assert notes.unit == "fractions"


def test_labels_say_what_coco_says(tmp_path: Path) -> None:
    notes = read_coco(COCO_MINI / "annotations.json")
    for picture, name in enumerate(notes.files):
        width, height = notes.sizes[picture]
        lines = []
        for row in np.flatnonzero(notes.picture == picture):
            x0, y0, x1, y1 = notes.bounds[row] / (width, height, width, height)
            lines.append(f"{notes.label[row]} {(x0 + x1) / 2} {(y0 + y1) / 2} {x1 - x0} {y1 - y0}")
        write(tmp_path, Path(name).with_suffix(".txt").name, "\r\n".join(lines) + "\r\n")
    ours = read_yolo(tmp_path, YoloNames(notes.labels))
    order = np.argsort([notes.files[p] for p in notes.picture], kind="stable")
    sizes = np.tile(notes.sizes[notes.picture], 2)
    assert np.allclose(ours.bounds, (notes.bounds / sizes)[order], rtol=0, atol=1e-9)
    assert np.array_equal(ours.label, notes.label[order])
    assert [ours.image_ids[p] for p in ours.picture] == [
        Path(notes.files[notes.picture[r]]).stem for r in order
    ]
    assert len(set(ours.box_ids.tolist())) == len(ours)


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        (CAR, [[0.3, 0.2, 0.7, 0.8]]),
        (f"{CAR} 0.87", [[0.3, 0.2, 0.7, 0.8]]),  # a confidence
        (f"{CAR} 1204", [[0.3, 0.2, 0.7, 0.8]]),  # the number of a track
        ("3 0.1 0.2 0.5 0.1 0.3 0.9", [[0.1, 0.1, 0.5, 0.9]]),  # a triangle
        ("3 0.1 0.2 0.5 0.1 0.5 0.9 0.2 0.7", [[0.1, 0.1, 0.5, 0.9]]),  # four corners
        ("1.0\t0.5 0.5  1e-1 .2", [[0.45, 0.4, 0.55, 0.6]]),
        ("\ufeff0 0.05 0.5 0.2 0.2\r\n\r\n  \r\n", [[-0.05, 0.4, 0.15, 0.6]]),  # a little outside
        ("", []),
        ("\n\n", []),
    ],
)
def test_what_tools_write(tmp_path: Path, text: str, bounds: list[list[float]]) -> None:
    assert bounds_of(tmp_path, text) == bounds


def test_of_poses_the_box_counts(tmp_path: Path) -> None:
    pose = f"{CAR} {' '.join(['0.1 0.2 2'] * 17)}"
    data = write(tmp_path, "data.yaml", "names: [person]\nkpt_shape: [17, 3]\n")
    names = read_yolo_names({"labels": tmp_path, "data": data})
    assert bounds_of(tmp_path, pose, names) == [[0.3, 0.2, 0.7, 0.8]]
    with pytest.raises(
        UserError, match=r"a\.txt, line 1: it holds 56 numbers, but a line is `class cx cy w h`"
    ):
        bounds_of(tmp_path, pose)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "0 0.5 0.5 0.4",
            "line 1: it holds 4 numbers, but a line is `class cx cy w h`, or a class and the x",
        ),
        (f"{CAR}\n\n0 0.5 0.5 0.4 0.2 0.9 0.1 0.3", "line 3: it holds 8 numbers"),
        (f"{CAR}\n0 0.5 half 0.4 0.6", "line 2: 'half' is not a number; a line is"),
        ("0,0.5,0.5,0.4,0.6", "line 1: '0,0.5,0.5,0.4,0.6' is not a number"),
        ("0 320 240 100 50", "line 1: 320 is not a fraction of the picture; divide pixels by its size"),
        ("0 0.5 -0.7 0.4 0.6", "line 1: -0.7 is not a fraction"),
        ("0.5 0.5 0.5 0.4 0.6", "line 1: the class '0.5' is not a whole number from 0 on"),
        ("-1 0.5 0.5 0.4 0.6", "line 1: the class '-1' is not a whole number from 0 on"),
        ("1e300 0.5 0.5 0.4 0.6", "line 1: the class '1e300' is not a whole number from 0 on"),
        ("2 0.5 0.5 0.4 0.6", "line 1: the class 2 has no name; the names are those of 0 to 1"),
        ("version https://git-lfs.github.com/spec/v1\n", r"a\.txt is a git-LFS pointer"),
    ],
)
def test_a_bad_line_is_reported_with_file_line_and_value(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"a\.txt.*{message}" if "line" in message else message):
        bounds_of(tmp_path, text, YoloNames(["car", "dog"]))


def test_a_number_that_is_not_finite_is_a_bad_box_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "labels", "a.txt", f"{CAR}\n0 nan 0.5 0.4 0.6\n0 0.5 inf 0.4 0.6\n")
    toy_picture(160, 120, 1).save(write(tmp_path / "images", "a.jpg", ""))
    plan = new_plan(request_of(tmp_path))
    assert plan.counts()["rejected"]["boxes"] == {"bad_box": 2}


def request_of(folder: Path, **options: object) -> BuildRequest:
    content = {"source": "yolo", "name": "toy", "image_size": 64, "images_per_shard": 2} | options
    inputs = {"labels": folder / "labels"}
    return BuildRequest(
        BuildConfig(**content), inputs, folder / "images", folder / "out", command="a command"
    )


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        ("classes.names", "car\ndog \n\n", ["car", "dog"]),
        ("data.yaml", "path: /gone\ntrain: x\nnames: [car, no]\n", ["car", "no"]),
        ("data.yaml", "names:\n  0: car\n  1: traffic light\n", ["car", "traffic light"]),
        ("data.yml", "nc: 2\nnames: {1: dog, 0: car}\n", ["car", "dog"]),
    ],
)
def test_names_of_classes(tmp_path: Path, name: str, text: str, names: list[str]) -> None:
    role = "data" if name.startswith("data") else "names"
    assert read_yolo_names({"labels": tmp_path, role: write(tmp_path, name, text)}).names == names


@pytest.mark.parametrize(
    ("role", "name", "text", "message"),
    [
        ("names", "a.txt", "car\n\ndog\n", r"a\.txt, line 2: it is blank; each line names one class"),
        ("names", "a.yaml", "names: [car]", r"a\.yaml is YAML; give it as --data"),
        ("data", "a.yaml", "train: x", r"a\.yaml: `names` must be a list of class names"),
        ("data", "a.yaml", "names: {0: car, 2: dog}", "or give one for each number from 0 on"),
        ("data", "a.yaml", "names: [[car]]", "`names` must be a list"),
        ("data", "a.yaml", "names: [car\nb: c", r"a\.yaml is not valid YAML: .*line 2"),
        ("data", "a.yaml", "just text", "`names` must be a list"),
        ("data", "a.yaml", "names: [car]\nkpt_shape: many", "`kpt_shape` must be two whole numbers"),
        ("names", "none.txt", None, r"none\.txt does not exist or is not a file"),
    ],
)
def test_bad_names_are_reported(tmp_path: Path, role: str, name: str, text: str | None, message: str) -> None:
    path = tmp_path / name if text is None else write(tmp_path, name, text)
    with pytest.raises(UserError, match=message):
        read_yolo_names({"labels": tmp_path, role: path})


def test_two_files_of_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--names and --data both name the classes; give one of them"):
        read_yolo_names({"labels": tmp_path, "names": tmp_path / "a", "data": tmp_path / "b"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels beside all that lies among them, and pictures, some of them without labels."""
    root = tmp_path_factory.mktemp("own")
    for split in ("train", "val"):
        for number in range(3):  # the same names in both
            toy_picture(160, 120, number).save(write(root / "images" / split, f"{number}.jpg", ""))
            dog = "1 0.2 0.2 0.3 0.35" if split == "val" else "1 0.05 0.05 0.01 0.01"
            write(root / "labels" / split, f"{number}.txt", f"{CAR}\n{dog}\n")
    toy_picture(160, 120, 7).save(root / "images" / "train" / "empty.png")
    write(root / "labels" / "train", "empty.txt", "")
    toy_picture(160, 120, 8).save(root / "images" / "background.jpg")
    write(root / "labels" / "train", "gone.txt", f"{CAR}\n")
    write(root / "labels", "classes.txt", "car\ndog\n")
    write(root / "labels", "train.cache", "x")
    write(root / "labels" / "val", "._0.txt", "\0\5")
    return root


EXPECTED = {
    "in": {"pictures": 9, "boxes": 13, "files": 10},
    "rejected": {
        "pictures": {"file_missing": 1, "no_box": 1, "not_annotated": 1},
        "boxes": {"area_too_small": 3, "file_missing": 1},
        "files": {"other_file": 2},
    },
}


def test_nothing_of_a_folder_vanishes(folder: Path, tmp_path: Path) -> None:
    request = BuildRequest(**{**vars(request_of(folder)), "out": tmp_path / "out"})
    plan = new_plan(request)
    assert plan.counts() == EXPECTED
    found = estimate_build(plan)
    assert (found.pictures, found.boxes, found.samples) == (6, 9, 6)
    manifest = build_alone(request)
    assert manifest["kept"] == {"pictures": 6, "boxes": 9, "samples": 6, "files": 8}
    assert manifest["in"] == EXPECTED["in"] | {"draws": 6}
    assert {what: manifest["rejected"][what] for what in EXPECTED["rejected"]} == EXPECTED["rejected"]
    assert expected_rejects(plan, found) == EXPECTED["rejected"]
    assert set(manifest["labels"]) <= {"car", "dog"}
    assert verify_folder(request.out, full=True) == []
    lines = [json.loads(line) for line in (request.out / "rejects.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines if line["what"] == "file"] == ["train.cache", "val/._0.txt"]
    assert [line["image_id"] for line in lines if line["reason"] == "not_annotated"] == ["background.jpg"]
    assert [line["image_id"] for line in lines if line["reason"] == "file_missing"] == ["train/gone"]
    broken = json.loads((request.out / "manifest.json").read_text())
    broken["kept"]["files"] += 1
    (request.out / "manifest.json").write_text(json.dumps(broken))
    assert any("10 files in, but 9 kept and 2 rejected" in problem for problem in verify_folder(request.out))


@pytest.mark.processes
def test_a_dry_run_says_what_the_build_gives(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--labels", str(folder / "labels"), "--images", str(folder / "images")]
    command = ["build", "yolo", *files, "--out", str(tmp_path / "out"), "--image-size", "64"]
    assert main([*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "6 samples at most, from 6 of 9 pictures and 9 of 13 boxes" in said
    assert main([*command, "--workers", "1"]) == 0
    built = capsys.readouterr().out
    assert "6 samples from 6 of 9 pictures and 9 of 13 boxes" in built
    for line in ("pictures  not_annotated", "files     other_file"):
        assert line in said
        assert line in built
    assert main(["verify", str(tmp_path / "out")]) == 0


@pytest.mark.usefixtures("ray_with_two_workers")
def test_two_workers_and_a_second_run_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    alone, together = (
        BuildRequest(**{**vars(request_of(folder)), "out": tmp_path / name}) for name in ("alone", "together")
    )
    build_alone(alone)
    build(together)
    assert hashes(together.out) == hashes(alone.out)
    (together.out / "toy-train-000001.json").unlink()
    build(together)
    assert hashes(together.out) == hashes(alone.out)


def test_a_changed_label_is_noticed(tmp_path: Path) -> None:
    toy_picture(160, 120, 1).save(write(tmp_path / "images", "a.jpg", ""))
    label = write(tmp_path / "labels" / "deep", "a.txt", CAR)
    request = request_of(tmp_path)
    build_alone(request)
    os.utime(label)  # another time, the same boxes
    assert build(request)["kept"]["samples"] == 1
    label.write_text(f"{CAR}\n1 0.3 0.3 0.4 0.4\n")
    with pytest.raises(
        UsageError, match=r"planned from other inputs \(.*boxes: 1 -> 2.*; changed: --labels\)"
    ):
        build(request)


def test_labels_that_are_not_there_are_reported(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    with pytest.raises(UserError, match=r"--labels .*labels holds no label file \(\*\.txt\)"):
        read_yolo(tmp_path / "labels", YoloNames())
    with pytest.raises(
        UserError, match=r"--labels .*none is not a folder; give the folder of the label files"
    ):
        read_yolo(tmp_path / "none", YoloNames())


def test_classes_without_names_are_called_by_their_numbers(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", f"{CAR}\n7 0.5 0.5 0.1 0.1\n")
    notes = read_yolo(tmp_path, read_yolo_names({"labels": tmp_path}))
    assert [notes.labels[code] for code in notes.label] == ["0", "7"]
