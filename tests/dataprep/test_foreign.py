"""The index of other programs' webdatasets: parity with webdataset, accounts, mistakes, continuing."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from webdataset.shardlists import expand_urls

from dataprep.cli import main
from dataprep.draw.recipe import Recipe
from dataprep.draw.redraw import redraw_sample
from dataprep.foreign.fields import ForeignFields
from dataprep.foreign.index_tar import read_entries
from dataprep.foreign.sample import read_foreign
from dataprep.foreign.tars import expand_tars, split_member
from dataprep.pictures.decode import squash
from dataprep.records import Rejected
from intarsia.boxes import Box
from intarsia.sample import Sample, decode_jpeg
from tests.foreign import (
    BOX,
    BOXES,
    EXPLICIT,
    FIELDS,
    HEIGHT,
    WIDTH,
    mask,
    picture,
    sample,
    write_set,
    write_tar,
)


def index(pattern: str, *options: str) -> int:
    return main(["index", pattern, "--field", "image=jpg", *options])


def manifest_of(folder: Path) -> dict[str, Any]:
    [path] = folder.glob("index-*/manifest.json")
    return json.loads(path.read_text())


def rejects_of(folder: Path) -> dict[str, str]:
    [path] = folder.glob("index-*/rejects.jsonl")
    return {line["key"]: line["reason"] for line in map(json.loads, path.read_text().splitlines())}


@pytest.mark.parametrize(
    "pattern",
    ["a/{000..012}.tar", "a/{x,y{1..3}}/{0..2}.tar", "a.tar::b/{1..2}.tar", "pipe:cat {a,b}.tar", "a.tar"],
)
def test_patterns_are_expanded_as_webdataset_does(pattern: str) -> None:
    assert expand_tars([pattern]) == expand_urls(pattern)


@pytest.mark.parametrize(
    "name", ["a.jpg", "d/a.mask.png", "d.e/a.JPG", "./a.b.c", "a", ".hidden", "d/.hidden", "a.", "d.e/a"]
)
def test_names_are_parted_as_webdataset_does(name: str) -> None:
    key, suffix = webdataset.tariterators.base_plus_ext(name)
    assert split_member(name) == (None if key is None else (key, suffix.lower()))


def test_the_index_holds_the_samples_that_webdataset_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pattern = write_set(tmp_path)
    assert index(pattern, "--field", "captions=txt", *BOXES) == 0
    peer = iter(webdataset.WebDataset(pattern, shardshuffle=False))
    for tar in sorted(tmp_path.glob("*.tar")):
        [path] = tmp_path.glob(f"index-*/{tar.stem}.json")
        content = tar.read_bytes()
        for key, members in read_entries(json.loads(path.read_text()), ""):
            theirs = next(peer)
            ours = {suffix: content[start : start + size] for suffix, (start, size) in members.items()}
            assert ours == {suffix: theirs[suffix] for suffix in ("jpg", "json", "txt")}
            assert key == theirs["__key__"]
    assert next(peer, None) is None
    [folder] = tmp_path.glob("index-*")
    for command in (["verify"], ["stats"], ["show", "--out", str(tmp_path / "s.png")]):
        capsys.readouterr()
        assert main([*command, str(folder)]) == 1
        assert "is an index of another program's tars" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "box_format", "unit"),
    [
        ([12, 10, 36, 34], "xyxy", "pixels"),
        ([12, 10, 24, 24], "xywh", "pixels"),
        ([[12, 10, 24, 24]], "xywh", "pixels"),
        ("12 10 24 24", "xywh", "pixels"),
        ([24 / WIDTH, 22 / HEIGHT, 24 / WIDTH, 24 / HEIGHT], "cxcywh", "fractions"),
        ([12.4 / WIDTH, 10.4 / HEIGHT, 36.4 / WIDTH, 34.4 / HEIGHT], "xyxy", "fractions"),
    ],
)
def test_every_form_of_a_box_gives_its_pixels(value: Any, box_format: str, unit: str) -> None:
    fields = ForeignFields(fields=FIELDS, box_format=box_format, box_unit=unit)  # type: ignore[arg-type]
    found = read_foreign(sample(1, bbox=value), "k", fields)
    assert isinstance(found, Sample)
    assert found.meta.box == Box(*BOX)
    assert found.meta.captions == ("picture 1",)


def test_lists_of_objects_give_all_boxes_and_labels() -> None:
    objects = [{"at": list(BOX), "name": "a"}, {"at": [0, 0, 30, 30], "name": "b"}]
    fields = {"image": "png;jpg", "box": "json:objects.at", "label": "json:objects.name"}
    found = read_foreign(sample(1, objects=objects), "k", ForeignFields(fields=fields, **EXPLICIT))
    assert isinstance(found, Sample)
    assert [(item.label, item.box) for item in found.meta.boxes] == [
        ("a", Box(*BOX)),
        ("b", Box(0, 0, 30, 30)),
    ]


def test_what_is_given_is_kept_and_the_rest_is_drawn() -> None:
    members = {"jpg": picture(1), "mask.png": mask(), "ref.jpg": picture(2)}
    fields = ForeignFields(fields={"image": "jpg", "edit_mask": "mask.png", "exemplar": "ref.jpg"})
    found = read_foreign(members, "k", fields)
    assert isinstance(found, Sample)
    whole = Recipe(name="mine", crop={"kind": "whole"})  # type: ignore[arg-type]
    for epoch in range(3):
        drawn = redraw_sample(found, WIDTH, 7, epoch, whole)
        assert isinstance(drawn, Sample)
        assert np.array_equal(drawn.edit_mask, squash(found.edit_mask, WIDTH))
        assert np.array_equal(drawn.exemplar, squash(decode_jpeg(members["ref.jpg"]), 224))
        assert drawn.meta.box == Box(*BOX)
    crops = [redraw_sample(found, 32, 7, epoch) for epoch in range(4)]
    assert len({crop.meta.window for crop in crops if isinstance(crop, Sample)}) > 1
    alone = ForeignFields(fields={"image": "jpg", "object_mask": "mask.png"})
    made = read_foreign(members, "k", alone)
    assert isinstance(made, Sample)
    assert (made.meta.box, made.given, made.meta.draws_per_box) == (Box(*BOX), (), 1)


@pytest.mark.parametrize(("values", "level"), [("white", 255), ("nonzero", 1), ("black", None)])
def test_what_of_a_mask_counts(values: str, level: int | None) -> None:
    png = mask() if level is None else mask(level)
    fields = ForeignFields(fields={"image": "jpg", "edit_mask": "png"}, mask_values=values)  # type: ignore[arg-type]
    found = read_foreign({"jpg": picture(1), "png": png}, "k", fields)
    assert isinstance(found, Sample)
    inside = found.edit_mask[BOX[1] : BOX[3], BOX[0] : BOX[2]]
    assert (inside == (0 if level is None else 255)).all()
    assert found.edit_mask.sum() == 255 * (24 * 24 if level else WIDTH * HEIGHT - 24 * 24)


def test_every_sample_that_is_left_out_has_a_reason(tmp_path: Path) -> None:
    whole, damaged = sample(1), sample(2)
    middle = len(damaged["jpg"]) // 2
    damaged["jpg"] = damaged["jpg"][:middle] + b"\xff\xd8"
    bad = {
        "none": {"txt": b"x"},
        "keyless": whole | {"json": b'{"box": 1}'},
        "text": whole | {"json": b"{"},
        "three": sample(3, bbox=[1, 2, 3]),
        "endless": whole | {"json": b'{"bbox": [1, 2, NaN, 4]}'},
        "outside": sample(4, bbox=[90, 90, 99, 99]),
        "tiny": sample(5, bbox=[1, 1, 4, 4]),
        "damaged": damaged,
        "other": whole | {"jpg": b"nothing"},
    }
    samples = [("a", whole), *bad.items(), ("b", sample(6)), ("c", sample(7, bbox=[list(BOX), [1, 1, 3, 3]]))]
    write_tar(tmp_path / "0.tar", [*samples, ("twice", whole), ("twice", whole)])
    assert index(str(tmp_path / "0.tar"), "--field", "captions=txt", *BOXES) == 0
    assert rejects_of(tmp_path) == {
        "none": "member_missing",
        "keyless": "record_unreadable",
        "text": "record_unreadable",
        "three": "record_unreadable",
        "endless": "bad_box",
        "outside": "empty_box",
        "tiny": "area_too_small",
        "damaged": "damaged",
        "other": "not_an_image",
        "twice": "member_twice",
    }
    manifest = manifest_of(tmp_path)
    for what in ("samples", "boxes"):
        rejected = sum(manifest["rejected"][what].values())
        assert manifest["in"][what] == manifest["kept"][what] + rejected
    assert (manifest["kept"]["samples"], manifest["rejected"]["samples"]["record_unreadable"]) == (3, 3)


def test_masks_are_of_their_pictures_size_and_mark_something() -> None:
    fields = ForeignFields(fields={"image": "jpg", "edit_mask": "png"})
    for png, words in ((mask(size=(40, 40)), "annotated as 40x40"), (mask(1), "mask_values nonzero reads")):
        found = read_foreign({"jpg": picture(1), "png": png}, "k", fields)
        assert isinstance(found, Rejected)
        assert words in found.detail


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--field", "edit_mask=mask.png"], r"edit_mask: no member mask\.png, only jpg, json, txt\)"),
        (
            ["--field", "box=json:boxx", *BOXES[2:]],
            r"json has no boxx; its keys are bbox, name, share, size\)",
        ),
        (["--field", "box=json:share", *BOXES[2:]], r"between 0 and 1.*--box-unit fractions"),
        (
            ["--field", "box=json:bbox", "--box-format", "xyxy", "--box-unit", "fractions"],
            "--box-unit pixels",
        ),
        (["--field", "box=json:size", *BOXES[2:]], "end before the beginning.*--box-format xywh"),
    ],
)
def test_a_mistake_in_all_samples_is_seen_before_anything_is_written(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = {"share": [0.2, 0.25, 0.6, 0.7], "size": [30, 25, 24, 20]}
    write_tar(tmp_path / "0.tar", [(f"{n}", sample(n, **extra)) for n in range(3)])
    assert index(str(tmp_path / "0.tar"), *options) == 1
    assert "none of the first 3 samples can be used" in (text := capsys.readouterr().err)
    assert re.search(words, text, re.DOTALL), text
    assert not list(tmp_path.glob("index-*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pipe:cat a.tar", "--field", "image=jpg", *BOXES], "a pipe cannot be read from its middle"),
        (["a.tar.gz", "--field", "image=jpg", *BOXES], "is packed"),
        (["a{1..", "--field", "image=jpg", *BOXES], "not a brace pattern"),
        (["a.tar", "--field", "image=jpg"], "no field says what may be repainted"),
        (["a.tar", *BOXES], "no field says which member is the picture"),
        (["a.tar", "--field", "image=jpg", *BOXES[:2]], "needs box_format .* and box_unit"),
        (["a.tar", "--field", "picture=jpg", *BOXES], "'picture' is not a field; fields are image"),
        (["a.tar", "--field", "image=json:x", *BOXES], "a picture is a whole member"),
        (["a.tar", "--field", "image", *BOXES], "not of the form NAME=WHERE"),
        (["a.tar", "--field", "image=jpg", *BOXES, "--recipe", "anydoor"], "draws from object masks"),
        (["http://h/a.tar", "--field", "image=jpg", *BOXES], "give --out FOLDER"),
    ],
)
def test_wrong_usage_is_one_sentence(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["index", *arguments]) == 2
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(capsys.readouterr().err)


def test_the_same_command_makes_what_is_missing_and_another_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pattern = write_set(tmp_path)
    assert index(pattern, *BOXES) == 0
    [folder] = tmp_path.glob("index-*")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    (folder / "000001.json").unlink()
    assert index(pattern, *BOXES) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert (folder / "000000.json").stat().st_mtime_ns == written["000000.json"]
    write_tar(tmp_path / "000002.tar", [("new", sample(99))])  # another tar under the old name
    assert index(pattern, *BOXES) == 0
    assert [shard["nsamples"] for shard in manifest_of(tmp_path)["shardlist"]] == [5, 4, 1]
    capsys.readouterr()
    assert index(pattern, *BOXES, "--min-area", "0.1") == 2
    assert "min_area: 0.02 -> 0.1" in capsys.readouterr().err
    (tmp_path / "000001.tar").write_bytes((tmp_path / "000001.tar").read_bytes()[:5000])
    assert index(pattern, *BOXES) == 1
    assert "000001.tar is not a whole tar" in capsys.readouterr().err
    (tmp_path / "000001.tar").unlink()
    assert index(pattern, *BOXES) == 1
    assert "1 of 3 tars do not exist" in capsys.readouterr().err


@pytest.mark.processes
def test_two_processes_write_the_same_index(tmp_path: Path) -> None:
    pattern = write_set(tmp_path, (2, 2, 2, 2))
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        assert index(pattern, *BOXES, "--out", str(out), "--workers", str(workers)) == 0
    for name in ("000000.json", "000003.json", "rejects.jsonl"):
        assert (tmp_path / "out1" / name).read_bytes() == (tmp_path / "out2" / name).read_bytes()
