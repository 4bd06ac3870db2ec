"""COCOEE rebuilt from COCO: ids found, squares that hold their boxes, and files that are left as they are."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.benches.cocoee import COCOEE_SIZE, bench_files, place_square, read_ids
from evaluation.benches.cocoee_sources import find_annotations
from evaluation.cli import main
from intarsia.boxes import Box
from intarsia.errors import UserError
from tests.paths import COCO_MINI, SHARED_DATA

ANNOTATIONS = COCO_MINI / "annotations.json"
REAL = SHARED_DATA / "coco" / "cocoee_sources.json"
IDS = SHARED_DATA / "examples" / "cocoee" / "id_list.npy"


def ids_file(folder: Path, *more: int) -> Path:
    """The first four annotations of the bundled pictures, and others."""
    ids = [record["id"] for record in json.loads(ANNOTATIONS.read_text())["annotations"][:4]]
    np.save(folder / "ids.npy", np.array([*ids, *more]))
    return folder / "ids.npy"


def rebuild(ids: Path, out: Path, *more: str) -> int:
    return main(
        ["cocoee-sources", "--annotations", str(ANNOTATIONS), "--ids", str(ids), "--out", str(out), *more]
    )


def test_pictures_masks_and_list_are_in_the_bench_s_layout(tmp_path, capsys) -> None:
    ids, out = ids_file(tmp_path, 999_999_999_998), tmp_path / "bench"
    assert rebuild(ids, out, "--images", str(COCO_MINI / "images")) == 0
    assert "4 of 5 cases; 1 id not in" in capsys.readouterr().out
    assert read_ids(out / "id_list.npy") == read_ids(ids)[:4]
    with (out / "sources.csv").open() as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    records = {str(r["id"]): r for r in json.loads(ANNOTATIONS.read_text())["annotations"]}
    for key, files in bench_files(out).items():
        row = rows[str(int(key))]
        mask = np.asarray(Image.open(files["mask"])) > 0
        columns, lines = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        drawn = [columns[0], lines[0], columns[-1] + 1, lines[-1] + 1]
        assert drawn == [int(row[f"edit_box_{corner}"]) for corner in ("x0", "y0", "x1", "y1")]
        assert mask.sum() == (drawn[2] - drawn[0]) * (drawn[3] - drawn[1])
        assert Image.open(files["image"]).size == mask.shape == (COCOEE_SIZE, COCOEE_SIZE)
        x, y, width, height = records[str(int(key))]["bbox"]
        annotated = [float(row[f"box_{corner}"]) for corner in ("x0", "y0", "x1", "y1")]
        assert annotated == pytest.approx([x, y, x + width, y + height])
        assert not files["exemplar"].exists()


def test_the_same_command_again_does_what_is_missing(tmp_path) -> None:
    ids, out = ids_file(tmp_path), tmp_path / "bench"
    assert rebuild(ids, out) == 0  # lists only
    assert not (out / "GT_3500").exists()
    assert rebuild(ids, out, "--images", str(COCO_MINI / "images")) == 0
    [first, *others] = sorted((out / "GT_3500").iterdir())
    content = first.read_bytes()
    first.unlink()
    others[0].write_bytes(b"the user's own")
    assert rebuild(ids, out, "--images", str(COCO_MINI / "images")) == 0
    assert first.read_bytes() == content
    assert others[0].read_bytes() == b"the user's own"


@pytest.mark.parametrize("path", [REAL] if REAL.is_file() else [])
def test_the_real_list_finds_the_annotations_that_are_known_to_be_in_it(path: Path) -> None:
    found, lost = find_annotations(path.with_name("instances.json"), read_ids(IDS))
    wanted = {item["annotation_id"]: item for item in json.loads(path.read_text())["items"]}
    assert {case.number for case in found} == set(wanted)
    assert len(found) + len(lost) == 3500
    for case in found:
        x, y, width, height = wanted[case.number]["bbox"]
        assert case.bounds == pytest.approx((x, y, x + width, y + height))
        assert (case.file, case.label) == (wanted[case.number]["file_name"], wanted[case.number]["category"])


def test_the_square_holds_the_box_as_near_to_its_middle_as_can_be() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        width, height = (int(length) for length in rng.integers(40, 700, 2))
        x0, y0 = int(rng.integers(0, width - 1)), int(rng.integers(0, height - 1))
        box = Box(x0, y0, int(rng.integers(x0 + 1, width + 1)), int(rng.integers(y0 + 1, height + 1)))
        source = place_square(box, (width, height))
        window, side = source.window, min(width, height)
        assert window.contains(box)
        assert Box(0, 0, COCOEE_SIZE, COCOEE_SIZE).contains(source.box)
        if max(box.width, box.height) > side:
            assert window == Box(0, 0, width, height)
            continue
        assert window.width == window.height == side
        inside = window.x0 > 0 and window.x1 < width and window.y0 > 0 and window.y1 < height
        if inside:
            assert abs((box.x0 + box.x1) - (window.x0 + window.x1)) <= 1
        scaled = source.box.width * window.width / COCOEE_SIZE
        assert box.width <= scaled <= box.width + 2 * window.width / COCOEE_SIZE + 1e-9


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([[1, 2]]), r"holds int64 of shape \[1, 2\]; give a list of ids"),
        (np.array([1.5]), "holds float64"),
        (np.array([1, 1]), "names 1 id twice"),
        (np.array([{}], dtype=object), "is not an npy of plain numbers"),
    ],
)
def test_a_list_that_is_none_is_told(tmp_path, content, message) -> None:
    np.save(tmp_path / "ids.npy", content)
    with pytest.raises(UserError, match=message):
        read_ids(tmp_path / "ids.npy")


def test_what_is_not_there_is_named(tmp_path, capsys) -> None:
    np.save(tmp_path / "none.npy", np.array([999_999_999_998]))
    assert rebuild(tmp_path / "none.npy", tmp_path / "out") == 1
    assert "has none of the 1 annotations; give COCO's instances_val2017.json" in capsys.readouterr().err
    assert rebuild(tmp_path / "gone.npy", tmp_path / "out") == 1
    assert "gone.npy does not exist; it is test_bench/id_list.npy of https" in capsys.readouterr().err
    assert rebuild(ids_file(tmp_path), tmp_path / "out", "--images", str(tmp_path)) == 1
    missing = capsys.readouterr().err
    assert "does not exist" in missing
    name = re.search(r"([0-9]+\.jpg) does not", missing)[1]
    Image.new("RGB", (9, 7)).save(tmp_path / name)
    assert rebuild(ids_file(tmp_path), tmp_path / "out", "--images", str(tmp_path)) == 1
    assert f"{name} is 9 x 7 pixels, its annotation says " in capsys.readouterr().err
