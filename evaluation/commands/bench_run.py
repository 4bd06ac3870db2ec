"""`python -m evaluation bench run`: a list's edits made with a model, and scored."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import replace

from evaluation.benches.exemplar_options import add_bench_options, add_list_options
from evaluation.benches.exemplar_score import check_plan, list_files, score_exemplars
from evaluation.benches.run import add_run_options, run_jobs
from intarsia.command_line import Commands

_NEEDED = "the row has no exemplar, which the scores look at"


def add(commands: Commands) -> None:
    """Declare `bench run`."""
    parser = commands.add_parser(
        "bench run",
        help="make a list's edits with a model and score them; the same command again continues",
        description="`sampling batch` and then `evaluation bench` on the same list.",
    )
    add_list_options(parser)
    add_run_options(parser)
    add_bench_options(parser, device=False)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from sampling.jobs import read_jobs

    # Any painter runs the same list: prompts are for those that are told text.
    jobs, name = read_jobs(arguments.jobs, ("exemplar", "text")), arguments.jobs.stem
    jobs = [job if job.error or "exemplar" in job.files else replace(job, error=_NEEDED) for job in jobs]
    check_plan(arguments, truth=any(job.truth for job in jobs))

    def then(failed: Collection[str]) -> None:
        score_exemplars(arguments, list_files(jobs, arguments.only_present), name, len(jobs), failed)

    return run_jobs(arguments, jobs, then)
