"""Options that evaluation commands share, and their meaning; nothing heavy is imported for `--help`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, TypeAlias

from dataprep.progress import LINE_SECONDS, duration
from evaluation.measures.measures import Value
from evaluation.scoring.scoring import BATCH_SIZE, WORKERS, Case, OnProgress, score
from evaluation.scoring.store import ValueStore

Score: TypeAlias = Callable[[Sequence[Case], str], Iterator[dict[str, Value]]]  # cases, what they are


def add_scoring_options(parser: argparse.ArgumentParser, device: bool = True) -> None:
    """Add weights, the store of computed values, and the machine, with or without --device."""
    group = parser.add_argument_group("features")
    group.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="weights of a feature network by name, or a folder with several; may be repeated. Without it "
        "the caches of Hugging Face and torch hub are searched; nothing is downloaded",
    )
    group.add_argument(
        "--store",
        type=Path,
        default=default_store(),
        metavar="DIR",
        help="folder of computed values, by content (default %(default)s)",
    )
    group.add_argument(
        "--hash-again",
        action="store_true",
        help="read every file again to hash it, also those whose size, times and inode have not changed",
    )
    machine = parser.add_argument_group("scoring")
    if device:
        machine.add_argument(
            "--device", default="auto", help="cpu, cuda, cuda:1 ...; auto takes a GPU if there is one"
        )
    machine.add_argument(
        "--batch-size",
        type=_positive,
        default=BATCH_SIZE,
        metavar="N",
        help="pictures of a network at the same time; affects only memory and speed (default %(default)s)",
    )
    machine.add_argument(
        "--workers",
        type=_positive,
        default=WORKERS,
        metavar="N",
        help="threads that read and resize pictures; affects only speed (default %(default)s)",
    )


def default_store() -> Path:
    """`intarsia/values` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "intarsia" / "values"


def scorer(arguments: argparse.Namespace, store: ValueStore | None = None) -> Score:
    """`scoring.score` with the options' machine and store, if none is given, and a progress line."""
    store = ValueStore(arguments.store, arguments.hash_again) if store is None else store

    def run(cases: Sequence[Case], what: str) -> Iterator[dict[str, Value]]:
        with progress(what) as report:
            yield from score(cases, store, report, arguments.batch_size, arguments.workers)

    return run


@contextmanager
def progress(
    what: str, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
) -> Iterator[OnProgress]:
    """Report the cases done: one line, rewritten, on a terminal; elsewhere a line every ten seconds."""
    out = stream or sys.stderr
    start, last, terminal, opened = clock(), -LINE_SECONDS, out.isatty(), False

    def report(done: int, total: int) -> None:
        nonlocal last, opened
        now = clock()
        if not terminal and done < total and now - last < LINE_SECONDS:
            return
        last = now
        rate = done / max(now - start, 1e-9)
        left = f", {duration((total - done) / rate)} left" if done < total else ""
        line = f"{what}: {done:,}/{total:,}, {rate:,.1f}/s{left}"
        out.write(f"\r\033[K{line}" if terminal else f"{line}\n")
        out.flush()
        opened = terminal

    try:
        yield report
    finally:
        if opened:
            out.write("\n")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} must be 1 or more")
    return number
