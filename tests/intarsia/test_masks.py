"""Edit masks: where they lie, what they cover, and that the arithmetic is the original's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from benchmarks.peers.fixed_exemplar import draw_mask
from intarsia.boxes import Box, extend_box
from intarsia.masks import JITTER, bezier_polygon, box_mask, polygon_mask
from tests.intarsia.test_boxes import SEEDS, pictures_with_boxes


def grown(box: Box, margin: int) -> Box:
    return Box(box.x0 - margin, box.y0 - margin, box.x1 + margin, box.y1 + margin)


@settings(deadline=None, max_examples=200)
@given(pictures_with_boxes(), SEEDS)
def test_the_mask_covers_the_box_and_stays_near_the_extended_one(
    given_box: tuple[tuple[int, int], Box], seed: int
) -> None:
    size, box = given_box
    rng = np.random.default_rng(seed)
    extended = extend_box(box, size, rng)
    mask = draw_mask(box, extended, size, rng)
    assert mask.pixels.shape == size[::-1]
    assert mask.pixels.dtype == np.uint8
    assert set(np.unique(mask.pixels)) <= {0, 255}
    inside = mask.pixels[box.y0 : box.y1, box.x0 : box.x1]
    assert np.count_nonzero(inside) >= 0.95 * box.area
    assert mask.pixels.any()
    near = grown(extended, JITTER + 1).clipped(size)  # Pillow fills the pixels that an edge touches
    outside = mask.pixels.copy()
    outside[near.y0 : near.y1, near.x0 : near.x1] = 0
    assert not outside.any()


def test_half_of_the_masks_are_boxes_of_the_extended_box() -> None:
    size, box, extended = (400, 300), Box(100, 80, 220, 200), Box(70, 60, 300, 240)
    masks = [draw_mask(box, extended, size, np.random.default_rng(seed)) for seed in range(600)]
    boxes = [mask for mask in masks if mask.kind == "box"]
    assert 240 < len(boxes) < 360
    assert all(np.array_equal(mask.pixels, box_mask(extended, size)) for mask in boxes)
    assert all(mask.polygon for mask in masks if mask.kind == "bezier")


def test_points_follow_the_quadratic_curves_but_for_the_jitter() -> None:
    box, extended = Box(100, 80, 220, 203), Box(71, 60, 300, 240)
    polygon = bezier_polygon(box, extended, np.random.default_rng(0))
    t = np.arange(1, 19) * 0.05
    top = np.stack(
        [
            (1 - t) ** 2 * box.x0 + 2 * t * (1 - t) * 160 + t**2 * box.x1,
            (1 - t) ** 2 * box.y0 + 2 * t * (1 - t) * extended.y0 + t**2 * box.y0,
        ],
        axis=1,
    )
    for point in polygon[:9]:  # these are on the top curve: ten of its eighteen at least differ in y
        distance = np.abs(top - point).max(axis=1).min()
        assert distance <= JITTER + 1e-4
    assert min(y for _, y in polygon) >= (box.y0 + extended.y0) / 2 - JITTER  # half the extension at most


def test_a_side_bulges_by_half_its_extension() -> None:
    box, extended = Box(200, 200, 400, 400), Box(200, 100, 400, 400)
    tops = [min(y for _, y in bezier_polygon(box, extended, np.random.default_rng(s))) for s in range(200)]
    assert 145 <= np.median(tops) <= 150


def test_a_side_without_extension_keeps_few_points() -> None:
    # The others repeat one's y (or x) exactly, but for rounding, and are left out.
    box = Box(128, 64, 256, 512)
    assert 4 <= len(bezier_polygon(box, box, np.random.default_rng(0))) <= 16


def test_exact_repeats_are_those_of_the_bezier_package() -> None:
    # Counted with bezier 2024.6.20 on these nodes: the number of points left on all four curves.
    cases = {
        (Box(100, 80, 220, 203), Box(71, 60, 300, 240)): 51,
        (Box(37, 11, 511, 402), Box(20, 5, 600, 480)): 51,
        (Box(10, 300, 333, 650), Box(3, 207, 601, 660)): 56,
    }
    for (box, extended), number in cases.items():
        assert len(bezier_polygon(box, extended, np.random.default_rng(0))) == number


def test_on_average_three_quarters_of_the_points_are_left() -> None:
    rng = np.random.default_rng(0)
    numbers, uncovered = [], []
    for _ in range(300):
        width, height = int(rng.integers(150, 900)), int(rng.integers(150, 600))
        x, y = int(rng.integers(0, 1024 - width)), int(rng.integers(0, 683 - height))
        box = Box(x, y, x + width, y + height)
        polygon = bezier_polygon(box, extend_box(box, (1024, 683), rng), rng)
        numbers.append(len(polygon))
        mask = polygon_mask(polygon, box, (1024, 683))[box.y0 : box.y1, box.x0 : box.x1]
        uncovered.append(1 - np.count_nonzero(mask) / box.area)
    assert 51 < np.mean(numbers) < 56  # of 72
    assert 0.002 < np.mean(uncovered) < 0.02


def test_a_polygon_is_filled_as_in_a_picture_of_pillows() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        size = int(rng.integers(1, 200)), int(rng.integers(1, 200))
        polygon = tuple((x, y) for x, y in rng.uniform(-20, 220, (int(rng.integers(2, 9)), 2)).tolist())
        picture = Image.new("L", size)
        ImageDraw.Draw(picture).polygon(list(polygon), fill=255)
        mask = polygon_mask(polygon, Box(0, 0, 0, 0), size)
        assert np.array_equal(mask, np.array(picture))
        assert mask.flags.writeable


@pytest.mark.parametrize("side", [1, 2, 3, 8])
def test_a_box_of_few_pixels_is_covered_whatever_the_jitter(side: int) -> None:
    box = Box(20, 20, 20 + side, 20 + side)
    for seed in range(50):
        mask = polygon_mask(bezier_polygon(box, box, np.random.default_rng(seed)), box, (60, 60))
        assert (mask[20 : 20 + side, 20 : 20 + side] == 255).mean() >= 0.95


def test_a_drawn_polygon_gives_its_mask_again() -> None:
    size, box, extended = (400, 300), Box(100, 80, 220, 200), Box(70, 60, 300, 240)
    masks = [draw_mask(box, extended, size, np.random.default_rng(seed)) for seed in range(20)]
    for mask in masks:
        if mask.kind == "bezier":
            assert np.array_equal(polygon_mask(mask.polygon, box, size), mask.pixels)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40), st.integers(1, 40))
def test_a_box_mask_is_the_box(width: int, height: int) -> None:
    mask = box_mask(Box(3, 2, 3 + width, 2 + height), (50, 45))
    assert np.count_nonzero(mask) == width * height
    assert mask[2, 3] == 255
    assert mask[1, 3] == 0
