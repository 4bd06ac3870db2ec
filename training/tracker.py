"""Numbers and pictures to metrics.jsonl, always, and to Weights & Biases, where wanted.

metrics.jsonl is the truth: it is flushed line by line, while an offline W&B run loses its last records when
the process is killed.
"""

import json
import logging
import math
import netrc
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

from intarsia.errors import UserError
from intarsia.files import atomic_write
from training.config import TrainConfig
from training.state import RunFolder, TrainState

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Where the loop leaves its numbers."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Record values after `step` finished steps."""

    def image(self, step: int, name: str, path: Path) -> None:
        """Record a picture."""

    def close(self) -> None:
        """Finish for now; the run may continue later."""


class NullTracker:
    """Does nothing: the tracker of every rank but the first."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Nothing."""

    def image(self, step: int, name: str, path: Path) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class RunTracker:
    """metrics.jsonl of a run folder, and a W&B run beside it.

    Args:
        folder: of the run; lines of metrics beyond `step` are dropped, so that no step comes twice.
        step: that the run continues from.
        wandb_run: of `start_wandb`, or None.
    """

    def __init__(self, folder: RunFolder, step: int, wandb_run: Any) -> None:
        truncate_metrics(folder.metrics, step)
        self._file = folder.metrics.open("a", encoding="utf-8")
        self._wandb = wandb_run

    def log(self, step: int, values: dict[str, float]) -> None:
        """Record values after `step` finished steps; a value that is not finite becomes null in the file."""
        plain = {key: value if math.isfinite(value) else None for key, value in values.items()}
        self._file.write(json.dumps({"step": step, **plain}) + "\n")
        self._file.flush()
        self._tell_wandb(lambda run: run.log(values, step=step))

    def image(self, step: int, name: str, path: Path) -> None:
        """Record a picture; the file itself is in the run folder already."""
        if self._wandb is not None:
            import wandb

            picture = wandb.Image(str(path))
            self._tell_wandb(lambda run: run.log({name: picture}, step=step))

    def close(self) -> None:
        """Close the file and let W&B finish its upload or its offline file."""
        self._file.close()
        self._tell_wandb(lambda run: run.finish())

    def _tell_wandb(self, message: Callable[[Any], None]) -> None:
        """Do something with the W&B run. Its own process may be gone, killed or stopped before us: go on."""
        if self._wandb is None:
            return
        import wandb

        try:
            message(self._wandb)
        except (OSError, wandb.Error) as error:
            log.warning("W&B's process is gone (%s): the numbers go to %s alone", error, self._file.name)
            self._wandb = None
            with suppress(OSError, wandb.Error):  # or it tries again, and fails again, when Python ends
                wandb.teardown()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl. A last line that a crash cut short is left out.

    Raises:
        UserError: for a damaged line elsewhere, naming it.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise UserError(f"{path}, line {number}: not valid JSON; delete the line to go on") from None
    return records


def truncate_metrics(path: Path, step: int) -> None:
    """Drop what was recorded after `step`: a run that continues from there will record it again."""
    kept = [record for record in read_metrics(path) if record["step"] <= step]
    atomic_write(path, "".join(json.dumps(record) + "\n" for record in kept))


def make_tracker(config: TrainConfig, folder: RunFolder, state: TrainState, is_main: bool) -> Tracker:
    """The tracker of this rank; on the first, `state.wandb_id` is set: the run keeps one id for ever."""
    if not is_main or state.step >= config.max_steps:
        return NullTracker()
    return RunTracker(folder, state.step, start_wandb(config, folder, state))


def start_wandb(config: TrainConfig, folder: RunFolder, state: TrainState) -> Any:
    """A W&B run that continues the one of `state.wandb_id`, or None where it is off."""
    mode = wandb_mode(config.tracker.wandb, os.environ)
    if mode == "off":
        return None
    try:
        import wandb
    except ImportError:
        raise UserError("wandb is not installed; install '.[training]' or set tracker.wandb=off") from None
    state.wandb_id = state.wandb_id or uuid.uuid4().hex[:8]
    options = {
        "project": config.tracker.project,
        "name": config.tracker.name or folder.root.resolve().name,
        "id": state.wandb_id,
        "dir": str(folder.root),
        "config": {**state.config, "libraries": state.libraries, "world_size": state.world_size},
        "settings": wandb.Settings(silent=True, console="off"),
    }
    if mode == "online":
        try:
            return wandb.init(mode="online", resume="allow", **options)
        except wandb.errors.CommError as error:
            if config.tracker.wandb == "online":
                raise UserError(f"W&B cannot be reached ({error}); set tracker.wandb=offline") from None
            log.warning("W&B cannot be reached (%s): recording offline", error)
    return wandb.init(mode="offline", **options)


def wandb_mode(wanted: str, environ: Any) -> str:
    """What `tracker.wandb` comes to here: online, offline or off.

    `auto` follows WANDB_MODE where that is set; otherwise it is online for a user who is logged in (a key in
    WANDB_API_KEY or in the netrc file), and offline else.
    """
    if wanted != "auto":
        return wanted
    named = environ.get("WANDB_MODE")
    if named:
        return {"disabled": "off", "online": "online", "shared": "online"}.get(named, "offline")
    return "online" if environ.get("WANDB_API_KEY") or _in_netrc(environ) else "offline"


def _in_netrc(environ: Any) -> bool:
    path = Path(environ.get("NETRC") or Path.home() / ".netrc")
    host = urlparse(environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    try:
        return path.is_file() and netrc.netrc(path).authenticators(host) is not None
    except (netrc.NetrcParseError, OSError):
        return False
