"""The one place that starts a run of Weights & Biases."""

import os
from pathlib import Path
from typing import Any

from intarsia.errors import UserError


class OutOfReach(UserError):
    """W&B's server does not answer, or does not accept the user."""


def import_wandb(without: str) -> Any:
    """The module `wandb`.

    Args:
        without: how to do without W&B, for the error: "leave --wandb out".

    Raises:
        UserError: if it is not installed.
    """
    try:
        import wandb
    except ImportError:
        raise UserError(f"wandb is not installed; install '.[training]', or {without}") from None
    return wandb


def start_tracking_run(
    project: str, without: str, offline: str, mode: str | None = None, **options: Any
) -> Any:
    """Start a W&B run that prints nothing.

    Args:
        project: name of the W&B project.
        without: how to do without W&B, for an error: "leave --wandb out".
        offline: how to record offline, for an error: "give --wandb offline".
        mode: online or offline; None = what `WANDB_MODE` or the login says.
        options: other options of `wandb.init`, such as name, job_type and config. Without `dir`, the run's
            files are below `WANDB_DIR` or the working folder.

    Returns:
        The `wandb.Run`.

    Raises:
        UserError: if W&B is not installed, or cannot record offline.
        OutOfReach: if the server cannot be reached or does not accept the user.
        wandb.Error, OSError: for a run that W&B cannot write.
    """
    wandb = import_wandb(without)
    # W&B itself would take the folder of the process's first run.
    options = {"dir": os.environ.get("WANDB_DIR", Path.cwd())} | options
    quiet = wandb.Settings(silent=True, console="off")
    try:
        return wandb.init(project=project, mode=mode, settings=quiet, **options)
    except (wandb.errors.CommError, wandb.errors.UsageError) as error:
        found = " ".join(str(error).split())
        if mode == "offline":
            raise UserError(f"W&B cannot record this run ({found}); {without}") from error
        raise OutOfReach(f"W&B cannot be reached ({found}); {offline}") from error
