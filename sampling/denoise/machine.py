"""Where the model runs: device, precision, and how to do with little memory."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import nn

from intarsia import weights
from intarsia.errors import UsageError
from intarsia.model import EditModel
from sampling.settings import MachineSettings

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # their numbers in glibc's malloc.h
M = TypeVar("M", bound=nn.Module)


class Machine(NamedTuple):
    """A model and the device that it works on; its weights may wait elsewhere (`low_vram`)."""

    model: EditModel
    device: torch.device


def load_model(
    folder: Path | str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> EditModel:
    """Read a model folder, as `intarsia.weights.read_model` does, to sample with it.

    In float16 the autoencoder stays float32: it overflows in half precision, which gives black pictures. On a
    CPU it works on one picture at a time, channels last, which is an eighth quicker than on four together;
    and the process keeps the memory that it frees.

    Args:
        folder: of the model.
        device: where it shall live and work.
        dtype: of the weights.

    Raises:
        UserError: as `intarsia.weights.read_model`.
    """
    return _made_ready(weights.read_model(folder, device, dtype), torch.device(device))


def open_model(folder: Path | str, settings: MachineSettings) -> Machine:
    """`load_model` as the command line's options have it.

    With `low_vram` the weights wait in the CPU's memory, and `edit` brings one network at a time to the
    device, the autoencoder in parts.

    Raises:
        UsageError: if the device is not there.
        UserError: as `load_model`.
    """
    device = pick_device(settings.device)
    home, dtype = "cpu" if settings.low_vram else device, pick_dtype(settings.dtype, device)
    model = _made_ready(weights.read_model(folder, home, dtype), device)
    if settings.low_vram:
        model.vae.enable_slicing()
        model.vae.enable_tiling()
    if settings.compile:
        model.unet.compile()
    return Machine(model, device)


def _made_ready(model: EditModel, device: torch.device) -> EditModel:
    """`model` that shall work on `device`, wherever it waits."""
    if model.vae.dtype == torch.float16:
        model.vae.float()
    if device.type == "cpu":
        keep_freed_memory()
        model.vae.to(memory_format=torch.channels_last)
        model.vae.enable_slicing()
    return model


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" takes a GPU where there is one.

    Raises:
        UsageError: if it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        raise UsageError(f"--device {name} is not there on this machine; try cpu or auto") from None
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision called `name`; "auto": bfloat16 on a GPU that has it, float16 on others, else float32."""
    if name != "auto":
        return getattr(torch, name)
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


@contextmanager
def visiting(module: M, device: torch.device) -> Iterator[M]:
    """`module` on `device`, and back where it was afterwards; nothing happens if it lives there."""
    home = next(module.parameters()).device
    if home == device:
        yield module
        return
    module.to(device)
    try:
        yield module
    finally:
        module.to(home)


def keep_freed_memory() -> None:
    """Let large blocks that are freed wait for their next use in this process; only glibc can do that.

    Otherwise they go back to the kernel, which zeroes every page of the next one: 7 % of the CPU time of
    eight edits. The process then holds the most that it ever needed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(_MMAP_MAX, 0)  # every block on the heap
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)  # and the heap does not shrink
