"""Numbers to metrics.jsonl and events to events.jsonl, always; both to Weights & Biases, if it is on.

The two files are the truth: they are flushed line by line, while an offline W&B run loses its last records
when the process is killed. metrics.jsonl has every step once, after interruptions too; events.jsonl only
grows.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import re
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from intarsia.files import atomic_write, naming
from training.checkpoint.folder import LATEST, step_of
from training.config import TrainConfig
from training.data.shards import manifests_of
from training.run.result import RUN_RESULTS
from training.run.state import RunFolder, TrainState
from training.tracking.wandb_run import WandbRun, code_version, start_wandb

if TYPE_CHECKING:
    from sampling.canvas.edits import EditResult

log = logging.getLogger(__name__)
_EVENTS = RunFolder(Path()).events.name
BEGINNINGS = ("started", "continued")
_ALERTS = {"continued": "run continued", "stopped": "run stopped", "skipped": "NaN", "stalled": "run stalled"}


class Tracker(Protocol):
    """Where the loop leaves its numbers."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Record values after `step` finished steps."""

    def preview(self, step: int, path: Path, edits: Mapping[str, Sequence[EditResult]]) -> None:
        """Record a preview: its grid, and the edits."""

    def event(self, step: int, kind: str, text: str) -> None:
        """Record that something happened; faults and restarts are alerts, too."""

    def close(self, step: int, finished: bool) -> None:
        """Finish, for good or for now: the run may continue later."""


class NullTracker:
    """Does nothing: the tracker of every rank but the first."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Nothing."""

    def preview(self, step: int, path: Path, edits: Mapping[str, Sequence[EditResult]]) -> None:
        """Nothing."""

    def event(self, step: int, kind: str, text: str) -> None:
        """Nothing."""

    def close(self, step: int, finished: bool) -> None:
        """Nothing."""


class RunTracker:
    """metrics.jsonl and events.jsonl of a run folder, and a W&B run beside them.

    Args:
        folder: run folder; lines of metrics beyond `step` are dropped, so that no step appears twice.
        step: step from which the run continues.
        wandb_run: result of `start_wandb`.
        facts: fields of this process's first event.
        table: whether previews are a table at W&B, too.
    """

    def __init__(
        self,
        folder: RunFolder,
        step: int,
        wandb_run: Any,
        facts: Mapping[str, Any] | None = None,
        table: bool = False,
    ) -> None:
        self._table = table
        earlier = rewrite_records(folder.events)  # without a last line that a crash cut short
        rewrite_records(folder.metrics, until=step)
        self._folder, self._wandb = folder, WandbRun(wandb_run, folder.metrics)
        self._metrics = folder.metrics.open("a", encoding="utf-8")
        saved = [record["text"] for record in earlier if record["event"] == "saved"]
        self._checkpoint = saved[-1] if saved else None
        restarts = sum(record["event"] in BEGINNINGS for record in earlier)
        if not restarts:
            self.event(step, "started", "", **(facts or {}))
            return
        silent = earlier[-1]["event"] not in ("stopped", "finished", "stalled")
        text = f"restart {restarts}: goes on after step {step}"
        text += "; the process before it ended without a word" if silent else ""
        self.event(step, "continued", text, **(facts or {}))

    def log(self, step: int, values: dict[str, float]) -> None:
        """Record values after `step` finished steps; a value that is not finite becomes null in the file."""
        plain = {key: value if math.isfinite(value) else None for key, value in values.items()}
        with naming(self._folder.metrics):
            self._metrics.write(json.dumps({"step": step, **plain}) + "\n")
            self._metrics.flush()
        self._wandb.log(values, step)
        self._note_checkpoint()

    def preview(self, step: int, path: Path, edits: Mapping[str, Sequence[EditResult]]) -> None:
        """Record a preview at W&B; the grid itself is in the run folder already."""
        self._wandb.image("preview", path, step)
        if self._table:
            from training.tracking.previews import preview_table

            self._wandb.table("preview_table", *preview_table(edits), step)

    def event(self, step: int, kind: str, text: str, **facts: Any) -> None:
        """Record that something happened, in events.jsonl at once; faults and restarts are alerts, too."""
        record = {"time": round(time.time(), 3), "step": step, "event": kind, "text": text, **facts}
        with naming(self._folder.events), self._folder.events.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if kind in _ALERTS:
            name = self._folder.root.resolve().name
            self._wandb.alert(f"{name}: {_ALERTS[kind]}", f"step {step}: {text}")
        if kind == "stalled":  # this process is about to be ended, and W&B has written nothing of a short run
            self._wandb.close(exit_code=1)

    def close(self, step: int, finished: bool) -> None:
        """Close the files and let W&B finish its upload or its offline file."""
        self._note_checkpoint()
        if finished:
            self.event(step, "finished", "")
            for result in RUN_RESULTS.values():
                if (folder := self._folder.root / result.folder).is_dir():
                    self._wandb.artifact(f"{self._name}-model", "model", folder, [f"step-{step}"])
        else:
            self.event(step, "stopped", "by a signal, after a save; the same command goes on")
            self._wandb.will_continue()
        self._metrics.close()
        self._wandb.close()

    @property
    def _name(self) -> str:
        return self._folder.root.resolve().name

    def _latest(self) -> str | None:
        path = self._folder.checkpoints / LATEST
        name = path.read_bytes().decode("ascii", "replace").strip() if path.is_file() else ""
        return name if re.fullmatch(r"step-\d+", name) else None

    def _note_checkpoint(self) -> None:
        """A checkpoint that has become whole since the last call is an artifact of the run."""
        latest = self._latest()
        if latest is None or latest == self._checkpoint:
            return
        self._checkpoint, folder = latest, self._folder.checkpoints / latest
        self.event(step_of(folder), "saved", latest)
        self._wandb.artifact(f"{self._name}-checkpoint", "checkpoint", folder, [latest])


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl, events.jsonl or skipped.jsonl; of damaged ones a warning is logged.

    A last line that a crash cut short is left out without a word.
    """
    records, damaged = whole_records(path)
    if damaged:
        log.warning("%s: %s", path, _about(damaged))
    return records


def whole_records(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The whole lines of such a file, and the numbers of the damaged ones; nothing where there is no file."""
    if not path.is_file():
        return [], []
    needed = ("step", "event", "text") if path.name == _EVENTS else ("step",)
    *lines, last = path.read_bytes().split(b"\n")
    records, damaged = [], []
    for number, line in enumerate([*lines, last], 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if (
            isinstance(record, dict)
            and all(key in record for key in needed)
            and isinstance(record["step"], int)
        ):
            records.append(record)
        elif line.strip() and number <= len(lines):
            damaged.append(number)
    return records, damaged


def rewrite_records(path: Path, until: int | None = None) -> list[dict[str, Any]]:
    """Write such a file anew with its whole lines alone; where there are damaged ones, a copy of it stays.

    Args:
        path: of the file.
        until: drop what was recorded after this step, too: a run that continues there will record it again.

    Returns:
        The lines that the file has now.
    """
    records, damaged = whole_records(path)
    if damaged:
        kept = _free_name(path)
        shutil.copyfile(path, kept)
        log.warning("%s: %s; the file as it was is %s", path, _about(damaged), kept.name)
    records = [record for record in records if until is None or record["step"] <= until]
    atomic_write(path, "".join(json.dumps(record) + "\n" for record in records))
    return records


def _about(damaged: list[int]) -> str:
    which = f"line {damaged[0]} is" if len(damaged) == 1 else f"{len(damaged)} lines (first {damaged[0]}) are"
    return f"{which} damaged and left out"


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.damaged{number or ''}") for number in itertools.count())
    return next(name for name in names if not name.exists())


def make_tracker(config: TrainConfig, folder: RunFolder, state: TrainState, is_main: bool) -> Tracker:
    """The tracker of this rank; on the first, `state.wandb_id` is set: the run keeps one id.

    A run that has reported its end reports nothing more; one that was killed just before still does.
    """
    if not is_main or (state.step >= config.max_steps and _is_told_finished(folder, state.step)):
        return NullTracker()
    origin = {"code": code_version(), "rejected": rejected_by_shards(config)}
    run = start_wandb(config, folder, state, origin)
    facts = {**origin, "ranks": state.world_size, "wandb_id": state.wandb_id}
    return RunTracker(folder, state.step, run, facts, config.tracker.preview_table)


def _is_told_finished(folder: RunFolder, step: int) -> bool:
    events, _ = whole_records(folder.events)
    ends = [record["step"] for record in events if record["event"] == "finished"]
    return step in ends


def rejected_by_shards(config: TrainConfig) -> dict[str, int]:
    """What data preparation left out of the run's shards: what it was -> how many, of all reasons."""
    rejected: Counter[str] = Counter()
    for manifest in manifests_of(config.data):
        for what, reasons in manifest.get("rejected", {}).items():
            rejected[what] += sum(reasons.values())
    return dict(rejected)
