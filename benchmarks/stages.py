"""Where the time of data prep goes: timers inside the running build, and inside the least work, the floor."""

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import simplejpeg

from benchmarks.peers import fixed_exemplar, least_dataprep
from dataprep.draw import exemplar, paint_by_example, render
from dataprep.pictures import decode
from dataprep.shards import build_shard
from dataprep.shards.tally import ShardTally
from intarsia import sample

REST = "everything else"
# Stage -> the functions that it consists of. A function's time does not count for the one that calls it.
STAGES: dict[str, tuple[tuple[Any, str], ...]] = {
    "read": ((Path, "read_bytes"),),
    "decode": ((simplejpeg, "decode_jpeg"),),
    "two resizes": ((render, "squash"), (least_dataprep, "squash")),
    "exemplar: cut": ((exemplar, "squash"), (fixed_exemplar, "squash")),
    "exemplar: warp, blur, flip": (
        *((cv2, name) for name in ("remap", "blur", "flip")),
        *((module, "warp") for module in (paint_by_example, fixed_exemplar)),
    ),
    "encode two JPEGs": ((simplejpeg, "encode_jpeg"),),
    "encode a PNG": ((sample, "encode_png"), (least_dataprep, "encode_png")),
    "tar with hash": ((build_shard, "write_tar"), (least_dataprep, "write_tar")),
    "exemplar: draws, albumentations": (
        (render, "draw_exemplar"),
        (least_dataprep, "augment_exemplar"),
    ),
    "random generator": ((render, "sample_rng"),),
    "edit mask": ((render, "draw_edit_mask"),),
    "extension, crop, record": ((build_shard, "draw_sample"),),
    "draws of a picture": ((build_shard, "_draw_all"),),
    "choice of boxes": ((build_shard, "_choose"),),
    "hash of the file": ((decode, "sha256_bytes"),),
    "EXIF": ((decode, "_jpeg_orientation"),),
    "reading: paths, headers, fit": ((build_shard, "load_picture"),),
    "JSON": ((sample.SampleMeta, "to_json"),),
    "hash of the picture": ((build_shard, "picture_hash"),),
    "counts and histograms": ((ShardTally, "keep"), (ShardTally, "change")),
    "accounts of a picture": ((build_shard, "render_record"),),
    "members of a sample": ((build_shard, "encode_sample"),),
    "plan, sidecar, manifest": ((build_shard, "read_plan_rows"), (build_shard, "write_json")),
}


def profile(work: Callable[[], object], rounds: int) -> dict[str, float]:
    """CPU-seconds of each stage, and of everything else, in the fastest of several rounds."""
    best: dict[str, float] = {}
    with _timers() as spent:
        for _ in range(rounds):
            spent.clear()
            start = time.thread_time_ns()
            work()
            total = time.thread_time_ns() - start
            if not best or total < sum(best.values()) * 1e9:
                best = {name: spent[name] / 1e9 for name in STAGES}
                best[REST] = (total - spent.total()) / 1e9
    return best


@contextmanager
def _timers() -> Iterator[Counter[str]]:
    """While it is open, every stage's functions add their nanoseconds of CPU time to the counter."""
    spent: Counter[str] = Counter()
    inner: list[int] = []  # what the functions that are running have called
    before = [(owner, name, getattr(owner, name)) for places in STAGES.values() for owner, name in places]
    try:
        for stage, places in STAGES.items():
            for owner, name in places:
                setattr(owner, name, _timed(stage, getattr(owner, name), spent, inner))
        yield spent
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def _timed(stage: str, work: Callable[..., Any], spent: Counter[str], inner: list[int]) -> Callable[..., Any]:
    @functools.wraps(work)
    def timed(*given: Any, **named: Any) -> Any:
        start = time.thread_time_ns()
        inner.append(0)
        try:
            return work(*given, **named)
        finally:
            taken = time.thread_time_ns() - start
            spent[stage] += taken - inner.pop()
            if inner:
                inner[-1] += taken

    return timed
