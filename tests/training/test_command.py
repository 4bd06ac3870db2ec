"""`python -m training` as a user runs it: stopped by a signal, run again, finished, tracked as one run."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from intarsia.weights import read_model
from tests import forks
from tests.forks import Ended
from tests.paths import ROOT
from tests.processes import starts_processes
from tests.training.synthetic import make_shards, write_config
from training.__main__ import main
from training.tracking.tracker import read_metrics

STEPS = 40
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "offline"}
ENVIRONMENT["HOME"] = "/proc/none"  # as on nodes that do not mount it


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "training", *arguments]


def run(*arguments: str) -> Ended:
    return forks.run(main, *arguments, HOME=ENVIRONMENT["HOME"])


@dataclass(frozen=True)
class Story:
    """A run that was stopped once and run again, and a third call after its end."""

    folder: Path
    arguments: list[str]
    stopped: tuple[int, str]
    finished: Ended
    steps_saved: int


@pytest.fixture(scope="module")
@starts_processes
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    root = tmp_path_factory.mktemp("command")
    folder = root / "a run"
    arguments = [
        str(write_config(root)),
        f"data.shards={make_shards(root / 'shards')}",
        f"run={folder}",
        f"max_steps={STEPS}",
        "checkpoint.every_steps=1000",
        "preview={every_steps: 20, num_images: 2, num_inference_steps: 2}",
        "tracker.wandb=auto",
    ]
    first = subprocess.Popen(
        command(*arguments), cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    while not read_metrics(folder / "metrics.jsonl") and first.poll() is None:
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    _, words = first.communicate(timeout=240)
    saved = json.loads(
        (
            folder / "checkpoints" / (folder / "checkpoints/latest").read_text().strip() / "state.json"
        ).read_text()
    )
    return Story(folder, arguments, (first.returncode, words), run(*arguments), saved["step"])


def test_sigterm_saves_and_exits_with_75(story: Story) -> None:
    code, words = story.stopped
    assert code == 75, words
    assert "run the same command again" in words
    assert 0 < story.steps_saved < STEPS


def test_the_same_command_again_finishes_the_run(story: Story) -> None:
    assert story.finished.returncode == 0, story.finished.stderr
    assert f"continuing after step {story.steps_saved} of {STEPS}" in story.finished.stderr
    assert f"python -m sampling edit --model '{story.folder / 'model'}'" in story.finished.stderr
    steps = [record["step"] for record in read_metrics(story.folder / "metrics.jsonl")]
    assert steps == list(range(1, STEPS + 1))


def test_the_model_folder_loads(story: Story) -> None:
    model = read_model(story.folder / "model")
    assert model.config.image_size == 32
    assert f"trained for {STEPS} steps" in (story.folder / "model" / "README.md").read_text()


def test_previews_are_pictures(story: Story) -> None:
    names = sorted(path.name for path in (story.folder / "previews").iterdir())
    assert names == ["step-00000000.png", "step-00000020.png", "step-00000040.png"]
    pictures = [Image.open(story.folder / "previews" / name).convert("RGB") for name in names]
    assert len({picture.size for picture in pictures}) == 1
    assert pictures[0].tobytes() != pictures[2].tobytes()


def test_both_parts_are_one_wandb_run_with_every_step(story: Story) -> None:
    parts = sorted((story.folder / "wandb").glob("offline-run-*"))
    assert len(parts) == 2
    assert len({part.name.rpartition("-")[2] for part in parts}) == 1
    losses: dict[int, float] = {}
    for part in parts:
        losses |= wandb_losses(part)
    expected = {r["step"]: r["train/loss"] for r in read_metrics(story.folder / "metrics.jsonl")}
    assert losses == pytest.approx(expected)


def wandb_losses(part: Path) -> dict[int, float]:
    """Step -> train/loss of an offline W&B part, through W&B's own reader."""
    shown = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(part)],
        capture_output=True,
        text=True,
        check=True,
    )
    records = [json.loads(line) for line in shown.stdout.splitlines()]
    items = [record["history"]["item"] for record in records if record["type"] == "history"]
    return {item["_step"]: item["train/loss"] for item in items if "train/loss" in item}


def stamps(folder: Path) -> dict[Path, int]:
    """When each file was written; logs and the lock tell of every call."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: path.stat().st_mtime_ns for path in files if path.suffix != ".log" and path.name != ".lock"}


def test_a_third_call_does_nothing_again(story: Story) -> None:
    before = stamps(story.folder)
    again = run(*story.arguments)
    assert again.returncode == 0, again.stderr
    assert f"{STEPS} steps are done, max_steps={STEPS}: nothing to train" in again.stderr
    after = stamps(story.folder)
    assert before.keys() == after.keys()
    assert [str(p) for p in before if before[p] != after[p]] == []


def test_a_changed_config_is_refused_with_the_difference(story: Story) -> None:
    other = run(*story.arguments, "optimizer.lr=0.5")
    assert other.returncode == 2
    assert "optimizer.lr: 0.001 -> 0.5" in other.stderr
    assert "Traceback" not in other.stderr


def test_missing_folders_are_told_in_a_sentence(story: Story, tmp_path: Path) -> None:
    config, shards = story.arguments[:2]
    nowhere = run(config, "data.shards=/nowhere", f"run={tmp_path / 'run'}")
    assert nowhere.returncode == 1
    assert nowhere.stderr.startswith("error: data.shards=/nowhere is not a finished shard folder")
    (tmp_path / "file").write_text("")
    blocked = run(config, shards, f"run={tmp_path / 'file' / 'run'}")
    assert blocked.returncode == 1
    assert "the run folder cannot be made (Not a directory)" in blocked.stderr
    assert "Traceback" not in blocked.stderr


def test_dry_run_prints_the_resolved_options_and_leaves(story: Story, tmp_path: Path) -> None:
    shown = run(str(story.arguments[0]), f"run={tmp_path / 'never'}", "optimizer.lr=0.25", "--dry-run")
    assert shown.returncode == 0
    assert "lr: 0.25" in shown.stdout
    assert "warmup_start: 1.0e-06" in shown.stdout
    assert not (tmp_path / "never").exists()
