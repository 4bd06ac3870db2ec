"""Atomic writes of files and folders, hashes, locks, and the removal of leftovers of a crash."""

import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from intarsia.errors import UsageError, UserError

ROOT = Path(__file__).resolve().parent.parent  # the checkout, or the folder of an installed copy
LFS_START = b"version https://git-lfs"  # start of the pointer that git-LFS leaves in place of a file
_TEMPORARY = ".tmp-"


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success, sync it to disk and rename it to `path`.

    A reader sees the old file or the whole new one, never a part. After an exception no file is left.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}{_TEMPORARY}{uuid.uuid4().hex}")
    try:
        with naming(target):
            yield temporary
            sync(temporary)
            temporary.replace(target)
            sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Add `path` to errors of an open file, because the system's errors do not have its name.

    Raises:
        OSError: with the same number, and `path` as its file name, instead of an error without a name.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def is_same_file(one: Path, other: Path) -> bool:
    """Whether both paths exist and are the same file."""
    return one.exists() and other.exists() and one.samefile(other)


def check_replaceable(folder: Path, marker: str) -> None:
    """Refuse to replace a folder that contains files but not the file `marker`.

    Raises:
        UsageError: if something would be lost; the message names it.
    """
    if folder.is_file():
        raise UsageError(f"{folder} is a file; choose another folder")
    content = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if content and marker not in content:
        raise UsageError(
            f"{folder} contains {content[0]} but no {marker} and is not replaced; choose another folder"
        )


@contextmanager
def atomic_folder(path: Path | str, marker: str) -> Iterator[Path]:
    """Yield a temporary folder next to `path`; on success, sync it to disk and replace `path` by it.

    A reader sees the old folder or the whole new one, never a part. After an exception the old one remains.

    Args:
        path: path of the folder.
        marker: name of a file that every such folder contains, see `check_replaceable`.

    Raises:
        UsageError: if `path` is something else.
    """
    target = Path(path)
    check_replaceable(target, marker)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}{_TEMPORARY}{uuid.uuid4().hex}")
    old = temporary.with_name(f"{temporary.name}-old")
    temporary.mkdir()
    try:
        with naming(target):
            yield temporary
            for item in temporary.rglob("*"):
                sync(item)
            sync(temporary)
            if target.exists():
                target.replace(old)
            temporary.replace(target)
            sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def atomic_write(path: Path | str, content: bytes | str) -> None:
    """Write `content` (text as UTF-8) to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path | str, content: Any) -> None:
    """Write `content` as indented JSON atomically, keys in the order given."""
    atomic_write(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path | str, unique: bool = False) -> Any:
    """Read a JSON file.

    Args:
        path: file.
        unique: whether to refuse an object that has a key twice, of which JSON readers keep the last.

    Raises:
        UserError: if the file is missing or is not JSON; the message has the file and the line.
    """
    hook = partial(_only_once, path) if unique else None
    try:
        with naming(path):
            return json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=hook)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        where = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(f"{path}{where}: not valid JSON ({error})") from None


def _only_once(path: Path | str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UserError(f"{path}: the key {twice!r} appears twice; keep one")
    return found


@contextmanager
def locked(path: Path | str, busy: str) -> Iterator[None]:
    """Lock the file `path` against other processes; the lock ends with this process, even if it is killed.

    Raises:
        UserError: with the text `busy` if another process has the lock; or if the file cannot be written or
            locked.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"{Path(path).parent} cannot be written ({error.strerror})") from None
    with os.fdopen(descriptor, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(busy) from None
        except OSError as error:  # for example Lustre mounted without `flock`
            raise UserError(
                f"{path} cannot be locked ({error.strerror}); use a folder on a file system with file locks"
            ) from None
        yield


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of entries, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_temporaries(folder: Path | str) -> int:
    """Delete temporary files that killed writers left in `folder`; return their number.

    Call it only while no other process writes there.
    """
    strays = [p for p in Path(folder).glob(f".*{_TEMPORARY}*") if p.is_file()]
    for stray in strays:
        stray.unlink(missing_ok=True)
    return len(strays)


def sha256_bytes(content: bytes | memoryview) -> str:
    """The sha256 of `content` in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path | str) -> str:
    """The sha256 of a file in hexadecimal, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(content: Any) -> str:
    """The sha256 of any JSON value; equal values have equal hashes, independent of the key order."""
    return sha256_bytes(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def refuse_lfs_pointer(path: Path) -> None:
    """Refuse a data file that is missing or is only a git-LFS pointer.

    Raises:
        UserError: if it is missing or a git-LFS pointer.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist or is not a file")
    with path.open("rb") as file:
        if file.read(len(LFS_START)) == LFS_START:
            raise UserError(f"{path} is a git-LFS pointer, not the data; fetch the file with `git lfs pull`")


def walk_files(root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All files below a folder: relative path and directory entry; links to folders are followed once."""
    pending = [""]
    while pending:
        below = pending.pop()
        with os.scandir(root / below) as entries:
            for entry in entries:
                path = f"{below}/{entry.name}" if below else entry.name
                if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and _leads_aside(Path(entry))):
                    pending.append(path)
                else:
                    yield path, entry


def _leads_aside(link: Path) -> bool:
    """Whether a link leads to a folder that does not contain the link, which would be an endless loop."""
    return link.is_dir() and link.resolve() not in link.parent.resolve().joinpath(link.name).parents
