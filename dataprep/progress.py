"""How far a build is, picture by picture: small files that workers write, their sum, and a line for people.

The files are in the shard folder, so this works on a cluster and without Ray. Nothing depends on them: if
they cannot be written or read, progress jumps by whole shards.
"""

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO, TypeVar

PROGRESS_NOTES = ".progress"  # folder of the workers' files, below the shard folder
NOTE_SECONDS = 0.5  # between two notes of a worker
POLL_SECONDS = 1.0
LINE_SECONDS = 10.0  # between two lines if there is no terminal

R = TypeVar("R")


@dataclass(frozen=True)
class BuildProgress:
    """How far a build is.

    Attributes:
        shards_done: committed shards, including those of earlier runs.
        shards: number of all shards.
        built: pictures finished in this run, including rejected ones.
        pictures: pictures that this run has to finish.
        rejected: rejected pictures among `built`.
        samples: samples made in this run.
    """

    shards_done: int
    shards: int
    built: int
    pictures: int
    rejected: int = 0
    samples: int = 0


class Tally(Protocol):
    """The counts of `ShardTally` that are reported here."""

    kept: Any
    rejected: dict[str, Any]


def noted(records: Iterable[R], folder: Path | str, shard: str, tally: Tally) -> Iterator[R]:
    """The records as they are; in between, the counts of `tally` are written to a file, twice a second.

    Args:
        records: pictures of a shard.
        folder: shard folder.
        shard: name of the shard without extension.
        tally: counts of the shard, which the caller updates between records.
    """
    path, last = Path(folder) / PROGRESS_NOTES / shard, time.monotonic()
    for record in records:
        yield record
        if time.monotonic() - last >= NOTE_SECONDS:
            last = time.monotonic()
            rejected = sum(tally.rejected["pictures"].values())
            with contextlib.suppress(OSError):
                path.parent.mkdir(exist_ok=True)
                path.write_text(f"{tally.kept['pictures'] + rejected} {rejected} {tally.kept['samples']}\n")


class Meter:
    """Sums up finished shards and the notes of those in progress, and reports the sum.

    Args:
        folder: shard folder.
        start: progress before this run begins.
        report: function that gets every sum; called from one thread at a time.
    """

    def __init__(self, folder: Path, start: BuildProgress, report: Callable[[BuildProgress], None]) -> None:
        self._notes, self._start, self._report = folder / PROGRESS_NOTES, start, report
        self._finished: dict[str, tuple[int, int, int]] = {}
        self._working: dict[str, tuple[int, int, int]] = {}
        self._lock = threading.Lock()

    def finish(self, stats: dict[str, Any]) -> None:
        """Count a committed shard by its sidecar's sums."""
        name = stats["shard"].partition(".")[0]
        rejected = sum(stats["rejected"]["pictures"].values())
        with self._lock:
            self._working.pop(name, None)
            self._finished[name] = stats["kept"]["pictures"] + rejected, rejected, stats["samples"]
            with contextlib.suppress(OSError):
                (self._notes / name).unlink(missing_ok=True)
            self._report(self._sum())

    def poll(self) -> None:
        """Read the workers' notes and report."""
        with self._lock, contextlib.suppress(OSError):
            for path in self._notes.iterdir() if self._notes.is_dir() else ():
                if path.name in self._finished:
                    continue
                with contextlib.suppress(OSError, ValueError):  # a note is being written, or is gone
                    pictures, rejected, samples = map(int, path.read_text().split())
                    self._working[path.name] = pictures, rejected, samples
        with self._lock:
            self._report(self._sum())

    def _sum(self) -> BuildProgress:
        rows = [*self._finished.values(), *self._working.values()]
        built, rejected, samples = (sum(column) for column in zip(*rows, strict=True)) if rows else (0, 0, 0)
        start = self._start
        done = start.shards_done + len(self._finished)
        return BuildProgress(done, start.shards, built, start.pictures, rejected, samples)


@contextlib.contextmanager
def metered(folder: Path, start: BuildProgress, report: Callable[[BuildProgress], None]) -> Iterator[Meter]:
    """A meter that polls once a second in a thread of its own; the notes are removed before and after."""
    shutil.rmtree(folder / PROGRESS_NOTES, ignore_errors=True)
    meter, over = Meter(folder, start, report), threading.Event()

    def watch() -> None:
        while not over.wait(POLL_SECONDS):
            meter.poll()

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    report(start)
    thread.start()
    try:
        yield meter
    finally:
        over.set()
        thread.join()
        shutil.rmtree(folder / PROGRESS_NOTES, ignore_errors=True)


class Reporter:
    """Writes progress: on a terminal one line, overwritten; elsewhere at most one line every ten seconds.

    Args:
        stream: text stream; standard error if None.
        clock: function that returns seconds.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._idle = clock()  # time of the last report without any picture: workers were still starting
        self._last = -LINE_SECONDS
        self._open = self._finished = False

    def __call__(self, progress: BuildProgress) -> None:
        """Report; the last report of a finished build is always written."""
        if self._finished:  # the thread that polls may come once more
            return
        now, terminal = self._clock(), self._stream.isatty()
        self._finished = finished = progress.shards_done == progress.shards
        if not progress.built:
            self._idle = now
        if not terminal and not finished and now - self._last < LINE_SECONDS:
            return
        self._last = now
        line = progress_line(progress, now - self._idle)
        if terminal:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\033[K{line[:width]}")
            self._open = True
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()

    def close(self) -> None:
        """End the line on a terminal, so that what follows begins a new one."""
        if self._open:
            self._stream.write("\n")
            self._stream.flush()
        self._open = False


def progress_line(progress: BuildProgress, seconds: float) -> str:
    """Progress in words, `seconds` after the first picture was begun."""
    parts = [
        f"{progress.shards_done:,}/{progress.shards:,} shards",
        f"{progress.built:,}/{progress.pictures:,} pictures",
    ]
    if not progress.built and progress.pictures:
        return "  ".join([*parts, "workers are starting"])
    rate = progress.built / max(seconds, 1e-9)
    parts += [f"{rate:,.1f}/s", f"{progress.rejected:,} rejected"]
    if progress.built < progress.pictures:
        parts.append(f"{duration((progress.pictures - progress.built) / rate)} left")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Seconds for people: 45 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"
