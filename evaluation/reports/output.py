"""Output of a command: tables on the terminal, files in a folder, and tables at Weights & Biases."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Container, Sequence
from pathlib import Path

from evaluation.reports.charts import Plot, histograms
from evaluation.reports.page import Gallery, best_and_worst, chosen_cases, page, strip
from evaluation.reports.tables import Table, as_latex, as_markdown, as_text, cases_csv, report_tables
from evaluation.reports.unlike import why_unpaired
from evaluation.scoring.report import Report, ReportColumn, write_report
from intarsia.errors import UsageError
from intarsia.files import atomic_write
from intarsia.tracking_run import start_tracking_run


def add_output_options(parser: argparse.ArgumentParser, default: str = "RESULTS/report") -> None:
    """Add the options of the report."""
    group = parser.add_argument_group("report")
    group.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"folder for report.json, cases.csv, report.md, .tex and .html (default {default})",
    )
    group.add_argument("--name", help="name of the method, for tables (default: the folder's name)")
    group.add_argument(
        "--sort-by",
        metavar="COLUMN",
        help="number that decides the page's best and worst cases (default: the first)",
    )
    add_cases_option(group)
    add_seed_option(group, "intervals")
    add_wandb_option(group)


def add_seed_option(parser: argparse._ArgumentGroup | argparse.ArgumentParser, what: str) -> None:
    """Add `--seed` of something random; `what`: its name in the help."""
    parser.add_argument("--seed", type=_seed, default=0, help=f"seed of the {what} (default %(default)s)")


def add_cases_option(parser: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    """Add `--cases`."""
    parser.add_argument(
        "--cases",
        action="append",
        default=[],
        metavar="KEYS",
        help="cases that the page shows, with commas between them, in place of those of --sort-by",
    )


def add_wandb_option(parser: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    """Add `--wandb` and `--wandb-project`."""
    parser.add_argument(
        "--wandb",
        choices=("online", "offline"),
        help="log the tables, and the page's pictures, to Weights & Biases as well",
    )
    parser.add_argument(
        "--wandb-project", default="intarsia", metavar="NAME", help="W&B project (default %(default)s)"
    )


def deliver(report: Report, arguments: argparse.Namespace, results: Path) -> None:
    """Print a report's tables, and write its files.

    Raises:
        UsageError: if `--sort-by` is not a column; then the numbers are written, but not the pages.
    """
    tables = report_tables(report, arguments.seed)
    print("\n\n".join(map(as_text, tables)))
    out = arguments.out or results / "report"
    write_report(report, out)
    atomic_write(out / "cases.csv", cases_csv(report))
    chosen = check_cases(arguments.cases, report.rows, report.name)
    column = sort_column(report, arguments.sort_by)
    galleries = chosen_cases(report, chosen) or (best_and_worst(report, column) if column else [])
    title, charts = f"{report.bench}: {report.name}", histograms(report)
    write_pages(out, "report", title, tables, galleries, charts)
    print(f"{out}: report.json, cases.csv, report.md, report.tex, report.html", file=sys.stderr)
    if arguments.wandb:
        log_to_wandb(arguments, f"{report.bench} {report.name}", tables, galleries, [report])


def write_pages(
    out: Path,
    name: str,
    title: str,
    tables: Sequence[Table],
    galleries: Sequence[Gallery],
    charts: Sequence[Plot] = (),
) -> None:
    """Write NAME.md, NAME.tex (the tables for LaTeX) and NAME.html into a folder, which is made."""
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / f"{name}.md", f"# {title}\n\n" + "\n".join(map(as_markdown, tables)))
    atomic_write(out / f"{name}.tex", "\n".join(map(as_latex, tables)))
    atomic_write(out / f"{name}.html", page(title, tables, galleries, charts))


def check_cases(words: Sequence[str], known: Container[str], name: str) -> list[str]:
    """The keys of `--cases`, each with commas between them.

    Args:
        words: values of the option.
        known: keys of all cases.
        name: name of what has them, for messages.

    Raises:
        UsageError: for a case that is not among them.
    """
    keys = [key for word in words for key in word.split(",")]
    if lost := [key for key in keys if key not in known]:
        raise UsageError(f"--cases {lost[0]}: {name} has no such case; cases.csv lists them")
    return keys


def sort_column(report: Report, name: str | None, other: Report | None = None) -> ReportColumn | None:
    """The column of the cases with that name; without a name the first, None if there is none.

    Args:
        report: report.
        name: value of `--sort-by`.
        other: report that it is compared with; then only columns that can be compared are valid.

    Raises:
        UsageError: if there is no such column, or it cannot be compared.
    """
    if name:
        check_column(name, [column.name for column in report.columns])
    reasons = {c.name: why_unpaired(c, report, other) if other else "" for c in report.columns}
    valid = {column.name: column for column in report.columns if not reasons[column.name]}
    if name and name not in valid:
        left = f"; valid: {', '.join(valid)}" if valid else ""
        raise UsageError(f"--sort-by {name} cannot be compared: {reasons[name]}{left}")
    return valid[name] if name else next(iter(valid.values()), None)


def check_column(name: str, valid: Collection[str]) -> None:
    """Refuse a name of `--sort-by` that is not in `valid`.

    Raises:
        UsageError: if it is not.
    """
    if name not in valid:
        raise UsageError(f"--sort-by {name}: there is no such column; valid: {', '.join(valid)}")


def log_to_wandb(
    arguments: argparse.Namespace,
    title: str,
    tables: Sequence[Table],
    galleries: Sequence[Gallery],
    reports: Sequence[Report],
) -> None:
    """Log tables, pictures and every case's numbers as one run; offline it is in the working folder.

    Raises:
        UserError: if W&B is not installed or cannot be reached.
    """
    run = start_tracking_run(
        arguments.wandb_project,
        without="leave --wandb out",
        offline="give --wandb offline",
        mode=arguments.wandb,
        name=title,
        job_type="evaluation",
        config={report.name: {c.name: c.recipe for c in report.columns} for report in reports},
    )
    import wandb

    content: dict[str, object] = {}
    for table in tables:
        header = [name or "name" for name in table.header]
        content[table.title] = wandb.Table(columns=header, data=[list(row) for row in table.rows])
    for gallery in galleries:  # as pictures: an offline run does not keep those in tables
        content[gallery.title] = [
            wandb.Image(strip(case), caption=f"{case.caption}: {', '.join(case.pictures)}")
            for case in gallery.cases
        ]
    for report in reports:
        names = [column.name for column in report.columns]
        rows = [[key, *(row[name] for name in names)] for key, row in report.rows.items()]
        content[f"cases of {report.name}"] = wandb.Table(columns=["case", *names], data=rows)
    run.log(content)
    run.finish()


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)
