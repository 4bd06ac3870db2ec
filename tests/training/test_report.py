"""The report of a run: a picture and one HTML file, from metrics.jsonl and events.jsonl alone."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training.__main__ import main
from training.commands.report import summary
from training.run.state import RunFolder
from training.tracking.charts import LAYOUT, draw_charts, running_mean


def records(steps: int = 100) -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "train/loss": 1 / step if step % 7 else None,
            "train/grad_norm": 2.0,
            "train/skipped": step // 50,
            "val/loss": abs(step - 60) + 1.0,
            "val_ema/loss": abs(step - 80) + 0.5,
            "perf/images_per_s": 10.0,
            "perf/data_wait": 0.01,
            **{f"perf/{part}_s": 0.1 for part in ("encode", "forward", "backward", "optimizer", "data_wait")},
            "data/samples": 4 * step,
            "data/epoch": step / 10,
        }
        for step in range(1, steps + 1)
    ]


EVENTS = [
    {"time": 1.7e9, "step": 0, "event": "started", "text": "", "code": "abc", "rejected": {"boxes": 1234}},
    {"time": 1.7e9, "step": 30, "event": "skipped", "text": "no finite gradient in <b>"},
    {"time": 1.7e9, "step": 40, "event": "continued", "text": "restart 1", "code": "def"},
    {"time": 1.7e9, "step": 99, "event": "saved", "text": "step-00000099"},
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "fox & hare"
    (folder / "previews").mkdir(parents=True)
    for step in (0, 50, 100):
        Image.new("RGB", (8, 8), (step, 0, 0)).save(folder / "previews" / f"step-{step:08d}.png")
    for name, lines in (("metrics", records()), ("events", EVENTS)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.yaml").write_text("seed: <3>\n")
    return folder


def pictures(text: str) -> list[Image.Image]:
    found = re.findall(r"src='data:image/png;base64,([^']+)'", text)
    return [Image.open(io.BytesIO(base64.b64decode(content))) for content in found]


def test_the_html_holds_all_and_needs_nothing_else(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run)]) == 0
    assert str(run / "report.html") in capsys.readouterr().out
    text = (run / "report.html").read_text()
    assert not re.search(r"(src|href)='(?!data:)", text)
    curves, first, last = pictures(text)
    assert curves.size == Image.open(run / "report.png").size
    assert (first.getpixel((0, 0)), last.getpixel((0, 0))) == ((0, 0, 0), (100, 0, 0))
    assert "fox &amp; hare" in text
    assert "seed: &lt;3&gt;" in text
    assert "no finite gradient in &lt;b&gt;" in text


def test_the_summary_answers_the_first_questions(run: Path) -> None:
    (run / "wandb/offline-run-1").mkdir(parents=True)
    known = summary(RunFolder(run), records(), EVENTS)
    assert known["steps"] == "100"
    assert known["state"] == "under way, or ended without a word"
    assert known["lowest validation loss"] == "1 after step 60"
    assert known["lowest validation loss, averaged weights"] == "0.5 after step 80"
    assert known["restarts"] == "1"
    assert known["steps skipped for NaN"] == "2"
    assert known["code"] == "abc → def"
    assert known["samples seen"] == "400 (10.00 epochs)"
    assert f"wandb sync '{run}'/wandb/offline-run-*" in known["to W&B"]


def red(picture: bytes) -> int:
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
    return int(((pixels[..., 0] > 150) & (pixels[..., 1] < 80) & (pixels[..., 2] < 80)).sum())


def test_faults_are_red_lines_and_only_charts_with_numbers_are_drawn() -> None:
    lines = [{"step": step, "train/loss": 1 / step} for step in range(1, 10)]
    one = draw_charts(lines, [], "run")
    assert red(one) == 0
    assert red(draw_charts([{"step": 1, "train/loss": None}], [], "nothing finite yet")) == 0
    assert red(draw_charts(lines, EVENTS, "run")) > 100
    assert (
        Image.open(io.BytesIO(draw_charts(records(), [], "run"))).height > Image.open(io.BytesIO(one)).height
    )


def test_no_metric_is_drawn_twice_and_the_mean_runs() -> None:
    keys = [key for chart in LAYOUT for key in chart.keys]
    assert len(keys) == len(set(keys))
    assert running_mean([1, 2, 3, 7], 1) == [1.5, 2, 4, 5]


def test_a_folder_without_metrics_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 1
    assert "metrics.jsonl has no line of metrics" in capsys.readouterr().err
