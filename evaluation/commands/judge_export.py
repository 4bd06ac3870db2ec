"""`python -m evaluation judge export`: questions about results, for a judge that you ask yourself."""

from __future__ import annotations

import argparse
from pathlib import Path

from intarsia.command_line import Commands


def add(commands: Commands) -> None:
    """Declare `judge export`."""
    parser = commands.add_parser(
        "judge export",
        help="write questions about scored results for a vision-language model",
        description="Write two questions for each case of a report as lines of JSON, with the paths of the "
        "pictures: semantic consistency and perceptual quality, as VIEScore asks. No model is called. Ask "
        "one, add its `scores` to each line, and give the file to `judge import`.",
    )
    parser.add_argument(
        "report", type=Path, metavar="REPORT", help="report.json, its folder, or the folder of results"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl", help="file to write")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from evaluation.reports.judge import QUESTIONS, question_lines
    from evaluation.scoring.report import read_report
    from intarsia.files import atomic_write

    report = read_report(arguments.report)
    lines = list(question_lines(report))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(arguments.out, "\n".join(lines) + "\n")
    print(f"{arguments.out}: {len(QUESTIONS)} questions about each of {len(report.rows):,} cases")
