"""The charts of a run, in the order and with the names that its report shows them."""

import io
from dataclasses import dataclass
from typing import Any

from intarsia.errors import UserError

_COLOURS = ("#3b6ea5", "#d98032", "#5b9a56", "#8a5aa3", "#b5503c", "#999999")
_MANY = 60  # lines of metrics from which on a smooth line is drawn above them
COLUMNS = 3


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        title: title with the unit.
        keys: key of metrics.jsonl -> name in the legend.
        logarithmic: the vertical axis.
        stacked: the values are parts of a whole.
        smooth: draw a running mean above many noisy values.
        from_zero: the vertical axis begins there.
    """

    title: str
    keys: dict[str, str]
    logarithmic: bool = False
    stacked: bool = False
    smooth: bool = False
    from_zero: bool = False


def _quarters(prefix: str) -> dict[str, str]:
    return {f"{prefix}_q{n}": name for n, name in enumerate(("least noise", "2nd", "3rd", "most noise"), 1)}


LAYOUT = (
    Chart("training loss", {"train/loss": ""}, smooth=True),
    Chart("training loss, by quarter of the timesteps", _quarters("train/loss"), smooth=True),
    Chart(
        "validation loss",
        {
            "val/loss": "present weights",
            "val_ema/loss": "averaged weights",
            "val_ema2/loss": "second average",
        },
    ),
    Chart("validation loss, by quarter of the timesteps", _quarters("val/loss")),
    Chart(
        "validation loss, told less or more",
        {
            "val/loss_exemplar": "exemplar only",
            "val/loss_text": "prompt only",
            "val/loss_structure": "with structure maps",
        },
    ),
    Chart("gradient norm", {"train/grad_norm": ""}, logarithmic=True, smooth=True),
    Chart("learning rate", {"train/lr": ""}, from_zero=True),
    Chart("decay of the averaged weights", {"train/ema_decay": ""}),
    Chart("steps skipped for NaN", {"train/skipped": ""}, from_zero=True),
    Chart(
        "images/s",
        {"perf/images_per_s": "all ranks", "perf/images_per_s_per_rank": "per rank"},
        from_zero=True,
    ),
    Chart("share of the device's peak (MFU)", {"perf/mfu": ""}, from_zero=True),
    Chart(
        "seconds of a step",
        {
            "perf/encode_s": "frozen networks",
            "perf/forward_s": "forward",
            "perf/backward_s": "backward",
            "perf/optimizer_s": "optimizer",
            "perf/data_wait_s": "waiting for data",
            "perf/other_s": "other",
        },
        stacked=True,
    ),
    Chart("share of time spent waiting for data", {"perf/data_wait": ""}, from_zero=True),
    Chart("memory, GB", {"memory/peak_gb": ""}, from_zero=True),
    Chart("epochs", {"data/epoch": ""}),
)


def draw_charts(records: list[dict[str, Any]], events: list[dict[str, Any]], title: str) -> bytes:
    """All charts that there are numbers for, as one PNG.

    Args:
        records: lines of metrics.jsonl.
        events: lines of events.jsonl; restarts are dashed lines, faults red ones.
        title: title of the picture.

    Raises:
        UserError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("matplotlib is not installed; install '.[training]'") from None
    charts = [chart for chart in LAYOUT if any(_series(records, key)[1] for key in chart.keys)]
    rows = -(-len(charts) // COLUMNS) or 1
    figure = Figure(figsize=(5 * COLUMNS, 3.2 * rows + 0.4), layout="constrained")
    places = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for place, chart in zip(places, charts, strict=False):
        _draw(place, chart, records)
        for event in events:
            if event["event"] == "continued":
                place.axvline(event["step"], color="#555555", linestyle="--", linewidth=0.8)
            elif event["event"] in ("skipped", "stalled"):
                place.axvline(event["step"], color="#b3261e", linewidth=0.8)
    for place in places[len(charts) :]:
        place.set_axis_off()
    figure.suptitle(title)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=90)
    return out.getvalue()


def _draw(place: Any, chart: Chart, records: list[dict[str, Any]]) -> None:
    place.set_title(chart.title, fontsize=10)
    place.grid(alpha=0.25)
    drawn = [(name, *_series(records, key)) for key, name in chart.keys.items()]
    drawn = [(name, steps, values) for name, steps, values in drawn if values]
    if chart.stacked:
        names, values = [name for name, _, _ in drawn], [values for _, _, values in drawn]
        place.stackplot(drawn[0][1], *values, labels=names, colors=_COLOURS)
    else:
        for colour, (name, steps, numbers) in zip(_COLOURS, drawn, strict=False):
            few = "o" if len(steps) < 20 else None
            faint = chart.smooth and len(steps) >= _MANY
            place.plot(steps, numbers, color=colour, alpha=0.25 if faint else 1, marker=few, markersize=3,
                       linewidth=1.2, label=None if faint else name)  # fmt: skip
            if faint:
                place.plot(steps, running_mean(numbers), color=colour, linewidth=1.4, label=name)
    if chart.logarithmic and all(min(values) > 0 for _, _, values in drawn):
        place.set_yscale("log")
    elif chart.from_zero:
        place.set_ylim(0, 1.1 * max(max(values) for _, _, values in drawn) or 1)
    if len(drawn) > 1:
        place.legend(fontsize=7)


def running_mean(values: list[float], half: int = _MANY // 8) -> list[float]:
    """The mean of each value, the `half` before and the `half` after it; of fewer at the ends."""
    parts = [values[max(place - half, 0) : place + half + 1] for place in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def _series(records: list[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    found = [(record["step"], record[key]) for record in records if record.get(key) is not None]
    return [step for step, _ in found], [value for _, value in found]
