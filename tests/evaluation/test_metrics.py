"""The metrics against their definitions, on every kind of region."""

import csv

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays
from torchmetrics.functional.image import structural_similarity_index_measure

from evaluation.measures.metrics import (
    blank,
    clip_score,
    cosine,
    directional_similarity,
    mse,
    psnr,
    ssim,
    structure_distance,
    text_similarity,
)
from sampling.pictures import read_picture
from tests.paths import SHARED_DATA

PIXELS = arrays.arrays(np.uint8, (6, 5, 3))
MASKS = arrays.arrays(np.bool_, (6, 5)).filter(lambda mask: mask.any() and not mask.all())


@settings(deadline=None)
@given(PIXELS, PIXELS, MASKS)
def test_the_whole_error_is_the_weighted_mean_of_the_regions(a, b, mask) -> None:
    inside, outside = mse(a, b, mask), mse(a, b, ~mask)
    assert mse(a, b) == pytest.approx((inside * mask.sum() + outside * (~mask).sum()) / mask.size)


@settings(deadline=None)
@given(PIXELS, PIXELS, MASKS)
def test_a_region_sees_nothing_of_the_rest(a, b, mask) -> None:
    changed = np.where(mask[..., None], a, 255 - a)
    assert mse(changed, b, mask) == mse(a, b, mask)


def test_psnr_of_one_grey_level_is_the_textbook_value() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr(black + np.uint8(1), black) == pytest.approx(48.1308, abs=1e-4)  # 20 log10 255
    assert psnr(black, black) == np.inf


def test_shapes_that_differ_and_empty_regions_are_refused() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="shapes differ"):
        mse(picture, picture[:3])
    with pytest.raises(ValueError, match="no pixel"):
        mse(picture, picture, np.zeros((4, 4), bool))


TID = SHARED_DATA / "metrics" / "tid2013_5"


def published(name: str) -> list[tuple[str, str]]:
    """(picture, value as printed) of the official results; none where they are not at hand."""
    if not TID.is_dir():
        return []
    with (TID / "results_official.csv").open() as file:
        [row] = [row for row in csv.DictReader(file) if row.pop("Method") == name]
    return list(row.items())


def pair(name: str) -> tuple[np.ndarray, np.ndarray]:
    return read_picture(TID / "dist_dir" / name), read_picture(TID / "ref_dir" / name)


@pytest.mark.parametrize(("name", "printed"), published("psnr"))
def test_psnr_gives_the_published_digits(name: str, printed: str) -> None:
    assert round(psnr(*pair(name)), 2) == float(printed)


@pytest.mark.parametrize(("name", "printed"), published("ssim"))
def test_ssim_gives_the_published_digits(name: str, printed: str) -> None:
    assert round(ssim(*pair(name)), 4) == float(printed)


def smooth_pair(height: int = 40, width: int = 57) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    a = 127 + 90 * np.sin(x[..., None] / 5 + y[..., None] / 7 + np.arange(3))
    return a.astype(np.uint8), (a + rng.normal(0, 20, a.shape)).clip(0, 255).astype(np.uint8)


def test_ssim_of_rgb_is_torchmetrics_without_the_mirrored_edge() -> None:
    a, b = smooth_pair()
    planes = [torch.from_numpy(p.transpose(2, 0, 1)[None] / 255.0) for p in (a, b)]
    _, peer = structural_similarity_index_measure(*planes, data_range=1.0, return_full_image=True)
    assert ssim(a, b, channels="rgb") == pytest.approx(float(peer[..., 5:-5, 5:-5].mean()), abs=1e-9)


def test_ssim_of_regions_is_the_mean_over_their_windows() -> None:
    a, b = smooth_pair()
    mask = np.zeros(a.shape[:2], bool)
    mask[15:25, 20:40] = True
    centres = mask[5:-5, 5:-5]
    parts = ssim(a, b, mask) * centres.sum() + ssim(a, b, ~mask) * (~centres).sum()
    assert ssim(a, b) == pytest.approx(parts / centres.size)
    edge = np.zeros_like(mask)
    edge[0] = True
    with pytest.raises(ValueError, match="no window's centre"):
        ssim(a, b, edge)
    with pytest.raises(ValueError, match="57 × 10 has no window of 11"):
        ssim(a[:10], b[:10])


def test_blank_paints_a_region_black() -> None:
    a, b = smooth_pair()
    mask = np.zeros(a.shape[:2], bool)
    mask[10:20, 10:20] = True
    assert (blank(a, mask)[mask] == 0).all()
    assert (blank(a, mask)[~mask] == a[~mask]).all()
    # Over all pixels, a blanked error is the region's error thinned by the region's share.
    assert mse(blank(a, mask), blank(b, mask)) == pytest.approx(mse(a, b, ~mask) * (~mask).mean())


def test_similarities_are_cosines_of_the_right_things() -> None:
    east, north = np.array([2.0, 0.0]), np.array([0.0, 3.0])
    assert cosine(east, np.array([1.0, 1.0])) == pytest.approx(0.5**0.5)
    assert clip_score(np.stack([east, east]), np.stack([east, -east])) == pytest.approx([100, -100])
    assert text_similarity(np.stack([east, east]), np.stack([east, -east])) == pytest.approx([100, 0])
    assert directional_similarity(east, north, 5 * east, north) == pytest.approx(1)
    assert directional_similarity(east, north, north, east) == pytest.approx(-1)
    assert np.isnan(directional_similarity(east, east, east, north))


def test_structure_distance_sees_relations_not_the_keys_themselves() -> None:
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(7, 4))
    turn, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    assert structure_distance(keys, keys @ turn * 3) == pytest.approx(0, abs=1e-15)
    flipped = keys.copy()
    flipped[0] *= -1  # turns the sign of its similarity to every other key
    changes = [(2 * cosine(keys[0], other)) ** 2 for other in keys[1:]]
    assert structure_distance(keys, flipped) == pytest.approx(2 * np.sum(changes) / 7**2, rel=1e-9)
