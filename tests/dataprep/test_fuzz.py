"""Damaged pictures by the hundred: each becomes a picture or a reason, and never an error of ours."""

import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dataprep.check.verify import verify_folder
from dataprep.pictures.decode import DecodedPicture, load_picture
from dataprep.pictures.index import EXTENSIONS
from dataprep.plan.inputs import BuildRequest
from dataprep.plan.plan import BuildConfig
from dataprep.records import Rejected, RejectReason
from tests.dataprep.test_shards import build_alone
from tests.paths import COCO_MINI, SHARED_DATA

BUNDLED = sorted((COCO_MINI / "images").glob("*.jpg"))[:8]
HARD = sorted((SHARED_DATA / "hard-inputs" / "images").glob("*"))
SOURCES = [path for path in [*BUNDLED, *HARD] if path.stat().st_size]
CSV = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax"
CSV += ",IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"


def flip(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 3, 30))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def flip_in_the_header(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 5))):
        content[rng.randrange(min(len(content), 200))] = rng.randrange(256)


def cut(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(len(content)) :]


def drop_a_part(content: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(content))
    del content[start : start + rng.choice((1, 2, 100, 5000))]


def repeat_a_part(content: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(content))
    content[start:start] = content[start : start + rng.choice((1, 50, 3000))]


def blank_a_part(content: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(content))
    size = len(content[start : start + rng.choice((4, 512, 4096))])
    content[start : start + size] = bytes([rng.choice((0, 255))]) * size


def scramble_a_part(content: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(content))
    size = len(content[start : start + rng.choice((8, 300))])
    content[start : start + size] = rng.randbytes(size)


def claim_another_size(content: bytearray, rng: random.Random) -> None:
    """In the header of a JPEG's frame or of a PNG, whose checksum is put right."""
    width, height = (rng.choice((0, 1, 7, 300, 5000, 65535)) for _ in range(2))
    frame = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
    if content.startswith(b"\xff\xd8") and 0 < frame < len(content) - 10:
        content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    elif content.startswith(b"\x89PNG") and len(content) > 40:
        content[16:24] = struct.pack(">II", width, height)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip,
    flip_in_the_header,
    cut,
    drop_a_part,
    repeat_a_part,
    blank_a_part,
    scramble_a_part,
    claim_another_size,
)


def damaged(seed: int) -> tuple[str, bytes]:
    """A file name and a content, the same ones for the same seed."""
    rng = random.Random(seed)
    path = rng.choice(SOURCES)
    content = bytearray(path.read_bytes())
    for mutate in rng.sample(MUTATIONS, rng.choice((1, 1, 2, 3))):
        if content:
            mutate(content, rng)
    suffix = path.suffix.lower() if path.suffix.lower() in EXTENSIONS else ".jpg"
    return f"{seed:05d}{suffix}", bytes(content)


@pytest.mark.parametrize("block", range(8))
def test_a_damaged_file_is_a_picture_or_a_reason(tmp_path: Path, block: int) -> None:
    for seed in range(100 * block, 100 * block + 100):
        name, content = damaged(seed)
        (tmp_path / name).write_bytes(content)
        result = load_picture(tmp_path / name)
        if isinstance(result, DecodedPicture):
            assert result.pixels.dtype == np.uint8
            assert result.pixels.ndim == 3
            assert min(result.pixels.shape) > 0
            assert result.pixels.flags.c_contiguous
        else:
            assert isinstance(result, Rejected)
            assert result.reason in RejectReason


@pytest.mark.parametrize("profile", ["tuple", "source"])
def test_a_shard_of_damaged_files_is_built_and_none_is_lost(tmp_path: Path, profile: str) -> None:
    images, rows, number = tmp_path / "images", [CSV], 200
    images.mkdir()
    for seed in range(10_000, 10_000 + number):
        name, content = damaged(seed)
        (images / name).write_bytes(content)
        x0, y0 = random.Random(seed).uniform(0, 0.5), random.Random(-seed).uniform(0, 0.5)
        rows.append(f"{name},x,/m/01,1,{x0:.4f},{x0 + 0.4:.4f},{y0:.4f},{y0 + 0.4:.4f},0,0,0,0,0")
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    (tmp_path / "classes.csv").write_text("/m/01,Thing\n")
    config = BuildConfig(source="openimages", name="toy", filters="pbe", image_size=64, profile=profile)
    inputs = {"boxes": tmp_path / "boxes.csv", "classes": tmp_path / "classes.csv"}
    manifest = build_alone(BuildRequest(config, inputs, images, tmp_path / "out"))
    rejected = manifest["rejected"]["pictures"]
    assert "render_failed" not in rejected, (tmp_path / "out" / "rejects.jsonl").read_text()
    assert manifest["kept"]["pictures"] + sum(rejected.values()) == number
    assert min(manifest["kept"]["pictures"], rejected["damaged"]) > 10
    assert verify_folder(tmp_path / "out", full=True) == []
