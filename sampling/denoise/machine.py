"""Load the model onto its device, and limit its memory."""

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
from sampling.denoise.device import pick_device, pick_dtype
from sampling.settings import MachineSettings

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # values in glibc's malloc.h
M = TypeVar("M", bound=nn.Module)


class Machine(NamedTuple):
    """A model and its compute device; with `low_vram` its weights are stored elsewhere."""

    model: EditModel
    device: torch.device


def load_model(
    folder: Path | str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> EditModel:
    """Read a model folder with `intarsia.weights.read_model` and prepare the model for sampling.

    In float16 the autoencoder remains float32, because it overflows in half precision, which gives black
    pictures. On a CPU it processes one picture at a time, channels last, which is an eighth faster than four
    together; and the process keeps the memory that it frees.

    Args:
        folder: model folder.
        device: device of the weights and the computation.
        dtype: dtype of the weights.

    Raises:
        UserError: as `intarsia.weights.read_model`.
    """
    return _made_ready(weights.read_model(folder, device, dtype), torch.device(device))


def open_model(folder: Path | str, settings: MachineSettings) -> Machine:
    """`load_model` with the options of the command line.

    With `low_vram` the weights are in the CPU's memory, and `edit` moves one network at a time to the device;
    the autoencoder works in slices and tiles.

    Raises:
        UsageError: if the device does not exist.
        UserError: as `load_model`.
    """
    device = pick_device(settings.device)
    home, dtype = "cpu" if settings.low_vram else device, pick_dtype(settings.dtype, device)

    def ready(place: Path | str) -> EditModel:
        one = _made_ready(weights.read_model(place, home, dtype), device)
        if settings.low_vram:
            one.vae.enable_slicing()
            one.vae.enable_tiling()
        return one

    model = ready(folder)
    if settings.upsampler:
        model.upsampler = ready(settings.upsampler)
    if settings.compile:
        model.unet.compile()
    if settings.noised_clip:
        attach_noised(model, settings.noised_clip)
    if settings.style_tower:
        from sampling.denoise.style_tower import read_style_tower

        model.style_tower = read_style_tower(settings.style_tower, home, dtype)
    return Machine(model, device)


def attach_noised(model: EditModel, folder: Path) -> None:
    """Give a model the noised encoder of a folder, in float32 on the model's device.

    Raises:
        UsageError: for a model in float16, whose weights cannot be compared with those of the training.
        UserError: as `intarsia.conditions.noised.read_noised`.
    """
    from intarsia.conditions.noised import read_noised

    if model.unet.dtype == torch.float16:
        raise UsageError("--noised-clip works with --dtype float32 or bfloat16, not with float16")
    model.noised = read_noised(folder, model).to(model.unet.device)


def _made_ready(model: EditModel, device: torch.device) -> EditModel:
    """Prepare `model` for computation on `device`, wherever its weights are now."""
    if model.vae.dtype == torch.float16:
        model.vae.float()
    if device.type == "cpu":
        keep_freed_memory()
        model.vae.to(memory_format=torch.channels_last)
        model.vae.enable_slicing()
    return model


@contextmanager
def visiting(module: M, device: torch.device) -> Iterator[M]:
    """Move `module` to `device` and back afterwards; nothing happens if it is already there."""
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
    """Keep freed large blocks in this process for their next use; works with glibc only.

    Otherwise they return to the kernel, which zeroes every page of the next block: 7 % of the CPU time of
    eight edits. The process then keeps its peak memory.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(_MMAP_MAX, 0)  # allocate every block on the heap
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)  # never shrink the heap
