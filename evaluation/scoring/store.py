"""Computed values on the disk, by key; many in a file, since clusters are slow with small files."""

import functools
import io
import logging
import struct
import uuid
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from evaluation.measures.measures import Value
from evaluation.scoring.file_hashes import FileHashes
from intarsia.errors import UserError
from intarsia.files import atomic_path, sha256_bytes

log = logging.getLogger(__name__)


class ValueStore:
    """Values by key in `pack-*.npz` files; a file is either whole or absent, and never written again.

    Several processes may use one folder: each reads the values of its start and adds its own files.

    Args:
        folder: folder of the files, which is made.
        hash_again: whether to read every file that is scored, also those whose hashes are kept.

    Attributes:
        hashes: hashes of the files that are scored.
    """

    def __init__(self, folder: Path | str, hash_again: bool = False) -> None:
        self.folder = Path(folder)
        self.hashes = FileHashes(self.folder, hash_again)
        self._places: dict[str, Path] = {}
        self._kept: dict[str, Value] = {}  # where the folder cannot be written
        self._waiting: dict[str, Value] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            log.warning(f"{self.folder} cannot be made ({error.strerror}): values are computed, but not kept")
        self._open = functools.lru_cache(maxsize=4)(_read)
        for path in sorted(self.folder.glob("pack-*.npz")):
            try:
                with zipfile.ZipFile(path) as file:
                    names = file.namelist()
            except (OSError, zipfile.BadZipFile):
                log.warning(f"{path} is damaged and ignored: its values are computed again; delete it")
                continue
            self._places |= dict.fromkeys((name.removesuffix(".npy") for name in names), path)

    def __contains__(self, key: str) -> bool:
        return key in self._kept or self._readable(key)

    def _readable(self, key: str) -> bool:
        """Whether the key's file can be read; the keys of one that cannot are forgotten."""
        path = self._places.get(key)
        if path is None:
            return False
        try:
            return key in self._open(path)
        except UserError as error:
            log.warning(f"{error}; it is ignored")
            self._places = {name: place for name, place in self._places.items() if place != path}
            return False

    def __len__(self) -> int:
        return len(self._places) + len(self._kept)

    def __getitem__(self, key: str) -> Value:
        return self._kept[key] if key in self._kept else self._open(self._places[key])[key]

    def add(self, values: Mapping[str, Value]) -> None:
        """Keep values; they are on the disk when this returns, or in memory where that is not possible."""
        values, self._waiting = self._waiting | dict(values), {}
        if not values:
            return
        path = self.folder / f"pack-{uuid.uuid4().hex}.npz"
        try:
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **values)
            self._places |= dict.fromkeys(values, path)
        except OSError as error:
            if not self._kept:
                log.warning(
                    f"{self.folder} cannot be written ({error.strerror}): values are computed, but not kept"
                )
            self._kept |= values

    def computed(self, key: str, compute: Callable[[], Value]) -> Value:
        """The value of a key; one that is missing is computed, and written by the next `add` or `keep`."""
        if key in self._waiting:
            return self._waiting[key]
        if key in self:
            return self[key]
        self._waiting[key] = compute()
        return self._waiting[key]

    def hash_of(self, path: Path) -> str:
        """The sha256 of a file in hexadecimal; an unchanged file is read once."""
        return self.hashes.of(path)

    def fact(self, what: str, files: Sequence[Path], find: Callable[[], str]) -> str:
        """A short text that `find` makes of the content of files, made once; `what`: name and version."""
        digest = sha256_bytes("\n".join(map(self.hash_of, files)).encode())
        return self.text(f"{what}/{digest[:40]}".replace("/", "|"), find)

    def text(self, key: str, find: Callable[[], str]) -> str:
        """`computed` of a short text."""
        found = self.computed(key, lambda: np.frombuffer(find().encode(), np.uint8).astype(np.float64))
        return found.astype(np.uint8).tobytes().decode()

    def keep(self) -> None:
        """Write the values that wait, and the hashes of files."""
        self.add({})
        self.hashes.keep()


def _read(path: Path) -> dict[str, Value]:
    """The arrays of a pack. `np.load` takes 0.1 ms for each, most of the time of scoring again."""
    try:
        content = memoryview(path.read_bytes())
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            return {info.filename.removesuffix(".npy"): _member(content, info) for info in file.infolist()}
    except (OSError, ValueError, EOFError, struct.error, zipfile.BadZipFile):
        raise UserError(f"{path} is damaged; delete it, then its values are computed again") from None


def _member(content: memoryview, info: zipfile.ZipInfo) -> Value:
    """An array that `np.savez` wrote: stored as it is, after a local header that ends with name and extra."""
    name, extra = struct.unpack_from("<HH", content, info.header_offset + 26)
    start = info.header_offset + 30 + name + extra
    data = content[start : start + info.file_size]
    if info.compress_type != zipfile.ZIP_STORED or zlib.crc32(data) != info.CRC:
        raise zipfile.BadZipFile(f"{info.filename} is damaged")
    header = 10 + struct.unpack_from("<H", data, 8)[0]  # magic, version, length
    dtype, shape, order = _layout(bytes(data[:header]))
    return np.frombuffer(data[header:], dtype).reshape(shape, order=order).copy()


@functools.lru_cache(maxsize=256)
def _layout(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...], Literal["C", "F"]]:
    """dtype, shape and order of an npy by its header, of version 1.0 as all arrays of numbers have it."""
    stream = io.BytesIO(header)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("not an npy of version 1.0")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject:
        raise ValueError("an array of objects")
    return dtype, shape, "F" if by_columns else "C"
