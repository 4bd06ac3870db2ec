"""`python -m evaluation fid`: the Fréchet distance of two folders of pictures, or of their statistics."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evaluation.measures.metrics import Features
from evaluation.reports.output import add_seed_option
from evaluation.scoring.distributions import frechet_distance, kernel_distance
from evaluation.scoring.moments import moments_of, read_moments
from evaluation.scoring.references import kind_of, origin_of, picture_files, skipped_files
from evaluation.scoring.scorer import add_scoring_options, scorer
from evaluation.scoring.scoring import Request
from evaluation.scoring.set_figures import UNKNOWN
from intarsia.command_line import Commands
from intarsia.errors import UsageError, UserError

if TYPE_CHECKING:
    from evaluation.measures.measures import Measure

_FEATURES = ("inception", "inception-clean", "clip-b32", "clip-b32-test2017")


def add(commands: Commands) -> None:
    """Declare `fid`."""
    parser = commands.add_parser(
        "fid",
        help="the Fréchet distance of two sets of pictures",
        description="The Fréchet distance of two folders of pictures (all below them), or of an npz of "
        "statistics in pytorch-fid's layout. Memory does not grow with the number of pictures.",
    )
    parser.add_argument("a", type=Path, help="folder or npz")
    parser.add_argument("b", type=Path, help="folder or npz")
    parser.add_argument(
        "--features",
        choices=_FEATURES,
        default="inception",
        help="inception: FID as pytorch-fid computes it. inception-clean: with clean-fid's resizing. "
        "clip-b32: Paint by Example's. clip-b32-test2017: the same, with A cut to its middle 512 pixels, as "
        "COCO test2017 there (default %(default)s)",
    )
    parser.add_argument(
        "--kid", action="store_true", help="also compute the kernel distance; all features in memory"
    )
    add_seed_option(parser, "subsets of --kid")
    parser.add_argument(
        "--save", type=Path, metavar="FILE.npz", help="file for the statistics of A, a folder"
    )
    add_scoring_options(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    paths = arguments.a, arguments.b
    if arguments.kid and any(path.suffix == ".npz" for path in paths):
        raise UsageError("--kid needs the pictures themselves; give two folders instead of statistics")
    if arguments.save:
        if arguments.a.suffix == ".npz":
            raise UsageError(f"--save keeps the statistics of a folder; {arguments.a} is statistics already")
        if arguments.save.suffix != ".npz":
            raise UsageError(f"--save {arguments.save} must end in .npz; other files are not read again")
        arguments.save.parent.mkdir(parents=True, exist_ok=True)
    pictures = [[] if path.suffix == ".npz" else picture_files(path) for path in paths]
    measures: Sequence[Measure | None] = _measures(arguments) if any(pictures) else (None, None)
    moments, features, recipes = [], [], []
    for path, files, measure in zip(paths, pictures, measures, strict=True):
        if not files or not measure:
            moments.append(read_moments(path))
            origin = moments[-1].origin
            recipes.append(origin.recipe if origin else UNKNOWN)
            continue
        recipes.append(measure.identity)
        rows = _rows(arguments, path, files, measure)
        if arguments.kid:
            features.append(np.concatenate(list(rows)))
            rows = iter(features[-1:])
        moments.append(moments_of(rows))
    _check_recipes(paths, recipes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        distance = frechet_distance(*moments)
    print(f"Fréchet distance {distance:.4f}")
    if arguments.kid:
        kid = kernel_distance(features[0], features[1], seed=arguments.seed)
        spread = "" if kid.deviation is None else f" ± {kid.deviation * 1e3:.4f}"
        print(f"KID × 10³ {kid.mean * 1e3:.4f}{spread}")
    for path, files, recipe in zip(paths, pictures, recipes, strict=True):
        print(f"{path}: {f'{len(files):,} pictures' if files else 'statistics'}, {recipe}")
    if arguments.save and measures[0]:
        replace(moments[0], origin=origin_of(arguments.a, pictures[0], measures[0])).save(arguments.save)
    notes = {str(warning.message) for warning in caught}
    notes |= {note for path in paths if path.is_dir() and (note := skipped_files(path))}
    if UNKNOWN in recipes:
        notes.add("the recipe of statistics without one is unknown: the distance is comparable with no other")
    for message in sorted(notes):
        print(f"warning: {message}", file=sys.stderr)


def _check_recipes(paths: Sequence[Path], recipes: Sequence[str]) -> None:
    kinds = {kind_of(recipe) for recipe in recipes if recipe != UNKNOWN}
    if len(kinds) > 1:
        raise UserError(
            f"{paths[0]} has features of {recipes[0]} and {paths[1]} of {recipes[1]}; give features of one "
            "network, weights and resizing"
        )


def _measures(arguments: argparse.Namespace) -> tuple[Measure, Measure]:
    """The measures of A and of B."""
    from evaluation.measures import features
    from evaluation.measures.weights import parse_weights
    from sampling.denoise.device import pick_device

    given, device = parse_weights(arguments.weights), pick_device(arguments.device)
    if arguments.features.startswith("inception"):
        measure = features.inception(given, device)
        measure = features.clean(measure) if arguments.features == "inception-clean" else measure
        return measure, measure
    clip = features.clip("clip-b32", given, device)
    return (
        features.middle512(clip.whole) if arguments.features == "clip-b32-test2017" else clip.whole
    ), clip.whole


def _rows(
    arguments: argparse.Namespace, folder: Path, files: Sequence[Path], measure: Measure
) -> Iterator[Features]:
    """The features of each picture, [1, D] at a time."""
    cases = [{"features": Request((file,), measure)} for file in files]
    for values in scorer(arguments)(cases, str(folder)):
        yield values["features"][None]
