"""The metrics against their definitions, on every kind of region."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays

from evaluation.metrics import mse, psnr

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
