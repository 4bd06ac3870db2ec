"""TorchScript files of others: recognise, load and call them; the whole network is in the file."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from intarsia.errors import UsageError, UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def named_file(name: str, usual: str, model: Path | None) -> Path:
    """The file that `--model` named.

    Args:
        name: name of the painter.
        usual: usual name of its file.
        model: path; None if there is none.

    Raises:
        UsageError: if there is none.
    """
    if model is None:
        raise UsageError(
            f"{name} needs its weights: give --model {name}:FILE, or --model-dir DIR with {usual} in it"
        )
    return model


def check_script(path: Path) -> None:
    """Refuse what is not a TorchScript file, without torch.

    Raises:
        UserError: with the file, and what it should be.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; give the TorchScript file of the painter")
    names = []
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    if not any(name.endswith("/constants.pkl") for name in names):
        raise UserError(
            f"{path} is not a TorchScript file, which holds a network with its code; weights alone "
            "are not enough"
        )


def load_script(path: Path, device: torch.device) -> Callable[..., Tensor]:
    """The network of a TorchScript file, for inference; its errors name the file.

    Args:
        path: file that `check_script` accepted.
        device: device of the computation.

    Raises:
        UserError: if the file is damaged. The network raises it for inputs that it does not take.
    """
    import torch

    try:
        network: Any = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path} cannot be read as TorchScript ({_last_line(error)})") from None

    def call(*inputs: Tensor) -> Tensor:
        try:
            with torch.inference_mode():
                output = network(*inputs)
        except torch.OutOfMemoryError:
            raise UserError(
                "the picture does not fit into the device's memory; give --fit crop, or mark a smaller area"
            ) from None
        except RuntimeError as error:
            raise UserError(
                f"{path} does not take this painter's {len(inputs)} inputs ({_last_line(error)}); it may be "
                "the file of another painter"
            ) from None
        if not isinstance(output, torch.Tensor) or output.shape[-2:] != inputs[0].shape[-2:]:
            raise UserError(f"{path} does not give a picture of its input's size; it may be another network")
        if not output.isfinite().all():
            raise UserError(f"{path} gave values that are not finite; check the file")
        return output

    return call


def padded(pixels: NDArray[Any], multiple: int) -> NDArray[Any]:
    """Pixels [h, w] or [h, w, C] continued by reflection, bottom and right, to multiples of `multiple`."""
    margins = [(0, -side % multiple) for side in pixels.shape[:2]] + [(0, 0)] * (pixels.ndim - 2)
    return np.pad(pixels, margins, mode="symmetric")


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
