"""`python -m evaluation cocoee`: results on Paint by Example's bench."""

from __future__ import annotations

import argparse

from evaluation.benches.exemplar_options import add_bench_options, add_cocoee_options
from evaluation.benches.exemplar_score import COCOEE, score_exemplars
from intarsia.command_line import Commands


def add(commands: Commands) -> None:
    """Declare `cocoee`."""
    parser = commands.add_parser(
        "cocoee",
        help="score results on COCOEE, Paint by Example's bench",
        description="Score a folder of ID.png on COCOEE: the three published numbers by the published recipe "
        "(CLIP Fréchet distance, which needs --reference test2017, quality score, CLIP score), and FID, KID "
        "and errors outside the mask. `cocoee run` makes the results first.",
    )
    add_cocoee_options(parser)
    add_bench_options(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from evaluation.benches.cocoee import bench_files

    files = bench_files(arguments.bench)
    score_exemplars(arguments, files, COCOEE, len(files))
