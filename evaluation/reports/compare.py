"""Reports side by side: differences with intervals, and what cannot be compared."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.reports.published import published_rows
from evaluation.reports.tables import (
    Table,
    all_columns,
    best_cells,
    interval,
    number,
    published_table,
    set_value,
    shown_value,
    unlisted_weights,
)
from evaluation.reports.unlike import how_made, other_cases, why_unlike, why_unpaired
from evaluation.scoring.confidence import GROUPS, Interval, compare_cases, count_infinite, jackknife
from evaluation.scoring.report import Report, ReportColumn, SetFigure
from intarsia.errors import UserError
from intarsia.words import counted


@dataclass(frozen=True)
class Difference:
    """How a number of one report differs from the first report's.

    Attributes:
        column: column of the first report.
        change: other minus first, over the cases that both have; None if `unlike` is not empty or no case
            has it.
        verdict: result in words.
        unlike: reason why the reports' values cannot stand side by side; empty if they can. Where only the
            cases are different, those that both have are compared all the same.
    """

    column: ReportColumn
    change: Interval | None
    verdict: str
    unlike: str = ""


def check_bench(reports: Sequence[Report]) -> None:
    """Check that reports can be in one table.

    Raises:
        UserError: if they are of different benches.
    """
    for other in reports[1:]:
        if other.bench != reports[0].bench:
            raise UserError(
                f"{reports[0].name} is of {reports[0].bench} and {other.name} of {other.bench}; "
                "compare results of one bench"
            )


def differences(first: Report, other: Report, seed: int = 0) -> list[Difference]:
    """Every number of the first report against the other's, cases paired, in the order of `all_columns`."""
    figures = {figure.column.name: figure for figure in other.figures}
    found = [_of_sets(figure, figures.get(figure.column.name), first, other) for figure in first.figures]
    for column in first.columns:
        unlike = why_unpaired(column, first, other)
        refused = Difference(column, None, "not comparable", unlike)
        found.append(refused if unlike else _of_cases(column, first, other, seed))
    by_name = {difference.column.name: difference for difference in found}
    return [by_name[column.name] for column in all_columns(first)]


def compare_tables(reports: Sequence[Report], seed: int = 0) -> list[Table]:
    """The numbers side by side, then each report against the first, then the published rows.

    Raises:
        UserError: as `check_bench`.
    """
    check_bench(reports)
    first, *others = reports
    columns = all_columns(first)
    against = [differences(first, other, seed) for other in others]
    body, notes = [], []
    best: set[tuple[int, int]] = set()
    for place, column in enumerate(columns):
        row = [column.heading, shown_value(first, column)]
        unlike = [False, *(bool(found[place].unlike) for found in against)]
        values = [
            [math.nan if refused else set_value(report, column)]
            for report, refused in zip(reports, unlike, strict=True)
        ]
        best |= {(place, 1 + number) for number, _ in best_cells([column], values, reports)}
        for other, found in zip(others, against, strict=True):
            value = shown_value(other, column)
            if found[place].unlike:
                notes.append(f"≠ {column.title}: {found[place].unlike}")
                value = f"{value or 'none'} ≠"
            row.append(value)
        body.append([*row, column.recipe])
    for other in others:
        extra = [c.title for c in all_columns(other) if c.name not in {own.name for own in columns}]
        if extra:
            notes.append(f"only {other.name} has {', '.join(extra)}")
    title = f"{first.bench}: {first.name} and {', '.join(other.name for other in others)}"
    header = ["", *(report.name for report in reports), "recipe"]
    notes = [*dict.fromkeys(notes), *how_made(reports), *_cautions(reports)]
    tables = [Table(title, header, body, notes, frozenset(best))]
    for other, found in zip(others, against, strict=True):
        tables.append(_change_table(first, other, found))
    if rows := published_rows(first.bench):
        tables.append(published_table(reports, rows))
    return tables


def _change_table(first: Report, other: Report, found: Sequence[Difference]) -> Table:
    rows = []
    for difference in found:
        change, digits = difference.change, difference.column.digits
        shown = ["", "", ""]
        if change is not None:
            sign = "+" if change.value > 0 else ""
            shown = [sign + number(change.value, digits), interval(change, digits), f"{change.count:,}"]
        rows.append([difference.column.heading, *shown, difference.verdict])
    notes = [
        "95 % intervals of the paired difference: bootstrap over the cases; for numbers of the set, leaving "
        f"out each of {GROUPS} groups of cases. Of twenty numbers that do not differ, one is beyond them."
    ]
    return Table(
        f"{other.name} minus {first.name}",
        ["", "difference", "95 % interval", "cases", "verdict"],
        rows,
        notes,
    )


def _of_cases(column: ReportColumn, first: Report, other: Report, seed: int) -> Difference:
    try:
        found = compare_cases(first.values(column.name), other.values(column.name), seed)
    except UserError:
        theirs, ours = first.values(column.name), other.values(column.name)
        counts = _infinite(count_infinite(theirs, ours, theirs.keys() & ours.keys()), first, other)
        return Difference(column, None, "; ".join(["no case has a finite value in both", *counts]))
    verdict = [_verdict(column, found.difference, other.name, first.name)]
    verdict += _infinite(found.infinite, first, other)
    if found.missing:
        verdict.append(f"{counted(len(found.missing), 'case')} not in both")
    return Difference(column, found.difference, "; ".join(verdict), other_cases(first, other))


def _infinite(counts: tuple[int, int, int], first: Report, other: Report) -> list[str]:
    where = f"in {first.name} alone", f"in {other.name} alone", "in both"
    pairs = zip(counts, where, strict=True)
    return [f"{counted(count, 'case')} infinite {place}, left out" for count, place in pairs if count]


def _of_sets(figure: SetFigure, theirs: SetFigure | None, first: Report, other: Report) -> Difference:
    column = figure.column
    unlike = why_unlike(column, first, other)
    if unlike or theirs is None:
        return Difference(column, None, "not comparable", unlike)
    if not (math.isfinite(theirs.value) and math.isfinite(figure.value)):
        return Difference(column, None, "infinite in one or in both")
    pairs = zip(theirs.replicates, figure.replicates, strict=False)
    change = jackknife(theirs.value - figure.value, [b - a for b, a in pairs], len(first.rows))
    return Difference(column, change, _verdict(column, change, other.name, first.name))


def _verdict(column: ReportColumn, change: Interval, other: str, first: str) -> str:
    if math.isnan(change.low):
        return "no interval: too few cases, or none is defined"
    if change.low <= 0 <= change.high:
        return "within noise"
    better = other if (change.value > 0) == (column.better == "up") else first
    return f"beyond noise, {better} is better"


def _cautions(reports: Sequence[Report]) -> list[str]:
    """What the reports' own tables say below them, once where all say it."""
    own = [[*report.remarks, *unlisted_weights(report)] for report in reports]
    shared = [note for note in own[0] if all(note in notes for notes in own)]
    alone = [
        f"{report.name}: {note}"
        for report, notes in zip(reports, own, strict=True)
        for note in notes
        if note not in shared
    ]
    return [*shared, *alone]
