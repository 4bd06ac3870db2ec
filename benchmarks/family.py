"""CPU time and memory of this process and of all that it has started, Ray's processes among them."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TICK = 0.2  # seconds between two readings
WORKER = "ray::"  # start of a worker's name while it works


@dataclass(frozen=True)
class Family:
    """CPU-seconds of this process and all its descendants; MB of its largest worker, and of the others."""

    seconds: float
    worker: float
    others: float


@contextmanager
def watched_family() -> Iterator[Callable[[], Family]]:
    """What this process and its descendants have used, once the block is over; memory at its peak.

    They are read periodically, because this process cannot wait for Ray's processes.
    """
    seen: dict[int, float] = {}
    peaks = [0.0, 0.0]
    stop = threading.Event()
    start = time.process_time()

    def look() -> None:
        while not stop.wait(TICK):
            running = descendants()
            seen.update({pid: seconds for pid, (_, seconds) in running.items()})
            workers = [memory(pid) for pid, (name, _) in running.items() if name.startswith(WORKER)]
            others = sum(memory(pid) for pid, (name, _) in running.items() if not name.startswith(WORKER))
            peaks[:] = max(peaks[0], *workers, 0), max(peaks[1], others)

    thread = threading.Thread(target=look)
    thread.start()
    own: list[float] = []
    try:
        yield lambda: Family(own[0] + sum(seen.values()), *peaks)
    finally:
        stop.set()
        thread.join()
        own.append(time.process_time() - start)


def descendants() -> dict[int, tuple[str, float]]:
    """Name and CPU-seconds of every running descendant of this process."""
    parents, found = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
        except OSError:  # the process has just ended
            continue
        pid, fields = int(path.parent.name), rest.split()
        parents[pid] = int(fields[1])
        found[pid] = name, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descends(pid: int) -> bool:
        while pid in parents:
            pid = parents[pid]
            if pid == os.getpid():
                return True
        return False

    return {pid: one for pid, one in found.items() if descends(pid)}


def memory(pid: int) -> float:
    """MB of a process; of memory that several processes share, its part."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return next((int(row.split()[1]) / 1e3 for row in text.splitlines() if row.startswith("Pss:")), 0.0)
