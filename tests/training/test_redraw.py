"""`data.redraw`: what each epoch sees of crops and of whole pictures."""

from pathlib import Path

import numpy as np
import pytest

from dataprep.draw.render import Subject, draw_sample
from dataprep.pictures.decode import DecodedPicture
from intarsia.boxes import Box
from intarsia.sample import LabelledBox, Sample, decode_jpeg, encode_jpeg
from tests.dataprep.toy import toy_picture
from tests.training.synthetic import write_shards
from training.data.batches import SampleDataset
from training.data.order import DataOrder
from training.data.reader import ShardReader
from training.data.shards import find_shards

SIZE, SAMPLES, DATA_SEED = 64, 6, 11


def subject(number: int) -> Subject:
    """A picture as it comes back from its shard."""
    pixels = decode_jpeg(encode_jpeg(np.array(toy_picture(160, 120, number))))
    boxes = tuple(LabelledBox(box, "thing") for box in (Box(20, 20, 70, 80), Box(80, 30, 130, 100)))
    return Subject("coco", str(number), f"{number:012d}", "x.jpg", DecodedPicture(pixels, 0, ""), boxes)


def drawn(number: int, size: int | None) -> Sample:
    """What data prep draws."""
    sample = draw_sample(subject(number), size, DATA_SEED, 0)
    assert isinstance(sample, Sample)
    return sample


def dataset(folder: Path, profile: str, redraw: bool | None, seed: int = 5) -> SampleDataset:
    if not folder.exists():
        size = SIZE if profile == "tuple" else None
        write_shards(folder, [[drawn(number, size) for number in range(SAMPLES)]], profile)
    shards = find_shards([str(folder)])
    return SampleDataset(ShardReader(shards, 2), DataOrder([SAMPLES], 1, 2), SIZE, seed, redraw)


def epoch(samples: SampleDataset, number: int) -> list[Sample]:
    return [samples.sample(0, index, number) for index in range(SAMPLES)]


def equal(a: list[Sample], b: list[Sample]) -> bool:
    return all(
        np.array_equal(getattr(x, part), getattr(y, part))
        for x, y in zip(a, b, strict=True)
        for part in ("image", "edit_mask", "exemplar")
    )


@pytest.mark.parametrize(
    ("profile", "redraw"), [("tuple", None), ("tuple", True), ("source", None), ("source", True)]
)
def test_the_first_epoch_sees_what_data_prep_drew_whatever_the_runs_seed(
    tmp_path: Path, profile: str, redraw: bool | None
) -> None:
    for seed in (5, 6):
        for number, seen in enumerate(epoch(dataset(tmp_path / "s", profile, redraw, seed), 0)):
            baked = drawn(number, SIZE)
            assert np.array_equal(seen.edit_mask, baked.edit_mask)
            assert np.abs(seen.image.astype(int) - baked.image).mean() < 3  # a crop went through JPEG again
            assert np.abs(seen.exemplar.astype(int) - baked.exemplar).mean() < 3


@pytest.mark.parametrize(("profile", "redraw"), [("tuple", None), ("tuple", False), ("source", False)])
def test_without_redraw_every_epoch_is_the_first(tmp_path: Path, profile: str, redraw: bool | None) -> None:
    samples = dataset(tmp_path / "s", profile, redraw)
    assert equal(epoch(samples, 0), epoch(samples, 1))
    assert equal(epoch(samples, 0), epoch(dataset(tmp_path / "s", profile, redraw, seed=6), 9))


@pytest.mark.parametrize(("profile", "redraw"), [("tuple", True), ("source", None), ("source", True)])
def test_redraw_makes_every_further_epoch_its_own_by_the_runs_seed(
    tmp_path: Path, profile: str, redraw: bool | None
) -> None:
    samples = dataset(tmp_path / "s", profile, redraw)
    seen = [
        *(epoch(samples, number) for number in (0, 1, 2)),
        epoch(dataset(tmp_path / "s", profile, redraw, seed=6), 1),
    ]
    assert not any(equal(a, b) for i, a in enumerate(seen) for b in seen[:i])
    assert equal(seen[1], epoch(dataset(tmp_path / "s", profile, redraw), 1))
    assert all((sample.edit_mask >= 128).any() for part in seen for sample in part)


def test_crops_keep_their_picture_when_they_are_drawn_again(tmp_path: Path) -> None:
    samples = dataset(tmp_path / "s", "tuple", True)
    for baked, fresh in zip(epoch(samples, 0), epoch(samples, 1), strict=True):
        assert np.array_equal(baked.image, fresh.image)
        assert fresh.meta.box == baked.meta.box
