"""Copies of remote shards on a local disk: shared by all processes of a machine, whole or absent, bounded.

A copy is named by its content, so that it can never be stale. Who fetches one holds its lock; the lock goes
with the process, however that ends. The copies used longest ago make room. Readers keep a file open that
they use, so that a copy in use can be deleted: it stays readable for them.
"""

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from intarsia.errors import UserError
from intarsia.files import sha256_bytes
from training.data.remote import read_shard_file

_WAIT_S = 0.1  # between two looks whether other processes' fetches have come to an end
_PART = ".part"
_LOCKS = ".locks"


class ShardCache:
    """A folder of copies.

    Args:
        folder: folder on a local disk; made if it is missing.
        max_bytes: limit of all copies together, those in transfer included.

    Raises:
        UserError: where the folder cannot be made.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        try:
            (folder / _LOCKS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"data.cache_dir={folder} cannot be made ({error.strerror})") from None
        self.folder = folder
        self.max_bytes = max_bytes

    def open(self, url: str, size: int, sha256: str) -> int:
        """A descriptor of the copy of a remote file, which is fetched if there is none.

        Args:
            url: address of the file.
            size: bytes of the file, by its manifest.
            sha256: hash of its content, by its manifest; "" if the manifest has none.

        Raises:
            UserError: if it cannot be fetched, differs from its manifest, or does not fit on the disk.
        """
        path = self.path_of(url, size, sha256)
        while True:
            descriptor = _open_copy(path, size)
            if descriptor is not None:
                return descriptor
            with self._locked(path.name):
                if _open_copy(path, size, only_look=True) is None:
                    self._fetch(url, path, size, sha256)

    def drop(self, url: str, size: int, sha256: str) -> bool:
        """Delete a copy that turned out bad; whether there was one."""
        try:
            self.path_of(url, size, sha256).unlink()
        except FileNotFoundError:
            return False
        return True

    def path_of(self, url: str, size: int, sha256: str) -> Path:
        """The path of a file's copy: the name identifies the content."""
        content = sha256 or sha256_bytes(f"{url} {size}".encode())
        return self.folder / f"{content[:16]}-{url.rpartition('/')[2]}"

    def _fetch(self, url: str, path: Path, size: int, sha256: str) -> None:
        part = path.with_name(f".{path.name}{_PART}")
        part.unlink(missing_ok=True)  # of a process that was killed; the lock is ours
        try:
            self._make_room(part, size)
            digest = hashlib.sha256()
            with part.open("r+b") as file:
                for piece in read_shard_file(url, size):
                    digest.update(piece)
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            if sha256 and digest.hexdigest() != sha256:
                raise UserError(
                    f"{url} is not what its manifest says: its sha256 is {digest.hexdigest()[:12]}…, not "
                    f"{sha256[:12]}…; restore it, then run the same command again"
                )
            with self._locked("all"):  # or whoever adds up the copies may see neither of the two names
                part.replace(path)
        except OSError as error:
            raise UserError(
                f"{url} cannot be copied to {self.folder} ({error.strerror or error}); make room there, or "
                "set data.cache_dir or data.cache_gb"
            ) from None
        finally:
            part.unlink(missing_ok=True)

    def _make_room(self, part: Path, size: int) -> None:
        """Set `size` bytes aside as `part`; waits where other fetches hold all the room there is."""
        if size > self.max_bytes:
            raise OSError(errno.EFBIG, f"{size / 1e9:.1f} GB do not fit into {self.max_bytes / 1e9:.1f} GB")
        while True:
            with self._locked("all"):
                if self._evict(self.max_bytes - size):
                    with part.open("wb") as file:
                        file.truncate(size)
                    return
            time.sleep(_WAIT_S)

    def _evict(self, allowed: int) -> bool:
        """Delete what was used longest ago down to `allowed` bytes; whether that could be reached."""
        copies, total = [], 0
        for path in self.folder.iterdir():
            if path.name.endswith(_PART) and not self._in_work(path):
                path.unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                state = path.stat()
                if path.is_file():
                    total += state.st_size
                    copies.append((state.st_mtime_ns, path, state.st_size))
        for _, path, size in sorted(copies):
            if total <= allowed:
                break
            if not path.name.endswith(_PART):
                path.unlink(missing_ok=True)
                total -= size
        return total <= allowed

    def _in_work(self, part: Path) -> bool:
        """Whether somebody is fetching this; otherwise its process was killed."""
        name = part.name[1 : -len(_PART)]
        with (self.folder / _LOCKS / name).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self.folder / _LOCKS / name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _open_copy(path: Path, size: int, only_look: bool = False) -> int | None:
    """A descriptor of a copy, marked as just used; None if there is none of this size."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    if os.fstat(descriptor).st_size != size:
        os.close(descriptor)
        return None
    os.utime(descriptor)
    if only_look:
        os.close(descriptor)
    return descriptor
