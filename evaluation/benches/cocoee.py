"""COCOEE, the bench of Paint by Example: 3,500 pictures with a box, each with an exemplar from elsewhere.

BENCH/id_list.npy                        the ids, COCO val2017 annotation ids
BENCH/GT_3500/{id:012}_GT.png            the picture
BENCH/Mask_bbox_3500/{id:012}_mask.png   white: repaint
BENCH/Ref_3500/{id:012}_ref.png          the exemplar
RESULTS/{id:012}.png                     a method's result
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.benches.bench import EXEMPLAR_METRICS, Bench, BenchCases, add_bench_folder
from evaluation.metrics.metric import EditCase
from intarsia.boxes import Box
from intarsia.errors import UserError
from intarsia.words import counted

COCOEE_SIZE = 512
_PLACES = {
    "image": "GT_3500/{}_GT.png",
    "mask": "Mask_bbox_3500/{}_mask.png",
    "exemplar": "Ref_3500/{}_ref.png",
}


def read_ids(path: Path) -> list[int]:
    """The annotation ids of an id_list.npy, in its order.

    Raises:
        UserError: if it is missing, is not a list of integers, or holds an id twice.
    """
    try:
        ids = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist; it is test_bench/id_list.npy of "
            "https://github.com/Fantasy-Studio/Paint-by-Example"
        ) from None
    except (ValueError, OSError):
        raise UserError(f"{path} is not an npy of plain numbers") from None
    if ids.ndim != 1 or not ids.size or not np.issubdtype(ids.dtype, np.integer):
        raise UserError(f"{path} holds {ids.dtype} of shape {list(ids.shape)}; give a list of ids")
    if len(np.unique(ids)) < ids.size:
        raise UserError(f"{path} names {counted(ids.size - len(np.unique(ids)), 'id')} twice")
    return [int(number) for number in ids]


def bench_files(bench: Path) -> dict[str, dict[str, Path]]:
    """Key -> "image", "mask", "exemplar" -> file, for every id of the bench; the files may be missing.

    Raises:
        UserError: as `read_ids`.
    """
    keys = [f"{number:012}" for number in read_ids(bench / "id_list.npy")]
    return {key: {kind: bench / place.format(key) for kind, place in _PLACES.items()} for key in keys}


def _add_files(parser: argparse.ArgumentParser) -> None:
    add_bench_folder(
        parser, "id_list.npy, GT_3500, Ref_3500, Mask_bbox_3500", "folder of ID.png of twelve digits"
    )


def _read(arguments: argparse.Namespace) -> BenchCases:
    cases = [EditCase(key, files) for key, files in bench_files(arguments.bench).items()]
    return BenchCases("COCOEE", cases, len(cases))


COCOEE = Bench(
    help="score results on COCOEE, Paint by Example's bench",
    description="Score a folder of ID.png on COCOEE: the three published numbers by the published recipe "
    "(CLIP Fréchet distance, which needs --reference test2017, quality score, CLIP score), and FID, KID "
    "and errors outside the mask. `cocoee run` makes the results first.",
    run_help="make COCOEE's edits with a model and score them; the same command again continues",
    run_description="Edit COCOEE's cases with a model folder and score them. Results that were made "
    "from the same inputs, settings and model stay. With --shard I/N, for job arrays, this process makes "
    "its part; the process that ends last scores all.",
    metrics=("clip-score-published", *EXEMPLAR_METRICS),
    add_files=_add_files,
    read=_read,
)


@dataclass(frozen=True)
class CocoeeSource:
    """A case rebuilt from COCO: the picture's square around a box.

    Attributes:
        window: the square in the picture, or the whole picture where no square holds the box.
        box: box in the square, which is scaled to `COCOEE_SIZE`.
    """

    window: Box
    box: Box


def place_square(box: Box, size: tuple[int, int]) -> CocoeeSource:
    """The largest square that holds a box, its middle as near to the box's as the picture allows.

    Where the box is longer than the picture's short side, the whole picture is taken and squashed. How the
    published squares were chosen is not known; these show the same objects, not the same pixels.

    Args:
        box: box in the picture's pixels.
        size: (width, height) of the picture.
    """
    width, height = size
    side = min(size)
    window = Box(0, 0, width, height)
    if max(box.width, box.height) <= side:
        x = min(max((box.x0 + box.x1 - side) // 2, 0), width - side)
        y = min(max((box.y0 + box.y1 - side) // 2, 0), height - side)
        window = Box(x, y, x + side, y + side)
    scaled = Box(
        (box.x0 - window.x0) * COCOEE_SIZE // window.width,
        (box.y0 - window.y0) * COCOEE_SIZE // window.height,
        -(-(box.x1 - window.x0) * COCOEE_SIZE // window.width),
        -(-(box.y1 - window.y0) * COCOEE_SIZE // window.height),
    )
    return CocoeeSource(window, scaled)
