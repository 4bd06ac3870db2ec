"""The figures of a shard folder as one PNG: area, aspect, mask coverage, classes and rejects."""

from pathlib import Path
from typing import Any

import numpy as np

from dataprep.shards.figures import AXES
from intarsia.errors import UsageError, UserError
from intarsia.files import atomic_path

CLASSES = 25
_COLOUR = "#3b6ea5"
_REJECT_COLOUR = "#b5503c"


def write_stats_plot(content: dict[str, Any], out: Path) -> None:
    """Draw the histograms of `folder_stats`.

    Args:
        content: result of `folder_stats`.
        out: .png file, written whole or not at all.

    Raises:
        UsageError: for another kind of file.
        UserError: if matplotlib is not installed.
    """
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: the name must end in .png")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("matplotlib is not installed; install '.[dataprep]'") from None
    figure = Figure(figsize=(14, 9), layout="constrained")
    parts: Any = figure.subfigures(2, 1, squeeze=False, height_ratios=(2, 3))
    axes = parts[0, 0].subplots(1, len(content["histograms"]), squeeze=False)[0]
    for place, (name, histogram) in zip(axes, content["histograms"].items(), strict=True):
        _histogram(place, name, histogram)
    classes, rejects = parts[1, 0].subplots(1, 2)
    labels = dict(sorted(content["labels"].items(), key=lambda item: (-item[1], item[0])))
    _bars(classes, dict(list(labels.items())[:CLASSES]), _COLOUR)
    more = f", the {CLASSES} largest" if len(labels) > CLASSES else ""
    classes.set_title(f"samples by class ({len(labels):,} classes{more})")
    _bars(
        rejects,
        {f"{what}: {r}": n for what, numbers in content["rejected"].items() for r, n in numbers.items()},
        _REJECT_COLOUR,
    )
    rejects.set_title("rejected, by reason")
    kept = content["kept"]
    figure.suptitle(
        f"{content['name']}: {kept['samples']:,} samples of {kept['pictures']:,} pictures, "
        f"{kept['boxes']:,} boxes"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def _histogram(place: Any, name: str, histogram: list[int]) -> None:
    axis = AXES[name]
    edges = [axis.value(i / len(histogram)) for i in range(len(histogram) + 1)]
    place.stairs(histogram, edges, fill=True, color=_COLOUR)
    if axis.logarithmic:
        place.set_xscale("log", base=2)
        place.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    place.set_xlim(axis.low, axis.high)
    place.set_title(axis.title)
    place.set_ylabel("samples")


def _bars(place: Any, numbers: dict[str, int], colour: str) -> None:
    rows = sorted(numbers.items(), key=lambda item: (item[1], item[0]))
    bars = place.barh(np.arange(len(rows)), [number for _, number in rows], color=colour)
    place.set_yticks(np.arange(len(rows)), [name for name, _ in rows])
    place.bar_label(bars, fmt="{:,.0f}", padding=3)
    place.margins(x=0.12)
