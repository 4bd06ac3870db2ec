"""The one function that draws: pure, and what it draws is what its record says."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.peers.fixed_exemplar import Augmentation, augment_exemplar, cut_exemplar
from dataprep.choose.rules import FILTERS
from dataprep.draw.redraw import redraw_crop, redraw_sample
from dataprep.draw.render import DRAWS_PER_EPOCH, Subject, choose_boxes, draw_sample
from dataprep.pictures.decode import DecodedPicture, squash
from dataprep.records import BoxRecord, PictureRecord, Rejected, RejectReason
from intarsia.boxes import Box, pad_box
from intarsia.masks import box_mask, polygon_mask
from intarsia.sample import LabelledBox, Sample, decode_sample, encode_sample
from tests.dataprep.toy import toy_picture
from tests.intarsia.test_boxes import pictures_with_boxes


def subject(width: int, height: int, *boxes: Box) -> Subject:
    picture = DecodedPicture(np.array(toy_picture(width, height, 9)), 1000, "00" * 32)
    labelled = tuple(LabelledBox(box, f"thing {i}", {"is_crowd": 0}) for i, box in enumerate(boxes))
    return Subject("coco", "9", "000000000009", "9.jpg", picture, labelled)


SUBJECT = subject(320, 200, Box(40, 50, 140, 150), Box(180, 20, 300, 120))


def draw(which: int, size: int | None = 96, seed: int = 0, of: Subject = SUBJECT) -> Sample:
    sample = draw_sample(of, size, seed, which)
    assert isinstance(sample, Sample)
    return sample


def test_equal_arguments_give_equal_bytes() -> None:
    for which in range(10):
        assert encode_sample(draw(which)) == encode_sample(draw(which))


def test_draws_seeds_and_pictures_differ() -> None:
    other = replace(SUBJECT, key="000000000010")
    encoded = [draw(0), draw(1), draw(0, seed=1), draw(0, of=other)]
    assert len({encode_sample(sample)["edit_mask.png"] for sample in encoded}) == 4


def test_every_box_is_chosen_about_as_often() -> None:
    labels = [draw(which, 16).meta.label for which in range(400)]
    assert 150 < labels.count("thing 0") < 250


@settings(deadline=None, max_examples=60)
@given(pictures_with_boxes(), st.integers(0, 1000))
def test_any_box_gives_a_sound_sample(given_box: tuple[tuple[int, int], Box], which: int) -> None:
    (width, height), box = given_box
    sample = draw_sample(subject(width, height, box), 64, 0, which)
    if isinstance(sample, Rejected):  # a speck that the resize lost
        assert sample.reason == RejectReason.EMPTY_MASK
        assert min(box.width, box.height) < max(width, height) / 16
        return
    assert sample.image.shape == (64, 64, 3)
    assert sample.edit_mask.shape == (64, 64)
    assert sample.exemplar.shape == (224, 224, 3)
    assert (sample.edit_mask >= 128).any()
    assert sample.meta.squashed or sample.meta.window.contains(sample.meta.extended)


def test_the_record_tells_how_the_sample_was_made() -> None:
    for which in range(30):
        sample = draw(which, None)
        meta = sample.meta
        assert np.array_equal(sample.image, SUBJECT.picture.pixels)
        assert (meta.window, meta.squashed) == (Box(0, 0, 320, 200), False)
        if meta.mask_kind == "box":
            expected = box_mask(meta.extended, meta.image_size)
        else:
            expected = polygon_mask(meta.polygon, meta.box, meta.image_size)
        assert np.array_equal(sample.edit_mask, expected)
        exemplar = cut_exemplar(SUBJECT.picture.pixels, meta.box)
        again = augment_exemplar(exemplar, Augmentation(**meta.augmentation))
        assert np.array_equal(sample.exemplar, again)


def test_image_and_mask_are_cut_alike() -> None:
    """A picture that is white exactly where its mask is repainted must stay so through crop and resize."""
    for which in range(20):
        whole = draw(which, None)
        painted = np.repeat(whole.edit_mask[:, :, None], 3, axis=2)
        same = replace(SUBJECT, picture=replace(SUBJECT.picture, pixels=painted))
        sample = draw(which, 64, of=same)
        assert np.array_equal(sample.image[:, :, 0], sample.edit_mask)


def test_a_loader_draws_from_a_source_shard_what_data_prep_would_have() -> None:
    stored = draw(0, None)
    loaded = decode_sample(encode_sample(stored))
    exact = replace(loaded, image=SUBJECT.picture.pixels)  # JPEG is not lossless; a passed-through file is
    for epoch in range(5):
        again = redraw_sample(exact, 96, 0, epoch)
        assert isinstance(again, Sample)
        assert encode_sample(again) == encode_sample(draw(epoch * DRAWS_PER_EPOCH, 96))


def stored_crop(which: int, size: int = 96) -> Sample:
    """A sample of a `tuple` shard as a loader reads it, but for the JPEGs' loss."""
    made = draw(which, size)
    return replace(made, meta=decode_sample(encode_sample(made)).meta)


@pytest.mark.parametrize("which", range(12))
def test_a_crop_gets_a_fresh_mask_that_its_record_tells(which: int) -> None:
    baked = stored_crop(which)
    fresh = redraw_crop(baked, 5, 1)
    meta = fresh.meta
    assert np.array_equal(fresh.image, baked.image)
    assert (meta.box, meta.window, meta.label) == (baked.meta.box, baked.meta.window, baked.meta.label)
    assert meta.window.contains(meta.extended)
    if meta.mask_kind == "box":
        whole = box_mask(meta.extended, meta.image_size)
    else:
        whole = polygon_mask(meta.polygon, meta.box, meta.image_size)
    assert np.array_equal(fresh.edit_mask, squash(meta.window.cut(whole), 96))
    assert encode_sample(redraw_crop(baked, 5, 1)) == encode_sample(fresh)


def test_fresh_masks_of_a_crop_follow_seed_sample_and_epoch() -> None:
    baked = [stored_crop(0), stored_crop(1)]
    made = [redraw_crop(baked[0], seed, epoch) for seed in (0, 1) for epoch in (1, 2)]
    masks = [sample.edit_mask.tobytes() for sample in (baked[0], *made, redraw_crop(baked[1], 0, 1))]
    assert len(set(masks)) == len(masks)
    assert len({sample.meta.key for sample in made}) == 2  # the seed is no part of the name


def test_an_exemplar_that_was_mirrored_at_most_is_augmented_anew_from_its_own_pixels() -> None:
    mirrored = [s for s in map(stored_crop, range(60)) if not (_warped(s) or s.meta.augmentation["blur"])]
    assert any(s.meta.augmentation["flip"] for s in mirrored)
    for baked in mirrored:
        fresh = redraw_crop(baked, 0, 1)
        bare = cut_exemplar(SUBJECT.picture.pixels, fresh.meta.box)
        again = augment_exemplar(bare, Augmentation(**fresh.meta.augmentation))
        assert np.array_equal(fresh.exemplar, again)


def _warped(sample: Sample) -> bool:
    return bool(sample.meta.augmentation["angle"] or sample.meta.augmentation["shifts"])


def test_an_exemplar_is_cut_out_of_a_crop_that_shows_it_whole_and_fine_enough() -> None:
    warped = [s for s in (stored_crop(which, 200) for which in range(60)) if _warped(s)]
    cut = [s for s in warped if s.meta.window.contains(pad_box(s.meta.box, 10, s.meta.image_size))]
    assert 5 < len(cut) < len(warped)
    for baked in cut:  # crops of at most 200 pixels, stored with 200: nothing of the source is lost
        fresh = redraw_crop(baked, 0, 1)
        bare = cut_exemplar(SUBJECT.picture.pixels, fresh.meta.box)
        again = augment_exemplar(bare, Augmentation(**fresh.meta.augmentation))
        assert np.abs(fresh.exemplar.astype(int) - again).mean() < 3
        assert fresh.meta.augmentation != baked.meta.augmentation


def test_an_exemplar_that_the_crop_shows_in_part_or_too_coarsely_stays() -> None:
    for baked in (s for s in (stored_crop(which, 48) for which in range(30)) if _warped(s)):
        fresh = redraw_crop(baked, 0, 1)
        assert np.array_equal(fresh.exemplar, baked.exemplar)
        assert fresh.meta.augmentation == baked.meta.augmentation
        assert not np.array_equal(fresh.edit_mask, baked.edit_mask)


def test_keys_hold_no_dots() -> None:
    assert draw(7).meta.key == "000000000009_007"


@pytest.mark.parametrize(
    ("filters", "bounds", "reason"),
    [
        ("default", (10.0, 10.0, 41.9, 90.0), RejectReason.SIDE_TOO_SHORT),
        ("pbe", (10.0, 10.0, 41.9, 90.0), None),
        ("default", (10.0, 10.0, 42.0, 42.0), None),
        ("pbe", (10.2, 10.0, 10.9, 90.0), RejectReason.EMPTY_BOX),
        ("pbe", (300.0, 10.0, 400.0, 90.0), RejectReason.EMPTY_BOX),
    ],
)
def test_boxes_are_judged_in_pixels(
    filters: str, bounds: tuple[float, float, float, float], reason: RejectReason | None
) -> None:
    record = PictureRecord("1", "1", "1.jpg", None, (BoxRecord(7, bounds, "cat"),), "pixels")
    picture = DecodedPicture(np.zeros((100, 200, 3), np.uint8), 0, "")
    kept, dropped = choose_boxes(record, picture, FILTERS[filters])
    assert [rejected.reason for _, rejected in dropped] == ([reason] if reason else [])
    assert [box_id for box_id, _ in dropped] == ([7] if reason else [])
    assert len(kept) == (0 if reason else 1)
