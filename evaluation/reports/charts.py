"""Charts as inline SVG: histograms, scatters of two reports, and the trade-off of identity and background."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.measures.metrics import Float
from evaluation.reports.tables import all_columns, infinite_cases, number, set_value
from evaluation.reports.unlike import why_unlike, why_unpaired
from evaluation.scoring.report import Report, ReportColumn

WIDTH, HEIGHT, EDGE = 300, 200, 42  # pixels; EDGE is what the axes need
_BINS = 24
DRAWN = 1000  # most points of a scatter
_IDENTITY = ("dinov2_b14", "dinov2_l14", "dino_s16", "clip_i_l14", "clip_i_b32", "clip_fg", "clip_score_box")
_KEPT = ("background_psnr", "background_ssim", "background_mse", "quality_score", "frechet_clip")


@dataclass(frozen=True)
class Plot:
    """A drawing with a title; `svg` is a whole element."""

    title: str
    svg: str


def histograms(report: Report) -> list[Plot]:
    """How each number is distributed over the cases; infinite values are counted in the title."""
    charts = []
    for column in report.columns:
        values = np.array(list(report.values(column.name).values()))
        finite = values[np.isfinite(values)]
        if finite.size < 2:
            continue
        counts, ends = np.histogram(finite, _BINS, _histogram_range(finite))
        top, bar = counts.max(), (WIDTH - 2 * EDGE) / _BINS
        bars = "".join(
            f'<rect x="{EDGE + place * bar:.1f}" y="{_y(count / top):.1f}" width="{bar - 1:.1f}" '
            f'height="{HEIGHT - EDGE - _y(count / top):.1f}"/>'
            for place, count in enumerate(counts)
        )
        infinite = int(np.isinf(values).sum())
        more = f", {infinite:,} infinite not drawn" if infinite else ""
        axes = _axes((ends[0], ends[-1]), (0, top), column.title, "cases", (column.digits, 0))
        charts.append(Plot(f"{column.heading}: {finite.size:,} cases{more}", _svg(axes + bars)))
    return charts


def _histogram_range(values: Float) -> tuple[float, float]:
    """From the least to the greatest value; wider where rounding alone separates them."""
    low, high = float(values.min()), float(values.max())
    least = 1e-6 * max(abs(low), abs(high), 1.0)
    return (low, high) if high - low > least else (low - least, high + least)


def scatters(first: Report, other: Report) -> list[Plot]:
    """Each number of one report against another's, a point for each case that both have.

    Numbers of the two that cannot be compared are not drawn.
    """
    charts = []
    for column in (column for column in first.columns if not why_unpaired(column, first, other)):
        ours, theirs = first.values(column.name), other.values(column.name)
        keys = [k for k in sorted(ours.keys() & theirs.keys()) if math.isfinite(ours[k] + theirs[k])]
        if len(keys) < 2:
            continue
        drawn = [keys[place * len(keys) // min(len(keys), DRAWN)] for place in range(min(len(keys), DRAWN))]
        pairs = [(ours[key], theirs[key]) for key in drawn]
        ends = _ends([value for pair in pairs for value in pair])
        points = "".join(
            f'<circle cx="{_x(_share(x, ends)):.1f}" cy="{_y(_share(y, ends)):.1f}" r="2"/>' for x, y in pairs
        )
        line = f'<line class="equal" x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}"/>'
        axes = _axes(ends, ends, first.name, other.name, (column.digits, column.digits))
        title = f"{column.heading}: {len(drawn):,} of {len(keys):,} cases drawn"
        charts.append(Plot(title, _svg(axes + line + points)))
    return charts


def trade_offs(reports: Sequence[Report]) -> list[Plot]:
    """Identity against background and quality, a point for each report that can stand beside the first.

    The title names the others. A mean that leaves out infinite cases is not drawn.
    """
    first = reports[0]
    columns = {column.name: column for column in all_columns(first) if column.name in (*_IDENTITY, *_KEPT)}
    beside = {
        name: {report.name: set_value(report, own) for report in reports if _drawable(own, first, report)}
        for name, own in columns.items()
    }
    names = [name for name in _IDENTITY if beside.get(name)]
    if not names:
        return []
    identity = columns[max(names, key=lambda name: len(beside[name]))]
    charts = []
    for column in (columns[name] for name in _KEPT if name in columns):
        values = beside[identity.name]
        pairs = {name: (x, values[name]) for name, x in beside[column.name].items() if name in values}
        if len({x for x, _ in pairs.values()}) < 2:
            continue  # nothing is traded where all are equal
        across, up = (_ends([pair[place] for pair in pairs.values()]) for place in (0, 1))
        points = ""
        for name, (along, high) in pairs.items():
            left, top = _x(_share(along, across)), _y(_share(high, up))
            points += f'<circle cx="{left:.1f}" cy="{top:.1f}" r="4"/>'
            end, x = ("end", left - 6) if left > WIDTH / 2 else ("start", left + 6)  # nothing is cut off
            points += f'<text x="{x:.1f}" y="{top - 5:.1f}" text-anchor="{end}">{html.escape(name)}</text>'
        axes = _axes(across, up, column.heading, identity.heading, (column.digits, identity.digits))
        lost = [report.name for report in reports if report.name not in pairs]
        more = f"; not drawn: {', '.join(lost)}" if lost else ""
        charts.append(Plot(f"{identity.title} against {column.title}{more}", _svg(axes + points)))
    return charts


def _drawable(column: ReportColumn, first: Report, report: Report) -> bool:
    """Whether a report's number can stand beside the first's, and is finite with all of its cases."""
    finite = math.isfinite(set_value(report, column)) and not infinite_cases(report, column)
    return finite and (report is first or not why_unlike(column, first, report))


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """The range of an axis: a twentieth wider than the values on each side."""
    low, high = min(values), max(values)
    margin = (high - low) / 20 or abs(high) / 20 or 1.0
    return low - margin, high + margin


def _share(value: float, ends: tuple[float, float]) -> float:
    return (value - ends[0]) / (ends[1] - ends[0])


def _x(share: float) -> float:
    return EDGE + share * (WIDTH - 2 * EDGE)


def _y(share: float) -> float:
    return HEIGHT - EDGE - share * (HEIGHT - EDGE - 12)


def _axes(
    across: tuple[float, float], up: tuple[float, float], below: str, left: str, digits: tuple[int, int]
) -> str:
    """Both axes with their ends and names."""
    corners = f"{_x(0)},{_y(1)} {_x(0)},{_y(0)} {_x(1)},{_y(0)}"
    texts = [
        (_x(0), HEIGHT - EDGE + 14, "start", number(across[0], digits[0])),
        (_x(1), HEIGHT - EDGE + 14, "end", number(across[1], digits[0])),
        (_x(0.5), HEIGHT - EDGE + 28, "middle", below),
        (_x(0) - 4, _y(0), "end", number(up[0], digits[1])),
        (_x(0) - 4, _y(1) + 8, "end", number(up[1], digits[1])),
    ]
    named = "".join(
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{html.escape(text)}</text>'
        for x, y, anchor, text in texts
    )
    turned = f'<text transform="translate(11 {_y(0.5):.0f}) rotate(-90)" text-anchor="middle">'
    return f'<polyline points="{corners}"/>{named}{turned}{html.escape(left)}</text>'


def _svg(content: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">{content}</svg>'
