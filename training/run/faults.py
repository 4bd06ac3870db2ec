"""Faults of the machine in one sentence with the way out: files that fail, memory that is gone."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from intarsia.errors import UserError, file_remedy
from training.config import BatchShape, TrainConfig, zero_stage_of
from training.run.state import RunFolder

_NO_GPU_MEMORY = re.compile(r"CUDA out of memory|CUDA error: out of memory|\w+_STATUS_ALLOC_FAILED")
_NO_MEMORY = re.compile(r"can't allocate memory|Cannot allocate memory|Unable to allocate")


@contextmanager
def explain_file_errors(run: RunFolder) -> Iterator[None]:
    """Turn what a full disk, a failing one or its server breaks inside the block into a sentence.

    Raises:
        UserError: in place of such an OSError, or of what safetensors makes of one.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        explained = about_file(run, error)
        if explained is None:
            raise
        raise explained from error


def about_file(run: RunFolder, error: Exception) -> UserError | None:
    """The sentence for a disk that is full or fails; None for every other error."""
    cause = _os_error(error)
    remedy = "" if cause is None else file_remedy(cause)
    if cause is None or not remedy:
        return None
    what = cause.filename or "a file"
    verb = "written" if cause.errno in (errno.ENOSPC, errno.EDQUOT) else "read or written"
    return UserError(f"run={run.root}: {what} cannot be {verb} ({error}); {remedy}")


def _os_error(error: Exception) -> OSError | None:
    """The error of the system that this is, or tells of: safetensors writes its number into the text."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


@contextmanager
def explain_memory_errors(config: TrainConfig, shape: BatchShape) -> Iterator[None]:
    """Turn the end of memory inside the block, a GPU's or the machine's, into a sentence with its cures.

    Raises:
        UserError: in place of torch's, CUDA's and numpy's errors.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        said = " ".join(str(error).split())
        if _NO_GPU_MEMORY.search(said):
            cures = ", then ".join(gpu_memory_cures(config, shape))
            tries = f"try in this order {cures}" if cures else "take GPUs with more memory"
            raise UserError(
                f"no memory is left on the GPU ({_beginning(said)}); {tries}; "
                "`python -m training estimate` with this config shows what each needs"
            ) from error
        if isinstance(error, MemoryError) or _NO_MEMORY.search(said):
            raise UserError(
                f"no memory is left on this machine ({_beginning(said)}); lower data.num_workers or "
                "data.open_shards, set checkpoint.asynchronous=false, or give the job more (--mem)"
            ) from error
        raise


def gpu_memory_cures(config: TrainConfig, shape: BatchShape) -> list[str]:
    """Options that lower the memory of a GPU and alter no number but for rounding, the cheapest first.

    Args:
        config: the run.
        shape: of its batches: the global batch stays.
    """
    cures = []
    if smaller := [n for n in range(1, shape.micro) if shape.micro % n == 0]:
        cures.append(f"micro_batch_size={smaller[-1]} with global_batch_size={shape.global_batch}")
    if not config.activation_checkpointing:
        cures.append("activation_checkpointing=true")
    stage = zero_stage_of(config, shape.world)
    last = 2 if config.compile else 3
    if shape.world > 1:
        cures += [f"zero_stage={higher}" for higher in range(max(stage, 1) + 1, last + 1)]
    if not config.offload_optimizer:
        cures.append("offload_optimizer=true" + (" with zero_stage=1" if config.zero_stage == 0 else ""))
    return cures


def _beginning(text: str) -> str:
    """As much of torch's words as fits into a sentence, without the advice that follows them."""
    found = re.match(r".{1,160}[.](?= )", text)
    return (found[0] if found else text[:160]).rstrip(".")
