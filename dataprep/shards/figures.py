"""Counts as text: quantiles, histograms of one line, bars, and the table of rejects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
_BLOCKS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Axis:
    """What the bins of a histogram stand for.

    Attributes:
        title: name of the axis in words.
        low: value at the left end of the first bin.
        high: value at the right end of the last bin.
        logarithmic: whether bins are even in the logarithm.
    """

    title: str
    low: float
    high: float
    logarithmic: bool = False

    def value(self, place: float) -> float:
        """The value at `place`, 0 (left end) … 1 (right end)."""
        if self.logarithmic:
            return self.low * (self.high / self.low) ** place
        return self.low + (self.high - self.low) * place


AXES = {
    "box_area": Axis("box, share of the picture", 0, 1),
    "box_aspect": Axis("box, width : height", 1 / 8, 8, logarithmic=True),
    "mask_coverage": Axis("edit mask, share of the image", 0, 1),
}


def quantile(histogram: Sequence[int], share: float) -> float | None:
    """The place, 0 … 1 along the bins, with `share` of all below it, to half a bin; None if all are empty."""
    total = np.cumsum(histogram)
    if total[-1] == 0:
        return None
    return (int(np.searchsorted(total, share * total[-1])) + 0.5) / len(histogram)


def quantiles(name: str, histogram: Sequence[int]) -> dict[str, float | None]:
    """Values of a named histogram at 5, 25, 50, 75 and 95 %."""
    places = {f"{share:.0%}": quantile(histogram, share) for share in SHARES}
    return {share: None if place is None else AXES[name].value(place) for share, place in places.items()}


def histogram_lines(histograms: Mapping[str, Sequence[int]], columns: int = 50) -> list[str]:
    """Each histogram as two lines: a title with quantiles; blocks from the lowest value to the highest."""
    lines = []
    for name, histogram in histograms.items():
        axis = AXES[name]
        shown = ["-" if value is None else f"{value:.2f}" for value in quantiles(name, histogram).values()]
        lines.append(f"{axis.title}: {' / '.join(shown)} at 5 / 25 / 50 / 75 / 95 %")
        lines.append(f"  {axis.low:5.3g} |{block_line(histogram, columns)}| {axis.high:g}")
    return lines


def block_line(histogram: Sequence[int], columns: int) -> str:
    """A histogram as characters of eight heights; everything above zero is visible."""
    edges = np.linspace(0, len(histogram), columns + 1).round().astype(int)
    sums = np.add.reduceat(np.asarray(histogram), edges[:-1])
    heights = np.ceil(8 * sums / max(int(sums.max()), 1)).astype(int)
    return "".join(_BLOCKS[height] for height in heights.tolist())


def bar_lines(numbers: Mapping[str, int], most: int = 20, columns: int = 30) -> list[str]:
    """The largest of some named numbers as bars; the others are summed in a last line."""
    rows = sorted(numbers.items(), key=lambda item: (-item[1], item[0]))
    if not rows:
        return []
    width, largest = max(len(name) for name, _ in rows[:most]), max(rows[0][1], 1)
    lines = [
        f"{name:{width}} {number:>9,} {'█' * max(round(columns * number / largest), 1)}"
        for name, number in rows[:most]
    ]
    if len(rows) > most:
        lines.append(f"and {len(rows) - most} more with {sum(number for _, number in rows[most:]):,}")
    return lines


def reject_table(content: Mapping[str, Any], name: str = "rejected") -> list[str]:
    """Lines of a manifest's rejects (or of what it changed), largest first: what, reason, number."""
    rows = [
        (number, what, reason)
        for what, numbers in content.get(name, {}).items()
        for reason, number in numbers.items()
    ]
    return [f"{what:9} {reason:19} {number:>9,}" for number, what, reason in sorted(rows, reverse=True)]
