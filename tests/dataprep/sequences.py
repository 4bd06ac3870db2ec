"""Videos with object masks for tests, made of a bundled picture and an outline of it."""

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tests.paths import COCO_MINI

PALETTE = [level for number in range(256) for level in (number, 128, 255 - number)]
PICTURE = COCO_MINI / "images" / "000000010114.jpg"
SIZE = (240, 160)  # (width, height)


def frame(place: int, number: int = 1, drift: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """A frame, uint8 [H, W, 3], and its objects' numbers, uint8 [H, W]: an ellipse that moves and turns.

    Args:
        place: number of the frame.
        number: number of the object.
        drift: pixels that the object moves by from one frame to the next.
    """
    width, height = SIZE
    scene = cv2.resize(_picture(), SIZE, interpolation=cv2.INTER_AREA)
    thing = cv2.resize(_picture()[::-1, ::-1], SIZE, interpolation=cv2.INTER_AREA)
    numbers: np.ndarray = np.zeros((height, width), np.uint8)
    centre = 60 + drift * place, 50 + 25 * number
    cv2.ellipse(numbers, centre, (30, 20), 7 * place, 0, 360, number, -1)
    shifted = np.roll(thing, drift * place, axis=1)
    return np.where(numbers[:, :, None] == number, shifted, scene), numbers


def _picture() -> np.ndarray:
    return np.asarray(Image.open(PICTURE).convert("RGB"))


def save_numbers(path: Path, numbers: np.ndarray) -> None:
    """A mask as DAVIS has it: a palette PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(numbers, "P")
    picture.putpalette(PALETTE)
    picture.save(path)


def make_davis(
    root: Path, name: str = "ball", frames: tuple[int, ...] = (0, 2, 4, 6, 8), drift: int = 12
) -> Path:
    """A video in DAVIS' layout; returns its root."""
    for place in frames:
        pixels, numbers = frame(place, drift=drift)
        file = root / "JPEGImages" / "480p" / name / f"{place:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file, quality=95)
        save_numbers(root / "Annotations" / "480p" / name / f"{place:05d}.png", numbers)
    return root


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's run lengths of a mask, uint8 [H, W], not 0 = object."""
    flat = (mask.T.reshape(-1) > 0).astype(np.int8)
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, len(flat)]).tolist()
    return [0, *counts] if flat[0] else counts


def make_sav(root: Path, name: str = "sav_000007", annotated: int = 5) -> Path:
    """A video in SA-V's layout, of which every fourth frame is annotated; returns its root."""
    root.mkdir(parents=True, exist_ok=True)
    video = cv2.VideoWriter(str(root / f"{name}.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 24, SIZE)
    masklet = []
    for place in range(4 * (annotated - 1) + 1):
        pixels, numbers = frame(place, drift=4)
        video.write(np.ascontiguousarray(pixels[:, :, ::-1]))
        if place % 4 == 0:
            masklet.append([{"size": [SIZE[1], SIZE[0]], "counts": run_lengths(numbers)}])
    video.release()
    content = {"video_id": name, "video_width": SIZE[0], "video_height": SIZE[1], "masklet": masklet}
    (root / f"{name}_manual.json").write_text(json.dumps(content))
    return root
