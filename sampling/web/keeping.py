"""Visitors' files: how long, and how many bytes of them, are kept; what ended servers left is removed."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "intarsia-serve-"
_LOCK = "running"
_NEW = 60.0  # seconds in which files are being made, read or sent
_EVERY = 20.0  # seconds between two looks


@contextmanager
def own_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder for a server's files; it goes with the server, or with the next one after a sudden end.

    Args:
        parent: folder to make it in; None for the system's temporary folder.
    """
    parent = parent or Path(tempfile.gettempdir())
    remove_left(parent)
    while True:
        made = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=parent, ignore_cleanup_errors=True)
        with made as name, (Path(name) / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the system releases it however this process ends
            if Path(lock.name).exists():  # else a server that begins now has taken it for one that has ended
                yield Path(name)
                return


def remove_left(parent: Path) -> None:
    """Remove the folders in `parent` whose servers have ended; those of other users stay."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            new = time.time() - folder.stat().st_mtime < _NEW
            lock = folder / _LOCK
            if not lock.exists():
                if not new:  # a new one may be about to get its lock
                    shutil.rmtree(folder)
                continue
            with lock.open("r+") as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its server runs
                shutil.rmtree(folder)


def forget(
    folders: Sequence[Path], seconds: float, most_bytes: int, needed: Collection[Path] = (), new: float = _NEW
) -> None:
    """Delete old files, and the oldest of the others while they have too many bytes.

    Args:
        folders: folders with the files, at any depth.
        seconds: age from which a file is deleted.
        most_bytes: bytes of all files together.
        needed: files that stay.
        new: age in seconds until which a file stays.
    """
    now, found = time.time(), list(_files(folders))
    total = sum(size for _, size, _ in found)
    for changed, size, path in sorted(found):
        age = now - changed
        if (age > seconds or total > most_bytes) and age > new and path not in needed:
            path.unlink(missing_ok=True)
            total -= size


def bytes_of(folders: Sequence[Path]) -> int:
    """The bytes of all files in folders, at any depth."""
    return sum(size for _, size, _ in _files(folders))


def _files(folders: Sequence[Path]) -> Iterator[tuple[float, int, Path]]:
    """Time of the last change, bytes and path of every file."""
    for path in (path for folder in folders for path in folder.rglob("*")):
        with suppress(OSError):  # another request may delete or replace it
            if path.is_file():
                yield path.stat().st_mtime, path.stat().st_size, path


def look_regularly(look: Callable[[], None], every: float = _EVERY) -> None:
    """Call `look()` every few seconds in a thread that ends with the process."""

    def run() -> None:
        while True:
            time.sleep(every)
            with suppress(OSError):
                look()

    threading.Thread(target=run, daemon=True).start()
