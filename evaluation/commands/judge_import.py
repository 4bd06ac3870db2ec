"""`python -m evaluation judge import`: a judge's scores as a report, with intervals, for `compare`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.reports.output import add_output_options, deliver
from intarsia.command_line import Commands
from intarsia.errors import UserError

if TYPE_CHECKING:
    from evaluation.scoring.report import Report


def add(commands: Commands) -> None:
    """Declare `judge import`."""
    parser = commands.add_parser(
        "judge import",
        help="make a report of a judge's scores, for intervals and `compare`",
        description="Read the lines of `judge export` with `scores` in each, a list of two numbers from 0 to "
        "10, and write a report: semantic consistency and perceptual quality, each the least of its scores, "
        "and their geometric mean. The pictures must still be those that were exported.",
    )
    parser.add_argument("report", type=Path, metavar="REPORT", help="report that was exported")
    parser.add_argument("--scores", type=Path, required=True, metavar="FILE.jsonl", help="lines with scores")
    parser.add_argument(
        "--judge", required=True, metavar="NAME", help="name and version of the model, part of the recipe"
    )
    parser.add_argument(
        "--only-present", action="store_true", help="continue if scores are missing, and report how many"
    )
    add_output_options(parser, "judged beside the report, of one judge")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from dataclasses import replace

    from evaluation.reports.judge import judged, read_scores
    from evaluation.scoring.report import read_report

    report = read_report(arguments.report)
    found = judged(report, read_scores(arguments.scores, report), arguments.judge)
    if len(found.rows) < len(report.rows) and not arguments.only_present:
        lost = next(key for key in report.rows if key not in found.rows)
        raise UserError(
            f"{arguments.scores} lacks scores of {len(report.rows) - len(found.rows)} of {len(report.rows)} "
            f"cases (first {lost}); ask for them, or give --only-present"
        )
    folder = arguments.report if arguments.report.is_dir() else arguments.report.parent
    if arguments.out is None:
        arguments.out = folder / "judged"
        _check_judge(arguments.out, found)
    deliver(replace(found, name=arguments.name or found.name), arguments, folder)


def _check_judge(out: Path, found: Report) -> None:
    """Refuse to put a judge's scores in the place of another judge's, which cannot be computed again."""
    from evaluation.scoring.report import FILE, read_report

    if not (out / FILE).is_file():
        return
    old, new = (report.columns[0].recipe for report in (read_report(out), found))
    if old != new:
        raise UserError(f"{out} has a report of {old}; give --out DIR for this one, of {new}")
