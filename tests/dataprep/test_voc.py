"""Pascal VOC's XML: what files of several tools mean, what is built of them, what is wrong with a bad one."""

import json
import shutil
import tarfile
from dataclasses import replace
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
from dataprep.records import Annotations
from dataprep.shards.build_shard import tar_samples
from dataprep.sources.coco import read_coco
from dataprep.sources.voc import read_voc
from intarsia.errors import UsageError, UserError
from intarsia.sample import decode_sample
from tests.dataprep.test_build import hashes
from tests.dataprep.test_shards import build_alone
from tests.dataprep.toy import toy_picture
from tests.paths import COCO_MINI

SIZE = "<size><width>160</width><height>120</height><depth>3</depth></size>"


def item(name: str, corners: tuple[float, ...], more: str = "") -> str:
    x0, y0, x1, y1 = corners
    box = f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def xml(*items: str, name: str = "a.jpg", size: str = SIZE) -> str:
    return f"<annotation><folder>f</folder><filename>{name}</filename>{size}{''.join(items)}</annotation>"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


def read(folder: Path, text: str) -> Annotations:
    write(folder / "annotations", "a.xml", text)
    return read_voc(folder / "annotations")


@settings(deadline=None, max_examples=40)
@given(
    boxes=st.lists(
        st.tuples(st.sampled_from(["cat & dog", "é", "<b>"]), st.tuples(*[st.floats(-1e6, 1e6)] * 4)),
        min_size=1,
        max_size=9,
    )
)
def test_boxes_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, boxes: list[tuple[str, tuple[float, ...]]]
) -> None:
    from xml.sax.saxutils import escape

    notes = read(tmp_path_factory.mktemp("voc"), xml(*(item(escape(name), box) for name, box in boxes)))
    assert [notes.labels[code] for code in notes.label] == [name for name, _ in boxes]
    assert notes.bounds.tolist() == [[x0 - 1, y0 - 1, x1, y1] for _, (x0, y0, x1, y1) in boxes]
    assert notes.sizes.tolist() == [[160, 120]]
    assert notes.unit == "pixels"


def test_files_say_what_coco_says(tmp_path: Path) -> None:
    """Corners that count from 1 and lie inside the box are those of a half-open box that counts from 0."""
    notes = read_coco(COCO_MINI / "annotations.json")
    corners = np.round(notes.bounds)
    for picture, name in enumerate(notes.files):
        width, height = notes.sizes[picture]
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        items = [
            item(notes.labels[notes.label[row]], tuple((corners[row] + (1, 1, 0, 0)).astype(int).tolist()))
            for row in np.flatnonzero(notes.picture == picture)
        ]
        write(tmp_path, Path(name).with_suffix(".xml").name, xml(*items, name=name, size=size))
    ours = read_voc(tmp_path)
    order = np.argsort([notes.files[p] for p in notes.picture], kind="stable")
    assert np.array_equal(ours.bounds, corners[order])
    assert [ours.labels[c] for c in ours.label] == [notes.labels[c] for c in notes.label[order]]
    assert len(set(ours.box_ids.tolist())) == len(ours)


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("<truncated>1</truncated><occluded>0</occluded><difficult>1</difficult>", (1, 0, 1)),
        ("<truncated>Unspecified</truncated><difficult>0</difficult>", (-1, -1, 0)),
        ("<truncated> True </truncated><occluded>no</occluded><difficult/>", (1, 0, -1)),
    ],
)
def test_flags(tmp_path: Path, text: str, flags: tuple[int, int, int]) -> None:
    notes = read(tmp_path, xml(item("cat", (1, 1, 50, 50), text)))
    assert {name: values.tolist() for name, values in notes.flags.items()} == {
        name: [flag]
        for name, flag in zip(("is_truncated", "is_occluded", "is_difficult"), flags, strict=True)
    }


def test_parts_of_an_object_are_not_objects(tmp_path: Path) -> None:
    part = item("head", (1, 1, 9, 9)).replace("object>", "part>")
    text = xml(item("person", (11, 11, 60, 60), part), item("dog", (21, 21, 70, 70)))
    notes = read(tmp_path, text)
    assert [notes.labels[code] for code in notes.label] == ["person", "dog"]
    assert notes.bounds[0].tolist() == [10, 10, 60, 60]


@pytest.mark.parametrize(
    "text",
    [
        '<?xml version="1.0" encoding="utf-8"?>\r\n'
        + xml(item("café", (1, 1, 5, 5))).replace("><", ">\r\n\t<"),
        "\ufeff" + xml(item("café", (1.0, 1.0, 5.0, 5.0))),
        xml(item("café", (1, 1, 5, 5)), size=""),
        xml(item("café", (1, 1, 5, 5)), size="<size><width>0</width><height>0</height></size>"),
    ],
)
def test_what_tools_write(tmp_path: Path, text: str) -> None:
    notes = read(tmp_path, text)
    assert notes.bounds.tolist() == [[0, 0, 5, 5]]
    assert notes.labels == ["café"]


def test_another_encoding_that_the_file_names(tmp_path: Path) -> None:
    text = '<?xml version="1.0" encoding="iso-8859-1"?>' + xml(item("café", (1, 1, 5, 5)))
    (tmp_path / "a.xml").write_bytes(text.encode("latin-1"))
    assert read_voc(tmp_path).labels == ["café"]


LAUGHS = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;">]>\n<annotation>&c;</annotation>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>\n<object>", r"a\.xml, line 2: not valid XML \(no element found\); is the file whole"),
        ("", r"a\.xml, line 1: not valid XML \(no element found\)"),
        ("<annotation>&b;</annotation>", r"line 1: not valid XML \(undefined entity\)"),
        ('<?xml version="1.0" encoding="none"?><annotation/>', r"line 1: not valid XML \(unknown encoding"),
        (LAUGHS, "line 1: it has a DOCTYPE, which could define entities without end; remove that line"),
        ("<html/>", r"a\.xml is not an annotation of Pascal VOC: it begins with <html>"),
        (xml("\n<object><bndbox/></object>"), "line 2: <object> has no <name>"),
        (xml("\n<object><name>cat</name></object>"), "line 2: <object> has no <bndbox>"),
        (xml("\n\n" + item("cat", (1, 1, 9, 9)).replace("ymin", "top")), "line 3: <bndbox> has no <ymin>"),
        (
            xml(item("cat", (1, 1, 9, 9)).replace("<xmax>9", "\n<xmax>9 px")),
            "line 2: xmax is '9 px', not a num",
        ),
        (xml(size="<size>\n<width/></size>"), "line 2: width is '', not a number"),
        ("version https://git-lfs.github.com/spec/v1\n", r"a\.xml is a git-LFS pointer"),
    ],
)
def test_a_bad_file_is_reported_with_line_and_value(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)


def test_folders_that_cannot_be_meant_are_reported(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--annotations .*none is not a folder; give the folder of the label"
    ):
        read_voc(tmp_path / "none")
    with pytest.raises(UserError, match=r"--annotations .* holds no label file \(\*\.xml\)"):
        read_voc(tmp_path)
    for name in ("a.xml", "a.XML"):
        write(tmp_path, name, xml())
    with pytest.raises(UserError, match=r"a\.XML and a\.xml are about one picture; remove one of them"):
        read_voc(tmp_path)


def request_of(folder: Path, out: Path, **options: object) -> BuildRequest:
    content = {"source": "voc", "name": "toy", "image_size": 64, "images_per_shard": 2} | options
    inputs = {"annotations": folder / "annotations"}
    return BuildRequest(BuildConfig(**content), inputs, folder / "images", out, command="a command")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Annotations whose file names are right, lack their end, have another, or are another picture's."""
    root = tmp_path_factory.mktemp("voc")
    cat, dog = item("cat", (11, 21, 90, 100)), item("dog", (1, 1, 100, 110), "<difficult>1</difficult>")
    for number, (file, name, image) in enumerate(
        [
            ("train/1", "1.jpg", "train/1.jpg"),
            ("val/1", "1.jpg", "val/1.jpg"),  # the same name in another folder
            ("2", "2", "2.png"),
            ("moved", r"C:\data\IMG 3.jpeg", "deep/IMG 3.jpg"),  # by its file name, with another extension
            ("copied", "2.png", "copied.jpg"),  # by its own name, although there is a 2.png
        ]
    ):
        toy_picture(160, 120, number).save(write(root / "images", image, ""))
        write(root / "annotations", f"{file}.xml", xml(cat, dog, name=name))
    toy_picture(160, 120, 9).save(root / "images" / "background.jpg")
    toy_picture(80, 60, 10).save(root / "images" / "small.jpg")
    write(root / "annotations", "small.xml", xml(cat, name="small.jpg"))
    write(root / "annotations", "gone.xml", xml(cat, name="1.jpg"))  # of another file, which has its own
    write(root / "annotations", "boxless.xml", xml(name="boxless.jpg"))
    toy_picture(160, 120, 11).save(root / "images" / "boxless.jpg")
    write(root / "annotations", "list.csv", "x")
    return root


EXPECTED = {
    "in": {"pictures": 9, "boxes": 12, "files": 9},
    "rejected": {
        "pictures": {"file_missing": 1, "no_box": 1, "not_annotated": 1},
        "boxes": {"file_missing": 1},
        "files": {"other_file": 1},
    },
}


def test_nothing_of_a_folder_vanishes(folder: Path, tmp_path: Path) -> None:
    request = request_of(folder, tmp_path / "out")
    plan = new_plan(request)
    assert plan.counts() == EXPECTED
    found = estimate_build(plan)
    assert (found.pictures, found.boxes) == (6, 11)
    assert expected_rejects(plan, found) == EXPECTED["rejected"]
    manifest = build_alone(request)
    assert manifest["kept"] == {"pictures": 5, "boxes": 10, "samples": 5, "files": 8}
    assert manifest["rejected"]["pictures"] == EXPECTED["rejected"]["pictures"] | {"size_mismatch": 1}
    assert verify_folder(request.out, full=True) == []
    metas = [
        decode_sample(members, key).meta
        for tar in sorted(request.out.glob("*.tar"))
        for key, members in tar_samples(
            tar, range(len(json.loads(tar.with_suffix(".json").read_text())["hashes"]))
        )
    ]
    assert {meta.image_id: meta.file for meta in metas} == {
        "train/1": "train/1.jpg",
        "val/1": "val/1.jpg",
        "2": "2.png",
        "moved": "deep/IMG 3.jpg",
        "copied": "copied.jpg",
    }
    assert {tuple(item.box.as_list()) for meta in metas for item in meta.boxes} == {
        (10, 20, 90, 100),
        (0, 0, 100, 110),
    }


def test_pictures_in_a_packed_tar_are_found_by_the_same_names(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as tar:
        tar.add(folder / "images", "")
    request = replace(request_of(folder, tmp_path / "out"), images=tmp_path / "all.tar.gz")
    (plan, other) = new_plan(request), new_plan(request_of(folder, tmp_path / "out"))
    assert [plan.files[p] for p in plan.order] == [other.files[p] for p in other.order]


def test_difficult_objects_can_be_left_out(folder: Path, tmp_path: Path) -> None:
    plan = new_plan(request_of(folder, tmp_path / "out", drop=("difficult",)))
    assert plan.counts()["rejected"]["boxes"] == {"difficult": 5, "file_missing": 1}


@pytest.mark.processes
def test_a_dry_run_says_what_the_build_gives(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = shutil.copytree(folder / "annotations", tmp_path / "annotations")
    (annotations / "small.xml").unlink()  # that its size is another one, only reading tells
    files = ["--annotations", str(annotations), "--images", str(folder / "images")]
    command = ["build", "voc", *files, "--out", str(tmp_path / "out"), "--image-size", "64"]
    assert main([*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "5 samples at most, from 5 of 9 pictures and 10 of 11 boxes" in said
    assert main([*command, "--workers", "1"]) == 0
    built = capsys.readouterr().out
    assert "5 samples from 5 of 9 pictures and 10 of 11 boxes" in built
    for line in (f"pictures  {'not_annotated':19} {2:9}", f"files     {'other_file':19} {1:9}"):
        assert line in said
        assert line in built
    assert main(["verify", str(tmp_path / "out")]) == 0


@pytest.mark.usefixtures("ray_with_two_workers")
def test_two_workers_and_a_second_run_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    alone, together = (request_of(folder, tmp_path / name) for name in ("alone", "together"))
    build_alone(alone)
    build(together)
    assert hashes(together.out) == hashes(alone.out)
    (together.out / "toy-train-000001.json").unlink()
    build(together)
    assert hashes(together.out) == hashes(alone.out)


def test_a_changed_annotation_is_noticed(folder: Path, tmp_path: Path) -> None:
    annotations = shutil.copytree(folder / "annotations", tmp_path / "annotations")
    request = BuildRequest(
        **{**vars(request_of(folder, tmp_path / "out")), "inputs": {"annotations": annotations}}
    )
    build_alone(request)
    path = annotations / "val" / "1.xml"
    path.write_text(path.read_text().replace("<xmin>11", "<xmin>12"))
    with pytest.raises(
        UsageError, match=r"from other inputs \(the same numbers, other contents; changed: --ann"
    ):
        build(request)
