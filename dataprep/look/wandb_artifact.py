"""A finished folder in Weights & Biases: manifest, card and pictures of it as an artifact, no shards."""

import os
import tempfile
from pathlib import Path
from typing import Any

from dataprep.look.contact_sheet import write_contact_sheet
from dataprep.look.pick import Choice
from dataprep.look.stats import folder_stats
from dataprep.look.stats_plot import write_stats_plot
from dataprep.shards.manifest import CARD, SHARD_MANIFEST
from intarsia.errors import UserError
from intarsia.tracking_run import import_wandb, start_tracking_run

SAMPLES = 24  # on the contact sheet
_WITHOUT = "leave --wandb out"
_OFFLINE = "the shards are whole; `wandb login`, or set WANDB_MODE=offline, and run the same command again"


def log_folder(folder: Path, project: str) -> str:
    """Log one run with one artifact of type `dataset`: what the folder holds, and how it looks.

    W&B decides whether that goes to a server or stays on the disk (`WANDB_MODE`, `WANDB_DIR`, login).

    Args:
        folder: finished shard folder with at least one sample.
        project: W&B project.

    Returns:
        The run's address, or its folder if W&B is offline.

    Raises:
        UserError: if W&B is not installed, or refuses.
    """
    content = folder_stats(folder)
    summary = {name: content[name] for name in ("kept", "in", "rejected", "bytes", "shards", "fingerprint")}
    about = {"job_type": "dataprep", "name": content["name"], "config": content["config"]}
    wandb = import_wandb(_WITHOUT)
    try:
        with (
            tempfile.TemporaryDirectory() as scratch,
            start_tracking_run(project, _WITHOUT, _OFFLINE, **about) as run,
        ):
            pictures = _draw(folder, content, Path(scratch))
            artifact = wandb.Artifact(content["name"], type="dataset", metadata=summary)
            for path in (folder / SHARD_MANIFEST, folder / CARD, *pictures):
                artifact.add_file(str(path), name=path.name)
            run.log({path.stem: wandb.Image(str(path)) for path in pictures if path.suffix == ".png"})
            run.summary.update(_flat(summary))
            run.log_artifact(artifact)
            where = str(Path(run.dir).parent) if run.offline else run.url
    except wandb.errors.Error as error:
        raise UserError(f"W&B refuses ({' '.join(str(error).split())}); {_OFFLINE}") from None
    return os.path.relpath(where) if Path(where).exists() else where


def _draw(folder: Path, content: dict[str, Any], scratch: Path) -> list[Path]:
    sheet, page, plot = (scratch / name for name in ("sheet.png", "sheet.html", "stats.png"))
    for path in (sheet, page):
        write_contact_sheet(folder, path, Choice(SAMPLES))
    write_stats_plot(content, plot)
    return [sheet, page, plot]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
