"""Results and exemplars as two folders: the command `identity`, which needs no bench.

RESULTS/NAME.png   a result
EXEMPLARS/NAME.*   the exemplar of the same name
MASKS/NAME.*       its edit mask, if results are scenes; without masks whole results are looked at
"""

from __future__ import annotations

import argparse
from pathlib import Path

from evaluation.benches.bench import Bench, BenchCases, add_results
from evaluation.metrics.metric import EditCase
from evaluation.scoring.references import picture_files
from intarsia.errors import UserError


def _add_files(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("files")
    group.add_argument(
        "--exemplars",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of exemplars, by the results' names",
    )
    group.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="folder of edit masks (white = repainted); default: the whole result is looked at",
    )
    add_results(group, "folder of NAME.png")


def _read(arguments: argparse.Namespace) -> BenchCases:
    exemplars = _by_name(arguments.exemplars)
    masks = _by_name(arguments.masks) if arguments.masks else {}
    if arguments.masks and (lost := sorted(exemplars.keys() - masks.keys())):
        raise UserError(f"{arguments.masks} has no mask of {lost[0]}; give one for each exemplar")
    cases = [
        EditCase(name, {"exemplar": path} | ({"mask": masks[name]} if masks else {}))
        for name, path in sorted(exemplars.items())
    ]
    return BenchCases(f"identity to {arguments.exemplars.resolve().name}", cases, len(cases))


def _by_name(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in picture_files(folder, least=1):
        if path.stem in found:
            raise UserError(f"{folder} has {found[path.stem].name} and {path.name}; keep one of a name")
        found[path.stem] = path
    return found


IDENTITY = Bench(
    help="how alike objects in results and exemplars are, of two folders",
    description="Compare each result with the exemplar of the same name: CLIP-I, DINO and DINOv2, each 100 · "
    "cosine of two vectors. Benches have the same numbers by --with.",
    metrics=("clip-i-b32", "clip-i-l14", "dino-s16", "dinov2-b14", "dinov2-l14"),
    add_files=_add_files,
    read=_read,
)
