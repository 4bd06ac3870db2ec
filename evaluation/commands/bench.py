"""`python -m evaluation bench`: results on your own list."""

from __future__ import annotations

import argparse

from evaluation.benches.exemplar_options import add_bench_options, add_list_options
from evaluation.benches.exemplar_score import list_files, score_exemplars
from intarsia.command_line import Commands


def add(commands: Commands) -> None:
    """Declare `bench`."""
    parser = commands.add_parser(
        "bench",
        help="score results on your own list",
        description="Score a folder of NAME.png on a list of `sampling batch`: a .csv or .jsonl with "
        "image, mask, exemplar and optionally name and truth. `bench run` makes the results first.",
    )
    add_list_options(parser)
    add_bench_options(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from sampling.jobs import read_jobs

    jobs = read_jobs(arguments.jobs)
    score_exemplars(arguments, list_files(jobs, arguments.only_present), arguments.jobs.stem, len(jobs))
