"""Samples come back from their members as they were, and damage is named."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intarsia.boxes import Box
from intarsia.errors import UserError
from intarsia.sample import (
    MEMBERS,
    LabelledBox,
    Sample,
    SampleMeta,
    decode_jpeg,
    decode_sample,
    encode_jpeg,
    encode_sample,
)


def smooth_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 [H, W, 3] without the detail that JPEG would lose."""
    a, b, c = np.random.default_rng(seed).uniform(0.2, 1.0, 3)
    y, x = np.mgrid[0:height, 0:width]
    ramps = np.stack([a * x / width, b * y / height, c * (x + y) / (width + height)], axis=2)
    return (255 * ramps).astype(np.uint8)


def make_sample(size: int = 64) -> Sample:
    meta = SampleMeta(
        key="picture_000",
        source="coco",
        image_id="17",
        file="train2017/Grüße 17.jpg",
        image_size=(120, 90),
        source_bytes=4321,
        source_sha256="ab" * 32,
        boxes=(LabelledBox(Box(1, 2, 30, 40), "cat", {"is_crowd": 0}), LabelledBox(Box(0, 0, 9, 9), "dog")),
        box=Box(1, 2, 30, 40),
        label="cat",
        extended=Box(0, 1, 35, 45),
        window=Box(0, 0, 90, 90),
        squashed=False,
        mask_kind="bezier",
        polygon=((1.25, 2.0), (30.0, 40.00125)),
        augmentation={"flip": True, "angle": -3.25, "blur": 0, "shifts": []},
        seed=0,
        draw=0,
    )
    mask = np.zeros((size, size), np.uint8)
    mask[10:40, 20:50] = 255
    mask[9, 20:50] = 77
    return Sample(smooth_picture(size, size), mask, smooth_picture(224, 224, 1), meta)


def test_a_sample_comes_back() -> None:
    sample = make_sample()
    members = encode_sample(sample)
    assert tuple(members) == MEMBERS
    back = decode_sample(members)
    assert back.meta == sample.meta
    assert np.array_equal(back.edit_mask, sample.edit_mask)
    for ours, theirs in ((back.image, sample.image), (back.exemplar, sample.exemplar)):
        assert ours.shape == theirs.shape
        assert ours.dtype == np.uint8
        assert np.abs(ours.astype(int) - theirs).mean() < 2  # colours in the right order


def test_equal_samples_give_equal_bytes() -> None:
    assert encode_sample(make_sample()) == encode_sample(make_sample())


def test_a_given_jpeg_is_kept_as_it_is() -> None:
    sample = make_sample()
    file = encode_jpeg(sample.image)
    assert encode_sample(sample, file)["image.jpg"] is file


@pytest.mark.parametrize("name", MEMBERS)
def test_a_missing_member_is_named(name: str) -> None:
    members = encode_sample(make_sample())
    del members[name]
    with pytest.raises(UserError, match=rf"sample picture_000 has no member {name}"):
        decode_sample(members, "picture_000")


@pytest.mark.parametrize("name", MEMBERS)
@settings(deadline=None, max_examples=25)
@given(share=st.floats(0, 0.9))
def test_a_cut_member_is_named(name: str, share: float) -> None:
    members = encode_sample(make_sample())
    members[name] = members[name][: int(len(members[name]) * share)]
    with pytest.raises(UserError, match=f"sample picture_000: member {name} (cannot be read|is damaged)"):
        decode_sample(members, "picture_000")


def test_a_mask_of_another_size_is_refused() -> None:
    members = encode_sample(make_sample())
    members["edit_mask.png"] = encode_sample(make_sample(72))["edit_mask.png"]
    with pytest.raises(UserError, match=r"edit_mask\.png has shape \(72, 72\), the image \(64, 64\)"):
        decode_sample(members)


def test_a_record_of_another_version_is_refused() -> None:
    members = encode_sample(make_sample())
    record = json.loads(members["json"])
    members["json"] = json.dumps(record | {"schema_version": 99}).encode()
    with pytest.raises(UserError, match="schema version 99, expected 1"):
        decode_sample(members)


def test_the_record_is_plain_json() -> None:
    record = json.loads(encode_sample(make_sample())["json"])
    assert record["box"] == [1, 2, 30, 40]
    assert record["boxes"][1] == {"box": [0, 0, 9, 9], "label": "dog", "flags": {}}
    assert record["file"] == "train2017/Grüße 17.jpg"


def test_every_field_of_the_record_survives() -> None:
    sample = make_sample()
    changed = replace(sample.meta, draw=7, squashed=True, polygon=())
    assert SampleMeta.from_json(changed.to_json()) == changed != sample.meta


def test_jpeg_is_half_colour_and_full_range() -> None:
    white = np.full((16, 24, 3), 255, np.uint8)
    assert decode_jpeg(encode_jpeg(white)).min() >= 254
