"""CPU time and memory of this process and of all that it has started, Ray's processes among them."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

TICK = 0.2  # seconds between two readings of CPU times
MEMORY_TICKS = 10  # memory is read less often, because the kernel walks through all of it
WORKER = "ray::"  # start of a worker's name while it works


@dataclass(frozen=True)
class Family:
    """CPU-seconds of this process and all its descendants; MB of Ray's largest worker, and of the others.

    Of memory that several processes share, each has its part.
    """

    seconds: float
    worker: float
    others: float


@contextmanager
def watched_family() -> Iterator[Callable[[], Family]]:
    """What this process and its descendants have used, once the block is over; memory at its peak.

    They are read periodically, because this process cannot wait for Ray's processes. What the reading itself
    takes is not counted.
    """
    seen: dict[int, float] = {}
    peaks, reading = [0.0, 0.0], [0.0]
    stop = threading.Event()
    start = time.process_time()

    def look() -> None:
        tick = 0
        while not stop.wait(TICK):
            running = psutil.Process().children(recursive=True)
            seen.update(read_each(running, cpu_seconds))
            if tick % MEMORY_TICKS == 0:
                workers = [process for process in running if is_worker(process)]
                sizes = read_each(running, megabytes)
                largest = max((sizes.pop(process.pid, 0.0) for process in workers), default=0.0)
                peaks[:] = max(peaks[0], largest), max(peaks[1], sum(sizes.values()))
            tick += 1
        reading[0] = time.thread_time()

    thread = threading.Thread(target=look)
    thread.start()
    own: list[float] = []
    try:
        yield lambda: Family(own[0] + sum(seen.values()), *peaks)
    finally:
        stop.set()
        thread.join()
        own.append(time.process_time() - start - reading[0])


def read_each(processes: list[psutil.Process], read: Callable[[psutil.Process], float]) -> dict[int, float]:
    """What `read` finds of each process, by its number; those that have just ended are left out."""
    found = {}
    for process in processes:
        with suppress(psutil.Error):
            found[process.pid] = read(process)
    return found


def cpu_seconds(process: psutil.Process) -> float:
    """Of all its threads, in user and in system mode."""
    times = process.cpu_times()
    return float(times.user + times.system)


def megabytes(process: psutil.Process) -> float:
    """Memory of a process, of what it shares its part."""
    return float(process.memory_full_info().pss) / 1e6


def is_worker(process: psutil.Process) -> bool:
    """Whether Ray's worker is at work in it."""
    with suppress(psutil.Error):
        return process.name().startswith(WORKER)
    return False
