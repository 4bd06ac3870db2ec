"""Masks of video objects in SA-V's layout, in columns: VIDEO_manual.json or _auto.json beside VIDEO.mp4."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from dataprep.formats.boxes_csv import UNLABELLED
from dataprep.formats.run_lengths import mask_of_runs
from dataprep.formats.views import Bounds, ViewColumns
from dataprep.records import Annotations, RejectReason, View
from intarsia.errors import UserError
from intarsia.files import read_json, walk_files

EVERY = 4  # frames of the video from one that is annotated to the next: 6 of 24 in a second
_NAME = re.compile(r"^(.*)_(manual|auto)\.json$")
_FRAMES = 100_000  # a view's number is object × this + frame
_AUTO = 1000  # the first number of objects that were found automatically


def find_sav(root: Path) -> list[str]:
    """The files of annotations below a folder, as sorted paths."""
    return sorted(path for path, _ in walk_files(root) if _NAME.match(path.rpartition("/")[2]))


def read_sav(root: Path, paths: list[str]) -> Annotations:
    """Read the bounds of all masklets.

    A video is a record, an object in an annotated frame is a box. Where an object is not in one of these
    frames, that is a box that was dropped.

    Args:
        root: folder of the videos.
        paths: paths that `find_sav` gives.

    Raises:
        UserError: if a file is not one of SA-V.
    """
    videos: dict[str, list[str]] = {}
    for path in paths:
        videos.setdefault(path.removesuffix(".json").rpartition("_")[0], []).append(path)
    columns = ViewColumns()
    for video, files in videos.items():
        contents = {path: _content(root / path) for path in files}
        size = next(iter(contents.values()))[0]
        columns.begin(video, f"{video}.mp4", size)
        for path, (own_size, masklets) in contents.items():
            if own_size != size:
                raise UserError(
                    f"{root / path}: the video is {own_size[0]}x{own_size[1]}, in {files[0]} "
                    f"{size[0]}x{size[1]}; leave one of these files out"
                )
            first = _AUTO if path.endswith("_auto.json") else 0
            _read_masklets(columns, f"{video}.mp4", size, masklets, first)
    return columns.annotations()


def _content(path: Path) -> tuple[tuple[int, int], list[list[Any]]]:
    """(width, height) of the video, and for each annotated frame the masks of all objects."""
    content = read_json(path)
    try:
        size = int(content["video_width"]), int(content["video_height"])
        masklets = content["masklet"]
        if not all(isinstance(frame, list) for frame in masklets):
            raise TypeError
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(
            f"{path} is not a file of SA-V: it needs video_width, video_height and masklet, a list of masks "
            "for each annotated frame"
        ) from None
    return size, masklets


def _read_masklets(
    columns: ViewColumns, file: str, size: tuple[int, int], masklets: list[list[Any]], first: int
) -> None:
    width, height = size
    for place, masks in enumerate(masklets):
        for number, mask in enumerate(masks, first):
            box_id = number * _FRAMES + place * EVERY
            try:
                bounds = _bounds(mask, size)
            except ValueError:
                columns.drop(box_id, RejectReason.OBJECT_MASK_UNREADABLE)
                continue
            if bounds is None:
                columns.drop(box_id, RejectReason.OBJECT_GONE)
                continue
            x0, y0, x1, y1 = bounds
            columns.add(
                box_id,
                bounds,
                View(file, place * EVERY, number),
                UNLABELLED,
                json.dumps({"size": mask["size"], "counts": mask["counts"]}),
                is_cut=int(x0 == 0 or y0 == 0 or x1 == width or y1 == height),
            )


def _bounds(mask: Any, size: tuple[int, int]) -> Bounds | None:
    """The bounds of a mask; None if it is empty. ValueError for what is not one."""
    if mask is None:
        return None
    if not isinstance(mask, dict):
        raise ValueError("not run lengths")
    pixels = mask_of_runs(mask, (size,))
    xs, ys = np.flatnonzero(pixels.any(axis=0)), np.flatnonzero(pixels.any(axis=1))
    return (int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1) if len(xs) else None
