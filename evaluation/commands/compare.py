"""`python -m evaluation compare`: reports side by side, and which differences are beyond noise."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from evaluation.reports.charts import scatters, trade_offs
from evaluation.reports.compare import check_bench, compare_tables
from evaluation.reports.output import (
    add_cases_option,
    add_seed_option,
    add_wandb_option,
    check_cases,
    log_to_wandb,
    sort_column,
    write_pages,
)
from evaluation.reports.page import largest_changes
from evaluation.reports.tables import as_text
from evaluation.scoring.report import read_report
from intarsia.command_line import Commands
from intarsia.errors import UsageError


def add(commands: Commands) -> None:
    """Declare `compare`."""
    parser = commands.add_parser(
        "compare",
        help="compare reports, and show which differences are beyond noise",
        description="Compare reports of one bench, the others with the first: numbers side by side, paired "
        "differences with 95 % intervals, and published rows with their recipes. Numbers of different "
        "recipes are marked and not compared.",
    )
    parser.add_argument(
        "reports",
        type=Path,
        nargs="+",
        metavar="REPORT",
        help="report.json, its folder, or the folder of results",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for compare.md, .tex and .html")
    parser.add_argument(
        "--sort-by",
        metavar="COLUMN",
        help="number that decides which pictures the page shows (default: the first)",
    )
    add_cases_option(parser)
    add_seed_option(parser, "intervals")
    add_wandb_option(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    if len(arguments.reports) < 2:
        raise UsageError("compare needs two reports or more")
    reports = [read_report(path) for path in arguments.reports]
    names = [report.name for report in reports]
    if len(set(names)) < len(names):  # distinguished by their paths
        reports = [replace(r, name=str(path)) for r, path in zip(reports, arguments.reports, strict=True)]
    first, *others = reports
    check_bench(reports)
    columns = [sort_column(first, arguments.sort_by, other) for other in others]
    keys = check_cases(arguments.cases, first.rows, first.name)
    tables = compare_tables(reports, arguments.seed)
    print("\n\n".join(map(as_text, tables)))
    if not (arguments.out or arguments.wandb):
        return
    changes = (largest_changes(first, o, c, keys=keys) for o, c in zip(others, columns, strict=True))
    galleries = [gallery for found in changes for gallery in found]
    charts = [*trade_offs(reports), *(chart for other in others for chart in scatters(first, other))]
    title = " and ".join(report.name for report in reports)
    if arguments.out:
        write_pages(arguments.out, "compare", f"{first.bench}: {title}", tables, galleries, charts)
    if arguments.wandb:
        log_to_wandb(arguments, f"{first.bench} {title}", tables, galleries, reports)
