"""What makes a folder a model folder; no torch, so that a wrong one is refused at once."""

from pathlib import Path
from typing import Any

from intarsia.architecture import CONDITIONS, ModelConfig
from intarsia.errors import UserError
from intarsia.files import fingerprint, read_json, sha256_file

INDEX = "model_index.json"
NOTES = "intarsia.json"  # what diffusers has no name for; absent where all of it is Paint by Example's
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


def notes_of(config: ModelConfig) -> dict[str, Any]:
    """What `intarsia.json` says of a model; empty, and then not written, for one like Paint by Example's."""
    return {} if config.condition == "exemplar" else {"condition": config.condition}


def read_notes(folder: Path) -> dict[str, Any]:
    """What `intarsia.json` of a model folder says, as fields of `ModelConfig`.

    Raises:
        UserError: for a file that is not such an object, or a condition that this program does not know.
    """
    path = folder / NOTES
    notes = read_json(path) if path.is_file() else {}
    known = set(ModelConfig.model_fields)
    if not isinstance(notes, dict) or not set(notes) <= known:
        raise UserError(f"{path} does not describe a model; it may have been written by a later version")
    if notes.get("condition", "exemplar") not in CONDITIONS:
        raise UserError(
            f"{path} says condition={notes['condition']!r}; this program knows {', '.join(CONDITIONS)}"
        )
    return notes


def check_same_notes(config: ModelConfig, folder: Path) -> None:
    """Refuse to begin a model with the weights of one of another kind, which may fit by their shapes.

    Raises:
        UserError: naming the field and both values.
    """
    theirs, ours = read_notes(folder), notes_of(config)
    for name in sorted(set(theirs) | set(ours)):
        default = ModelConfig.model_fields[name].default
        pair = theirs.get(name, default), ours.get(name, default)
        if pair[0] != pair[1]:
            raise UserError(
                f"{folder} has {name}={pair[0]}, the model config {pair[1]}; set model.{name}={pair[0]}"
            )


def model_hash(folder: Path | str) -> str:
    """The sha256 of a model folder: of the hashes of its weights and config files, by name.

    Cards and other files that do not change what the model computes are left out.
    """
    folder = Path(folder)
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".bin", ".json"))
    return fingerprint({str(path.relative_to(folder)): sha256_file(path) for path in files})
