"""Boxes: conversions, extension and crop windows keep their promises for every picture."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intarsia.boxes import (
    Box,
    box_from_fractions,
    box_from_xyxy,
    crop_window,
    extend_box,
    pad_box,
)


@st.composite
def pictures_with_boxes(draw: st.DrawFn) -> tuple[tuple[int, int], Box]:
    """A picture's (width, height) and a box of at least one pixel in it."""
    width, height = draw(st.integers(1, 900)), draw(st.integers(1, 900))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return (width, height), Box(x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height)))


SEEDS = st.integers(0, 2**32)


@settings(deadline=None, max_examples=300)
@given(pictures_with_boxes(), SEEDS)
def test_the_extended_box_holds_the_box_and_stays_inside(
    given_box: tuple[tuple[int, int], Box], seed: int
) -> None:
    size, box = given_box
    extended = extend_box(box, size, np.random.default_rng(seed))
    assert extended.contains(box)
    assert Box(0, 0, *size).contains(extended)
    assert box.x0 - extended.x0 <= 0.4 * box.x0
    assert extended.x1 - box.x1 <= 0.4 * (size[0] - box.x1)
    assert box.y0 - extended.y0 <= 0.4 * box.y0
    assert extended.y1 - box.y1 <= 0.4 * (size[1] - box.y1)


@settings(deadline=None, max_examples=300)
@given(pictures_with_boxes(), SEEDS)
def test_the_window_holds_the_extended_box_or_is_the_whole_picture(
    given_box: tuple[tuple[int, int], Box], seed: int
) -> None:
    size, box = given_box
    rng = np.random.default_rng(seed)
    extended = extend_box(box, size, rng)
    window, squashed = crop_window(extended, size, rng)
    whole = Box(0, 0, *size)
    if squashed:
        assert window == whole
        assert positions(extended, size) == 0
    else:
        assert positions(extended, size) > 0
        assert window.width == window.height
        assert whole.contains(window)
        assert window.contains(extended)


def positions(extended: Box, size: tuple[int, int]) -> int:
    """How many squares of the short side hold the extended box; 1 for a square picture."""
    side = min(size)
    along = [(extended.x0, extended.x1, size[0]), (extended.y0, extended.y1, size[1])]
    low, high, long_side = along[0] if size[0] > size[1] else along[1]
    return sum(p <= low and p + side >= high for p in range(long_side - side + 1))


def test_extension_is_uniform_and_reaches_both_ends() -> None:
    box = Box(10, 20, 30, 40)
    drawn = [extend_box(box, (50, 60), np.random.default_rng(seed)) for seed in range(3000)]
    assert {b.x0 for b in drawn} == set(range(6, 11))  # int(.4 * 10) = 4, inclusive
    assert {b.x1 for b in drawn} == set(range(30, 39))  # int(.4 * 20) = 8
    assert {b.y0 for b in drawn} == set(range(12, 21))
    assert {b.y1 for b in drawn} == set(range(40, 49))
    assert abs(np.mean([b.x1 for b in drawn]) - 34) < 0.2


def test_extension_within_a_box_is_the_same_where_it_may_go_and_ends_there() -> None:
    box, within = Box(10, 20, 30, 40), Box(8, 0, 50, 41)
    drawn = [extend_box(box, (50, 60), np.random.default_rng(seed), within) for seed in range(3000)]
    assert {b.x0 for b in drawn} == {8, 9, 10}
    assert {b.x1 for b in drawn} == set(range(30, 39))
    assert {b.y0 for b in drawn} == set(range(12, 21))
    assert {b.y1 for b in drawn} == {40, 41}
    assert abs(np.mean([b.x0 for b in drawn]) - 9) < 0.1


def test_the_window_moves_over_every_position_and_zooms() -> None:
    extended, size = Box(120, 40, 160, 60), (300, 100)
    drawn = [crop_window(extended, size, np.random.default_rng(seed)).box for seed in range(6000)]
    unzoomed = [b for b in drawn if b.width == 100]
    assert {b.x0 for b in unzoomed} == set(range(60, 121))  # from 160 - 100 to 120, inclusive
    # in the middle (x0 = 90) 30 px are free on the left and on the right, so the zoom is int(.6 * 30) at most
    assert min(b.width for b in drawn) == 100 - 2 * 18
    assert max(b.y0 for b in drawn) == 18


def test_a_tall_picture_is_cropped_as_a_wide_one() -> None:
    wide = crop_window(Box(120, 40, 160, 60), (300, 100), np.random.default_rng(5)).box
    tall = crop_window(Box(40, 120, 60, 160), (100, 300), np.random.default_rng(5)).box
    assert (wide.x0, wide.y0, wide.x1, wide.y1) == (tall.y0, tall.x0, tall.y1, tall.x1)


@pytest.mark.parametrize(
    ("box", "size", "squashed"),
    [
        (Box(0, 0, 50, 50), (100, 100), False),  # a square picture is its own window
        (Box(0, 10, 101, 90), (200, 100), True),  # wider than the short side
        (Box(0, 10, 100, 90), (200, 100), False),  # exactly one position
        (Box(50, 10, 149, 90), (200, 100), False),  # two positions
    ],
)
def test_where_a_picture_is_squashed(box: Box, size: tuple[int, int], squashed: bool) -> None:
    assert crop_window(box, size, np.random.default_rng(0)).squashed is squashed


def test_conversions_truncate_and_clip() -> None:
    assert box_from_xyxy(10.9, 20.9, 10.9 + 5.2, 20.9 + 5.0, (640, 480)) == Box(10, 20, 16, 25)
    assert box_from_fractions((0.1, 0.25, 0.999, 1.0), (1024, 683)) == Box(102, 170, 1022, 683)
    assert box_from_xyxy(-3.7, 2, 900, 481.2, (640, 480)) == Box(0, 2, 640, 480)
    assert box_from_xyxy(700, 0, 710, 10, (640, 480)).area == 0


@settings(deadline=None, max_examples=100)
@given(pictures_with_boxes(), st.integers(0, 40))
def test_padding_takes_the_room_there_is(given_box: tuple[tuple[int, int], Box], margin: int) -> None:
    (width, height), box = given_box
    padded = pad_box(box, margin, (width, height))
    assert padded.x0 == box.x0 - min(margin, box.x0)
    assert padded.y1 == box.y1 + min(margin, height - box.y1)
    assert padded.contains(box)


def test_an_empty_box_has_no_area() -> None:
    assert Box(5, 5, 3, 9).area == 0
    assert Box(5, 5, 3, 2).area == 0
