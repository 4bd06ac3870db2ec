"""Run lengths: as pycocotools reads them, and refused where they would reach into foreign memory."""

import json
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from dataprep.check.verify import verify_folder
from dataprep.formats.object_masks import object_mask
from dataprep.formats.run_lengths import mask_of_runs, unpack_counts
from dataprep.records import Rejected, RejectReason
from tests.dataprep.test_shards import build_alone
from tests.dataprep.toy import toy_picture, toy_request

SIZE = (160, 120)


def text_of(counts: object, size: object = (120, 160)) -> str:
    return json.dumps({"counts": counts, "size": size})


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    """Coarse and fine ones, of one pixel too, wholly empty and wholly full too."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    grain = draw(st.sampled_from([1, 3, 40]))
    share = draw(st.sampled_from([0.0, 0.2, 0.9, 1.0]))
    cells = rng.random((-(-height // grain), -(-width // grain))) < share
    return np.kron(cells, np.ones((grain, grain), bool))[:height, :width].astype(np.uint8)


@settings(deadline=None, max_examples=150)
@given(masks())
def test_packed_and_listed_runs_give_pycocotools_pixels(mask: np.ndarray) -> None:
    packed = coco_mask.encode(np.asfortranarray(mask))
    size = mask.shape[::-1]
    text = packed["counts"].decode()
    assert np.array_equal(mask_of_runs({"size": packed["size"], "counts": text}, [size]), mask)
    counts = unpack_counts(text).tolist()
    assert np.array_equal(mask_of_runs({"size": packed["size"], "counts": counts}, [size]), mask)
    assert coco_mask.frPyObjects({"size": packed["size"], "counts": counts}, *mask.shape) == packed


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (text_of(""), "empty or end inside a number"),
        (text_of("52203"), "do not add up to 160x120"),  # fewer pixels than the picture has
        (text_of("Q"), "empty or end inside a number"),
        (text_of("oo0N"), "do not add up"),
        (text_of("é"), "a character that has no meaning"),
        (text_of("o" * 40 + "0"), "too large"),
        (text_of([]), "do not add up"),
        (text_of([10**30]), "too large"),
        (text_of([100.5, 19099.5]), "neither a list of whole numbers"),
        (text_of([True, 19199]), "neither a list of whole numbers"),
        (text_of(["19200"]), "neither a list of whole numbers"),
        (text_of(None), "neither a list of whole numbers"),
        (text_of([19201, -1]), "do not add up"),
        (text_of([1], (1, 1)), "run lengths of 1x1 do not fit a picture of 160x120"),
        (text_of([19200], (160, 120)), "run lengths of 120x160 do not fit"),
        (text_of([400_000_000], (20000, 20000)), "run lengths of 20000x20000 do not fit"),
        (text_of([19200], 19200), r"is 19200, not \[height, width\]"),
        (text_of([19200], [-120, -160]), "do not fit"),
        ("{}", r"is None, not \[height, width\]"),
        (json.dumps([[0, 0, 900_000, 0, 0, 900_000]]), "an outline of 2,700,000 pixels, of at most"),
    ],
)
def test_what_does_not_fit_the_picture_is_refused_without_memory(text: str, says: str) -> None:
    object_mask("[[1, 1, 9, 1, 9, 9]]", "", SIZE)  # what is imported late
    tracemalloc.start()
    rejected = object_mask(text, "", SIZE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(rejected, Rejected)
    assert rejected.reason == RejectReason.OBJECT_MASK_UNREADABLE
    assert re.search(says, rejected.detail), rejected.detail
    assert peak < 1_000_000


def test_a_long_outline_of_a_large_picture_is_drawn() -> None:
    comb = [[x, y] for x in range(0, 1000, 2) for y in ((0, 990), (990, 0))[x // 2 % 2]]
    mask = object_mask(json.dumps([np.array([*comb, [999, 999]]).ravel().tolist()]), "", (1000, 1000))
    assert isinstance(mask, np.ndarray), mask  # half a million pixels along it
    assert mask.any()


def test_runs_that_do_not_add_up_are_counted_and_leave_nothing_in_the_shard(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    toy_picture(*SIZE, 1).save(tmp_path / "images" / "1.jpg")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [20, 20, 60, 50]}
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": SIZE[0], "height": SIZE[1]}],
        "annotations": [box | {"segmentation": {"counts": "", "size": [120, 160]}}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    inputs = tmp_path / "a.json", tmp_path / "images"
    manifest = build_alone(toy_request(tmp_path, tmp_path / "out", inputs=inputs, object_masks=True))
    assert manifest["kept"] | {"masks": 0} == {"pictures": 1, "boxes": 1, "samples": 1, "masks": 0}
    assert manifest["rejected"]["masks"] == {"object_mask_unreadable": 1}
    assert b"object_mask.png" not in (tmp_path / "out" / "toy-train-000000.tar").read_bytes()
    assert verify_folder(tmp_path / "out", full=True) == []
