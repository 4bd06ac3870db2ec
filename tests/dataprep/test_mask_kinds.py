"""The kinds of edit masks: what each covers, how far it goes, and that AnyDoor's loop is AnyDoor's."""

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataprep.draw.recipe import Recipe
from dataprep.draw.shape import draw_edit_mask
from dataprep.masks.mask_kind import MASKS, MaskScene, read_mask_kind
from dataprep.masks.perturbed import PerturbedMask, perturb
from intarsia.boxes import Box, extend_box
from intarsia.errors import UserError
from intarsia.masks import LARGEST_HOLE, EditMask
from tests.intarsia.test_boxes import pictures_with_boxes

SIZE, BOX, EXTENDED = (400, 300), Box(100, 80, 220, 200), Box(70, 60, 300, 240)


def ellipse(box: Box, size: tuple[int, int]) -> np.ndarray:
    """An object that touches all four sides of its box."""
    mask: np.ndarray = np.zeros(size[::-1], np.uint8)
    y, x = np.mgrid[0 : box.height, 0 : box.width]
    across, down = (2 * x + 1) / box.width - 1, (2 * y + 1) / box.height - 1
    box.cut(mask)[across**2 + down**2 <= 1] = 255
    return mask


def scene(size: tuple[int, int] = SIZE, box: Box = BOX, extended: Box = EXTENDED) -> MaskScene:
    return MaskScene(box, extended, size, lambda: Box(0, 0, *size), ellipse(box, size))


def draw(kind: str, seed: int, where: MaskScene | None = None, **numbers: Any) -> EditMask:
    made = read_mask_kind({"kind": kind, "share": 1, **numbers}).draw(
        where or scene(), np.random.default_rng(seed)
    )
    assert made.pixels.dtype == np.uint8
    assert set(np.unique(made.pixels)) <= {0, 255}
    assert made.kind == kind
    return made


@pytest.mark.parametrize("kind", MASKS)
@settings(deadline=None, max_examples=25)
@given(pictures_with_boxes(), st.integers(0, 1000))
def test_a_kind_keeps_what_it_promises(kind: str, given_box: tuple[tuple[int, int], Box], seed: int) -> None:
    size, box = given_box
    extended = extend_box(box, size, np.random.default_rng(seed))
    where = scene(size, box, extended)
    made, numbers = draw(kind, seed, where), read_mask_kind({"kind": kind, "share": 1})
    assert made.pixels.shape == size[::-1]
    holes = box.area - np.count_nonzero(box.cut(made.pixels))
    assert holes <= numbers.largest_hole * box.area
    if numbers.covers_object:
        assert where.object_mask is not None
        assert made.pixels[where.object_mask > 0].all()
    if numbers.reach is not None:
        reach = numbers.reach + 1  # Pillow fills the pixels that an edge touches
        near = Box(extended.x0 - reach, extended.y0 - reach, extended.x1 + reach, extended.y1 + reach)
        assert np.count_nonzero(near.clipped(size).cut(made.pixels)) == np.count_nonzero(made.pixels)


def test_a_bezier_mask_misses_no_more_than_its_polygon_may() -> None:
    assert read_mask_kind({"kind": "bezier", "share": 1}).largest_hole == LARGEST_HOLE


def test_an_outward_jitter_never_leads_into_the_box() -> None:
    for seed in range(50):
        polygon = draw("bezier", seed, jitter=40, outward=True).polygon
        assert len(polygon) == 72  # no point is left out
        # A coordinate is on its curve, or was taken out of the box.
        still = draw("bezier", seed, jitter=0, outward=True).polygon
        for (x, y), (x0, y0) in zip(polygon, still, strict=True):
            assert x == x0 or not BOX.x0 + 1e-4 < x < BOX.x1 - 1e-4
            assert y == y0 or not BOX.y0 + 1e-4 < y < BOX.y1 - 1e-4
            assert max(abs(x - x0), abs(y - y0)) < 40.0001


def test_a_dilated_mask_is_the_object_and_all_within_its_reach() -> None:
    made = draw("dilated", 0, size=7, times=2)
    inside = scene().object_mask
    assert inside is not None
    rows, columns = np.nonzero(inside)
    expected: np.ndarray = np.zeros_like(inside)
    for down in range(-6, 7):  # two squares of 7 are one of 13
        for across in range(-6, 7):
            expected[rows + down, columns + across] = 255
    assert np.array_equal(made.pixels, expected)
    assert np.array_equal(draw("dilated", 0, times=0).pixels, inside)


def plain_perturb(gt: np.ndarray, numbers: PerturbedMask, rng: np.random.Generator) -> np.ndarray:
    """AnyDoor's loop as it is described, over the whole mask in each operation."""
    target = rng.uniform(*numbers.iou)
    height, width = gt.shape
    seg = gt.copy()
    for _ in range(numbers.rounds):
        for _ in range(numbers.operations):
            x0, y0 = rng.integers(width), rng.integers(height)
            x1, y1 = rng.integers(x0 + 1, width + 1), rng.integers(y0 + 1, height + 1)
            if rng.random() < numbers.dots:
                seg[(y0 + y1) // 2, (x0 + x1) // 2] = rng.integers(2) * 255
            change = cv2.dilate if rng.random() < 0.5 else cv2.erode
            size = int(rng.integers(numbers.sizes[0], numbers.sizes[1] + 1))
            forms = [
                (cv2.MORPH_RECT, (size, size)),
                (cv2.MORPH_ELLIPSE, (size, size)),
                (cv2.MORPH_ELLIPSE, (size, size // 2)),
                (cv2.MORPH_ELLIPSE, (size // 2, size)),
            ]
            kernel = cv2.getStructuringElement(*forms[int(rng.integers(4))])
            seg[y0:y1, x0:x1] = change(seg[y0:y1, x0:x1], kernel)
            seg = np.logical_or(seg, gt).astype(np.uint8)
        both, either = np.count_nonzero(seg * gt), np.count_nonzero(seg + gt)
        if (both + 1e-6) / (either + 1e-6) < target:
            break
    number, labels = cv2.connectedComponents(seg, connectivity=8)
    areas = [np.count_nonzero(labels == piece) for piece in range(1, number)]
    return (labels == 1 + int(np.argmax(areas))).astype(np.uint8)


def test_a_perturbed_mask_is_that_of_the_loop_over_the_whole_mask() -> None:
    numbers = read_mask_kind({"kind": "perturbed", "share": 1, "rounds": 40})
    gt = (ellipse(Box(30, 20, 90, 70), (120, 90)) > 0).astype(np.uint8)
    overlaps = []
    for seed in range(25):
        ours = perturb(gt, numbers, np.random.default_rng(seed))
        assert np.array_equal(ours, plain_perturb(gt, numbers, np.random.default_rng(seed)))
        assert ours[gt > 0].all()
        overlaps.append(np.count_nonzero(gt) / np.count_nonzero(ours))
    assert max(overlaps) - min(overlaps) > 0.3  # the range that is aimed at is .3 to .99


def test_a_perturbed_mask_stays_in_the_crops_window() -> None:
    window = Box(90, 70, 240, 220)
    where = MaskScene(BOX, EXTENDED, SIZE, lambda: window, ellipse(BOX, SIZE))
    for seed in range(10):
        made = draw("perturbed", seed, where).pixels
        assert np.count_nonzero(window.cut(made)) == np.count_nonzero(made)


@pytest.mark.parametrize("cover", [0.2, 0.5, 0.9])
def test_brush_strokes_cover_as_much_of_the_box_as_is_asked_for(cover: float) -> None:
    shares = []
    for seed in range(40):
        made = draw("brush", seed, cover=cover)
        shares.append(np.count_nonzero(BOX.cut(made.pixels)) / BOX.area)
    assert min(shares) >= cover
    assert np.mean(shares) < 1


def test_the_whole_picture_is_a_kind() -> None:
    assert draw("whole", 0).pixels.min() == 255


def test_kinds_are_drawn_as_often_as_their_shares_say() -> None:
    shares = {"bezier": 0.1, "box": 0.2, "dilated": 0.3, "brush": 0.15, "whole": 0.25}
    recipe = Recipe(name="mine", masks=tuple({"kind": k, "share": s} for k, s in shares.items()))
    where = scene((60, 50), Box(10, 10, 40, 40), Box(5, 5, 50, 45))
    drawn = [draw_edit_mask(recipe, where, np.random.default_rng(seed)).kind for seed in range(3000)]
    for kind, share in shares.items():
        assert abs(drawn.count(kind) / 3000 - share) < 0.03


def test_a_kind_that_needs_the_object_says_so_where_it_is_not_known() -> None:
    recipe = Recipe(name="mine", masks=({"kind": "dilated", "share": 1},))
    where = MaskScene(BOX, EXTENDED, SIZE, lambda: BOX)
    with pytest.raises(UserError, match=r"recipe mine: a mask of kind dilated needs the object's own mask"):
        draw_edit_mask(recipe, where, np.random.default_rng(0))
