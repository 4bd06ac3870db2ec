"""The records of runs that make many pictures: what is made, by how many processes, and how far they are."""

from __future__ import annotations

import fcntl
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from intarsia.errors import UserError
from intarsia.files import atomic_write

RESULTS = "results.jsonl"
_LINE_SECONDS = 10.0  # time between two lines of progress if there is no terminal


def records_name(shard: tuple[int, int]) -> str:
    """The file of one process's records: `RESULTS`, or one of its own if there are several processes."""
    place, number = shard
    return RESULTS if number == 1 else f"results-{place}-of-{number}.jsonl"


def read_records(out: Path) -> dict[str, dict[str, Any]]:
    """The newest record of each name in all shards' files; lines that a crash truncated are ignored."""
    records: dict[str, dict[str, Any]] = {}
    # Oldest file first, so that newer records replace older ones.
    for path in sorted(out.glob("results*.jsonl"), key=lambda path: path.stat().st_mtime_ns):
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(json.JSONDecodeError):
                record = json.loads(line)
                records[record["name"]] = record
    return records


def merge_records(out: Path, names: Sequence[str]) -> None:
    """Write results.jsonl from all shards' files in the list's order; the last process writes all records."""
    with (out / f".{RESULTS}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        records = read_records(out)
        lines = [json.dumps(records[name]) + "\n" for name in names if name in records]
        atomic_write(out / RESULTS, "".join(lines))


@contextmanager
def sole_writer(lock: Path) -> Iterator[None]:
    """Hold a lock file; a second process that wants it is refused.

    Raises:
        UserError: if another process holds it.
    """
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"another process is working on these rows in {lock.parent}; wait for it, or give --shard i/n"
            ) from None
        yield


class EditProgress:
    """Progress and remaining time: a bar on a terminal, otherwise a line every ten seconds."""

    def __init__(self, total: int, failed: int) -> None:
        """Start with `total` rows, of which `failed` have failed before painting."""
        from tqdm import tqdm

        self.total, self.done, self.failed = total, failed, failed
        self.painted = 0
        self.start = self.last = time.monotonic()
        self.bar = tqdm(total=total, initial=failed, unit="edit", disable=None)

    def one_more(self, failed: bool) -> None:
        """Count a finished row."""
        self.done += 1
        self.painted += 1
        self.failed += failed
        self.bar.update()
        now = time.monotonic()
        if self.bar.disable and (now - self.last >= _LINE_SECONDS or self.done == self.total):
            self.last = now
            left = (now - self.start) / self.painted * (self.total - self.done)
            sys.stderr.write(f"{self.done}/{self.total} edits  {self.failed} failed  left {left:.0f} s\n")

    def close(self) -> None:
        """End the bar."""
        self.bar.close()
