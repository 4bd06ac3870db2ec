"""What makes a folder a model folder; no torch, so that a wrong one is told at once."""

from pathlib import Path

from intarsia.errors import UserError

INDEX = "model_index.json"
ADAPTERS = "pytorch_lora_weights.safetensors"  # of a folder of adapters instead


def check_model_folder(folder: Path | str) -> None:
    """Refuse what is no model folder, with what it seems to be instead.

    Raises:
        UserError: naming the folder and, where it can be told, the way from there to a model.
    """
    folder = Path(folder)
    if (folder / INDEX).is_file():
        return
    if folder.is_file():
        raise UserError(
            f"{folder} is a file, not a model folder; `python -m sampling import {folder} --out DIR` makes "
            "one of an original checkpoint"
        )
    if not folder.is_dir():
        raise UserError(f"model folder {folder} does not exist")
    raise UserError(f"{folder} is not a model folder: it holds no {INDEX}{_way_out(folder)}")


def _way_out(folder: Path) -> str:
    if (folder / "model" / INDEX).is_file():
        return f"; {folder / 'model'} is one"
    if (folder / ADAPTERS).is_file():
        return f" but adapters: python -m sampling merge-lora --lora {folder} --model BASE --out DIR"
    if folder.parent.name == "checkpoints":
        return " but a training checkpoint; the run writes RUN/model when it is finished"
    if (folder / "checkpoints").is_dir():
        return "; a run writes RUN/model when it is finished: run its command again"
    return ""
