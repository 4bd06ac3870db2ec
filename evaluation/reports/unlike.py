"""Why numbers of two reports cannot stand beside each other."""

from collections.abc import Mapping, Sequence

from evaluation.scoring.report import Report, ReportColumn


def why_unlike(column: ReportColumn, first: Report, other: Report) -> str:
    """Why a number of `first` cannot stand beside the other's of that name; empty if it can."""
    return why_unpaired(column, first, other) or other_cases(first, other)


def why_unpaired(column: ReportColumn, first: Report, other: Report) -> str:
    """Why a case's number cannot be compared with the same case's of the other; empty if it can."""
    columns = {own.name: own for own in (*other.columns, *(figure.column for figure in other.figures))}
    if column.name not in columns:
        return "only one of the reports has it"
    if columns[column.name].recipe != column.recipe:
        return f"recipes differ: {column.recipe}; {columns[column.name].recipe}"
    return other_inputs(first, other)


def other_inputs(first: Report, other: Report) -> str:
    """The first file or prompt of a case that the reports do not share; empty if they share all."""
    for report in (first, other):
        if report.inputs is None:
            return f"{report.name} is a report of an earlier version, which noted no files: score again"
    ours, theirs = first.inputs or {}, other.inputs or {}
    for key in first.rows:
        if key in other.rows and (kind := _first_other(ours.get(key, {}), theirs.get(key, {}))):
            return f"case {key} has not the same {kind} in {other.name} as in {first.name}"
    return ""


def other_cases(first: Report, other: Report) -> str:
    """That the reports have different cases; empty if they have the same."""
    if first.rows.keys() == other.rows.keys():
        return ""
    lonely = len(first.rows.keys() ^ other.rows.keys())
    return (
        f"{first.name} has {len(first.rows):,} cases, {other.name} has {len(other.rows):,}, "
        f"and {lonely:,} {'is' if lonely == 1 else 'are'} not in both"
    )


def how_made(reports: Sequence[Report]) -> list[str]:
    """A note for each report that lacks cases, or whose results were not made in one way."""
    few = [
        f"{report.name}: {len(report.rows):,} of {report.expected:,} cases"
        for report in reports
        if not report.whole
    ]
    mixed = [
        f"{report.name}: results made in {report.settings['differ']} different ways, see results.jsonl"
        for report in reports
        if "differ" in report.settings
    ]
    return few + mixed


def _first_other(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """The first kind whose digests differ, in words; kinds that one does not have do not count."""
    differing = (kind for kind in ours if theirs.get(kind, ours[kind]) != ours[kind])
    return next((kind.replace("_", " ") for kind in differing), "")
