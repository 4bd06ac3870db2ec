"""How far each shipped recipe moves an exemplar's pixels and changes its colours, against closed numbers.

A recipe whose augmentation silently vanished, or grew, would be seen here and nowhere else.
"""

import cv2
import numpy as np
import pytest

from dataprep.draw.pipeline import open_pipeline
from dataprep.draw.recipe import load_recipe
from tests.dataprep.test_recipe import SHIPPED

SIZE, DRAWS = 224, 200
PLACES: np.ndarray = np.broadcast_to(np.arange(SIZE, dtype=np.uint8)[:, None], (SIZE, SIZE))
INNER = slice(SIZE // 4, 3 * SIZE // 4)
# Rotation by θ about the middle moves a pixel at distance r by 2 r sin(θ/2): over θ uniform up to 20 degrees
# and the inner square of 112 pixels, whose mean distance is 0.3826 sides, 7.46 pixels.
TURNED = 0.3826 * SIZE / 2 * 4 * (1 - np.cos(np.deg2rad(10))) / np.deg2rad(20)


def moved(name: str, draw: int) -> tuple[np.ndarray, bool, dict]:
    """Distance of each inner pixel from its source, whether it was mirrored, and the draw's record."""
    pipeline, grey = open_pipeline(load_recipe(name)), np.full((SIZE, SIZE, 3), 128, np.uint8)
    places = np.stack([PLACES.T, PLACES], axis=2) + 1  # 0 is outside
    _, mask, drawn = pipeline(grey, places, np.random.default_rng(draw))
    assert mask is not None
    x, y = np.moveaxis(np.where(mask > 0, mask.astype(float) - 1, np.nan), 2, 0)
    mirrored = bool(np.nanmean(np.diff(x[INNER, INNER], axis=1)) < 0)
    target = PLACES[::-1].T if mirrored else PLACES.T
    return np.hypot(x - target, y - PLACES)[INNER, INNER], mirrored, drawn


@pytest.fixture(scope="module")
def motions() -> dict[str, list[tuple[np.ndarray, bool, dict]]]:
    cv2.setNumThreads(1)  # as a build does; threads for small pictures wait for each other
    return {name: [moved(name, draw) for draw in range(DRAWS)] for name in SHIPPED}


def mean(motions: list[np.ndarray]) -> float:
    assert len(motions) > DRAWS / 10
    return float(np.nanmean(motions))


def test_pbe_moves_pixels_as_its_numbers_say(motions: dict) -> None:
    drawn = motions["pbe"]
    assert abs(np.mean([mirrored for _, mirrored, _ in drawn]) - 0.5) < 0.1
    still = [motion for motion, _, d in drawn if not d["angle"] and not d["shifts"]]
    assert abs(len(still) / DRAWS - 0.5 * 0.7) < 0.1
    assert mean(still) == 0
    turned = [motion for motion, _, d in drawn if d["angle"] and not d["shifts"]]
    assert abs(mean(turned) / TURNED - 1) < 0.2
    shifted = [np.nanmedian(motion) for motion, _, d in drawn if d["shifts"] and not d["angle"]]
    assert 20 < np.median(shifted) < 40  # 28.6 in the version that the original pins


def test_anydoor_mirrors_and_moves_nothing_else(motions: dict) -> None:
    drawn = motions["anydoor"]
    assert abs(np.mean([mirrored for _, mirrored, _ in drawn]) - 0.5) < 0.1
    assert max(motion.max() for motion, _, _ in drawn) == 0


def test_after_insert_anything_moves_nothing(motions: dict) -> None:
    assert all(motion.max() == 0 and not mirrored for motion, mirrored, _ in motions["after-insert-anything"])


def test_objectstitch_turns_all_and_tilts_half(motions: dict) -> None:
    drawn = motions["objectstitch"]
    assert abs(np.mean([mirrored for _, mirrored, _ in drawn]) - 0.5) < 0.1
    assert all("Rotate" in d for _, _, d in drawn)
    turned = [motion for motion, _, d in drawn if "Perspective" not in d]
    assert abs(len(turned) / DRAWS - 0.5) < 0.1
    assert abs(mean(turned) / TURNED - 1) < 0.2
    tilted = [motion for motion, _, d in drawn if "Perspective" in d]
    assert mean(tilted) > 1.3 * TURNED


# Mean change of a level of 128. AnyDoor: half of the draws add 128 c + 255 b, with b and c uniform within .2;
# the mean size of a sum of uniform numbers within A = 25.6 and B = 51 is B / 2 + A² / (6 B). ObjectStitch:
# the brightness is multiplied by .7 to 1.3, so that 128 changes by .15 · 128; contrast, saturation and hue
# leave plain grey as it is.
COLOUR = {
    "pbe": 0.0,
    "after-insert-anything": 0.0,
    "anydoor": 0.5 * (51 / 2 + 25.6**2 / (6 * 51)),
    "objectstitch": 0.15 * 128,
}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_level_of_grey_changes_as_the_numbers_say(name: str) -> None:
    pipeline, grey = open_pipeline(load_recipe(name)), np.full((SIZE, SIZE, 3), 128, np.uint8)
    middle = SIZE // 2
    levels = [
        pipeline(grey.copy(), None, np.random.default_rng(draw))[0][middle, middle]
        for draw in range(4 * DRAWS)
    ]
    change = float(np.abs(np.array(levels, float) - 128).mean())
    assert abs(change - COLOUR[name]) <= 0.15 * COLOUR[name]


@pytest.mark.parametrize(("name", "changes"), [("objectstitch", True), ("anydoor", False), ("pbe", False)])
def test_only_a_recipe_with_hue_or_saturation_changes_the_ratio_of_colours(name: str, changes: bool) -> None:
    pipeline, colour = open_pipeline(load_recipe(name)), np.full((SIZE, SIZE, 3), (120, 100, 110), np.uint8)
    middle, spread = SIZE // 2, []
    for draw in range(60):
        made = pipeline(colour.copy(), None, np.random.default_rng(draw))[0][middle, middle].astype(float)
        spread.append((made[0] - made[2]) - (made[2] - made[1]))  # 0 at the start; a hue shift tips it
    assert (float(np.abs(spread).max()) > 4) is changes
