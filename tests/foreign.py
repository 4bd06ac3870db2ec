"""Webdatasets as other programs write them: tiny pictures with a box in JSON, a mask, an exemplar, a text."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 60, 48
BOX = (12, 10, 36, 34)  # x0, y0, x1, y1
BOXES = ["--field", "box=json:bbox", "--box-format", "xyxy", "--box-unit", "pixels"]
FIELDS = {"image": "jpg", "box": "json:bbox", "captions": "txt"}
EXPLICIT = {"box_format": "xyxy", "box_unit": "pixels"}


def picture(number: int, kind: str = "JPEG") -> bytes:
    """A picture of one colour of its own, with a square of another where the box is."""
    rng = np.random.default_rng(number)
    pixels = np.full((HEIGHT, WIDTH, 3), rng.integers(0, 255, 3), np.uint8)
    x0, y0, x1, y1 = BOX
    pixels[y0:y1, x0:x1] = rng.integers(0, 255, 3)
    return encoded(pixels, kind)


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def mask(level: int = 255, size: tuple[int, int] = (WIDTH, HEIGHT)) -> bytes:
    pixels = np.zeros(size[::-1], np.uint8)
    x0, y0, x1, y1 = BOX
    pixels[y0:y1, x0:x1] = level
    return encoded(pixels, "PNG")


def sample(number: int, **record: Any) -> dict[str, bytes]:
    content = {"bbox": list(BOX), "name": "square", **record}
    return {"jpg": picture(number), "json": json.dumps(content).encode(), "txt": f"picture {number}".encode()}


def write_tar(path: Path, samples: Sequence[tuple[str, Mapping[str, bytes]]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, members in samples:
            for suffix, content in members.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def write_set(folder: Path, counts: Sequence[int] = (5, 4, 7)) -> str:
    """Tars with `counts` samples, whose keys begin with 0000 in each tar; their pattern."""
    number = 0
    for place, count in enumerate(counts):
        samples = [(f"{index:04d}", sample(number + index)) for index in range(count)]
        write_tar(folder / f"{place:06d}.tar", samples)
        number += count
    return f"{folder}/{{000000..{len(counts) - 1:06d}}}.tar"
