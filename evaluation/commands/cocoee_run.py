"""`python -m evaluation cocoee run`: COCOEE's edits made with a model, and scored."""

from __future__ import annotations

import argparse
from collections.abc import Collection

from evaluation.benches.exemplar_options import add_bench_options, add_cocoee_options
from evaluation.benches.exemplar_score import COCOEE, check_plan, score_exemplars
from evaluation.benches.run import add_run_options, run_jobs
from intarsia.command_line import Commands


def add(commands: Commands) -> None:
    """Declare `cocoee run`."""
    parser = commands.add_parser(
        "cocoee run",
        help="make COCOEE's edits with a model and score them; the same command again continues",
        description="Edit COCOEE's cases with a model folder and score them. Results that were made "
        "from the same inputs, settings and model stay. With --shard I/N, for job arrays, this process makes "
        "its part; the process that ends last scores all.",
    )
    add_cocoee_options(parser)
    add_run_options(parser)
    add_bench_options(parser, device=False)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from evaluation.benches.cocoee import bench_files
    from sampling.jobs import Job

    check_plan(arguments, truth=False)
    files = bench_files(arguments.bench)
    # Each case has its own noise, the same for every model.
    jobs = [Job(key, dict(own), arguments.seed + place, {}) for place, (key, own) in enumerate(files.items())]

    def then(failed: Collection[str]) -> None:
        score_exemplars(arguments, files, COCOEE, len(files), failed)

    return run_jobs(arguments, jobs, then)
