"""A list of edits as a bench: a CSV or JSONL file of `sampling batch`, perhaps with truths."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.benches.bench import EXEMPLAR_METRICS, Bench, BenchCases, add_results
from evaluation.metrics.metric import EditCase
from evaluation.reports.published import published_rows
from intarsia.errors import UserError
from intarsia.words import counted

if TYPE_CHECKING:
    from sampling.jobs import Job

_NEEDED = "the row has no exemplar, which the scores look at"


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("jobs", type=Path, metavar="LIST", help=".csv or .jsonl")
    add_results(parser.add_argument_group("files"), "folder of NAME.png")


def _read(arguments: argparse.Namespace) -> BenchCases:
    from sampling.jobs import read_jobs

    # Any painter runs the same list: prompts are for those that are told text.
    jobs = read_jobs(arguments.jobs, ("exemplar", "text"))
    jobs = [job if job.error or "exemplar" in job.files else replace(job, error=_NEEDED) for job in jobs]
    title = arguments.jobs.stem
    if published_rows(title):
        title += " (own list)"  # whose cases are not those of the publication
    return BenchCases(title, _cases(jobs), len(jobs), jobs, _refused(jobs))


def _cases(jobs: Sequence[Job]) -> list[EditCase]:
    """The rows without errors; a truth in every one of them or in none."""
    right = [job for job in jobs if not job.error]
    with_truth = [job for job in right if job.truth]
    if with_truth and len(with_truth) < len(right):
        raise UserError(
            f"{len(with_truth)} of {len(right)} rows have a truth; give one for all, or make two lists"
        )
    return [EditCase(job.name, job.files | ({"truth": job.truth} if job.truth else {})) for job in right]


def _refused(jobs: Sequence[Job]) -> str:
    broken = [job for job in jobs if job.error]
    if not broken:
        return ""
    return (
        f"{counted(len(broken), 'row')} of the list cannot be done, first {broken[0].name}: "
        f"{broken[0].error}; correct it, or give --only-present to leave it out"
    )


OWN_LIST = Bench(
    help="score results on your own list",
    description="Score a folder of NAME.png on a list of `sampling batch`: a .csv or .jsonl with "
    "image, mask, exemplar and optionally name and truth. `bench run` makes the results first.",
    run_help="make a list's edits with a model and score them; the same command again continues",
    run_description="`sampling batch` and then `evaluation bench` on the same list.",
    metrics=EXEMPLAR_METRICS,
    add_files=_add_files,
    read=_read,
)
