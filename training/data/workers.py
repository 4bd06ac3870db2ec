"""The loader's worker processes: how they are started, and what it means when one of them ends."""

import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from typing import Any

from intarsia.errors import UserError

# A fork would copy the locks that threads of CUDA, gloo and W&B hold at that moment, and no thread that could
# give them back. The fork server has no such threads; what it has imported, its children have.
START_METHOD = "forkserver"
_PRELOAD = ["training.data.batches"]
_SECONDS_TO_END = 5  # from the error that a dying worker causes to its end
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
EXIT_KILLED = 137  # 128 + SIGKILL, as a shell has it; slurm/train.sh takes it for the kill of a rank


class WorkerKilled(UserError):
    """A loader worker was killed: a restart would go on from the last checkpoint, as after a rank's kill."""

    exit_code = EXIT_KILLED


def start_context() -> BaseContext:
    """The context in which torch's DataLoader shall start its workers.

    A stop signal often reaches every process of a job: the helpers of Python's own are started with these
    signals blocked, or they would be gone when the training process saves.
    """
    context = multiprocessing.get_context(START_METHOD)
    if START_METHOD == "forkserver":
        context.set_forkserver_preload(_PRELOAD)
        for helper in (resource_tracker, forkserver):
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            try:
                helper.ensure_running()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def ignore_signals(worker: int) -> None:
    """A stop signal often reaches the whole process group: the training process decides, workers go on."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def watched(batches: Any) -> Iterator[Any]:
    """What an iterator of torch's DataLoader gives, with the end of a worker in a sentence.

    Raises:
        WorkerKilled: for a worker that was killed.
        UserError: for one that ended otherwise.
    """
    workers = getattr(batches, "_workers", [])
    with _explained(workers):
        yield from batches


@contextmanager
def _explained(workers: Sequence[Any]) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:  # torch noticed; or the worker went as it handed over
        deadline = time.monotonic() + _SECONDS_TO_END
        while not (gone := [worker for worker in workers if worker.exitcode]):
            if not workers or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        raise about_end(gone[0].pid, gone[0].exitcode) from error


def about_end(pid: int, exit_code: int) -> UserError:
    """The error for a worker that ended before its work was done.

    Args:
        pid: its process.
        exit_code: of multiprocessing: negative for a signal; 255 where the fork server went, too.
    """
    who = f"a loader worker (process {pid})"
    if exit_code in (-signal.SIGKILL, 255):
        return WorkerKilled(
            f"{who} was killed, by the system for lack of memory or by a person; the same command goes on "
            "from the last checkpoint; for less memory lower data.num_workers or data.open_shards, or give "
            "the job more (--mem)"
        )
    if exit_code == -signal.SIGBUS:
        return UserError(
            f"{who} found no room in shared memory; enlarge /dev/shm, or lower data.num_workers or "
            "micro_batch_size, or set data.num_workers=0"
        )
    how = f"by signal {signal.Signals(-exit_code).name}" if exit_code < 0 else f"with code {exit_code}"
    return UserError(
        f"{who} ended {how}; data.num_workers=0 reads in the training process, whose end then shows the cause"
    )
