"""`python -m training report RUN`: a run's curves as a PNG and as one HTML file, from its own files alone."""

import argparse
import base64
import html
import shlex
import time
from pathlib import Path
from statistics import median
from typing import Any

from intarsia.command_line import Commands
from intarsia.errors import UserError
from intarsia.files import atomic_write
from training.run.state import RunFolder
from training.tracking.tracker import read_metrics

_EPILOG = """Writes RUN/report.html, which holds everything and can be sent as it is, and RUN/report.png.
It reads metrics.jsonl, events.jsonl, config.yaml and previews/, of a finished or running run."""
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}
h1{margin-bottom:0}h2{margin-top:1.6em}table{border-collapse:collapse}td,th{padding:.15em 1em .15em 0;
text-align:left;vertical-align:top}th{font-weight:600}img{max-width:100%}pre{background:#f6f6f4;padding:1em;
overflow-x:auto}.fault td{color:#b3261e}.grey{color:#777}"""
_FAULTS = ("skipped", "stalled")

_VALIDATED = {  # key of the metrics -> what it is of
    "val/loss": "",
    "val_ema/loss": ", averaged weights",
    "val/loss_structure": ", with structure",
    "val_ema/loss_structure": ", averaged weights, with structure",
}


def add(commands: Commands) -> None:
    """Declare `report`."""
    parser = commands.add_parser(
        "report",
        help="draw a run's curves, with its restarts and faults, as one HTML file",
        description="Draw a run's curves, with its restarts and faults.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_folder", type=Path, metavar="run", help="run folder")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder for both files (RUN)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    folder = RunFolder(arguments.run_folder)
    out = arguments.out or folder.root
    records, events = read_metrics(folder.metrics), read_metrics(folder.events)
    if not records:
        raise UserError(f"{folder.metrics} has no line of metrics; give the folder of a run that has begun")
    from training.tracking.charts import draw_charts

    out.mkdir(parents=True, exist_ok=True)
    picture = draw_charts(records, events, title=folder.root.resolve().name)
    atomic_write(out / "report.png", picture)
    atomic_write(out / "report.html", as_html(folder, records, events, picture))
    print(out / "report.html")
    print(out / "report.png")


def summary(folder: RunFolder, records: list[dict[str, Any]], events: list[dict[str, Any]]) -> dict[str, str]:
    """The summary of a run: name -> text.

    Args:
        folder: run folder.
        records: lines of metrics.jsonl, at least one.
        events: lines of events.jsonl.
    """
    last = records[-1]
    kinds = [event["event"] for event in events]
    speeds = [record["perf/images_per_s"] for record in records if record.get("perf/images_per_s")]
    lines = {"steps": f"{last['step']:,}", "state": _state(kinds)}
    losses = [record["train/loss"] for record in records[-max(len(records) // 10, 1) :]]
    finite = [loss for loss in losses if loss is not None]
    if finite:
        lines["loss, mean of the last tenth"] = f"{sum(finite) / len(finite):.4g}"
    for key, of in _VALIDATED.items():
        validated = [(record[key], record["step"]) for record in records if record.get(key)]
        if validated:
            lines[f"lowest validation loss{of}"] = f"{min(validated)[0]:.4g} after step {min(validated)[1]:,}"
    if "data/samples" in last:
        lines["samples seen"] = f"{last['data/samples']:,} ({last['data/epoch']:.2f} epochs)"
    if speeds:
        lines["images/s, median"] = f"{median(speeds):.3g}"
        lines["waiting for data, median"] = f"{median(r.get('perf/data_wait') or 0 for r in records):.1%}"
    lines["restarts"] = str(kinds.count("continued"))
    lines["steps skipped for NaN"] = str(last.get("train/skipped", 0))
    begun = [event for event in events if event["event"] in ("started", "continued")]
    if begun:
        lines["code"] = " → ".join(dict.fromkeys(str(event.get("code")) for event in begun))
        rejected = begun[-1].get("rejected") or {}
        lines["left out by data preparation"] = (
            ", ".join(f"{n:,} {what}" for what, n in rejected.items()) or "0"
        )
    offline = list((folder.root / "wandb").glob("offline-run-*"))
    if offline:
        pattern = shlex.quote(str(folder.root)) + "/wandb/offline-run-*"
        lines["to W&B"] = f"wandb sync {pattern} ({len(offline)} part(s) of one run)"
    return lines


def _state(kinds: list[str]) -> str:
    last = next((kind for kind in reversed(kinds) if kind != "saved"), "")
    return {
        "finished": "finished",
        "stopped": "stopped, to be continued",
        "stalled": "ended by a hung rank",
    }.get(last, "under way, or ended without a word")


def as_html(
    folder: RunFolder, records: list[dict[str, Any]], events: list[dict[str, Any]], picture: bytes
) -> str:
    """The whole report; pictures are inside."""
    name = html.escape(folder.root.resolve().name)
    rows = [
        f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>"
        for k, v in summary(folder, records, events).items()
    ]
    made = time.strftime("%Y-%m-%d %H:%M")
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{name}</title><style>{_STYLE}</style>",
        f"<h1>{name}</h1><p class='grey'>{made}; dashed: a restart, red: a fault</p>",
        "<table>" + "".join(rows) + "</table>",
        f"<h2>Curves</h2><img alt='curves' src='{_inline(picture)}'>",
        *_previews(folder),
        *_event_table(events),
    ]
    if folder.config.is_file():
        config = html.escape(folder.config.read_text(encoding="utf-8"))
        parts.append(f"<h2>Config</h2><details><summary>config.yaml</summary><pre>{config}</pre></details>")
    return "\n".join(parts) + "</html>\n"


def _previews(folder: RunFolder) -> list[str]:
    """The first and the last preview: same samples, same noise."""
    paths = sorted(folder.previews.glob("step-*.png"))
    chosen = paths if len(paths) < 3 else [paths[0], paths[-1]]
    return [
        f"<h2>Preview, step {int(path.stem[5:]):,}</h2><img alt='preview' src='{_inline(path.read_bytes())}'>"
        for path in chosen
    ]


def _event_table(events: list[dict[str, Any]]) -> list[str]:
    if not events:
        return []
    rows = []
    for event in events:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["time"]))
        kind = " class='fault'" if event["event"] in _FAULTS else ""
        cells = (when, f"{event['step']:,}", event["event"], event["text"])
        rows.append(f"<tr{kind}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "<tr><th>time</th><th>step</th><th>event</th><th></th></tr>"
    return ["<h2>Events</h2><table>", head, *rows, "</table>"]


def _inline(picture: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(picture).decode()
