"""Hashes of files, kept between commands by path, size, times and inode: unchanged files are not read again.

Times have a granularity (two seconds on FAT) and clocks differ between machines, so a file can change once
more and still show the time of its last change, as git's index knows ("racy" files). Therefore the hash of a
file is only kept if its last change was `SETTLED` before it was read. The time of the last status change is
among the times, since a copy that preserves times (`cp -p`, `rsync -t`) does not preserve that one.
"""

import hashlib
import json
import logging
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from intarsia.files import atomic_write

log = logging.getLogger(__name__)

SETTLED = 10.0  # seconds
FileState: TypeAlias = tuple[int, int, int, int]  # size, time of change, time of status change (ns), inode


class FileHashes:
    """Hashes in `hashes-*.json` of a folder; several processes may use it, and none loses another's.

    Args:
        folder: folder that keeps them; it may be missing or unwritable: then every file is read.
        again: whether to read every file, whatever is kept.
    """

    def __init__(self, folder: Path, again: bool = False) -> None:
        self._folder, self._again = folder, again
        self._own: dict[str, tuple[FileState, str]] = {}  # of this process
        self._kept: dict[str, tuple[FileState, str]] = {}
        self._read = sorted(folder.glob("hashes-*.json"))
        for path in self._read:
            self._kept |= _entries(path)

    def of(self, path: Path | str) -> str:
        """The sha256 of a file's content in hexadecimal.

        Raises:
            OSError: if it cannot be opened, also where its hash is known.
        """
        name = str(Path(path).absolute())
        with Path(path).open("rb") as file:  # on network file systems, opening makes the state up to date
            state, now = _state(file.fileno()), time.time_ns()
            known = self._own.get(name) or (None if self._again else self._kept.get(name))
            if known and known[0] == state:
                return known[1]
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if max(state[1:3]) < now - SETTLED * 1e9:  # a change while it was read has changed its state
            self._own[name] = state, found
        return found

    def keep(self) -> None:
        """Write what is known to one file, in place of those that were read; without effect if nothing is
        new or the folder cannot be written."""
        own = self._own.copy()
        if own.items() <= self._kept.items():
            return
        self._kept |= own
        path = self._folder / f"hashes-{uuid.uuid4().hex}.json"
        content = {name: [*state, found] for name, (state, found) in self._kept.items()}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            atomic_write(path, json.dumps(content))
            for old in self._read:
                old.unlink(missing_ok=True)
        except OSError:
            return  # the store of values beside it warns
        self._read = [path]


def _state(descriptor: int) -> FileState:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _entries(path: Path) -> Mapping[str, tuple[FileState, str]]:
    try:
        content = json.loads(path.read_text())
        return {
            name: ((int(size), int(change), int(status), int(inode)), str(found))
            for name, (size, change, status, inode, found) in content.items()
        }
    except FileNotFoundError:  # merged by another process
        return {}
    except (OSError, ValueError, TypeError, AttributeError):
        log.warning(f"{path} is damaged and ignored: files are hashed again; delete it")
        return {}
