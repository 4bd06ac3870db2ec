"""Reports as tables: what they hold once, and how they look as text, Markdown and CSV."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.reports.published import Published, published_rows
from evaluation.reports.unlike import how_made, why_unlike
from evaluation.scoring.confidence import Interval, bootstrap_mean
from evaluation.scoring.report import Line, Report, ReportColumn, SetFigure, estimate_set, summarise

_NONE = "no background"


@dataclass(frozen=True)
class Table:
    """A table for people.

    Attributes:
        title: a line above it.
        header: names of the columns.
        rows: cells of each row.
        notes: lines below it.
        best: (row, column) of the cells with the best value of their column.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    best: frozenset[tuple[int, int]] = frozenset()


def report_tables(report: Report, seed: int = 0) -> list[Table]:
    """The averages with their recipes; those of the categories; the published rows."""
    *groups, everything = summarise(report, seed)
    tables = [_averages(report, everything)]
    if groups:
        tables.append(_categories(report, groups))
    if rows := published_rows(report.bench):
        tables.append(published_table([report], rows))
    return tables


def published_table(reports: Sequence[Report], rows: Sequence[Published]) -> Table:
    """The reports above published rows; a number that cannot stand beside the reports' own gets a note.

    Of several reports, the first is the one that the others are compared with.
    """
    first = reports[0]
    own = [{column.name: column for column in all_columns(report)} for report in reports]
    columns = [column for column in all_columns(first) if any(column.name in row.values for row in rows)]
    rows = [row for row in rows if any(column.name in row.values for column in columns)]
    reasons: dict[str, int] = {}

    def marked(shown: str, reason: str) -> str:
        return f"{shown} ≠{reasons.setdefault(reason, len(reasons) + 1)}" if shown and reason else shown

    def ours(report: Report, column: ReportColumn) -> str:
        reason = why_unlike(column, first, report) if report is not first else ""
        return marked(shown_value(report, column), reason)

    def theirs(row: Published, column: ReportColumn) -> str:
        if column.name not in row.values:
            return ""
        shown = f"{row.values[column.name]:.2f}"
        found: dict[str, list[str]] = {}
        for report, columns in zip(reports, own, strict=True):
            if column.name in columns and (text := row.unlike(columns[column.name], report)):
                found.setdefault(text, []).append(report.name)
        reason = "; ".join(
            text if len(names) == len(reports) else f"{', '.join(names)}: {text}"
            for text, names in found.items()
        )
        return marked(shown, reason)

    body = [[report.name, *(ours(report, column) for column in columns)] for report in reports]
    body += [[row.method, *(theirs(row, column) for column in columns)] for row in rows]
    numbers = [[set_value(report, column) for column in columns] for report in reports]
    numbers += [[row.values.get(column.name, math.nan) for column in columns] for row in rows]
    values = [
        [math.nan if "≠" in cell else value for cell, value in zip(cells[1:], own, strict=True)]
        for cells, own in zip(body, numbers, strict=True)
    ]
    sources = dict.fromkeys(row.source for row in rows)
    notes = [f"≠{number} not comparable. {reason}" for reason, number in reasons.items()]
    notes += [*(how_made(reports) if len(reports) > 1 else ()), *(f"published: {one}" for one in sources)]
    notes.append("check yourself that weights, reference set and cases are the publishers'")
    header = ["", *(c.heading for c in columns)]
    return Table("beside published numbers", header, body, notes, best_cells(columns, values, reports))


def all_columns(report: Report) -> list[ReportColumn]:
    """Those of the set, then those of the cases; last those with too few cases to mean much."""
    strong = [figure.column for figure in report.figures if not figure.weak]
    return [*strong, *report.columns, *(figure.column for figure in report.figures if figure.weak)]


def set_value(report: Report, column: ReportColumn) -> float:
    """A report's number, the mean if it is one of cases; NaN if it has none by this name."""
    for figure in report.figures:
        if figure.column.name == column.name:
            return figure.value
    if column.name not in {own.name for own in report.columns}:
        return math.nan
    values = np.array(list(report.values(column.name).values()))
    return math.nan if np.isnan(values).all() else bootstrap_mean(values, draws=0).value


def best_cells(
    columns: Sequence[ReportColumn], values: Sequence[Sequence[float]], reports: Sequence[Report]
) -> frozenset[tuple[int, int]]:
    """(row, column) of the best value of each column, if two rows have one; NaN has none.

    A column where a report's mean leaves out infinite cases, the best ones, has no best value.

    Args:
        columns: columns, the first of which is column 1 of the table.
        values: values of each row.
        reports: reports of the table.
    """
    found = set()
    for place, column in enumerate(columns):
        if any(infinite_cases(report, column) for report in reports):
            continue
        own = [row[place] for row in values if not math.isnan(row[place])]
        if len(own) > 1:
            best = max(own) if column.better == "up" else min(own)
            found |= {(number, place + 1) for number, row in enumerate(values) if row[place] == best}
    return frozenset(found)


def as_latex(table: Table) -> str:
    """A tabular of the package booktabs under its title as a comment; recipes are left to the notes."""
    header, rows = list(table.header), [list(row) for row in table.rows]
    if header[-1] == "recipe":
        header, rows = header[:-1], [row[:-1] for row in rows]

    def line(cells: Sequence[str], number: int) -> str:
        shown = [
            f"\\textbf{{{_tex(c)}}}" if (number, p) in table.best else _tex(c) for p, c in enumerate(cells)
        ]
        return " & ".join(shown) + r" \\"

    body = [line(row, number) for number, row in enumerate(rows)]
    ruler = "l" + "r" * (len(header) - 1)
    lines = [f"\\begin{{tabular}}{{{ruler}}}", r"\toprule", line(header, -1), r"\midrule", *body]
    lines += [r"\bottomrule", r"\end{tabular}", *map(_comment, table.notes)]
    return "\n".join([_comment(table.title), *lines]) + "\n"


def _comment(text: str) -> str:
    return "% " + " ".join(text.split("\n"))


_TEX = {
    "\\": r"\textbackslash{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "≠": r"$\neq$",
    "∞": r"$\infty$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "⁴": "$^4$",
    "³": "$^3$",
    "²": "$^2$",
    "\n": " ",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
} | {sign: f"\\{sign}" for sign in "&%$#_{}"}


def _tex(text: str) -> str:
    return "".join(_TEX.get(sign, sign) for sign in text)


def infinite_cases(report: Report, column: ReportColumn) -> int:
    """How many infinite cases a report's mean leaves out; 0 if all are infinite, which is then the mean."""
    if column.name not in {own.name for own in report.columns}:
        return 0
    values = np.array(list(report.values(column.name).values()))
    return int(np.isinf(values).sum()) if np.isfinite(values).any() else 0


def shown_value(report: Report, column: ReportColumn) -> str:
    """A report's number as text, with the infinite cases that it leaves out; empty where it has none."""
    if column.name not in {own.name for own in all_columns(report)}:
        return ""
    infinite = infinite_cases(report, column)
    return _value(set_value(report, column), column) + (f" ({infinite:,} ∞)" if infinite else "")


def _value(value: float, column: ReportColumn) -> str:
    """A value as text; NaN is that of masks that leave no background."""
    return _NONE if math.isnan(value) else number(value, column.digits)


def number(value: float, digits: int) -> str:
    """A number with digits behind its point; infinity as a sign, and no sign before zeros."""
    return "∞" if math.isinf(value) else f"{value:z.{digits}f}"


def interval(estimate: Interval, digits: int) -> str:
    """The interval as text; empty if there is none."""
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return ""
    return f"[{number(estimate.low, digits)}, {number(estimate.high, digits)}]"


def as_text(table: Table) -> str:
    """For a terminal: aligned, the first column to the left; recipes, which are long, below."""
    rows, recipes = [table.header, *table.rows], []
    if table.header[-1] == "recipe":
        recipes = [f"{row[0]}  {row[-1]}" for row in table.rows]
        rows = [row[:-1] for row in rows]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([table.title, *lines, *table.notes, *recipes])


def as_markdown(table: Table) -> str:
    """A Markdown table under its title."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    marked = [
        [f"**{cell}**" if (number, place) in table.best else cell for place, cell in enumerate(row)]
        for number, row in enumerate(table.rows)
    ]

    ruler = "|---|" + "---:|" * (len(table.header) - 1)
    notes = [f"- {note}" for note in table.notes]
    lines = [f"## {table.title}", "", line(table.header), ruler, *map(line, marked)]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def cases_csv(report: Report) -> str:
    """A line for each case: key, category if the bench has them, and its numbers; empty for no value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    group = ["category"] if report.groups else []
    writer.writerow(["key", *group, *(column.name for column in report.columns)])
    for key, row in report.rows.items():
        values = (row[column.name] for column in report.columns)
        cells = ("" if math.isnan(value) else f"{value:.6g}" for value in values)
        writer.writerow([key, *([report.groups.get(key, "")] if group else []), *cells])
    return text.getvalue()


def _averages(report: Report, everything: Line) -> Table:
    title = f"{report.bench}, {report.name}: {len(report.rows):,} of {report.expected:,} cases"
    rows = [_set_row(figure, len(report.rows)) for figure in report.figures if not figure.weak]
    for column in report.columns:
        average = everything.values[column.name]
        if average is None:
            rows.append([column.heading, _NONE, "", "0", column.recipe])
            continue
        shown = number(average.value, column.digits), interval(average, column.digits)
        rows.append([column.heading, *shown, _cases(average), column.recipe])
    rows += [_set_row(figure, len(report.rows)) for figure in report.figures if figure.weak]
    infinite = any(average and 0 < average.infinite < average.count for average in everything.values.values())
    notes = ["infinite values (equal pixels) are counted and left out of averages"] if infinite else []
    header = ["", "value", "95 % interval", "cases", "recipe"]
    return Table(title, header, rows, [*report.remarks, *notes, *unlisted_weights(report), *_making(report)])


def _cases(average: Interval) -> str:
    return f"{average.count:,}" + (f", {average.infinite:,} ∞" if average.infinite else "")


def unlisted_weights(report: Report) -> list[str]:
    """The caution about numbers of weights that are not known to be the published ones; empty without any."""
    titles = [column.title for column in all_columns(report) if column.unlisted]
    if not titles:
        return []
    return [f"{', '.join(titles)}: weights that are not on the list of published files (@~ in the recipe)"]


def _making(report: Report) -> list[str]:
    made = report.settings
    if "differ" in made:
        return [f"the results were made in {made['differ']} different ways, see results.jsonl"]
    if not made:
        return []
    settings = ", ".join(f"{name} {value}" for name, value in made["settings"].items())
    return [f"made by {made['model']['path']} ({made['model']['sha256'][:12]}): {settings}"]


def _set_row(figure: SetFigure, count: int) -> list[str]:
    column, estimate = figure.column, estimate_set(figure, count)
    shown = interval(estimate, column.digits)
    if figure.deviation is not None:
        shown = f"± {number(figure.deviation, column.digits)} over subsets"
    return [column.heading, _value(figure.value, column), shown, f"{count:,}", column.recipe]


def _categories(report: Report, groups: Sequence[Line]) -> Table:
    def cell(line: Line, column: ReportColumn) -> str:
        average = line.values[column.name]
        if average is None:
            return _NONE
        ends = interval(average, column.digits)
        infinite = f", {average.infinite:,} ∞" if 0 < average.infinite < average.count else ""
        return number(average.value, column.digits) + (f" {ends}" if ends else "") + infinite

    rows = [
        [line.name, f"{line.count:,}", *(cell(line, column) for column in report.columns)] for line in groups
    ]
    return Table("by category", ["", "cases", *(c.heading for c in report.columns)], rows)
