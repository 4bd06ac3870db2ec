"""Edit pictures with a trained model.

    from sampling import EditRequest, EditSettings, edit, load_model

These names are imported when they are first used, so that the command line answers `--help` at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sampling.canvas.edits import EditRequest, EditResult
    from sampling.denoise.machine import load_model
    from sampling.editing import edit
    from sampling.pictures import read_exemplar, read_mask, read_picture, write_png
    from sampling.settings import EditSettings

__all__ = [
    "EditRequest",
    "EditResult",
    "EditSettings",
    "edit",
    "load_model",
    "read_exemplar",
    "read_mask",
    "read_picture",
    "write_png",
]

_HOMES = {
    "EditRequest": "sampling.canvas.edits",
    "EditResult": "sampling.canvas.edits",
    "EditSettings": "sampling.settings",
    "edit": "sampling.editing",
    "load_model": "sampling.denoise.machine",
    "read_exemplar": "sampling.pictures",
    "read_mask": "sampling.pictures",
    "read_picture": "sampling.pictures",
    "write_png": "sampling.pictures",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'sampling' has no attribute {name!r}")
