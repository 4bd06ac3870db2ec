"""Windows, stitching and the seam, on arrays alone; and what of a large picture is touched at all."""

import tracemalloc
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intarsia.boxes import Box
from intarsia.errors import UserError
from sampling.canvas.canvas import Canvas, check_mask, fit_exemplar, lay_canvas, mask_box
from sampling.canvas.seam import colour_shift, inside_weight, known_ring, match_ring
from sampling.settings import EditSettings, Fit

SIZE = 64
FITS = get_args(Fit)


def noise_picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth_picture(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = np.stack([x / width, y / height, (x + y) / (width + height)], -1)
    return (40 + 170 * waves).astype(np.uint8)


def marked(width: int, height: int, box: Box) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    box.cut(mask)[:] = True
    return mask


def canvas_of(mask: np.ndarray, **options: object) -> Canvas:
    return lay_canvas(mask, SIZE, EditSettings(**options))


@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    fit=st.sampled_from(FITS),
    blend=st.integers(0, 5),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_any_picture_fits_the_square_and_comes_back(
    width: int, height: int, fit: str, blend: int, seed: int
) -> None:
    image = noise_picture(width, height, seed)
    edit_mask = np.random.default_rng(seed).random((height, width)) < 0.5
    edit_mask[: (height + 1) // 2] = True
    canvas = canvas_of(edit_mask, fit=fit)
    square = canvas.fit_image(image)
    assert square.shape == (SIZE, SIZE, 3)
    assert canvas.fit_mask(edit_mask).shape == (SIZE, SIZE)
    assert fit_exemplar(image).shape == (224, 224, 3)
    back = canvas.paste_back(255 - square, image, edit_mask, blend)
    assert back.shape == image.shape
    assert (back[~edit_mask] == image[~edit_mask]).all()
    assert canvas.paste_back(square, image, None).shape == image.shape


@given(
    size=st.tuples(st.integers(2, 400), st.integers(2, 400)),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
    context=st.floats(0, 3),
)
@settings(max_examples=200, deadline=None)
def test_a_crops_window_holds_the_mask_and_lies_in_the_picture(
    size: tuple[int, int], corners: tuple[float, ...], context: float
) -> None:
    (width, height), (a, b, c, d) = size, corners
    x, y = (
        sorted((int(a * (width - 1)), int(b * (width - 1)))),
        sorted((int(c * (height - 1)), int(d * (height - 1)))),
    )
    box = Box(x[0], y[0], x[1] + 1, y[1] + 1)
    mask = marked(width, height, box)
    window = canvas_of(mask, fit="crop", context=context).window
    assert mask_box(mask) == box
    assert window.contains(box)
    assert Box(0, 0, width, height).contains(window)
    wanted = max(round((1 + context) * max(box.width, box.height)), SIZE // 2)
    assert (window.width, window.height) == (min(wanted, width), min(wanted, height))


def test_auto_crops_where_the_mask_is_small_against_the_picture() -> None:
    """The rule of the docs: a side longer than the model's, and a window of at most half the picture."""
    whole = Box(0, 0, 200, 100)
    small, large = marked(200, 100, Box(90, 40, 120, 60)), marked(200, 100, Box(60, 20, 120, 60))
    assert canvas_of(small).window == Box(75, 20, 135, 80)
    assert canvas_of(large).window == whole, "its window would be 120 x 100, more than half"
    assert canvas_of(small, fit="resize").window == whole
    assert canvas_of(marked(64, 64, Box(30, 30, 34, 34))).window == Box(0, 0, 64, 64)
    assert canvas_of(marked(65, 64, Box(30, 30, 34, 34))).window == Box(16, 16, 48, 48)


def test_a_window_moves_into_the_picture_at_its_border() -> None:
    assert canvas_of(marked(300, 300, Box(0, 280, 40, 300)), fit="crop").window == Box(0, 220, 80, 300)


def test_pad_keeps_proportions_and_continues_the_edges() -> None:
    image = smooth_picture(128, 32)
    mask = marked(128, 32, Box(40, 8, 80, 32))
    canvas = canvas_of(mask, fit="pad")
    assert canvas.frame == Box(0, 24, 64, 40)
    square, fitted = canvas.fit_image(image), canvas.fit_mask(mask)
    assert (square[:24] == square[24]).all()
    assert (square[40:] == square[39]).all()
    assert (fitted[40:] == fitted[39]).all(), "the hole at the border goes on"
    assert fitted[:24].max() == 0


@pytest.mark.parametrize("fit", FITS)
def test_a_model_that_paints_what_it_sees_gives_the_picture_back(fit: str) -> None:
    """Every fit must put the square exactly where it was taken from: a shift would show in a ramp."""
    image = smooth_picture(210, 90)
    mask = marked(210, 90, Box(100, 30, 130, 70))
    canvas = canvas_of(mask, fit=fit)
    back = canvas.paste_back(canvas.fit_image(image), image, mask)
    assert np.abs(back.astype(int) - image).max() <= 2


def test_a_window_of_the_models_size_is_not_resampled() -> None:
    image = noise_picture(300, 200)
    mask = marked(300, 200, Box(100, 50, 132, 70))
    canvas = canvas_of(mask, fit="crop")
    assert canvas.window == Box(84, 28, 148, 92)
    square = canvas.fit_image(image)
    assert (square == canvas.window.cut(image)).all()
    assert (canvas.paste_back(square, np.zeros_like(image), mask)[mask] == image[mask]).all()
    whole = canvas.paste_back(255 - square, image, None)
    assert (canvas.window.cut(whole) == 255 - square).all()
    assert (whole != image).any(-1).sum() == SIZE**2, "nothing outside the window"


def test_a_large_picture_costs_little_more_than_its_copy() -> None:
    """50 megapixels: beside the result itself only the window and the mask's rows and columns are touched."""
    image = np.zeros((5774, 8660, 3), np.uint8)
    mask = marked(8660, 5774, Box(4000, 2000, 5200, 3300))
    tracemalloc.start()
    canvas = canvas_of(mask)
    square = canvas.fit_image(image)
    canvas.fit_mask(mask)
    result = canvas.paste_back(square, image, mask, blend=20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert canvas.window.area < image[..., 0].size / 7
    assert result.shape == image.shape
    assert peak < image.nbytes * 1.7


def test_masks_of_another_size_are_refused_with_both_sizes() -> None:
    image = noise_picture(90, 50)
    with pytest.raises(
        UserError, match=r"the mask is 40 x 30 pixels but the picture 90 x 50; give a mask of"
    ):
        check_mask(np.ones((30, 40), bool), image)
    with pytest.raises(UserError, match=r"50 x 90 pixels .* 90 x 50; rotate it to match the upright picture"):
        check_mask(np.ones((90, 50), bool), image)


def test_a_mask_of_numbers_is_divided_at_one_half() -> None:
    image = np.zeros((1, 3, 3), np.uint8)
    assert check_mask(np.array([[0.49, 0.5, 1.0]]), image).tolist() == [[False, True, True]]


# -- the seam ----------------------------------------------------------------------------------------------


def test_the_blend_rises_evenly_inside_and_is_nothing_outside() -> None:
    mask = marked(60, 40, Box(20, 0, 60, 40))  # three of its sides are the picture's own border
    weight = inside_weight(mask, Box(0, 0, 60, 40), blend=8)
    assert (weight[~mask] == 0).all()
    assert (weight == weight[0]).all(), "the picture's border is no edge"
    row = weight[0, 20:]
    steps = np.diff(row[:8])
    assert 0 < row[0] < 0.15
    assert np.allclose(steps, steps.mean(), atol=0.02)
    assert (row[9:] == 1).all()


def test_a_blended_edit_starts_from_the_picture_and_ends_in_the_edit() -> None:
    image, square = np.full((SIZE, SIZE, 3), 50, np.uint8), np.full((SIZE, SIZE, 3), 150, np.uint8)
    mask = marked(SIZE, SIZE, Box(16, 16, 48, 48))
    canvas = canvas_of(mask)
    hard, soft = (canvas.paste_back(square, image, mask, blend)[32, :, 0].astype(int) for blend in (0, 10))
    assert np.abs(np.diff(hard)).max() == 100
    assert np.abs(np.diff(soft)).max() <= 12
    assert (soft[~mask[32]] == 50).all()
    assert soft[32] == 150


def test_the_ring_lies_around_the_hole_and_is_known() -> None:
    fitted = np.zeros((SIZE, SIZE), np.uint8)
    fitted[20:40, 20:40] = 255
    fitted[19, 20:40] = 100  # a soft edge belongs to neither
    ring = known_ring(fitted)
    assert not ring[fitted > 0].any()
    assert ring[41, 30]
    assert not ring[43, 30]
    assert ring[17, 30]
    assert not known_ring(np.full((SIZE, SIZE), 255, np.uint8)).any()


def test_a_shift_of_the_models_colours_is_measured_and_taken_back() -> None:
    known = noise_picture(SIZE, SIZE) // 3 + 60
    fitted = np.zeros((SIZE, SIZE), np.uint8)
    fitted[20:40, 20:40] = 255
    ring = known_ring(fitted)
    shifted = (known + np.array([12, -7, 3])).astype(np.uint8)
    assert np.allclose(colour_shift(shifted, known, ring), (12, -7, 3))
    assert (match_ring(shifted, known, ring, "mean") == known).all()
    dull = ((known.astype(float) - 100) * 0.7 + 110).round().astype(np.uint8)
    stretched = match_ring(dull, known, ring, "deviation")
    assert np.abs(stretched.astype(int) - known).max() <= 3
    assert np.abs(match_ring(dull, known, ring, "mean").astype(int) - known).max() > 8
    assert match_ring(shifted, known, ring, "none") is shifted


def test_without_a_ring_nothing_is_measured_or_moved() -> None:
    square, ring = noise_picture(SIZE, SIZE), np.zeros((SIZE, SIZE), bool)
    assert colour_shift(square, 255 - square, ring) == (0.0, 0.0, 0.0)
    assert match_ring(square, 255 - square, ring, "deviation") is square
