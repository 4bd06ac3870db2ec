"""The W&B run beside metrics.jsonl: it keeps one id, and the config decides where it is recorded."""

import importlib.metadata
import json
import logging
import netrc
import os
import re
import subprocess
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np

from intarsia.errors import UserError
from intarsia.files import ROOT, atomic_write
from intarsia.tracking_run import OutOfReach, import_wandb, start_tracking_run
from training.config import TrainConfig
from training.data.shards import manifests_of
from training.run.state import RunFolder, TrainState

log = logging.getLogger(__name__)
_WITHOUT = "set tracker.wandb=off"
_LOSSES = ("train/loss", "val/loss", "val_ema/loss", "val/loss_structure", "val_ema/loss_structure")
_SUMMARIES = {**dict.fromkeys(_LOSSES, "min,last"), "perf/images_per_s": "max,last"}


class WandbRun:
    """A W&B run that may end before training: its process can be killed or stopped, and training continues.

    Args:
        run: W&B's run; None = W&B is off, and nothing happens.
        numbers: file of the numbers, for the warning when W&B has ended.
    """

    def __init__(self, run: Any, numbers: Path) -> None:
        self._run, self._numbers = run, numbers

    def log(self, values: dict[str, Any], step: int) -> None:
        """Numbers after `step` steps."""
        self._tell(lambda run: run.log(values, step=step))

    def image(self, name: str, path: Path, step: int) -> None:
        """A picture."""
        self._tell(lambda run: run.log({name: _wandb().Image(str(path))}, step=step))

    def table(self, name: str, columns: list[str], rows: list[list[Any]], step: int) -> None:
        """A table; arrays in it, uint8 [H, W] or [H, W, 3] RGB, are pictures."""

        def send(run: Any) -> None:
            shown = [[_wandb().Image(v) if isinstance(v, np.ndarray) else v for v in row] for row in rows]
            run.log({name: _wandb().Table(columns=columns, data=shown)}, step=step)

        self._tell(send)

    def alert(self, title: str, text: str) -> None:
        """A message that W&B sends to the user by mail or chat, as their settings there say."""
        self._tell(lambda run: run.alert(title=title, text=text, level="WARN"))

    def artifact(self, name: str, kind: str, folder: Path, aliases: list[str]) -> None:
        """A folder, by reference: nothing is uploaded or hashed, and W&B knows which run made it."""

        def send(run: Any) -> None:
            allowed = re.sub(r"[^\w.-]", "-", name)  # runs of a sweep are called lr=1e-5,seed=1
            artifact = _wandb().Artifact(allowed, kind, metadata={"folder": str(folder)})
            artifact.add_reference(folder.resolve().as_uri(), checksum=False)
            run.log_artifact(artifact, aliases=aliases)

        self._tell(send)

    def will_continue(self) -> None:
        """Report to W&B that the run is interrupted, not finished."""
        self._tell(lambda run: run.mark_preempting())

    def close(self, exit_code: int = 0) -> None:
        """Let W&B finish its upload or its offline file; a code that is not 0 marks the run as failed."""
        self._tell(lambda run: run.finish(exit_code=exit_code))

    def _tell(self, message: Callable[[Any], Any]) -> None:
        if self._run is None:
            return
        try:
            message(self._run)
        except Exception as error:  # noqa: BLE001 - what it raises without its process has no common class
            log.warning("W&B records no more (%s): the numbers go to %s alone", error, self._numbers)
            self._run = None
            _end_process()  # or it tries again, and fails again, when Python ends


def start_wandb(config: TrainConfig, folder: RunFolder, state: TrainState, origin: Mapping[str, Any]) -> Any:
    """A W&B run that continues the one of this run folder, or None where it is off.

    `state.wandb_id` is set. The id is also in RUN/wandb/id, from the first moment on: a run that dies before
    its first checkpoint is still one run.

    Args:
        config: training config.
        folder: run folder.
        state: state where the run begins or continues.
        origin: origin of code and data, for W&B's config.

    Raises:
        UserError: if W&B is missing, cannot write or accept these settings, or cannot be reached although
            tracker.wandb=online.
    """
    if wandb_mode(config.tracker.wandb, os.environ) == "off":
        return None
    wandb = import_wandb(_WITHOUT)
    try:
        return _begin(wandb, config, folder, state, origin)
    except (OSError, wandb.Error) as error:
        raise UserError(f"W&B cannot record {folder.root} ({error}); mend it, or tracker.wandb=off") from None


def _begin(
    wandb: Any, config: TrainConfig, folder: RunFolder, state: TrainState, origin: Mapping[str, Any]
) -> Any:
    mode = wandb_mode(config.tracker.wandb, os.environ)
    place = folder.root.resolve() / "wandb"
    # By default in the user's home: no node may write there, or none but this one see it at `wandb sync`.
    os.environ.setdefault("WANDB_DATA_DIR", str(place))
    os.environ.setdefault("WANDB_CACHE_DIR", str(place / "cache"))
    state.wandb_id = state.wandb_id or _kept_id(place / "id")
    options = {
        "project": config.tracker.project,
        "name": config.tracker.name or folder.root.resolve().name,
        "group": config.tracker.group,
        "tags": list(config.tracker.tags),
        "job_type": "train",
        "id": state.wandb_id,
        "dir": str(folder.root),
        "config": _about(state, origin),
        "without": _WITHOUT,
        "offline": "set tracker.wandb=offline",
    }
    run = _connect(options, mode, strict=config.tracker.wandb == "online")
    for name, summary in _SUMMARIES.items():
        run.define_metric(name, summary=summary)
    _note_shards(wandb, run, config, state, online=mode == "online")
    return run


def _connect(options: dict[str, Any], mode: str, strict: bool) -> Any:
    if mode == "online":
        try:
            return start_tracking_run(mode="online", resume="allow", **options)
        except OutOfReach as error:
            if strict:
                raise
            log.warning("W&B cannot be reached (%s): recording offline", error.__cause__)
            _end_process()  # which holds the run's id
    return start_tracking_run(mode="offline", **options)


def _about(state: TrainState, origin: Mapping[str, Any]) -> dict[str, Any]:
    slurm = {key: os.environ[key] for key in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT") if key in os.environ}
    return {
        **state.config,
        "libraries": state.libraries,
        "world_size": state.world_size,
        "data_fingerprint": state.data_fingerprint,
        **origin,
        "slurm": slurm,
    }


def _note_shards(wandb: Any, run: Any, config: TrainConfig, state: TrainState, online: bool) -> None:
    """The shards' manifests as the run's input; the same shards are the same artifact in every run."""
    artifact = wandb.Artifact(f"shards-{state.data_fingerprint[:12]}", "dataset")
    for number, manifest in enumerate(manifests_of(config.data)):
        with artifact.new_file(f"{number}/manifest.json") as file:
            json.dump(manifest, file)
    if online and not run.offline:
        run.use_artifact(artifact)
    else:  # an input cannot be named offline
        run.log_artifact(artifact)


def _kept_id(path: Path) -> str:
    if path.is_file():
        return path.read_text(encoding="utf-8").strip()
    path.parent.mkdir(parents=True, exist_ok=True)
    name = uuid.uuid4().hex[:8]
    atomic_write(path, name + "\n")
    return name


def code_version() -> str:
    """The commit of this checkout, `-dirty` where files differ from it; of an installed copy its version."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    if (ROOT / ".git").exists():
        with suppress(OSError):
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            if run.returncode == 0:
                return run.stdout.strip()
    try:
        return importlib.metadata.version("intarsia")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def wandb_mode(wanted: str, environ: Mapping[str, str]) -> str:
    """The meaning of `tracker.wandb` on this machine: online, offline or off.

    `auto` is WANDB_MODE if that is set; otherwise it is online for a user who is logged in (a key in
    WANDB_API_KEY or in the netrc file), else offline.
    """
    if wanted != "auto":
        return wanted
    named = environ.get("WANDB_MODE")
    if named:
        return {"disabled": "off", "online": "online", "shared": "online"}.get(named, "offline")
    return "online" if environ.get("WANDB_API_KEY") or _in_netrc(environ) else "offline"


def _in_netrc(environ: Mapping[str, str]) -> bool:
    path = Path(environ.get("NETRC") or Path.home() / ".netrc")
    host = urlparse(environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    try:
        return path.is_file() and netrc.netrc(path).authenticators(host) is not None
    except (netrc.NetrcParseError, OSError):
        return False


def _end_process() -> None:
    """End W&B's own process, and not ours: teardown exits with the code of a process that had a bad end."""
    with suppress(Exception, SystemExit):
        _wandb().teardown()


def _wandb() -> Any:
    import wandb

    return wandb
