"""Start runs of Weights & Biases."""

import os
from pathlib import Path
from typing import Any

from intarsia.errors import UserError


class OutOfReach(UserError):
    """An error if W&B's server does not answer, or does not accept the user."""


def import_wandb(without: str) -> Any:
    """Import the module `wandb`.

    Args:
        without: advice how to work without W&B, for the error message.

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
        without: advice how to work without W&B, for an error message.
        offline: advice how to record offline, for an error message.
        mode: online or offline; None = according to `WANDB_MODE` or the login.
        options: other options of `wandb.init`, such as name, job_type and config. Without `dir`, the run's
            files are in `WANDB_DIR` or the working folder.

    Returns:
        The `wandb.Run`.

    Raises:
        UserError: if W&B is not installed, or cannot record offline.
        OutOfReach: if the server cannot be reached or does not accept the user.
        wandb.Error, OSError: if W&B cannot write the run.
    """
    wandb = import_wandb(without)
    # By default W&B would use the mode and the folder of the process's first run.
    mode = mode or os.environ.get("WANDB_MODE")
    options = {"dir": os.environ.get("WANDB_DIR", Path.cwd())} | options
    os.environ.setdefault("WANDB_DISABLE_WEAVE", "true")  # else it advertises Weave, silent or not
    quiet = wandb.Settings(silent=True, console="off")
    try:
        return wandb.init(project=project, mode=mode, settings=quiet, **options)
    except (wandb.errors.CommError, wandb.errors.UsageError) as error:
        found = " ".join(str(error).split())
        if mode == "offline":
            raise UserError(f"W&B cannot record this run ({found}); {without}") from error
        raise OutOfReach(f"W&B cannot be reached ({found}); {offline}") from error
