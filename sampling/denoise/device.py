"""Choose the device and the dtype of a computation."""

import torch

from intarsia.errors import UsageError


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" = a GPU if there is one.

    Raises:
        UsageError: if the device does not exist.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        raise UsageError(f"--device {name} does not exist on this machine; try cpu or auto") from None
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype called `name`; "auto": bfloat16 on a GPU if supported, else float16; float32 on a CPU."""
    if name != "auto":
        return getattr(torch, name)
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
